//! systemd-nspawn.

use std::process::Command;

use super::{Place, SLEEP};

/// systemd-nspawn, without systemd around it.
pub struct Nspawn {
    /// Where its state is.
    pub place: Place,
}

impl Nspawn {
    /// One without machines.
    pub fn new() -> Self {
        Self { place: Place::new() }
    }

    /// Runs a machine that sleeps. What `before` is runs first, in a shell in the machine's control group.
    pub fn run(&mut self, name: &str, options: &[&str], before: &str) {
        let root = self.place.root_file_system(&format!("var/lib/machines/{name}"));
        let group = self.place.group();
        let script = format!(
            "for it in /sys/fs/cgroup/*/; do mkdir $it{group} 2>/dev/null; echo $$ > $it{group}/cgroup.procs; \
             done 2>/dev/null; {before}\nexec systemd-nspawn \"$@\""
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script, "systemd-nspawn", "--quiet", "--register=no", "--keep-unit"]);
        command.args(["--setenv=BEE=busy", "--resolv-conf=off", "--timezone=off", "-M", name, "-D"]).arg(root);
        command.args(options).args(SLEEP);
        self.place.start(&mut command, ".");
    }
}

impl Default for Nspawn {
    fn default() -> Self {
        Self::new()
    }
}
