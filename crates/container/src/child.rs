//! What a cell's first process does between the clone and the program: an interpreter of the script that the parent
//! compiled. **Nothing here allocates, locks or panics** (see [`sys::fork::spawn`]).

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use model::{Init, RootAccess};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::{MountAttrFlags, MoveMountFlags, UnmountFlags, move_mount, unmount};
use sys::mount::{Reach, clone_tree, new_file_system, set_attributes};
use sys::namespace::{self, Namespaces};
use sys::process::Ended;
use sys::pty::{self, WindowSize};
use sys::signal::{self, SignalSet};
use sys::{Errno, exec, fork};

use crate::init;
use crate::path::{self, Kind};
use crate::program::{Program, Streams};
use crate::protocol::{Failure, Report, Stage, report, wait_for_go};

type Result<T> = std::result::Result<T, Failure>;

/// What the first process shall do.
pub(crate) struct Script {
    /// Version 1 `tasks` files to write itself into.
    pub(crate) cgroups: Vec<OwnedFd>,
    /// Namespaces made only after it joined its cgroups.
    pub(crate) late_namespaces: Namespaces,
    pub(crate) hostname: CString,
    pub(crate) loopback: Loopback,
    /// The root file system, mounted nowhere.
    pub(crate) root: OwnedFd,
    pub(crate) mounts: Vec<MountStep>,
    pub(crate) root_access: RootAccess,
    /// Made if it is missing.
    pub(crate) working_directory: CString,
    pub(crate) init: Init,
    pub(crate) program: Program,
    pub(crate) streams: StreamPlan,
}

/// Whether there is a loopback interface of its own to bring up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loopback {
    BringUp,
    Leave,
}

/// Where the program's streams come from.
pub(crate) enum StreamPlan {
    Terminal(WindowSize),
    Given(Streams),
}

/// One thing to mount in the new root, in order.
pub(crate) enum MountStep {
    /// A new file system at a path whose last part must be a real directory.
    New {
        kind: &'static CStr,
        options: Vec<(CString, CString)>,
        attributes: MountAttrFlags,
        target: CString,
        /// Kernel file systems must be where programs expect them; users' mounts may go through links of the image.
        links: Links,
    },
    /// The usual device files, links and directories in `/dev`.
    Devices,
    /// A detached tree of mounts.
    Attach { tree: OwnedFd, target: CString, kind: Kind },
    /// Hides a file or directory of the kernel, if it exists.
    Hide { target: CString },
    /// Makes a directory of the kernel read-only, if it exists.
    Protect { target: CString },
}

/// Whether symbolic links on the way to a mount point are followed (inside the cell).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Links {
    Follow,
    Refuse,
}

/// The child's whole life. The exit code matters to nobody who reads the report.
pub(crate) fn live(script: &Script, control: BorrowedFd<'_>) -> u8 {
    match run(script, control) {
        Ok(code) => code,
        Err(failure) => {
            // Nobody to tell when the supervisor is gone.
            let _ = report(control, Report::Failed(failure), &[]);
            125
        }
    }
}

