//! A kernel, and what it starts with: an archive for its first root, whose `init` does the sets that it is told.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::packages::{self, Packages};
use super::programs;
use super::target::{Peer, Target};
use crate::vm::archive::Archive;
use crate::{Result, must, target_dir};

/// Small programs of ours; the second is also what a guest compiles.
const KERNELS: [(&str, &str); 5] = [
    ("main.c", include_str!("kernels/main.c")),
    ("integer.c", include_str!("kernels/integer.c")),
    ("float.c", include_str!("kernels/float.c")),
    ("system.c", include_str!("kernels/system.c")),
    ("kernels.h", include_str!("kernels/kernels.h")),
];

/// Says that it is there, does the sets that are its arguments, and switches off.
const INIT: &str = "#!/bin/sh
mount -t proc proc /proc
echo INIT REACHED
for set; do
    case $set in
    integer) kernels integer && programs ;;
    coremark) programs coremark ;;
    *) kernels $set ;;
    esac
done
poweroff -f
";

/// What a guest can do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Contents<'a> {
    /// Come up.
    Init,
    /// Every set; CoreMark, if it is known where its sources are.
    Everything(Option<&'a Path>),
}

pub(super) struct Guest<'a> {
    target: &'a Target,
    kernel: PathBuf,
    /// Nothing for a program on a bare machine.
    initrd: Option<PathBuf>,
}

impl<'a> Guest<'a> {
    pub(super) fn prepare(target: &'a Target, contents: Contents<'_>) -> Result<Guest<'a>> {
        let work = packages::directory(target)?;
        let packages = Packages::of(target)?;
        let mut archive = Archive::new();
        ["bin", "dev", "proc"].iter().for_each(|dir| archive.directory(dir));
        archive.file("bin/busybox", &packages.find(&|path| path.ends_with("bin/busybox"))?)?;
        ["sh", "mount", "poweroff", "md5sum", "tail", "grep"]
            .iter()
            .for_each(|it| archive.link(&format!("bin/{it}"), "busybox"));
        archive.data("init", 0o755, INIT.as_bytes());
        let name = match contents {
            Contents::Init => "init.cpio",
            Contents::Everything(_) => "everything.cpio",
        };
        if let Contents::Everything(coremark) = contents {
            let sources = work.join("sources");
            archive.file("bin/kernels", &compile(target, &sources)?)?;
            if let Some(from) = coremark {
                archive.file("bin/coremark", &compile_coremark(target, from, &work)?)?;
            }
            programs::add(&mut archive, &packages, target, &sources.join("integer.c"))?;
        }
        let initrd = work.join(name);
        fs::write(&initrd, archive.finish()).map_err(|e| e.to_string())?;
        Ok(Guest { target, kernel: packages.kernel, initrd: Some(initrd) })
    }

    /// A program that is its own kernel.
    pub(super) fn bare(target: &'a Target, image: PathBuf) -> Guest<'a> {
        Guest { target, kernel: image, initrd: None }
    }

    /// Our machine, that does these sets.
    pub(super) fn ours(&self, sets: &[&str]) -> Command {
        let mut command = Command::new(target_dir().join("release/examples/boot"));
        let initrd = self.initrd.as_deref().unwrap_or(Path::new("/dev/null"));
        command.arg(&self.kernel).arg(initrd).arg(self.command_line("", sets)).arg(self.target.debian);
        command
    }

    /// The same, with what earlier ones have translated, which is in that file.
    pub(super) fn ours_again(&self, sets: &[&str], translations: &Path) -> Command {
        let mut command = self.ours(sets);
        command.arg("--translations").arg(translations);
        command
    }

    /// A peer's.
    pub(super) fn theirs(&self, peer: &Peer, sets: &[&str]) -> Command {
        let (program, machine) = self.target.qemu;
        let mut command = Command::new(program);
        command.args(["-M", machine, "-cpu", peer.processor, "-smp", "1", "-m", "512", "-nographic", "-no-reboot"]);
        command.args(["-nic", "none", "-kernel"]).arg(&self.kernel);
        if let Some(initrd) = &self.initrd {
            command.arg("-initrd").arg(initrd);
        }
        command.args(["-append", &self.command_line(peer.arguments, sets)]);
        command
    }

    fn command_line(&self, arguments: &str, sets: &[&str]) -> String {
        format!("console={} panic=-1 {arguments} -- {}", self.target.console, sets.join(" "))
    }
}

/// Compiles the small programs, whose sources are put there.
fn compile(target: &Target, sources: &Path) -> Result<PathBuf> {
    fs::create_dir_all(sources).map_err(|e| format!("making {}: {e}", sources.display()))?;
    for (name, text) in KERNELS {
        fs::write(sources.join(name), text).map_err(|e| format!("writing {name}: {e}"))?;
    }
    let program = sources.join("kernels");
    let mut compiler = Command::new(format!("{}-linux-gnu-gcc", target.name));
    compiler.args(["-O2", "-fno-tree-vectorize", "-static", "-o"]).arg(&program);
    let names = KERNELS.iter().map(|(name, _)| *name).filter(|name| name.ends_with(".c"));
    must(compiler.args(names.map(|name| sources.join(name))).arg("-lm"))?;
    Ok(program)
}

/// Compiles CoreMark as it is.
fn compile_coremark(target: &Target, from: &Path, work: &Path) -> Result<PathBuf> {
    let program = work.join("coremark");
    let mut compiler = Command::new(format!("{}-linux-gnu-gcc", target.name));
    compiler.args(["-O2", "-static", "-DPERFORMANCE_RUN=1", "-DFLAGS_STR=\"-O2\"", "-I", "posix", "-I", ".", "-o"]);
    compiler.arg(&program).args(["list_join", "main", "matrix", "state", "util"].map(|it| format!("core_{it}.c")));
    must(compiler.arg("posix/core_portme.c").current_dir(from))?;
    Ok(program)
}
