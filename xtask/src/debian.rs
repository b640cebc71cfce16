//! Getting programs that tests and benchmarks need from the machine's own Debian sources.

use std::process::Command;

use crate::{has_program, must};

/// A program and the package that brings it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    pub(crate) program: &'static str,
    /// Several have spaces between.
    pub(crate) package: &'static str,
}

/// Installs what is missing, when that is possible here; gives what is missing still, with the reason.
pub(crate) fn ensure(tools: &[Tool]) -> Vec<(Tool, String)> {
    let missing =
        |tools: &[Tool]| -> Vec<Tool> { tools.iter().copied().filter(|it| !has_program(it.program)).collect() };
    let wanted = missing(tools);
    if wanted.is_empty() {
        return Vec::new();
    }
    let reason = if !rustix::process::geteuid().is_root() {
        "not installed, and installing takes root".to_owned()
    } else if !has_program("apt-get") {
        "not installed, and this is no Debian".to_owned()
    } else {
        let packages: Vec<&str> = wanted.iter().flat_map(|it| it.package.split(' ')).collect();
        eprintln!("xtask: installing {}", packages.join(" "));
        match install(&packages) {
            Ok(()) => "installed, but its program is not on the path".to_owned(),
            Err(error) => error,
        }
    };
    missing(tools).into_iter().map(|tool| (tool, reason.clone())).collect()
}

fn install(packages: &[&str]) -> crate::Result {
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["-qq", "-o", "DPkg::Lock::Timeout=300"]);
        command.stdout(std::process::Stdio::null());
        command
    };
    must(apt().arg("update"))?;
    must(apt().args(["install", "-y", "--no-install-recommends"]).args(packages))
}