fn run(script: &Script, control: BorrowedFd<'_>) -> Result<u8> {
    exec::die_with_parent().map_err(|errno| Stage::Handshake.fail(errno))?;
    exec::hide().map_err(|errno| Stage::Handshake.fail(errno))?;
    signal::reset_handlers();
    for cgroup in &script.cgroups {
        rustix::io::write(cgroup, b"0").map_err(|errno| Stage::JoinCgroup.fail(errno))?;
    }
    namespace::leave(script.late_namespaces).map_err(|errno| Stage::Unshare.fail(errno))?;
    if !script.hostname.is_empty() {
        rustix::system::sethostname(script.hostname.to_bytes()).map_err(|errno| Stage::Hostname.fail(errno))?;
    }
    if script.loopback == Loopback::BringUp {
        sys::network::bring_loopback_up().map_err(|errno| Stage::Loopback.fail(errno))?;
    }
    let root = enter_root(script)?;
    let _ = rustix::process::umask(Mode::empty());
    for (index, step) in script.mounts.iter().enumerate() {
        step.perform(root.as_fd()).map_err(|it| Failure { index: index as u32, ..it })?;
    }
    path::ensure(root.as_fd(), &script.working_directory, Kind::Directory)
        .map_err(|errno| Stage::WorkingDirectory.fail(errno))?;
    let (streams, terminal) = match &script.streams {
        StreamPlan::Given(_) => (None, None),
        StreamPlan::Terminal(size) => {
            let pty = open_terminal(root.as_fd(), *size).map_err(|errno| Stage::Terminal.fail(errno))?;
            (Some(Streams::Terminal(pty.terminal)), Some(pty.controller))
        }
    };
    if script.root_access == RootAccess::ReadOnly {
        set_attributes(&root, MountAttrFlags::MOUNT_ATTR_RDONLY, Reach::One)
            .map_err(|errno| Stage::ReadOnlyRoot.fail(errno))?;
    }
    drop(root);
    let handshake = |errno| Stage::Handshake.fail(errno);
    match &terminal {
        None => report(control, Report::Ready, &[]),
        Some(controller) => report(control, Report::Ready, &[controller.as_fd()]),
    }
    .map_err(handshake)?;
    drop(terminal);
    wait_for_go(control).map_err(handshake)?;
    let streams = match (&streams, &script.streams) {
        (Some(streams), _) | (None, StreamPlan::Given(streams)) => streams,
        (None, StreamPlan::Terminal(_)) => return Err(Stage::Terminal.fail(Errno::BADF)),
    };
    match script.init {
        Init::Program => {
            signal::block(SignalSet::NONE).map_err(handshake)?;
            script.program.become_it(streams, control).map(|never| match never {})
        }
        Init::Reaper => reaper(script, streams, control),
    }
}

/// Makes the detached root the root directory and lets go of the host's tree. The new root, opened.
fn enter_root(script: &Script) -> Result<OwnedFd> {
    let fail = |errno| Stage::Pivot.fail(errno);
    let host = rustix::fs::openat(CWD, c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let host = host.map_err(fail)?;
    sys::mount::make_private(&host, Reach::Tree).map_err(fail)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&script.root, c"", &host, c"", flags).map_err(fail)?;
    rustix::process::fchdir(&script.root).map_err(fail)?;
    rustix::process::pivot_root(c".", c".").map_err(fail)?;
    unmount(c".", UnmountFlags::DETACH).map_err(fail)?;
    rustix::process::chdir(c"/").map_err(fail)?;
    rustix::fs::openat(CWD, c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(fail)
}

impl MountStep {
    fn perform(&self, root: BorrowedFd<'_>) -> Result<()> {
        let mount = |errno| Stage::Mount.fail(errno);
        match self {
            Self::New { kind, options, attributes, target, links } => {
                let target = match links {
                    Links::Follow => path::ensure(root, target, Kind::Directory),
                    Links::Refuse => path::ensure_without_links(root, target),
                };
                let target = target.map_err(|errno| Stage::Target.fail(errno))?;
                let tree = new_file_system(kind, options, *attributes).map_err(mount)?;
                attach(tree.as_fd(), target.as_fd()).map_err(mount)
            }
            Self::Devices => make_devices(root),
            Self::Attach { tree, target, kind } => {
                let target = path::ensure(root, target, *kind).map_err(|errno| Stage::Target.fail(errno))?;
                attach(tree.as_fd(), target.as_fd()).map_err(mount)
            }
            Self::Hide { target } => hide(root, target).map_err(|errno| Stage::Mask.fail(errno)),
            Self::Protect { target } => protect(root, target).map_err(|errno| Stage::Mask.fail(errno)),
        }
    }
}

fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> sys::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, c"", target, c"", flags)
}

const DEVICES: [(&CStr, u32, u32); 6] = [
    (c"dev/null", 1, 3),
    (c"dev/zero", 1, 5),
    (c"dev/full", 1, 7),
    (c"dev/random", 1, 8),
    (c"dev/urandom", 1, 9),
    (c"dev/tty", 5, 0),
];

const LINKS: [(&CStr, &CStr); 5] = [
    (c"/proc/self/fd", c"dev/fd"),
    (c"/proc/self/fd/0", c"dev/stdin"),
    (c"/proc/self/fd/1", c"dev/stdout"),
    (c"/proc/self/fd/2", c"dev/stderr"),
    (c"pts/ptmx", c"dev/ptmx"),
];

