//! Docker, with its daemon.

use std::process::Command;

use super::{FOREIGN_IDS, Place, SLEEP, run};

/// Docker's daemon and the one of containerd that it brings.
pub struct Docker {
    /// Where its state is.
    pub place: Place,
}

/// In which user namespace a daemon's containers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Users {
    /// The machine's.
    Hosts,
    /// One of their own.
    Own,
}

impl Docker {
    /// One with the image `bb`.
    pub fn start(users: Users) -> Self {
        let mut docker = Self { place: Place::new() };
        let at = |path: &str| docker.place.at(path);
        let ids = at("subids");
        std::fs::write(&ids, format!("nobody:{FOREIGN_IDS}:65536\nnogroup:{FOREIGN_IDS}:65536\n")).unwrap();
        let remap = match users {
            Users::Hosts => String::new(),
            // Who may have which ids is told by the machine's own files, which stay as they are for everybody else.
            Users::Own => format!("mount --bind {ids} /etc/subuid && mount --bind {ids} /etc/subgid &&"),
        };
        let script = format!("touch /etc/subuid /etc/subgid && {remap} exec dockerd \"$@\"");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "dockerd"]);
        command.args(["--bridge=none", "--iptables=false", "--data-root", &at("var/lib/docker")]);
        command.args(["--exec-root", &at("run/docker"), "--pidfile", &at("run/docker.pid")]);
        command.args(["--host", &docker.socket(), "--cgroup-parent", &docker.place.group()]);
        if users == Users::Own {
            command.args(["--userns-remap", "nobody:nogroup"]);
        }
        std::fs::create_dir_all(docker.place.top().join("run")).unwrap();
        docker.place.start(&mut command, "run/docker.sock");
        run(docker.command().args(["import", &docker.place.archive(), "bb"]));
        docker
    }

    fn socket(&self) -> String {
        format!("unix://{}", self.place.at("run/docker.sock"))
    }

    /// Docker's command line for this daemon.
    pub fn command(&self) -> Command {
        let mut command = Command::new("docker");
        command.args(["--host", &self.socket()]).env("HOME", self.place.top());
        command
    }

    /// Runs a container that sleeps.
    pub fn run(&self, name: &str, options: &[&str]) {
        let mut command = self.command();
        run(command.args(["run", "-d", "--network", "none", "--name", name]).args(options).arg("bb").args(SLEEP));
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let all = self.command().args(["ps", "-aq"]).output();
        let all = all.map(|it| String::from_utf8_lossy(&it.stdout).into_owned()).unwrap_or_default();
        if !all.is_empty() {
            let _ = self.command().args(["rm", "-f"]).args(all.lines()).output();
        }
    }
}
