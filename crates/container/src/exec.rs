//! A further program in a running cell: same namespaces, same control groups, same confinement.
//!
//! Between the caller and the program stands a **guardian**: a forked process in a session of its own that waits for the
//! program. Process 1 of a cell ends only when every process of its pid namespace is reaped, and the program is reaped by
//! its parent outside; were that the caller, stopping the caller (as a terminal does) would keep the cell from ending.
//! The guardian also enters the user namespace of an ordinary user's cell, from which there is no way back.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};

use model::{Process, Security, StartStep, Watch};
use rustix::fs::OFlags;
use rustix::process::Pid;
use sys::exec::GroupChange;
use sys::namespace::{self, Namespaces};
use sys::signal::{self, SignalSet};
use sys::{fork, process, pty, socket};

use crate::access;
use crate::attend::{self, Attendant};
use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::ids;
use crate::init;
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

/// Whether the program outlives its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bond {
    /// When the calling thread ends, the kernel kills the program.
    DiesWithCaller,
    /// It runs until it or its cell ends.
    OnItsOwn,
}

/// All that the cell may have of its own, but for its users. A network or other namespace that it shares is joined to no
/// effect.
const ALL: Namespaces =
    Namespaces::MOUNT.and(Namespaces::UTS).and(Namespaces::IPC).and(Namespaces::NET).and(Namespaces::CGROUP);

/// Runs `process` in the cell. The result's `pid` is that program; ending it does not end the cell.
pub fn exec(target: &Target<'_>, process: &Process, security: &Security, stdio: Stdio, bond: Bond) -> Result<Running> {
    run(target, process, security, stdio, bond, None)
}

/// The same for a program of which everything that it uses is announced. Its caller goes on attending.
pub fn exec_attended(
    target: &Target<'_>,
    process: &Process,
    security: &Security,
    stdio: Stdio,
    attendant: &mut dyn Attendant,
) -> Result<Running> {
    run(target, process, security, stdio, Bond::DiesWithCaller, Some(attendant))
}

fn run(
    target: &Target<'_>,
    process: &Process,
    security: &Security,
    stdio: Stdio,
    bond: Bond,
    mut attendant: Option<&mut dyn Attendant>,
) -> Result<Running> {
    let watch = if attendant.is_some() { Watch::Uses } else { Watch::Nothing };
    let failed = |what: &'static str| move |errno| Error::start(StartStep::Namespaces, what, errno);
    let seen = access::visible(target.pid);
    let pidfd = process::open(seen).map_err(|_| Error::NotRunning)?;
    let root = access::root_of_running(target.pid)?;
    // Entering the user namespace that one is in already is an error of its own.
    let users = match namespace::shares(seen, "user").map_err(|_| Error::NotRunning)? {
        true => Namespaces::empty(),
        false => Namespaces::USER,
    };
    let (identity, group_change) = match rustix::process::geteuid().is_root() {
        true => (users::resolve(root.as_fd(), &process.user)?, GroupChange::Set),
        false => (ids::only_root(root.as_fd(), &process.user)?, GroupChange::Leave),
    };
    let program = Program::compile(process, security, identity, group_change, watch)?;
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
    let (control, theirs) = socket::pair().map_err(failed("making a socket pair"))?;
    let (ending, guardians) = socket::pair().map_err(failed("making a socket pair"))?;
    let visitor = Visitor {
        bond,
        caller: rustix::process::getpid(),
        users,
        cgroups: target.cgroup.member_files()?,
        group: target.cgroup.directory()?,
        cell: pidfd,
        program,
        streams,
        control: theirs,
        ending: guardians,
    };
    let guardian = fork::spawn(Namespaces::empty(), None, || match visitor.guard() {
        Ok(never) => match never {},
        Err(failure) => {
            let _ = protocol::report(visitor.control.as_fd(), Report::Failed(failure), &[]);
            125
        }
    });
    let guardian = guardian.map_err(failed("making the program's process"))?;
    drop(visitor);
    match follow(&control, &ending, &mut attendant) {
        Ok((child, seccomp)) => Ok(Running::visiting(child, terminal, seccomp, guardian, ending)),
        Err(problem) => {
            let _ = process::kill(&guardian.pidfd);
            let _ = process::wait(&guardian.pidfd);
            Err(problem.into_error(&words))
        }
    }
}

/// Why no program came of it.
enum Problem {
    Told(Failure),
    Silence(sys::Errno),
}