const DIRECTORIES: [&CStr; 3] = [c"dev/pts", c"dev/shm", c"dev/mqueue"];

/// Fills the new, empty file system at `/dev`, which nobody else can see yet: plain paths are safe in it.
fn make_devices(root: BorrowedFd<'_>) -> Result<()> {
    let fail = |errno| Stage::Device.fail(errno);
    for (path, major, minor) in DEVICES {
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(root, path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), device).map_err(fail)?;
    }
    for (target, path) in LINKS {
        rustix::fs::symlinkat(target, root, path).map_err(fail)?;
    }
    for path in DIRECTORIES {
        rustix::fs::mkdirat(root, path, Mode::from_raw_mode(0o755)).map_err(fail)?;
    }
    Ok(())
}

fn hide(root: BorrowedFd<'_>, target: &CStr) -> sys::Result<()> {
    let target = match path::open(root, target, OFlags::PATH) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let cover = match Kind::of(&target)? {
        Kind::File => clone_tree(root, c"dev/null", Reach::One)?,
        Kind::Directory => {
            let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY;
            new_file_system(c"tmpfs", &[(c"size", c"0"), (c"nr_inodes", c"1")], attributes)?
        }
    };
    attach(cover.as_fd(), target.as_fd())
}

fn protect(root: BorrowedFd<'_>, target: &CStr) -> sys::Result<()> {
    let target = match path::open(root, target, OFlags::PATH) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let tree = clone_tree(&target, c"", Reach::Tree)?;
    let safe = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    set_attributes(&tree, MountAttrFlags::MOUNT_ATTR_RDONLY | safe, Reach::Tree)?;
    attach(tree.as_fd(), target.as_fd())
}

/// A terminal of the cell's own, which is its console, too.
fn open_terminal(root: BorrowedFd<'_>, size: WindowSize) -> sys::Result<pty::Pty> {
    let devpts = path::open(root, c"dev/pts", OFlags::PATH | OFlags::DIRECTORY)?;
    let pty = pty::open_in(devpts.as_fd(), size)?;
    let console = path::ensure(root, c"dev/console", Kind::File)?;
    // It is the first of a new instance.
    let tree = clone_tree(&devpts, c"0", Reach::One)?;
    attach(tree.as_fd(), console.as_fd())?;
    Ok(pty)
}

/// Runs the program as process 2 and serves as process 1 until it ends.
fn reaper(script: &Script, streams: &Streams, control: BorrowedFd<'_>) -> Result<u8> {
    signal::block(SignalSet::ALL).map_err(|errno| Stage::Fork.fail(errno))?;
    let (ours, theirs) = sys::socket::pair().map_err(|errno| Stage::Fork.fail(errno))?;
    let program = fork::spawn(Namespaces::empty(), None, || {
        let failure = match signal::block(SignalSet::NONE) {
            Err(errno) => Stage::Fork.fail(errno),
            Ok(_) => match script.program.become_it(streams, control) {
                Ok(never) => match never {},
                Err(failure) => failure,
            },
        };
        let _ = report(theirs.as_fd(), Report::Failed(failure), &[]);
        125
    });
    let program = program.map_err(|errno| Stage::Fork.fail(errno))?;
    drop(theirs);
    // Executing the program closes the other end.
    if let Ok(Some((Report::Failed(failure), _))) = crate::protocol::receive(ours.as_fd()) {
        return Err(failure);
    }
    drop(ours);
    script.program.drop_to_reaper()?;
    // When the supervisor is gone, the kernel is about to kill this process.
    let _ = report(control, Report::Started, &[]);
    // What it inherited keeps nobody's pipe open: the program alone says when its output ends.
    exec::go_on_with(control, program.pid, |control, program| {
        let status = init::serve(program);
        let _ = report(control, Report::Ended(status), &[]);
        match Ended::from_wait_status(status) {
            Ended::Code(code) => code,
            Ended::Signal(signal) => 128u8.wrapping_add(signal as u8),
        }
    })
}
