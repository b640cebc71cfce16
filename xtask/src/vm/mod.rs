//! `cargo xtask test-vm`: the binary on a stock Debian kernel with version 2 control groups alone, which few machines of
//! contributors have. The kernel and qemu come through the machine's own apt; everything else the task makes itself. No
//! KVM is needed: a kernel boots in seconds under software translation, which emulates SVM, too, so that virtual machines are
//! made as on a host that has them.
//!
//! The guest's script prints a line `PASS name` or `FAIL name: why` for each check and `END` when it is through. **A check
//! that says nothing has failed.**

pub(crate) mod archive;
mod modules;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use archive::Archive;

use crate::debian::{self, Tool};
use crate::{Result, cargo, must, output_of, root, target_dir};

const TOOLS: &[Tool] = &[
    Tool { program: "qemu-system-x86_64", package: "qemu-system-x86" },
    Tool { program: "busybox", package: "busybox-static" },
    Tool { program: "mke2fs", package: "e2fsprogs" },
    Tool { program: "runc", package: "runc" },
    Tool { program: "cc", package: "gcc" },
];

/// The package that always depends on the newest kernel for virtual machines of this Debian.
const KERNEL: &str = "linux-image-cloud-amd64";

/// The image that the guest runs.
const IMAGE: &str = "deb:busybox-static";

const SCRIPT: &str = include_str!("guest.sh");

/// What the guest may take, boot included.
const PATIENCE: Duration = Duration::from_secs(1200);

/// Has those checks done whose names have one of these words in them, or all if there is no word. Some count on earlier ones.
pub(crate) fn run(words: &[&str]) -> Result {
    let wanted: Vec<&str> = checks(SCRIPT).into_iter().filter(|it| is_wanted(it, words)).collect();
    if wanted.is_empty() {
        return Err(format!("no check is called so: there are {}", checks(SCRIPT).join(", ")));
    }
    if let Some((tool, why)) = debian::ensure(TOOLS).first() {
        return Err(format!("needs {}: {why}", tool.program));
    }
    let work = target_dir().join("vm");
    fs::create_dir_all(&work).map_err(|e| format!("making {}: {e}", work.display()))?;
    let kernel = Kernel::fetch(&work)?;
    must(&mut cargo(&["build", "--package", "skep"]))?;
    let initramfs = work.join("initramfs");
    fs::write(&initramfs, contents(&work, &kernel)?).map_err(|e| format!("writing {}: {e}", initramfs.display()))?;
    judge(&wanted, &boot(&kernel.image, &initramfs, &disk(&work)?, &wanted)?)
}

fn is_wanted(check: &str, words: &[&str]) -> bool {
    words.is_empty() || words.iter().any(|it| check.contains(it))
}

/// An unpacked kernel package.
struct Kernel {
    image: PathBuf,
    modules: PathBuf,
}

impl Kernel {
    fn fetch(work: &Path) -> Result<Self> {
        let depends = output_of(Command::new("apt-cache").args(["depends", KERNEL]))?;
        let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
        let release = package.ok_or_else(|| format!("apt knows no kernel that {KERNEL} depends on"))?;
        let dir = work.join(release);
        if !dir.exists() {
            let fetched = work.join("fetched");
            let _ = fs::remove_dir_all(&fetched);
            fs::create_dir_all(&fetched).map_err(|e| format!("making {}: {e}", fetched.display()))?;
            let package = format!("linux-image-{release}");
            must(Command::new("apt-get").args(["-qq", "download", &package]).current_dir(&fetched))?;
            let deb = fs::read_dir(&fetched).map_err(|e| e.to_string())?.flatten().next();
            let deb = deb.ok_or_else(|| format!("apt-get brought no {package}"))?.path();
            let unpacked = fetched.join("tree");
            must(Command::new("dpkg-deb").arg("-x").args([&deb, &unpacked]))?;
            fs::rename(&unpacked, &dir).map_err(|e| format!("renaming {}: {e}", unpacked.display()))?;
        }
        let image = dir.join(format!("boot/vmlinuz-{release}"));
        Ok(Self { image, modules: dir.join(format!("lib/modules/{release}")) })
    }
}

/// The guest's whole root, as an archive that the kernel unpacks.
fn contents(work: &Path, kernel: &Kernel) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for dir in ["bin", "dev", "proc", "sys", "new", "root", "etc", "modules"] {
        archive.directory(dir);
    }
    archive.link("bin/sh", "busybox");
    archive.data("init", 0o755, SCRIPT.as_bytes());
    archive.data("etc/passwd", 0o644, b"root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n");
    archive.data("etc/group", 0o644, b"root:x:0:\nuser:x:1000:\n");
    let skep = target_dir().join("debug/skep");
    archive.file("bin/busybox", &program("busybox")?)?;
    archive.file("bin/skep", &stripped(&skep, work)?)?;
    archive.file("bin/tables", &tables(work)?)?;
    // The engine of a container that is not ours.
    let runc = program("runc")?;
    archive.file("bin/runc", &runc)?;
    let libraries: BTreeSet<PathBuf> = libraries(&skep)?.into_iter().chain(libraries(&runc)?).collect();
    for library in &libraries {
        archive.file(&library.to_string_lossy(), library)?;
    }
    archive.tree("pool", &pool(&skep, work)?)?;
    archive.tree("kernels", &kernels(work)?)?;
    for (index, module) in modules::in_order(&kernel.modules)?.iter().enumerate() {
        archive.file(&format!("modules/{index:03}.ko"), module)?;
    }
    Ok(archive.finish())
}

fn program(name: &str) -> Result<PathBuf> {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&dirs).map(|dir| dir.join(name)).find(|it| it.is_file());
    found.ok_or_else(|| format!("no {name} on the path"))
}

