//! A kernel, and what it starts with: an archive for its first root, whose `init` does the sets that it is told.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::packages::{self, Packages};
use super::programs;
use super::target::{Peer, Target};
use crate::vm::archive::Archive;
use crate::{Result, must, target_dir};

const KERNELS: &str = include_str!("kernels.c");

/// Says that it is there, does the sets that are its arguments, and switches off.
const INIT: &str = "#!/bin/sh
mount -t proc proc /proc
echo INIT REACHED
for set; do
    kernels $set
    [ $set != integer ] || programs
done
poweroff -f
";

/// What a guest can do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Contents {
    /// Come up.
    Init,
    /// Every set.
    Everything,
}

pub(super) struct Guest<'a> {
    target: &'a Target,
    kernel: PathBuf,
    initrd: PathBuf,
}

impl<'a> Guest<'a> {
    pub(super) fn prepare(target: &'a Target, contents: Contents) -> Result<Guest<'a>> {
        let work = packages::directory(target)?;
        let packages = Packages::of(target)?;
        let mut archive = Archive::new();
        ["bin", "dev", "proc"].iter().for_each(|dir| archive.directory(dir));
        archive.file("bin/busybox", &packages.find(&|path| path.ends_with("bin/busybox"))?)?;
        ["sh", "mount", "poweroff", "md5sum", "tail"]
            .iter()
            .for_each(|it| archive.link(&format!("bin/{it}"), "busybox"));
        archive.data("init", 0o755, INIT.as_bytes());
        let name = match contents {
            Contents::Init => "init.cpio",
            Contents::Everything => "everything.cpio",
        };
        if contents == Contents::Everything {
            let (source, program) = (work.join("kernels.c"), work.join("kernels"));
            fs::write(&source, KERNELS).map_err(|e| e.to_string())?;
            let mut compiler = Command::new(format!("{}-linux-gnu-gcc", target.name));
            must(compiler.args(["-O2", "-fno-tree-vectorize", "-static", "-o"]).args([&program, &source]).arg("-lm"))?;
            archive.file("bin/kernels", &program)?;
            programs::add(&mut archive, &packages, target, &work, &source)?;
        }
        let initrd = work.join(name);
        fs::write(&initrd, archive.finish()).map_err(|e| e.to_string())?;
        Ok(Guest { target, kernel: packages.kernel, initrd })
    }

    /// Our machine, that does these sets.
    pub(super) fn ours(&self, sets: &[&str]) -> Command {
        let mut command = Command::new(target_dir().join("release/examples/boot"));
        command.arg(&self.kernel).arg(&self.initrd).arg(self.command_line("", sets)).arg(self.target.debian);
        command
    }

    /// A peer's.
    pub(super) fn theirs(&self, peer: &Peer, sets: &[&str]) -> Command {
        let (program, machine) = self.target.qemu;
        let mut command = Command::new(program);
        command.args(["-M", machine, "-cpu", peer.processor, "-smp", "1", "-m", "512", "-nographic", "-no-reboot"]);
        command.args(["-nic", "none", "-kernel"]).arg(&self.kernel).arg("-initrd").arg(&self.initrd);
        command.args(["-append", &self.command_line(peer.arguments, sets)]);
        command
    }

    fn command_line(&self, arguments: &str, sets: &[&str]) -> String {
        format!("console={} panic=-1 {arguments} -- {}", self.target.console, sets.join(" "))
    }
}
