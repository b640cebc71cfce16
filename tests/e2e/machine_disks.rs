//! Systems of disks: a kernel of the distribution's, and all else from a file of the host's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use skep_tests::{TestEnv, can_run};

/// A system whose process 1 is a script, for an architecture.
pub(crate) struct System {
    pub(crate) env: TestEnv,
    arch: &'static str,
    busybox: PathBuf,
}

/// An image with busybox for an architecture.
fn image(arch: &str) -> &'static str {
    match arch {
        "arm64" => "deb:busybox-static/arm64",
        _ => "deb:busybox-static@trixie/riscv64",
    }
}

impl System {
    pub(crate) fn new(arch: &'static str) -> Option<System> {
        if !can_run(&["root", "mke2fs", "debugfs", "e2fsck"]) {
            return None;
        }
        let image = image(arch);
        let env = TestEnv::with(image);
        env.skep(["create", "--name", "source", "--net", "none", image, "--", "busybox"]).ok();
        let busybox = env.scratch().join("busybox");
        env.skep(["cp", "source:/bin/busybox", busybox.to_str().unwrap()]).ok();
        Some(System { env, arch, busybox })
    }

    /// The image that its programs are from.
    pub(crate) fn image(&self) -> &'static str {
        image(self.arch)
    }

    /// A disk with one file system, in which that script is process 1.
    pub(crate) fn disk(&self, name: &str, script: &str) -> PathBuf {
        let tree = self.env.scratch().join(format!("{name}.tree"));
        for directory in ["bin", "sbin", "dev", "proc", "sys", "mnt", "root"] {
            std::fs::create_dir_all(tree.join(directory)).unwrap();
        }
        std::fs::copy(&self.busybox, tree.join("bin/busybox")).unwrap();
        let init = tree.join("sbin/init");
        let begin = "#!/bin/busybox sh\nexport PATH=/bin\nbusybox mount -t proc proc /proc\n\
                     for it in sh cat echo sync poweroff reboot mount ip uname sleep dd seq mkdir; do \
                     busybox ln -sf busybox /bin/$it; done\n";
        std::fs::write(&init, format!("{begin}{script}")).unwrap();
        std::fs::set_permissions(&init, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let disk = self.env.scratch().join(name);
        done(Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&tree).arg(&disk).arg("48M"));
        disk
    }

    pub(crate) fn run<'a>(&self, options: impl IntoIterator<Item = &'a str>, disk: &'a str) -> skep_tests::Run {
        let first = ["run", "--arch", self.arch, "--disk", disk];
        self.env.skep(first.into_iter().chain(options))
    }
}