impl Problem {
    fn into_error(self, words: &Words) -> Error {
        match self {
            Self::Told(failure) => words.error(failure),
            Self::Silence(cause) => Error::Kernel { what: "talking to the program's process", cause },
        }
    }
}

/// Waits until the program is executed: its process, and its seccomp listener if it has one.
fn follow(
    control: &OwnedFd,
    ending: &OwnedFd,
    attendant: &mut Option<&mut dyn Attendant>,
) -> std::result::Result<(fork::Child, Option<OwnedFd>), Problem> {
    let mut seccomp = None;
    loop {
        match attend::receive(control.as_fd(), attendant).map_err(Problem::Silence)? {
            None => break,
            Some((Report::Listener, [listener, ..])) => seccomp = listener,
            Some((Report::Failed(failure), _)) => return Err(Problem::Told(failure)),
            Some(_) => {}
        }
    }
    match protocol::receive(ending.as_fd()).map_err(Problem::Silence)? {
        Some((Report::Made(pid), [Some(pidfd), ..])) => Ok((fork::Child { pid, pidfd }, seccomp)),
        _ => Err(Problem::Silence(sys::Errno::PIPE)),
    }
}

/// All that the guardian and the program need, decided before they are made.
struct Visitor {
    bond: Bond,
    caller: Pid,
    /// The user namespace, when the cell has one of its own.
    users: Namespaces,
    cgroups: Vec<OwnedFd>,
    group: Option<OwnedFd>,
    cell: OwnedFd,
    program: Program,
    streams: Streams,
    control: OwnedFd,
    ending: OwnedFd,
}

type Done<T> = std::result::Result<T, Failure>;

impl Visitor {
    /// The guardian's life. Fork-safe.
    fn guard(&self) -> Done<Infallible> {
        let handshake = |errno| Stage::Handshake.fail(errno);
        if self.bond == Bond::DiesWithCaller {
            sys::exec::die_with_parent().map_err(handshake)?;
            if rustix::process::getppid() != Some(self.caller) {
                return Err(handshake(sys::Errno::SRCH));
            }
        }
        rustix::process::setsid().map_err(handshake)?;
        signal::block(SignalSet::ALL).map_err(handshake)?;
        // What comes of this process must be unreadable for the cell before it is visible there.
        sys::exec::hide().map_err(handshake)?;
        let join = |kinds| namespace::join(&self.cell, kinds).map_err(|errno| Stage::JoinNamespaces.fail(errno));
        // An ordinary user may do the rest only as root of the cell; whoever is root of the host had better stay so
        // until the control groups are joined.
        let ordinary = !rustix::process::geteuid().is_root();
        if ordinary {
            join(self.users)?;
            if self.bond == Bond::DiesWithCaller {
                // Gaining privileges made the kernel forget it.
                sys::exec::die_with_parent().map_err(handshake)?;
            }
        }
        join(Namespaces::PID)?;
        let kinds = if ordinary { ALL } else { ALL.and(self.users) };
        let child = fork::spawn(Namespaces::empty(), self.group.as_ref().map(AsFd::as_fd), || {
            let failure = match self.enter(kinds) {
                Err(failure) => failure,
                Ok(()) => match self.program.become_it(&self.streams, self.control.as_fd()) {
                    Ok(never) => match never {},
                    Err(failure) => failure,
                },
            };
            let _ = protocol::report(self.control.as_fd(), Report::Failed(failure), &[]);
            125
        });
        let child = child.map_err(|errno| Stage::Fork.fail(errno))?;
        protocol::report(self.ending.as_fd(), Report::Made(child.pid), &[child.pidfd.as_fd()]).map_err(handshake)?;
        sys::exec::go_on_with(self.ending.as_fd(), child.pid, |ending, program| {
            let status = init::wait_for(program);
            // Nobody to tell when the caller is gone.
            let _ = protocol::report(ending, Report::Ended(status), &[]);
            0
        })
    }

    /// Joins the cell from inside the program's new process. Fork-safe.
    fn enter(&self, kinds: Namespaces) -> Done<()> {
        sys::exec::die_with_parent().map_err(|errno| Stage::Handshake.fail(errno))?;
        signal::reset_handlers();
        signal::block(SignalSet::NONE).map_err(|errno| Stage::Handshake.fail(errno))?;
        for cgroup in &self.cgroups {
            rustix::io::write(cgroup, b"0").map_err(|errno| Stage::JoinCgroup.fail(errno))?;
        }
        namespace::join(&self.cell, kinds).map_err(|errno| Stage::JoinNamespaces.fail(errno))
    }
}
