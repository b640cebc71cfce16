//! A further program in a running cell: same namespaces, same control groups, same confinement.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use model::{Init, Process, Security, StartStep};
use rustix::fs::{CWD, Mode, OFlags};
use sys::exec::GroupChange;
use sys::namespace::{self, Namespaces};
use sys::signal::{self, SignalSet};
use sys::{fork, process, pty, socket};

use crate::access;
use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::ids::Ids;
use crate::path;
use crate::plan::Stdio;
use crate::prepare::{Running, Words};
use crate::program::{Program, Streams};
use crate::protocol::{self, Failure, Report, Stage};
use crate::users;

/// A running cell to enter.
#[derive(Debug)]
pub struct Target<'a> {
    /// Process 1 of the cell, by the host's number.
    pub pid: u32,
    /// The cell's control groups: the program joins every one of them or does not run.
    pub cgroup: &'a Cgroup,
}

/// All that the cell may have of its own. A network, user or other namespace that it shares is joined to no effect.
const ALL: Namespaces =
    Namespaces::MOUNT.and(Namespaces::UTS).and(Namespaces::IPC).and(Namespaces::NET).and(Namespaces::CGROUP);

/// Runs `process` in the cell. The result's `pid` is that program; ending it does not end the cell.
///
/// The calling thread must live as long as the program: when it ends, the kernel kills the program.
pub fn exec(target: &Target<'_>, process: &Process, security: &Security, stdio: Stdio) -> Result<Running> {
    let failed = |what: &'static str| move |errno| Error::start(StartStep::Namespaces, what, errno);
    let pidfd = process::open(target.pid).map_err(|_| Error::NotRunning)?;
    let root = access::root_of_running(target.pid)?;
    let identity = users::resolve(root.as_fd(), &process.user)?;
    let program = Program::compile(process, security, identity, GroupChange::Set)?;
    let words = Words { command: program.command(), mounts: Vec::new() };
    let (streams, terminal) = match stdio {
        Stdio::Pipes { stdin, stdout, stderr } => (Streams::Three([stdin, stdout, stderr]), None),
        Stdio::Pty { size } => {
            let devpts = path::open(root.as_fd(), c"dev/pts", OFlags::PATH | OFlags::DIRECTORY);
            let pty = devpts.and_then(|it| pty::open_in(it.as_fd(), size));
            let pty =
                pty.map_err(|errno| Error::start(StartStep::Security, "opening a terminal in the cell", errno))?;
            (Streams::Terminal(pty.terminal), Some(pty.controller))
        }
    };
    let cgroups = target.cgroup.member_files()?;
    let group = target.cgroup.directory()?;
    // Entering the user namespace that one is in already is an error of its own.
    let kinds = match namespace::shares(target.pid, "user").map_err(|_| Error::NotRunning)? {
        true => ALL,
        false => ALL.and(Namespaces::USER),
    };
    let (control, theirs) = socket::pair().map_err(failed("making a socket pair"))?;
    let own = rustix::fs::openat(CWD, "/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let own = own.map_err(failed("opening the own pid namespace"))?;
    // The child must be unreadable for the cell before it is visible there.
    sys::exec::hide().map_err(failed("hiding this process"))?;
    namespace::join(&pidfd, Namespaces::PID).map_err(failed("joining the cell's pid namespace"))?;
    let child = fork::spawn(Namespaces::empty(), group.as_ref().map(AsFd::as_fd), || {
        let failure = match enter(&cgroups, pidfd.as_fd(), kinds) {
            Err(failure) => failure,
            Ok(()) => match program.become_it(&streams, theirs.as_fd()) {
                Ok(never) => match never {},
                Err(failure) => failure,
            },
        };
        let _ = protocol::report(theirs.as_fd(), Report::Failed(failure), &[]);
        125
    });
    namespace::join(&own, Namespaces::PID).map_err(failed("returning to the own pid namespace"))?;
    let child = child.map_err(failed("making the program's process"))?;
    drop(theirs);
    drop(streams);
    let seccomp = follow(&control, &words, &child)?;
    Ok(Running::new(child, terminal, seccomp, control, Init::Program, Ids::Host))
}

/// Waits until the program is executed; its seccomp listener if it has one.
fn follow(control: &OwnedFd, words: &Words, child: &fork::Child) -> Result<Option<OwnedFd>> {
    let mut seccomp = None;
    loop {
        let received = protocol::receive(control.as_fd());
        match received.map_err(|cause| Error::Kernel { what: "talking to the program's process", cause })? {
            None => return Ok(seccomp),
            Some((Report::Listener, [listener, ..])) => seccomp = listener,
            Some((Report::Failed(failure), _)) => {
                let _ = process::wait(&child.pidfd);
                return Err(words.error(failure));
            }
            Some(_) => {}
        }
    }
}

/// Joins the cell from inside the new process. Fork-safe.
fn enter(cgroups: &[OwnedFd], pidfd: BorrowedFd<'_>, kinds: Namespaces) -> std::result::Result<(), Failure> {
    sys::exec::die_with_parent().map_err(|errno| Stage::Handshake.fail(errno))?;
    signal::reset_handlers();
    signal::block(SignalSet::NONE).map_err(|errno| Stage::Handshake.fail(errno))?;
    for cgroup in cgroups {
        rustix::io::write(cgroup, b"0").map_err(|errno| Stage::JoinCgroup.fail(errno))?;
    }
    namespace::join(pidfd, kinds).map_err(|errno| Stage::JoinNamespaces.fail(errno))
}