/// Runs a program to its end, which is to be a good one; gives what it printed.
#[track_caller]
fn done(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

/// What a file system that nobody has mounted holds in a file. Its journal is done first, as whoever mounts it would.
fn read(disk: &Path, path: &str) -> String {
    let status = Command::new("e2fsck").args(["-f", "-p"]).arg(disk).status().unwrap();
    assert!(matches!(status.code(), Some(0 | 1)), "{status}");
    let output = Command::new("debugfs").args(["-R", &format!("cat {path}")]).arg(disk).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn starts_writes_and_ends(arch: &'static str, machine: &str) {
    let Some(system) = System::new(arch) else { return };
    let disk = system.disk("disk.img", "uname -m > /kept; mount > /root/mounts; sync; echo done; poweroff -f\n");
    let disk = disk.to_str().unwrap();
    let run = system.run(["--rm", "--net", "none"], disk);
    assert_eq!(run.code, 0, "{}{}", run.out, run.err);
    assert!(run.out.contains("Linux version") && run.out.contains("done"), "{}", run.out);
    assert!(read(Path::new(disk), "/kept").contains(machine));
    assert!(read(Path::new(disk), "/root/mounts").contains("/dev/vda on / type ext4"));
}

#[test]
fn an_arm_system_starts_from_its_disk() {
    starts_writes_and_ends("arm64", "aarch64");
}

#[test]
fn a_riscv_system_starts_from_its_disk() {
    starts_writes_and_ends("riscv64", "riscv64");
}

/// What a system has translated is there when it starts again, as long as a cell or nobody has asked for the room: another
/// file in its disk's place has its own.
#[test]
fn a_system_that_starts_again_finds_what_it_translated() {
    let Some(system) = System::new("arm64") else { return };
    let kept = || -> Vec<u64> {
        let files = std::fs::read_dir(system.env.home().join("pool/translated")).into_iter().flatten().flatten();
        let of_disks = files.filter(|it| it.file_name().to_str().unwrap().starts_with("disk-"));
        of_disks.map(|it| it.metadata().unwrap().len()).collect()
    };
    let start = |disk: &Path| {
        let run = system.run(["--rm", "--net", "none"], disk.to_str().unwrap());
        assert_eq!(run.code, 0, "{}{}", run.out, run.err);
        kept()
    };
    let script = "echo done; poweroff -f\n";
    let disk = system.disk("disk.img", script);
    let lengths = [start(&disk), start(&disk)].concat();
    let [first, second] = lengths[..] else { panic!("{lengths:?}: one file for one disk") };
    assert!(first > 1 << 20, "the first start has translated most of it: {first} bytes");
    assert!((second - first) * 2 < first, "the second finds most of that: {first} bytes, then {second}");
    std::fs::remove_file(&disk).unwrap();
    assert_eq!(start(&system.disk("disk.img", script)).len(), 2, "another has been there under the same name");
    let disk = disk.to_str().unwrap();
    system.env.skep(["create", "--name", "m", "--net", "none", "--arch", "arm64", "--disk", disk]).ok();
    system.env.skep(["pool", "gc"]).ok();
    assert_eq!(kept().len(), 1, "a cell has this disk, and nobody has the other");
    system.env.skep(["rm", "m"]).ok();
    system.env.skep(["pool", "gc"]).ok();
    assert_eq!(kept().len(), 0, "nobody has it any more");
}

#[test]
fn a_part_of_a_disk_of_qcow2_is_found_and_told_by_cloud_init() {
    let Some(system) = System::new("riscv64") else { return };
    if !can_run(&["qemu-img"]) {
        return;
    }
    let script = "ip addr show eth0; mount -t iso9660 -o ro /dev/vdb /mnt && cat /mnt/user-data /mnt/network-config\n\
                  cat /mnt/meta-data > /kept; sync; poweroff -f\n";
    let plain = system.disk("part", script);
    // One part, from the first mebibyte on.
    let mut whole = vec![0; 1 << 20];
    let part = std::fs::read(plain).unwrap();
    let entry = [&[0, 0, 0, 0, 0x83, 0, 0, 0][..], &2048u32.to_le_bytes(), &((part.len() / 512) as u32).to_le_bytes()];
    whole[446..462].copy_from_slice(&entry.concat());
    whole[510..512].copy_from_slice(&[0x55, 0xaa]);
    whole.extend(part);
    let raw = system.env.scratch().join("whole.img");
    std::fs::write(&raw, &whole).unwrap();
    let disk = system.env.scratch().join("disk.qcow2");
    done(Command::new("qemu-img").args(["convert", "-O", "qcow2"]).args([&raw, &disk]));
    let seed = system.env.scratch().join("user-data");
    std::fs::write(&seed, "#cloud-config\nmarker: here\n").unwrap();
    let options = ["--name", "s", "--cloud-init", seed.to_str().unwrap()];
    let run = system.run(options, disk.to_str().unwrap());
    assert_eq!(run.code, 0, "{}{}", run.out, run.err);
    assert!(run.out.contains("marker: here"), "{}", run.out);
    let address = run.out.split("inet ").nth(1).and_then(|it| it.split(['/', ' ']).next()).unwrap();
    assert!(run.out.contains(&format!("addresses: [{address}/")), "{}", run.out);
    done(Command::new("qemu-img").args(["check"]).arg(&disk));
    done(Command::new("qemu-img").args(["convert", "-O", "raw"]).args([&disk, &raw]));
    let part = system.env.scratch().join("part.out");
    std::fs::write(&part, &std::fs::read(&raw).unwrap()[1 << 20..]).unwrap();
    assert!(read(&part, "/kept").contains("local-hostname: s"));
}

#[test]
fn a_system_starts_again_is_asked_to_end_and_is_refused_what_it_cannot() {
    let Some(system) = System::new("riscv64") else { return };
    let script = "echo 0 > /proc/sys/kernel/ctrl-alt-del\n\
                  trap 'echo asked; echo asked > /asked; sync; reboot -f' INT\n\
                  if ! test -e /second; then echo x > /second; sync; reboot -f; fi\n\
                  echo ready; while :; do sleep 1; done\n";
    let disk = system.disk("disk.img", script);
    let disk = disk.to_str().unwrap();
    let env = &system.env;
    env.skep(["run", "-d", "--name", "m", "--net", "none", "--arch", "riscv64", "--disk", disk]).ok();
    until("it is ready", || env.skep(["logs", "m"]).out.contains("ready"));
    let refused = env.skep(["exec", "m", "--", "true"]).fails(5);
    assert!(refused.contains("the system of its disk"), "{refused}");
    let refused = env.skep(["cp", "m:/asked", "/tmp"]).fails(5);
    assert!(refused.contains("the system of its disk"), "{refused}");
    // Its registers, and one who has gone again.
    let registers = super::machine_gdb::asked(env, "m", "g");
    assert!(registers.starts_with("+$0") && registers.len() > 200, "{registers}");
    // Nobody else has the disk meanwhile.
    let refused = env.skep(["run", "--rm", "--net", "none", "--arch", "riscv64", "--disk", disk]);
    assert!(refused.code != 0 && refused.err.contains("another machine has it"), "{}", refused.err);
    env.skep(["stop", "m"]).ok();
    assert!(env.skep(["logs", "m"]).out.contains("asked"), "{}", env.skep(["logs", "m"]).out);
    assert!(env.skep(["why", "m"]).out.contains("exit code 0"), "{}", env.skep(["why", "m"]).out);
    assert_eq!(read(Path::new(disk), "/asked"), "asked\n");
}

#[test]
fn a_disk_beside_an_image_is_a_device() {
    let Some(system) = System::new("riscv64") else { return };
    let disk = system.disk("disk.img", "");
    let script = "mkdir /m && mount -t ext4 /dev/vda /m && echo kept > /m/kept; umount /m; echo x > /dev/stdout";
    let image = ["--rm", "--net", "none", "deb:busybox-static@trixie/riscv64", "--", "sh", "-c", script];
    let run = system.run(image, disk.to_str().unwrap());
    assert_eq!((run.code, run.out.as_str()), (0, "x\n"), "{}", run.err);
    assert_eq!(read(&disk, "/kept"), "kept\n");
    // Two may read it, and neither write.
    let read_only = format!("{}:ro", disk.display());
    let script = "mkdir /m && mount -t ext4 -o ro /dev/vda /m && cat /m/kept; echo y > /dev/vda";
    let image = ["--rm", "--net", "none", "deb:busybox-static@trixie/riscv64", "--", "sh", "-c", script];
    let run = system.run(image, &read_only);
    assert!(run.code != 0 && run.out == "kept\n" && run.err.contains("Operation not permitted"), "{}", run.err);
}

/// What a guest has been told is on its disk is there, whenever whoever runs it is killed. `made` makes its disk of a raw one,
/// and `found` a raw one of what was left.
fn check_flushed(arch: &'static str, made: impl Fn(&Path) -> PathBuf, found: impl Fn(&Path) -> PathBuf) {
    let Some(system) = System::new(arch) else { return };
    // Each number is said only when it is on the disk.
    let script =
        "n=0; while :; do n=$((n+1)); echo $n > /n.new; sync; busybox mv /n.new /n; sync; echo flushed $n; done\n";
    let disk = made(&system.disk("disk.img", script));
    let env = &system.env;
    let place = disk.to_str().unwrap();
    env.skep(["run", "-d", "--name", "m", "--net", "none", "--arch", arch, "--disk", place]).ok();
    let flushed = || -> u64 {
        let logs = env.skep(["logs", "m"]).out;
        let last = logs.lines().rev().find_map(|it| it.trim().strip_prefix("flushed ")?.parse().ok());
        last.unwrap_or(0)
    };
    until("it writes", || flushed() > 20);
    let supervisor: serde_json::Value = serde_json::from_str(&env.skep(["inspect", "m"]).ok()).unwrap();
    let pid = supervisor.pointer("/0/record/supervisor/pid").or(supervisor.pointer("/0/supervisor/pid"));
    let pid = pid.and_then(serde_json::Value::as_u64).unwrap_or_else(|| panic!("{supervisor}")).to_string();
    done(Command::new("kill").args(["-KILL", &pid]));
    until("it is gone", || !env.skep(["ps"]).out.contains("running"));
    let told = flushed();
    let kept: u64 = read(&found(&disk), "/n").trim().parse().unwrap();
    assert!(kept >= told && told > 20, "{kept} is on the disk, and {told} was said to be");
}

#[test]
fn what_was_flushed_is_there_after_the_supervisor_was_killed() {
    check_flushed("riscv64", Path::to_owned, Path::to_owned);
}

#[test]
fn what_was_flushed_to_qcow2_is_there_after_the_supervisor_was_killed() {
    if !can_run(&["qemu-img"]) {
        return;
    }
    let made = |raw: &Path| {
        let disk = raw.with_extension("qcow2");
        // Small clusters: more of its tables are written.
        done(Command::new("qemu-img").args(["convert", "-O", "qcow2", "-o", "cluster_size=4k"]).args([raw, &disk]));
        disk
    };
    let found = |disk: &Path| {
        // What nothing leads to any more may be left; what leads to nothing, or twice to one, may not.
        let status = Command::new("qemu-img").args(["check", "-q"]).arg(disk).status().unwrap();
        assert!(matches!(status.code(), Some(0 | 3)), "{status}");
        let raw = disk.with_extension("raw");
        done(Command::new("qemu-img").args(["convert", "-O", "raw"]).args([disk, &raw]));
        raw
    };
    check_flushed("arm64", made, found);
}

#[test]
fn disks_that_are_none_are_told_of() {
    let Some(system) = System::new("riscv64") else { return };
    let scratch = system.env.scratch();
    let refused = |content: &[u8], name: &str, why: &str| {
        let file = scratch.join(name);
        std::fs::write(&file, content).unwrap();
        let run = system.run(["--rm", "--net", "none"], file.to_str().unwrap());
        assert!(run.code != 0 && run.err.contains(why), "{name}: {}{}", run.out, run.err);
    };
    refused(b"QFI\xfb\0\0\0\x03", "short.qcow2", "it is shorter than its header");
    refused(&[b'x'; 200], "other.qcow2", "it is no qcow2 file");
    refused(b"QFI\xfb\0\0\0\x03", "unnamed", "has the looks of a qcow2 file");
    // Its first table is where its header is.
    let mut looped = vec![0u8; 1 << 20];
    let mut put = |at: usize, bytes: &[u8]| looped[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb\0\0\0\x03");
    put(20, &16u32.to_be_bytes());
    put(24, &(1u64 << 20).to_be_bytes());
    put(36, &1u32.to_be_bytes());
    put(40, &0u64.to_be_bytes());
    put(48, &(1u64 << 16).to_be_bytes());
    put(56, &1u32.to_be_bytes());
    put(96, &4u32.to_be_bytes());
    put(100, &104u32.to_be_bytes());
    refused(&looped, "loop.qcow2", "two of its tables are in one place");
    refused(&vec![0; 8 << 20], "empty.img", "with a /sbin/init");
    let usage = |args: &[&str], why: &str| {
        let said = system.env.skep(["run", "--rm"].iter().chain(args)).fails(2);
        assert!(said.contains(why), "{said}");
    };
    usage(&["--arch", "riscv64", "--disk", "x", "-v", "/tmp:/tmp"], "the disk's system has its own");
    usage(&["--as", "container", "--disk", "x"], "needs a machine");
    usage(
        &["--cloud-init", "x", "--disk", "x", "deb:busybox-static@trixie/riscv64", "--", "true"],
        "leave out the image",
    );
}
