//! Other engines for tests: each with all of its state below one directory, with a small root file system from busybox,
//! and gone with its containers, mounts, control groups and daemons when its value is dropped, also by a failed test.
//!
//! The options are those that let each engine run on a machine without systemd, without control groups of version 2 and
//! without the privilege to raise resource limits.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

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

/// Root's podman.
pub struct Podman {
    /// Where its state is.
    pub place: Place,
}

impl Podman {
    /// One with the image `bb`.
    pub fn start() -> Self {
        let podman = Self { place: Place::new() };
        run(podman.command().args(["import", "--quiet", &podman.place.archive(), "bb"]));
        podman
    }

    /// Podman, with its state here.
    pub fn command(&self) -> Command {
        let mut command = Command::new("podman");
        let at = |path: &str| self.place.at(path);
        command.args(["--root", &at("var/lib/containers/storage"), "--runroot", &at("run/containers/storage")]);
        command.args(["--tmpdir", &at("run/libpod"), "--runtime", "runc", "--cgroup-manager", "cgroupfs"]);
        command.args(["--runtime-flag", &format!("root={}", at("run/runc")), "--events-backend", "none"]);
        command
    }

    /// Runs a container that sleeps.
    pub fn run(&self, name: &str, options: &[&str]) {
        let limits = ["--ulimit", "nofile=1024:20000", "--ulimit", "nproc=30000:30000"];
        let group = self.place.group();
        let mut command = self.command();
        command.args(["run", "-d", "--network", "none", "--name", name, "--cgroup-parent", &group]);
        run(command.args(limits).args(options).arg("bb").args(SLEEP));
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.command().args(["rm", "-f", "-a", "-t", "0"]).output();
    }
}

/// The podman of somebody who is not root and whom this machine does not know: the files that say who is who are others
/// for podman alone.
pub struct RootlessPodman {
    /// Where its state is.
    pub place: Place,
    uid: u32,
}

impl RootlessPodman {
    /// One with the image `bb`, of the user `alice`.
    pub fn start() -> Self {
        let uid = FOREIGN_IDS + 0x1000_0000 + std::process::id();
        let podman = Self { place: Place::new(), uid };
        let at = |path: &str| podman.place.at(path);
        for path in ["etc", "home/alice/tmp", &format!("run/user/{uid}")] {
            std::fs::create_dir_all(at(path)).unwrap();
        }
        let user = |home: &str| format!("root:x:0:0::/root:/bin/sh\nalice:x:{uid}:{uid}::{home}:/bin/sh\n");
        std::fs::write(at("etc/passwd"), user("/home/alice")).unwrap();
        std::fs::write(at("users"), user(&at("home/alice"))).unwrap();
        std::fs::write(at("subids"), format!("alice:{FOREIGN_IDS}:65536\n")).unwrap();
        let archive = podman.place.archive();
        let theirs = [at("home/alice"), at("run/user")];
        run(Command::new("chown").args(["-R", &format!("{uid}:{uid}")]).args(theirs));
        run(podman.command().args(["import", "--quiet", &archive, "bb"]));
        podman
    }

    /// Who it is.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Makes a command one that this user runs.
    pub fn as_user(&self, command: &mut Command) {
        use std::os::unix::process::CommandExt;
        command.uid(self.uid).gid(self.uid).current_dir(self.place.at("home/alice"));
    }

    /// Podman, run by this user.
    pub fn command(&self) -> Command {
        let at = |path: &str| self.place.at(path);
        let (users, ids, uid) = (at("users"), at("subids"), self.uid);
        let script = format!(
            "touch /etc/subuid /etc/subgid && mount --bind {users} /etc/passwd && mount --bind {ids} /etc/subuid && \
             mount --bind {ids} /etc/subgid && cd {home} && \
             exec setpriv --reuid {uid} --regid {uid} --clear-groups podman \"$@\"",
            home = at("home/alice")
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "podman"]);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", at("home/alice"));
        command.env("XDG_RUNTIME_DIR", at(&format!("run/user/{uid}"))).env("TMPDIR", at("home/alice/tmp"));
        command.args(["--runtime", "runc", "--cgroup-manager", "cgroupfs", "--storage-driver", "vfs"]);
        command.args(["--events-backend", "none"]);
        command
    }

    /// Runs a container that sleeps.
    pub fn run(&self, name: &str, options: &[&str]) {
        let limits = ["--ulimit", "nofile=1024:20000", "--ulimit", "nproc=30000:30000"];
        let mut command = self.command();
        run(command
            .args(["run", "-d", "--network", "none", "--name", name])
            .args(limits)
            .args(options)
            .arg("bb")
            .args(SLEEP));
    }
}

impl Drop for RootlessPodman {
    fn drop(&mut self) {
        let _ = self.command().args(["rm", "-f", "-a", "-t", "0"]).output();
        // What keeps the user's namespaces.
        let pause = std::fs::read_to_string(self.place.at(&format!("run/user/{}/libpod/tmp/pause.pid", self.uid)));
        let pause = pause.ok().and_then(|it| it.trim().parse().ok()).and_then(rustix::process::Pid::from_raw);
        let _ = pause.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
    }
}

/// Docker's daemon and the one of containerd that it brings.
pub struct Docker {
    /// Where its state is.
    pub place: Place,
}

/// In which user namespace a daemon's containers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Users {
    /// The machine's.
    Hosts,
    /// One of their own.
    Own,
}

impl Docker {
    /// One with the image `bb`.
    pub fn start(users: Users) -> Self {
        let mut docker = Self { place: Place::new() };
        let at = |path: &str| docker.place.at(path);
        let ids = at("subids");
        std::fs::write(&ids, format!("nobody:{FOREIGN_IDS}:65536\nnogroup:{FOREIGN_IDS}:65536\n")).unwrap();
        let remap = match users {
            Users::Hosts => String::new(),
            // Who may have which ids is told by the machine's own files, which stay as they are for everybody else.
            Users::Own => format!("mount --bind {ids} /etc/subuid && mount --bind {ids} /etc/subgid &&"),
        };
        let script = format!("touch /etc/subuid /etc/subgid && {remap} exec dockerd \"$@\"");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "dockerd"]);
        command.args(["--bridge=none", "--iptables=false", "--data-root", &at("var/lib/docker")]);
        command.args(["--exec-root", &at("run/docker"), "--pidfile", &at("run/docker.pid")]);
        command.args(["--host", &docker.socket(), "--cgroup-parent", &docker.place.group()]);
        if users == Users::Own {
            command.args(["--userns-remap", "nobody:nogroup"]);
        }
        std::fs::create_dir_all(docker.place.top().join("run")).unwrap();
        docker.place.start(&mut command, "run/docker.sock");
        run(docker.command().args(["import", &docker.place.archive(), "bb"]));
        docker
    }

    fn socket(&self) -> String {
        format!("unix://{}", self.place.at("run/docker.sock"))
    }

    /// Docker's command line for this daemon.
    pub fn command(&self) -> Command {
        let mut command = Command::new("docker");
        command.args(["--host", &self.socket()]).env("HOME", self.place.top());
        command
    }

    /// Runs a container that sleeps.
    pub fn run(&self, name: &str, options: &[&str]) {
        let mut command = self.command();
        run(command.args(["run", "-d", "--network", "none", "--name", name]).args(options).arg("bb").args(SLEEP));
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let all = self.command().args(["ps", "-aq"]).output();
        let all = all.map(|it| String::from_utf8_lossy(&it.stdout).into_owned()).unwrap_or_default();
        if !all.is_empty() {
            let _ = self.command().args(["rm", "-f"]).args(all.lines()).output();
        }
    }
}

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
