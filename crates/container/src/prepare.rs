//! The supervisor's side of a start: compile the plan, make the first process, follow it until the program runs.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use model::{Degraded, Init, MountAccess, MountKind, RootAccess, StartStep};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::MountAttrFlags;
use sys::cgroup::Layout;
use sys::exec::GroupChange;
use sys::fork;
use sys::mount::{Reach, clone_tree, set_attributes};
use sys::namespace::Namespaces;
use sys::process::{self, Ended};
use sys::socket;

use crate::cgroup::Cgroup;
use crate::child::{self, Links, Loopback, MountStep, Script, StreamPlan};
use crate::error::{Error, Result};
use crate::path::{Kind, in_cell};
use crate::plan::{NetNs, Plan, Stdio};
use crate::program::{Program, Streams};
use crate::protocol::{self, Failure, Report};
use crate::rootfs::Overlay;
use crate::users;

/// A cell whose boundary stands but whose program has not run. Dropping it ends it and removes its control groups.
#[derive(Debug)]
pub struct Prepared {
    cell: Unstarted,
    control: OwnedFd,
    netns: OwnedFd,
    degraded: Vec<Degraded>,
    terminal: Option<OwnedFd>,
    init: Init,
    words: Words,
}

/// What must be undone when a start comes to nothing.
#[derive(Debug)]
struct Unstarted {
    child: Option<fork::Child>,
    cgroup: Cgroup,
}

impl Drop for Unstarted {
    fn drop(&mut self) {
        if let Some(child) = &self.child {
            // Both fail only when the process is gone and reaped already.
            let _ = process::kill(&child.pidfd);
            let _ = process::wait(&child.pidfd);
        }
        // What stays is found again by `Cgroup::leftovers`.
        let _ = self.cgroup.remove();
    }
}

/// A cell whose program runs.
#[derive(Debug)]
pub struct Running {
    /// Process 1 of the cell, by the host's number.
    pub pid: u32,
    /// A handle to it; polls readable when it ended.
    pub pidfd: OwnedFd,
    /// The controlling end of its terminal, when it has one.
    pub terminal: Option<OwnedFd>,
    /// Where the system calls that [`model::Seccomp::Strict`] refuses are announced.
    pub seccomp: Option<OwnedFd>,
    control: OwnedFd,
    init: Init,
}

/// What the failures of the child are about, for people.
#[derive(Debug)]
pub(crate) struct Words {
    pub(crate) command: String,
    pub(crate) mounts: Vec<String>,
}

/// Makes the cell: control groups with their limits, namespaces, the root file system with its mounts. The program
/// waits for [`Prepared::start`].
///
/// The calling thread must live as long as the cell: when it ends, the kernel kills the cell.
pub fn prepare(plan: &Plan, stdio: Stdio) -> Result<Prepared> {
    let layout = Layout::discover().map_err(|error| {
        let errno = sys::Errno::from_io_error(&error).unwrap_or(sys::Errno::IO);
        Error::start(StartStep::Limits, "reading /proc/self/mountinfo", errno)
    })?;
    let (cgroup, degraded) = Cgroup::create(&layout, plan.id, &plan.limits)?;
    let mut cell = Unstarted { child: None, cgroup };
    let mut words = Words { command: String::new(), mounts: Vec::new() };
    let script = compile(plan, stdio, &cell.cgroup, &mut words)?;
    let handshake = |errno| Error::start(StartStep::Namespaces, "making the cell's first process", errno);
    let (control, theirs) = socket::pair().map_err(handshake)?;
    let group = cell.cgroup.directory()?;
    let child = fork::spawn(namespaces(plan), group.as_ref().map(AsFd::as_fd), || child::live(&script, theirs.as_fd()));
    let pid = cell.child.insert(child.map_err(handshake)?).pid;
    drop((theirs, script));
    let netns = format!("/proc/{pid}/ns/net");
    let netns = rustix::fs::openat(CWD, netns, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(handshake)?;
    let terminal = match protocol::receive(control.as_fd()).map_err(handshake)? {
        Some((Report::Ready, [terminal, ..])) => terminal,
        Some((Report::Failed(failure), _)) => return Err(words.error(failure)),
        _ => return Err(Error::refused(StartStep::Namespaces, "preparing the cell", "its first process was killed")),
    };
    Ok(Prepared { cell, control, netns, degraded, terminal, init: plan.init, words })
}

fn namespaces(plan: &Plan) -> Namespaces {
    let always = Namespaces::PID.and(Namespaces::MOUNT).and(Namespaces::UTS).and(Namespaces::IPC);
    match plan.netns {
        NetNs::New => always.and(Namespaces::NET),
        NetNs::Host => always,
    }
}

fn compile(plan: &Plan, stdio: Stdio, cgroup: &Cgroup, words: &mut Words) -> Result<Script> {
    let root = Overlay::open(&plan.rootfs, &plan.upper, plan.lifetime)?.mount().map_err(|it| words.error(it))?;
    let identity = users::resolve(root.as_fd(), &plan.process.user)?;
    let program = Program::compile(&plan.process, &plan.security, identity, GroupChange::Set)?;
    words.command = program.command();
    let streams = match stdio {
        Stdio::Pty { size } => StreamPlan::Terminal(size),
        Stdio::Pipes { stdin, stdout, stderr } => StreamPlan::Given(Streams::Three([stdin, stdout, stderr])),
    };
    let hostname = CString::new(plan.hostname.as_str())
        .map_err(|_| Error::refused(StartStep::Namespaces, "setting the host name", "it holds a zero byte"))?;
    Ok(Script {
        cgroups: cgroup.member_files()?,
        late_namespaces: Namespaces::CGROUP,
        hostname,
        loopback: if plan.netns == NetNs::New { Loopback::BringUp } else { Loopback::Leave },
        root,
        mounts: mounts(plan, words)?,
        root_access: plan.security.root,
        working_directory: cell_path(&plan.process.cwd)?,
        init: plan.init,
        program,
        streams,
    })
}

fn cell_path(path: &Path) -> Result<CString> {
    in_cell(path).ok_or_else(|| {
        Error::refused(StartStep::Mounts, path.display().to_string(), "not a plain absolute path without '..'")
    })
}

/// What kernel file systems are mounted with.
const SAFE: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV).union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Parts of `/proc` and `/sys` that tell or change what is the host's, as docker hides them.
const HIDDEN: [&str; 10] = [
    "proc/acpi",
    "proc/asound",
    "proc/interrupts",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/scsi",
    "proc/timer_list",
    "sys/firmware",
];

