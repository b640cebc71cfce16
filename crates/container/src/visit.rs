//! A further process in the pid namespace of something that runs.
//!
//! Between the caller and that process stands a **guardian**: a forked process in a session of its own that waits for it.
//! Process 1 of a pid namespace ends only when every process of it is reaped, and one that came from outside is reaped by
//! its parent outside; were that the caller, stopping the caller (as a terminal does) would keep the namespace from ending.
//! The guardian also enters the user namespace of an ordinary user's cell, from which there is no way back.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use model::StartStep;
use rustix::process::Pid;
use sys::namespace::{self, Namespaces};
use sys::signal::{self, SignalSet};
use sys::{fork, process, socket};

use crate::attend::{self, Attendant};
use crate::error::{Error, Result};
use crate::init;
use crate::prepare::{Running, Words};
use crate::protocol::{self, Failure, Report, Stage};

/// Whether a program outlives its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bond {
    /// When the calling thread ends, the kernel kills the program.
    DiesWithCaller,
    /// It runs until it or what it visits ends.
    OnItsOwn,
}

/// Where the process is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visit<'a> {
    /// A process of the pid namespace, as a pidfd.
    pub(crate) host: BorrowedFd<'a>,
    /// What of that process's namespaces must be entered before the others, because only its privileges let the rest be
    /// done: the user namespace of an ordinary user's cell, or none.
    pub(crate) first: Namespaces,
    /// The control group (version 2) that the process is made in.
    pub(crate) group: Option<BorrowedFd<'a>>,
    /// Whether it outlives the caller.
    pub(crate) bond: Bond,
}

type Done<T> = std::result::Result<T, Failure>;

/// Makes a process that runs `inside` with a socket to report to, and follows it until it executed a program. What
/// `inside` gives is why it did not. It must be fork-safe as [`sys::fork::spawn`] says. `words` puts failures in words. What
/// a program uses that is watched from its `execve` on, the attendant answers for.
pub(crate) fn visit_attended(
    visit: &Visit<'_>,
    words: &Words,
    inside: impl Fn(BorrowedFd<'_>) -> Failure,
    attendant: Option<&mut dyn Attendant>,
) -> Result<Running> {
    let failed = |what: &'static str| move |errno| Error::start(StartStep::Namespaces, what, errno);
    let (control, theirs) = socket::pair().map_err(failed("making a socket pair"))?;
    let (ending, guardians) = socket::pair().map_err(failed("making a socket pair"))?;
    let guardian = Guardian { visit, caller: rustix::process::getpid(), control: theirs, ending: guardians };
    let child = fork::spawn(Namespaces::empty(), None, || match guardian.guard(&inside) {
        Ok(never) => match never {},
        Err(failure) => {
            let _ = protocol::report(guardian.control.as_fd(), Report::Failed(failure), &[]);
            125
        }
    });
    let child = child.map_err(failed("making the program's process"))?;
    drop(guardian);
    match follow(&control, &ending, attendant) {
        Ok((program, gifts)) => {
            let mut running = Running::visiting(program, gifts.seccomp, child, ending);
            running.terminal = gifts.terminal;
            Ok(running)
        }
        Err(problem) => {
            let _ = process::kill(&child.pidfd);
            let _ = process::wait(&child.pidfd);
            Err(problem.into_error(words))
        }
    }
}

/// Why no program came of it.
pub(crate) enum Problem {
    Told(Failure),
    Silence(sys::Errno),
}

impl Problem {
    pub(crate) fn into_error(self, words: &Words) -> Error {
        match self {
            Self::Told(failure) => words.error(failure),
            Self::Silence(cause) => Error::Kernel { what: "talking to the program's process", cause },
        }
    }
}

/// Waits until the program is executed: its process, and what comes with it.
fn follow(
    control: &OwnedFd,
    ending: &OwnedFd,
    attendant: Option<&mut dyn Attendant>,
) -> std::result::Result<(fork::Child, Gifts), Problem> {
    let gifts = told(control, attendant)?;
    match protocol::receive(ending.as_fd()).map_err(Problem::Silence)? {
        Some((Report::Made(pid), [Some(pidfd), ..])) => Ok((fork::Child { pid, pidfd }, gifts)),
        _ => Err(Problem::Silence(sys::Errno::PIPE)),
    }
}

/// What comes with a program: the near end of its terminal, when that was made inside, its seccomp listener, and the
/// process that was made for it by another.
#[derive(Default)]
pub(crate) struct Gifts {
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) seccomp: Option<OwnedFd>,
    pub(crate) made: Option<fork::Child>,
}

/// Waits until the program is executed, which closes the socket.
pub(crate) fn told(
    control: &OwnedFd,
    mut attendant: Option<&mut dyn Attendant>,
) -> std::result::Result<Gifts, Problem> {
    let mut gifts = Gifts::default();
    loop {
        match attend::receive(control.as_fd(), &mut attendant).map_err(Problem::Silence)? {
            None => return Ok(gifts),
            Some((Report::Ready, [controller, ..])) => gifts.terminal = controller,
            Some((Report::Listener, [listener, ..])) => gifts.seccomp = listener,
            Some((Report::Made(pid), [Some(pidfd), ..])) => gifts.made = Some(fork::Child { pid, pidfd }),
            Some((Report::Failed(failure), _)) => return Err(Problem::Told(failure)),
            Some(_) => {}
        }
    }
}

struct Guardian<'a> {
    visit: &'a Visit<'a>,
    caller: Pid,
    control: OwnedFd,
    ending: OwnedFd,
}

impl Guardian<'_> {
    /// The guardian's life. Fork-safe.
    fn guard(&self, inside: impl Fn(BorrowedFd<'_>) -> Failure) -> Done<Infallible> {
        let handshake = |errno| Stage::Handshake.fail(errno);
        let dies = self.visit.bond == Bond::DiesWithCaller;
        if dies {
            sys::exec::die_with_parent().map_err(handshake)?;
            if rustix::process::getppid() != Some(self.caller) {
                return Err(handshake(sys::Errno::SRCH));
            }
        }
        rustix::process::setsid().map_err(handshake)?;
        signal::block(SignalSet::ALL).map_err(handshake)?;
        // What comes of this process must be unreadable for those inside before it is visible there.
        sys::exec::hide().map_err(handshake)?;
        let join = |kinds| namespace::join(self.visit.host, kinds).map_err(|errno| Stage::JoinNamespaces.fail(errno));
        // An ordinary user may do the rest only as root of the cell; whoever is root of the host had better stay so
        // until the control groups are joined.
        if self.visit.first != Namespaces::empty() {
            join(self.visit.first)?;
            if dies {
                // Gaining privileges made the kernel forget it.
                sys::exec::die_with_parent().map_err(handshake)?;
            }
        }
        join(Namespaces::PID)?;
        let child = fork::spawn(Namespaces::empty(), self.visit.group, || {
            let begun = sys::exec::die_with_parent().map_err(handshake).and_then(|()| {
                signal::reset_handlers();
                signal::block(SignalSet::NONE).map_err(handshake)
            });
            let failure = match begun {
                Ok(_) => inside(self.control.as_fd()),
                Err(failure) => failure,
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
}
