//! LXC.

use std::process::Command;

use super::{Place, SLEEP, run};

/// LXC, which has no daemon.
pub struct Lxc {
    /// Where its state is.
    pub place: Place,
    names: std::cell::RefCell<Vec<String>>,
}

impl Lxc {
    /// One without containers.
    pub fn new() -> Self {
        Self { place: Place::new(), names: std::cell::RefCell::default() }
    }

    /// Runs a container that sleeps, with these lines of configuration, and its files owned by that user and group.
    pub fn run(&self, name: &str, lines: &[&str], owner: u32) {
        let root = self.place.root_file_system(&format!("var/lib/lxc/{name}/rootfs"));
        run(Command::new("chown").args(["-R", &format!("{owner}:{owner}")]).arg(&root));
        let group = self.place.group();
        let group = group.trim_start_matches('/');
        let fixed = [
            format!("lxc.uts.name = {name}"),
            format!("lxc.rootfs.path = dir:{}", root.display()),
            "lxc.net.0.type = empty".to_owned(),
            "lxc.mount.auto = proc:mixed sys:ro".to_owned(),
            format!("lxc.cgroup.dir.container = {group}/{name}"),
            format!("lxc.cgroup.dir.monitor = {group}/{name}.monitor"),
            format!("lxc.cgroup.dir.monitor.pivot = {group}/{name}.pivot"),
            format!("lxc.init.cmd = {}", SLEEP.join(" ")),
            "lxc.environment = BEE=busy".to_owned(),
        ];
        let config = fixed.into_iter().chain(lines.iter().map(|it| (*it).to_owned())).collect::<Vec<_>>().join("\n");
        std::fs::write(self.place.at(&format!("var/lib/lxc/{name}/config")), config + "\n").unwrap();
        self.names.borrow_mut().push(name.to_owned());
        // It asks newuidmap whom root may be, where that is found, and else does as root may.
        let mut command = self.command("/usr/bin/lxc-start");
        command.env("PATH", self.place.top());
        run(command.args(["-n", name, "-d", "-o", &self.place.at("lxc.log")]));
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(["-P", &self.place.at("var/lib/lxc")]);
        command
    }
}

impl Default for Lxc {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Lxc {
    fn drop(&mut self) {
        for name in self.names.borrow().iter() {
            let _ = self.command("lxc-stop").args(["-n", name, "-k"]).output();
        }
    }
}
