//! `cargo xtask lockstep`: whole boots of Debian's kernels, translated and interpreted at once, and compared as they go.
//!
//! Each boot begins a shell, which computes a little and switches the machine off. Five of them for each architecture: compared
//! wherever generated code turns back (registers), and at moments of the host's choice (registers, and the pages that were
//! written), some ten thousand times a second of the leader's; with code that is made when it is worth it, with all effort
//! from the first time, and as regions. The first instructions are an ordinary test, too (`tests/e2e/lockstep.rs`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::vm::archive::Archive;
use crate::{Result, cargo, must, target_dir};

/// What process 1 does.
const INIT: &str = "#!/bin/sh
export PATH=/bin
for it in awk cat gunzip gzip head md5sum mount poweroff seq sha256sum; do /bin/busybox ln -s busybox /bin/$it; done
mount -t proc proc /proc
for it in 1 2 3; do seq 1 300 | md5sum; done
awk 'BEGIN { for (i = 1; i < 2000; i++) s += i * i / 3 - i / 0.7; print s }'
head -c 200000 /bin/busybox | gzip | gunzip | sha256sum
cat /proc/interrupts
poweroff -f
";

/// An architecture, an image with a shell for it, and where its kernel is kept.
const TARGETS: [(&str, &str, &str); 2] = [
    ("arm64", "deb:busybox-static/arm64", "arm64-default"),
    ("riscv64", "deb:busybox-static@trixie/riscv64", "riscv64-trixie"),
];
const WAYS: [[&str; 2]; 5] =
    [["turn", "patient"], ["turn", "eager"], ["turn", "regions"], ["wanted", "patient"], ["wanted", "eager"]];
/// More than any of them does.
const MOST: &str = "20000000000";

pub(crate) fn run() -> Result {
    must(&mut cargo(&["build", "--package", "skep"]))?;
    must(&mut cargo(&["build", "--release", "--package", "skep-machine", "--example", "lockstep"]))?;
    for (arch, image, kernel) in TARGETS {
        let work = target_dir().join("lockstep").join(arch);
        fs::create_dir_all(&work).map_err(|e| format!("making {}: {e}", work.display()))?;
        let busybox = fetch(&work, image)?;
        let mut archive = Archive::new();
        ["bin", "dev", "proc"].iter().for_each(|dir| archive.directory(dir));
        archive.link("bin/sh", "busybox");
        archive.data("init", 0o755, INIT.as_bytes());
        archive.file("bin/busybox", &busybox)?;
        let initrd = work.join("initrd");
        fs::write(&initrd, archive.finish()).map_err(|e| format!("writing {}: {e}", initrd.display()))?;
        let kernel = work.join("home/cache/kernels").join(kernel).join("kernel");
        for way in WAYS {
            println!("xtask: {arch}, {}", way.join(", "));
            let mut both = Command::new(target_dir().join("release/examples/lockstep"));
            both.args(way).arg(MOST).args([&kernel, &initrd]).arg(arch);
            must(&mut both)?;
        }
    }
    Ok(())
}

/// Has our own program fetch an image and the kernel that belongs to it; gives the image's busybox.
fn fetch(work: &Path, image: &str) -> Result<PathBuf> {
    let busybox = work.join("busybox");
    let skep = || {
        let mut command = Command::new(target_dir().join("debug/skep"));
        command.env("SKEP_ROOT", work.join("home"));
        command
    };
    // One may be left from a run that was interrupted.
    let _ = skep().args(["rm", "-f", "source"]).output();
    must(skep().args(["create", "--name", "source", "--net", "none", image, "--", "busybox"]))?;
    must(skep().args(["cp", "source:/bin/busybox"]).arg(&busybox))?;
    must(skep().args(["rm", "-f", "source"]))?;
    Ok(busybox)
}
