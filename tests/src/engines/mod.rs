//! Other engines for tests: each with all of its state below one directory, with a small root file system from busybox,
//! and gone with its containers, mounts, control groups and daemons when its value is dropped, also by a failed test.
//!
//! The options are those that let each engine run on a machine without systemd, without control groups of version 2 and
//! without the privilege to raise resource limits.

mod containerd;
mod docker;
mod lxc;
mod nspawn;
mod podman;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub use containerd::Containerd;
pub use docker::{Docker, Users};
pub use lxc::Lxc;
pub use nspawn::Nspawn;
pub use podman::{Podman, RootlessPodman};

/// How many engines this process made.
static MADE: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// Ids of users that nobody has here, for user namespaces.
pub const FOREIGN_IDS: u32 = 0x4000_0000;

/// The directory of an engine, and all that comes and goes with it.
pub struct Place {
    dir: tempfile::TempDir,
    group: String,
    daemons: Vec<Child>,
}

impl Place {
    /// An empty one.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        open_to_all(dir.path());
        let number = MADE.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Self { dir, group: format!("skep-engines-{}-{number}", std::process::id()), daemons: Vec::new() }
    }

    /// What `SKEP_ENGINES` must be to find this engine's containers.
    pub fn top(&self) -> &Path {
        self.dir.path()
    }

    /// The control group that everything of this engine is in.
    pub fn group(&self) -> String {
        format!("/{}", self.group)
    }

    /// A path below the directory, as text.
    pub fn at(&self, path: &str) -> String {
        self.top().join(path).display().to_string()
    }

    /// A root file system with a shell, for one container.
    pub fn root_file_system(&self, path: &str) -> PathBuf {
        let root = self.top().join(path);
        for name in ["bin", "dev", "etc", "proc", "root", "run", "sbin", "sys", "tmp", "usr", "var"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for name in ["bin/sh", "bin/sleep", "bin/cat"] {
            std::os::unix::fs::symlink("/bin/busybox", root.join(name)).unwrap();
        }
        std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
        std::fs::write(root.join("etc/group"), "root:x:0:\n").unwrap();
        std::fs::write(root.join("etc/os-release"), "ID=skep\n").unwrap();
        root
    }

    /// The same as an archive.
    pub fn archive(&self) -> String {
        let (root, archive) = (self.root_file_system("rootfs"), self.at("rootfs.tar"));
        run(Command::new("tar").arg("-C").arg(root).args(["-cf", &archive, "."]));
        archive
    }

    /// Starts a daemon, and waits for what it makes when it is ready.
    pub fn start(&mut self, command: &mut Command, ready: &str) {
        let log = std::fs::File::create(self.at("daemon.log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.daemons.push(command.spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.top().join(ready).exists() {
            let log = || std::fs::read_to_string(self.at("daemon.log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "{command:?} does not become ready: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The processes that this engine's directory is named on the command line of, or that are in its control group.
    fn processes(&self) -> Vec<u32> {
        let marker = self.top().display().to_string();
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|it| it.file_name().to_str()?.parse::<u32>().ok());
        let read = |pid: u32, file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let named = |text: Vec<u8>, marker: &str| String::from_utf8_lossy(&text).contains(marker);
        pids.filter(|pid| *pid != std::process::id())
            .filter(|pid| named(read(*pid, "cmdline"), &marker) || named(read(*pid, "cgroup"), &self.group))
            .collect()
    }

    fn end_processes(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let left = self.processes();
            if left.is_empty() || Instant::now() > deadline {
                return;
            }
            for pid in left {
                let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap_or_default());
                let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn unmount_all(&self) {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        let ours: Vec<&str> = points.filter(|it| Path::new(it).starts_with(self.top())).collect();
        for point in ours.into_iter().rev() {
            let _ = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
        }
    }

    fn remove_groups(&self) {
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|it| it.path());
        let all = hierarchies.filter(|it| it.is_dir()).chain([PathBuf::from("/sys/fs/cgroup")]);
        for group in all.map(|it| it.join(&self.group)) {
            remove_group(&group);
        }
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for daemon in &mut self.daemons {
            end(daemon);
        }
        self.end_processes();
        self.unmount_all();
        self.remove_groups();
    }
}

/// Asks a process to end, and makes it if it does not.
fn end(child: &mut Child) {
    let pid = rustix::process::Pid::from_child(child);
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    let deadline = Instant::now() + Duration::from_secs(15);
    while let Ok(None) = child.try_wait() {
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn remove_group(path: &Path) {
    for child in std::fs::read_dir(path).into_iter().flatten().flatten().map(|it| it.path()) {
        if child.is_dir() {
            remove_group(&child);
        }
    }
    let _ = std::fs::remove_dir(path);
}

fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs a command that must go well; its output.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {error}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What the containers here do.
pub const SLEEP: [&str; 3] = ["/bin/busybox", "sleep", "100000"];