/// What tries to change a sealed guest's page tables.
fn tables(work: &Path) -> Result<PathBuf> {
    let (source, program) = (root().join("tests/e2e/tables.c"), work.join("tables"));
    must(Command::new("cc").args(["-O1", "-w", "-static", "-o"]).args([&program, &source]))?;
    Ok(program)
}

/// The binary without what only a debugger reads: the guest has little memory.
fn stripped(skep: &Path, work: &Path) -> Result<PathBuf> {
    let small = work.join("skep");
    must(Command::new("strip").arg("-o").args([&small, skep]))?;
    Ok(small)
}

/// What the dynamic linker loads for `program`, itself included.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = output_of(Command::new("ldd").arg(program))?;
    let path = |line: &str| line.split_whitespace().find(|it| it.starts_with('/')).map(PathBuf::from);
    Ok(listed.lines().filter_map(path).collect())
}

/// A home whose pool holds the image, made by the binary here.
fn pool(skep: &Path, work: &Path) -> Result<PathBuf> {
    let home = work.join("home");
    // Kept are the downloads, not what another build may have written another way.
    let _ = fs::remove_dir_all(home.join("pool"));
    must(Command::new(skep).args(["image", "pull", IMAGE]).env("SKEP_ROOT", &home).stdout(Stdio::null()))?;
    Ok(home.join("pool"))
}

/// The kernel of machines of the host's own kind, as a run of one would fetch it, which is refused here if this host emulates
/// its guests' kernels.
fn kernels(work: &Path) -> Result<PathBuf> {
    let home = work.join("home");
    must(cargo(&["run", "--quiet", "--package", "skep-image", "--example", "kernel", "--"]).arg(&home))?;
    Ok(home.join("cache/kernels"))
}

/// An empty disk. Cells want one: before Linux 6.3 a file system in memory has no id-mapped mounts, before 6.6 no
/// attributes for the overlays of ordinary users.
fn disk(work: &Path) -> Result<PathBuf> {
    let disk = work.join("disk");
    let _ = fs::remove_file(&disk);
    must(Command::new("mke2fs").args(["-q", "-t", "ext4"]).arg(&disk).arg("256M"))?;
    Ok(disk)
}

/// Boots the guest; every line that its console printed until it was through. Its script finds on the kernel's command line
/// what to check.
fn boot(kernel: &Path, initramfs: &Path, disk: &Path, wanted: &[&str]) -> Result<Vec<String>> {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-accel", "tcg", "-cpu", "max,+svm,-smap", "-m", "2G", "-smp", "2", "-nodefaults", "-no-reboot"]);
    command.args(["-display", "none", "-serial", "stdio", "-append"]);
    command.arg(format!("console=ttyS0 quiet panic=-1 checks={}", wanted.join(",")));
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs);
    command.arg("-drive").arg(format!("file={},if=virtio,format=raw,cache=unsafe", disk.display()));
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("starting qemu: {e}"))?;
    let lines = listen(&mut child);
    // Killing one that ended is fine.
    let _ = child.kill();
    let _ = child.wait();
    Ok(lines)
}

fn listen(child: &mut Child) -> Vec<String> {
    let Some(output) = child.stdout.take() else { return Vec::new() };
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(std::result::Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                break;
            }
        }
    });
    let end = Instant::now() + PATIENCE;
    let mut lines = Vec::new();
    while let Ok(line) = receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
        println!("vm: {line}");
        lines.push(line);
    }
    lines
}

/// The names of all checks of the guest's script.
fn checks(script: &str) -> Vec<&str> {
    script.lines().filter_map(|line| line.strip_prefix("check ")?.split_whitespace().next()).collect()
}

fn judge(wanted: &[&str], lines: &[String]) -> Result {
    let silent = wanted.iter().filter(|name| {
        let (passed, failed) = (format!("PASS {name}"), format!("FAIL {name}:"));
        !lines.iter().any(|line| *line == passed || line.starts_with(&failed))
    });
    let mut failures: Vec<String> = lines.iter().filter(|it| it.starts_with("FAIL ")).cloned().collect();
    failures.extend(silent.map(|name| format!("{name} was not reached")));
    if !lines.iter().any(|line| line == "END") {
        failures.push(format!("the guest did not come to its end within {} s", PATIENCE.as_secs()));
    }
    if !failures.is_empty() {
        return Err(format!("in the virtual machine:\n  {}", failures.join("\n  ")));
    }
    println!("xtask: all {} checks passed in the virtual machine", wanted.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_failure() {
        let names = checks(SCRIPT);
        assert!(names.len() > 10 && names.contains(&"memory-limit"), "{names:?}");
        let mut lines: Vec<String> = names.iter().map(|it| format!("PASS {it}")).collect();
        assert!(judge(&names, &lines).unwrap_err().contains("did not come to its end"));
        lines.push("END".to_owned());
        assert_eq!(judge(&names, &lines), Ok(()));
        let first = lines.remove(0);
        assert!(judge(&names, &lines).unwrap_err().contains("was not reached"));
        assert_eq!(judge(&names[1..], &lines), Ok(()));
        lines.push(first.replace("PASS", "FAIL") + ": why");
        assert!(judge(&names, &lines).unwrap_err().contains(": why"));
    }

    #[test]
    fn words_choose_checks() {
        for (check, words, wanted) in [
            ("runs", &[][..], true),
            ("runs", &["run"], true),
            ("fork-kvm", &["x", "kvm"], true),
            ("runs", &["x"], false),
        ] {
            assert_eq!(is_wanted(check, words), wanted, "{check} {words:?}");
        }
    }
}
