//! containerd, with its daemon.

use std::process::Command;

use super::{Place, SLEEP, run};

/// containerd by itself.
pub struct Containerd {
    /// Where its state is.
    pub place: Place,
}

impl Containerd {
    /// One without images: its containers get plain directories.
    pub fn start() -> Self {
        let mut containerd = Self { place: Place::new() };
        let at = |path: &str| containerd.place.at(path);
        let mut command = Command::new("containerd");
        command.args(["--root", &at("var/lib/containerd"), "--state", &at("run/containerd")]);
        command.args(["--address", &at("run/containerd/containerd.sock")]);
        containerd.place.start(&mut command, "run/containerd/containerd.sock");
        containerd
    }

    /// Its command line, in that namespace.
    pub fn command(&self, namespace: &str) -> Command {
        let mut command = Command::new("ctr");
        command.args(["--address", &self.place.at("run/containerd/containerd.sock"), "--namespace", namespace]);
        command
    }

    /// Runs a container that sleeps.
    pub fn run(&self, namespace: &str, name: &str, options: &[&str]) {
        let root = self.place.root_file_system(&format!("roots/{namespace}-{name}"));
        let group = format!("{}/{name}", self.place.group());
        let mut command = self.command(namespace);
        command.args(["run", "-d", "--cgroup", &group, "--runc-root", &self.place.at("run/containerd/runc")]);
        run(command.args(options).arg("--rootfs").arg(root).arg(name).args(SLEEP));
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let namespaces = std::fs::read_dir(self.place.at("run/containerd/io.containerd.runtime.v2.task"));
        for namespace in namespaces.into_iter().flatten().flatten() {
            let namespace_name = namespace.file_name().to_string_lossy().into_owned();
            for task in std::fs::read_dir(namespace.path()).into_iter().flatten().flatten() {
                let name = task.file_name();
                let _ = self.command(&namespace_name).args(["task", "rm", "-f"]).arg(name).output();
            }
        }
    }
}
