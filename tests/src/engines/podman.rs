//! Podman: root's, and somebody's own.

use std::process::Command;

use super::{FOREIGN_IDS, Place, SLEEP, run};

/// Root's podman.
pub struct Podman {
    /// Where its state is.
    pub place: Place,
}

impl Podman {
    /// One with the image `bb`.
    pub fn start() -> Self {
        let podman = Self { place: Place::new() };
        run(podman.command().args(["import", "--quiet", &podman.place.archive(), "bb"]));
        podman
    }

    /// Podman, with its state here.
    pub fn command(&self) -> Command {
        let mut command = Command::new("podman");
        let at = |path: &str| self.place.at(path);
        command.args(["--root", &at("var/lib/containers/storage"), "--runroot", &at("run/containers/storage")]);
        command.args(["--tmpdir", &at("run/libpod"), "--runtime", "runc", "--cgroup-manager", "cgroupfs"]);
        command.args(["--runtime-flag", &format!("root={}", at("run/runc")), "--events-backend", "none"]);
        command
    }

    /// Runs a container that sleeps.
    pub fn run(&self, name: &str, options: &[&str]) {
        let limits = ["--ulimit", "nofile=1024:20000", "--ulimit", "nproc=30000:30000"];
        let group = self.place.group();
        let mut command = self.command();
        command.args(["run", "-d", "--network", "none", "--name", name, "--cgroup-parent", &group]);
        run(command.args(limits).args(options).arg("bb").args(SLEEP));
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.command().args(["rm", "-f", "-a", "-t", "0"]).output();
    }
}

/// The podman of somebody who is not root and whom this machine does not know: the files that say who is who are others
/// for podman alone.
pub struct RootlessPodman {
    /// Where its state is.
    pub place: Place,
    uid: u32,
}

impl RootlessPodman {
    /// One with the image `bb`, of the user `alice`.
    pub fn start() -> Self {
        let uid = FOREIGN_IDS + 0x1000_0000 + std::process::id();
        let podman = Self { place: Place::new(), uid };
        let at = |path: &str| podman.place.at(path);
        for path in ["etc", "home/alice/tmp", &format!("run/user/{uid}")] {
            std::fs::create_dir_all(at(path)).unwrap();
        }
        let user = |home: &str| format!("root:x:0:0::/root:/bin/sh\nalice:x:{uid}:{uid}::{home}:/bin/sh\n");
        std::fs::write(at("etc/passwd"), user("/home/alice")).unwrap();
        std::fs::write(at("users"), user(&at("home/alice"))).unwrap();
        std::fs::write(at("subids"), format!("alice:{FOREIGN_IDS}:65536\n")).unwrap();
        let archive = podman.place.archive();
        let theirs = [at("home/alice"), at("run/user")];
        run(Command::new("chown").args(["-R", &format!("{uid}:{uid}")]).args(theirs));
        run(podman.command().args(["import", "--quiet", &archive, "bb"]));
        podman
    }

    /// Who it is.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Makes a command one that this user runs.
    pub fn as_user(&self, command: &mut Command) {
        use std::os::unix::process::CommandExt;
        command.uid(self.uid).gid(self.uid).current_dir(self.place.at("home/alice"));
    }

    /// Podman, run by this user.
    pub fn command(&self) -> Command {
        let at = |path: &str| self.place.at(path);
        let (users, ids, uid) = (at("users"), at("subids"), self.uid);
        let script = format!(
            "touch /etc/subuid /etc/subgid && mount --bind {users} /etc/passwd && mount --bind {ids} /etc/subuid && \
             mount --bind {ids} /etc/subgid && cd {home} && \
             exec setpriv --reuid {uid} --regid {uid} --clear-groups podman \"$@\"",
            home = at("home/alice")
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "podman"]);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", at("home/alice"));
        command.env("XDG_RUNTIME_DIR", at(&format!("run/user/{uid}"))).env("TMPDIR", at("home/alice/tmp"));
        command.args(["--runtime", "runc", "--cgroup-manager", "cgroupfs", "--storage-driver", "vfs"]);
        command.args(["--events-backend", "none"]);
        command
    }

    /// Runs a container that sleeps.
    pub fn run(&self, name: &str, options: &[&str]) {
        let limits = ["--ulimit", "nofile=1024:20000", "--ulimit", "nproc=30000:30000"];
        let mut command = self.command();
        run(command
            .args(["run", "-d", "--network", "none", "--name", name])
            .args(limits)
            .args(options)
            .arg("bb")
            .args(SLEEP));
    }
}

impl Drop for RootlessPodman {
    fn drop(&mut self) {
        let _ = self.command().args(["rm", "-f", "-a", "-t", "0"]).output();
        // What keeps the user's namespaces.
        let pause = std::fs::read_to_string(self.place.at(&format!("run/user/{}/libpod/tmp/pause.pid", self.uid)));
        let pause = pause.ok().and_then(|it| it.trim().parse().ok()).and_then(rustix::process::Pid::from_raw);
        let _ = pause.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
    }
}