/// Parts of `/proc` that may be read but not written.
const PROTECTED: [&str; 5] = ["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];

fn mounts(plan: &Plan, words: &mut Words) -> Result<Vec<MountStep>> {
    let mut steps = Vec::with_capacity(24 + plan.mounts.len() + plan.files.len());
    let mut step = |what: String, step| {
        words.mounts.push(what);
        steps.push(step);
    };
    let text = |it: &str| CString::new(it).unwrap_or_default();
    let new = |kind, options: &[(&str, &str)], attributes, target: &str, links| MountStep::New {
        kind,
        options: options.iter().map(|(name, value)| (text(name), text(value))).collect(),
        attributes,
        target: text(target),
        links,
    };
    let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY;
    let privileged = plan.security.capabilities.contains(&model::Capability::SysAdmin);
    let sys_attributes = if privileged { SAFE } else { SAFE | read_only };
    step("/proc".into(), new(c"proc", &[], SAFE, "proc", Links::Refuse));
    step("/sys".into(), new(c"sysfs", &[], sys_attributes, "sys", Links::Refuse));
    let dev = [("mode", "755"), ("size", "65536k")];
    step("/dev".into(), new(c"tmpfs", &dev, MountAttrFlags::MOUNT_ATTR_NOSUID, "dev", Links::Refuse));
    step("/dev".into(), MountStep::Devices);
    let no_exec = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let pts = [("newinstance", ""), ("mode", "620"), ("ptmxmode", "666"), ("gid", "5")];
    step("/dev/pts".into(), new(c"devpts", &pts, no_exec, "dev/pts", Links::Follow));
    let shm = [("mode", "1777"), ("size", "65536k")];
    step("/dev/shm".into(), new(c"tmpfs", &shm, SAFE, "dev/shm", Links::Follow));
    step("/dev/mqueue".into(), new(c"mqueue", &[], SAFE, "dev/mqueue", Links::Follow));
    for (host, target) in &plan.files {
        step(target.display().to_string(), attach(host, target, MountAccess::ReadWrite)?);
    }
    for mount in &plan.mounts {
        let what = mount.target.display().to_string();
        match &mount.kind {
            MountKind::Bind(host) => step(what, attach(host, &mount.target, mount.access)?),
            MountKind::Tmpfs(size) => {
                let size = size.map(|it| it.get().to_string());
                let mut options = vec![("mode", "1777")];
                if let Some(size) = &size {
                    options.push(("size", size));
                }
                let access = if mount.access == MountAccess::ReadOnly { read_only } else { MountAttrFlags::empty() };
                let kind = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | access;
                let target = cell_path(&mount.target)?;
                let options = options.iter().map(|(name, value)| (text(name), text(value))).collect();
                step(what, MountStep::New { kind: c"tmpfs", options, attributes: kind, target, links: Links::Follow });
            }
        }
    }
    if plan.security.root == RootAccess::ReadOnly && !plan.mounts.iter().any(|it| it.target == Path::new("/tmp")) {
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        step("/tmp".into(), new(c"tmpfs", &[("mode", "1777")], attributes, "tmp", Links::Follow));
    }
    if !privileged {
        for path in HIDDEN {
            step(format!("/{path}"), MountStep::Hide { target: text(path) });
        }
        for path in PROTECTED {
            step(format!("/{path}"), MountStep::Protect { target: text(path) });
        }
    }
    Ok(steps)
}

/// A file or directory of the host to be put into the cell.
fn attach(host: &Path, target: &Path, access: MountAccess) -> Result<MountStep> {
    let wrong = |errno| Error::start(StartStep::Mounts, format!("opening {}", host.display()), errno);
    let source = CString::new(host.as_os_str().as_encoded_bytes()).map_err(|_| wrong(sys::Errno::INVAL))?;
    let tree = clone_tree(CWD, &source, Reach::Tree).map_err(wrong)?;
    if access == MountAccess::ReadOnly {
        set_attributes(&tree, MountAttrFlags::MOUNT_ATTR_RDONLY, Reach::Tree).map_err(wrong)?;
    }
    let kind = Kind::of(&tree).map_err(wrong)?;
    Ok(MountStep::Attach { tree, target: cell_path(target)?, kind })
}

impl Words {
    /// A child's failure as an error for people.
    pub(crate) fn error(&self, failure: Failure) -> Error {
        let mut what = failure.stage.words().to_owned();
        let detail = match failure.stage.step() {
            StartStep::Mounts => self.mounts.get(failure.index as usize).map(String::as_str),
            StartStep::CommandNotFound | StartStep::CommandNotExecutable => Some(self.command.as_str()),
            _ => None,
        };
        if let Some(detail) = detail {
            what.push(' ');
            what.push_str(detail);
        }
        Error::start(failure.stage.step(), what, failure.errno)
    }
}

impl Prepared {
    /// Process 1 of the cell, by the host's number.
    pub fn pid(&self) -> u32 {
        self.cell.child.as_ref().map_or(0, |it| it.pid)
    }

    /// The cell's network namespace.
    pub fn netns(&self) -> BorrowedFd<'_> {
        self.netns.as_fd()
    }

    /// The cell's control groups.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cell.cgroup
    }

    /// What was asked for and could not be given.
    pub fn degraded(&self) -> &[Degraded] {
        &self.degraded
    }

    /// Lets the program run. When that fails, nothing of the cell is left but what the caller holds.
    pub fn start(mut self) -> Result<Running> {
        let lost = |errno| Error::start(StartStep::Namespaces, "starting the program", errno);
        protocol::go(self.control.as_fd()).map_err(lost)?;
        let mut seccomp = None;
        loop {
            match protocol::receive(self.control.as_fd()).map_err(lost)? {
                Some((Report::Listener, [listener, ..])) => seccomp = listener,
                Some((Report::Failed(failure), _)) => return Err(self.words.error(failure)),
                Some((Report::Started, _)) => break,
                // Executing the program closed the socket; without an init that is the only sign.
                None if self.init == Init::Program => break,
                _ => {
                    return Err(Error::refused(
                        StartStep::Namespaces,
                        "starting the program",
                        "the cell's first process was killed",
                    ));
                }
            }
        }
        let child = self.cell.child.take().ok_or(Error::NotRunning)?;
        // It runs: from here on its groups are the caller's to remove.
        self.cell.cgroup = Cgroup::none();
        Ok(Running::new(child, self.terminal, seccomp, self.control, self.init))
    }
}

impl Running {
    pub(crate) fn new(
        child: fork::Child,
        terminal: Option<OwnedFd>,
        seccomp: Option<OwnedFd>,
        control: OwnedFd,
        init: Init,
    ) -> Self {
        Self { pid: child.pid, pidfd: child.pidfd, terminal, seccomp, control, init }
    }

    /// Waits until the cell's first process ended (at once when [`Running::pidfd`] is readable) and reaps it: how the
    /// *program* ended, also when an init of ours was process 1.
    pub fn reap(&mut self) -> Result<Ended> {
        let mut program = None;
        if self.init == Init::Reaper {
            while let Ok(Some((report, _))) = protocol::receive(self.control.as_fd()) {
                if let Report::Ended(status) = report {
                    program = Some(Ended::from_wait_status(status));
                    break;
                }
            }
        }
        let first = process::wait(&self.pidfd)
            .map_err(|cause| Error::Kernel { what: "waiting for the cell's first process", cause })?;
        Ok(program.unwrap_or(first))
    }
}
