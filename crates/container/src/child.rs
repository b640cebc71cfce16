//! What a cell's first process does between the clone and the program: an interpreter of the script that the parent
//! compiled. **Nothing here allocates, locks or panics** (see [`sys::fork::spawn`]).

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use model::{Init, RootAccess};
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountAttrFlags;
use sys::exec::{GroupChange, Title};
use sys::mount::{Reach, attach, clone_tree, set_attributes};
use sys::namespace::{self, Namespaces};
use sys::process::Ended;
use sys::pty::{self, WindowSize};
use sys::signal::{self, SignalSet};
use sys::{Errno, exec, fork};

use crate::command::{Streams, start_program};
use crate::init;
use crate::mounts::MountStep;
use crate::path::{self, Kind};
use crate::program::Program;
use crate::protocol::{Failure, Report, Stage, go, report, wait_for_go};
use crate::rootfs::Overlay;

type Result<T> = std::result::Result<T, Failure>;

/// What the first process shall do.
pub(crate) struct Script {
    /// Version 1 `tasks` files to write itself into.
    pub(crate) cgroups: Vec<OwnedFd>,
    /// Namespaces made only after it joined its cgroups.
    pub(crate) late_namespaces: Namespaces,
    pub(crate) hostname: CString,
    pub(crate) loopback: Loopback,
    pub(crate) user: UserMode,
    pub(crate) root: Root,
    pub(crate) mounts: Vec<MountStep>,
    /// What our own process 1 calls itself, so that the cell does not see the supervisor's command line.
    pub(crate) title: Title,
    pub(crate) root_access: RootAccess,
    /// Made if it is missing.
    pub(crate) working_directory: CString,
    pub(crate) init: Init,
    pub(crate) program: Program,
    pub(crate) streams: StreamPlan,
}

impl Script {
    /// A further handle on the root file system, when it is mounted already.
    pub(crate) fn root_handle(&self) -> Option<OwnedFd> {
        match &self.root {
            Root::Mounted(root) => rustix::io::fcntl_dupfd_cloexec(root, 0).ok(),
            Root::Overlay(_) => None,
        }
    }
}

/// Whether the process is made in a user namespace of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UserMode {
    /// It is not.
    Host,
    /// It is, and waits for its map; then it becomes root of it.
    Own(GroupChange),
}

/// Where the root file system comes from.
pub(crate) enum Root {
    /// It is mounted, nowhere yet.
    Mounted(OwnedFd),
    /// It is still to be mounted.
    Overlay(Overlay),
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
    signal::reset_handlers();
    for cgroup in &script.cgroups {
        rustix::io::write(cgroup, b"0").map_err(|errno| Stage::JoinCgroup.fail(errno))?;
    }
    if let UserMode::Own(groups) = script.user {
        wait_for_go(control).map_err(|errno| Stage::Handshake.fail(errno))?;
        exec::become_user(0, 0, &[], groups).map_err(|errno| Stage::UserNamespace.fail(errno))?;
        // Changing users made the kernel forget it.
        exec::die_with_parent().map_err(|errno| Stage::Handshake.fail(errno))?;
    }
    // Not before the map is written: an ordinary user may only do that while the process is not hidden.
    exec::hide().map_err(|errno| Stage::Handshake.fail(errno))?;
    namespace::leave(script.late_namespaces).map_err(|errno| Stage::Unshare.fail(errno))?;
    let settler = Settler::begin(script, control)?;
    if !script.hostname.is_empty() {
        rustix::system::sethostname(script.hostname.to_bytes()).map_err(|errno| Stage::Hostname.fail(errno))?;
    }
    if script.loopback == Loopback::BringUp {
        sys::network::bring_loopback_up().map_err(|errno| Stage::Loopback.fail(errno))?;
    }
    let _ = rustix::process::umask(Mode::empty());
    for (index, step) in script.mounts.iter().enumerate() {
        step.gather().map_err(|it| Failure { index: index as u32, ..it })?;
    }
    let root = match &script.root {
        Root::Mounted(root) => enter_root(root.as_fd())?,
        Root::Overlay(overlay) => enter_root(overlay.mount()?.as_fd())?,
    };
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
        Init::Reaper => reaper(script, streams, settler, control),
    }
}

/// The process that something other than the kernel executes the program in, made before the cell's root is there: what it
/// has to prepare takes as long as the mounts do. When this process ends, the kernel ends that one, too.
struct Settler {
    process: fork::Child,
    /// Over which it hears that all is there.
    signal: OwnedFd,
}

impl Settler {
    /// Makes it, where its streams are known so early. A cell's own terminal is not: it is in the root.
    fn begin(script: &Script, control: BorrowedFd<'_>) -> Result<Option<Self>> {
        let StreamPlan::Given(streams) = &script.streams else { return Ok(None) };
        if script.program.executes() || script.init != Init::Reaper {
            return Ok(None);
        }
        let failed = |errno| Stage::Fork.fail(errno);
        become_reaper(script)?;
        let (signal, theirs) = sys::socket::pair().map_err(failed)?;
        let process = fork::spawn(Namespaces::empty(), None, || {
            let approached = script.program.approach(streams, control, theirs.as_fd());
            let ready = approached.and_then(|()| wait_for_go(theirs.as_fd()).map_err(|it| Stage::Handshake.fail(it)));
            exec::close_for_good(theirs.as_fd());
            settle(control, || ready.and_then(|()| script.program.arrive(control)))
        });
        Ok(Some(Self { process: process.map_err(failed)?, signal }))
    }
}

/// Signals wait for the program from here on, and nobody in the cell sees the supervisor's command line.
fn become_reaper(script: &Script) -> Result<()> {
    signal::block(SignalSet::ALL).map_err(|errno| Stage::Fork.fail(errno))?;
    script.title.take();
    Ok(())
}

fn enter_root(root: BorrowedFd<'_>) -> Result<OwnedFd> {
    sys::mount::enter_root(root).map_err(|errno| Stage::Pivot.fail(errno))
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

/// What lives in the program's place says itself when it does, or that it cannot.
fn settle(control: BorrowedFd<'_>, become_it: impl FnOnce() -> Result<Infallible>) -> u8 {
    match become_it() {
        Ok(never) => match never {},
        Err(failure) => {
            let _ = report(control, Report::Failed(failure), &[]);
            125
        }
    }
}

/// Runs the program as process 2 and serves as process 1 until it ends.
fn reaper(script: &Script, streams: &Streams, settler: Option<Settler>, control: BorrowedFd<'_>) -> Result<u8> {
    become_reaper(script)?;
    let program = if let Some(Settler { process, signal }) = settler {
        go(signal.as_fd()).map_err(|errno| Stage::Handshake.fail(errno))?;
        process
    } else if script.program.executes() {
        let program = start_program(|| script.program.become_it(streams, control))?;
        // When the supervisor is gone, the kernel is about to kill this process.
        let _ = report(control, Report::Started, &[]);
        program
    } else {
        let resident =
            fork::spawn(Namespaces::empty(), None, || settle(control, || script.program.become_it(streams, control)));
        resident.map_err(|errno| Stage::Fork.fail(errno))?
    };
    script.program.drop_to_reaper()?;
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
