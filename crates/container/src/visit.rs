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
pub struct Visit<'a> {
    /// A process of the pid namespace, as a pidfd.
    pub host: BorrowedFd<'a>,
    /// What of that process's namespaces must be entered before the others, because only its privileges let the rest be
    /// done: the user namespace of an ordinary user's cell, or none.
    pub first: Namespaces,
    /// The control group (version 2) that the process is made in.
    pub group: Option<BorrowedFd<'a>>,
    /// Whether it outlives the caller.
    pub bond: Bond,
}

type Done<T> = std::result::Result<T, Failure>;

/// Makes a process that runs `inside` with a socket to report to, and follows it until it executed a program. What
/// `inside` gives is why it did not. It must be fork-safe as [`sys::fork::spawn`] says. `words` puts failures in words.
pub fn visit(visit: &Visit<'_>, words: &Words, inside: impl Fn(BorrowedFd<'_>) -> Failure) -> Result<Running> {
    visit_attended(visit, words, inside, None)
}

/// The same for a program that is watched from its `execve` on.
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

/// The same without a guardian, and so with less waiting of one process for another: `inside` also gets the socket on
/// which it tells, by [`tell_end`], how the program ended. For a caller whose privileges suffice without `first`.
///
/// **The caller must have asked the kernel to reap its children** ([`sys::signal::reap_automatically`]): then nothing waits
/// for it, even when it is stopped. Children that the calling thread makes later are made in that pid namespace, too.
pub fn visit_unguarded(
    visit: &Visit<'_>,
    words: &Words,
    inside: impl FnOnce(BorrowedFd<'_>, BorrowedFd<'_>) -> Failure,
) -> Result<Running> {
    let failed = |what: &'static str| move |errno| Error::start(StartStep::Namespaces, what, errno);
    let handshake = |errno| Stage::Handshake.fail(errno);
    let (control, theirs) = socket::pair().map_err(failed("making a socket pair"))?;
    let (ending, tellers) = socket::pair().map_err(failed("making a socket pair"))?;
    let caller = rustix::process::getpid();
    namespace::join(visit.host, Namespaces::PID).map_err(failed("joining the pid namespace"))?;
    // What `inside` holds is let go of here as soon as the child has it, too: whoever closes the last descriptor of a mount
    // waits for all processors, and the child does so when nobody waits for it.
    let child = fork::spawn(Namespaces::empty(), visit.group, || {
        let begun = || -> Done<()> {
            // Before it is visible inside.
            sys::exec::hide().map_err(handshake)?;
            if visit.bond == Bond::DiesWithCaller {
                sys::exec::die_with_parent().map_err(handshake)?;
                // A parent in another pid namespace has no number here; one that ended left the child to somebody.
                if rustix::process::getppid().is_some_and(|it| it != caller) {
                    return Err(handshake(sys::Errno::SRCH));
                }
            }
            rustix::process::setsid().map_err(handshake)?;
            signal::reset_handlers();
            signal::block(SignalSet::NONE).map(drop).map_err(handshake)
        };
        let failure = match begun() {
            Ok(()) => inside(theirs.as_fd(), tellers.as_fd()),
            Err(failure) => failure,
        };
        let _ = protocol::report(theirs.as_fd(), Report::Failed(failure), &[]);
        125
    });
    let child = child.map_err(failed("making the program's process"))?;
    drop((theirs, tellers));
    match told(&control, None) {
        Ok(gifts) => {
            let mut running = Running::telling(child, gifts.seccomp, ending);
            running.terminal = gifts.terminal;
            Ok(running)
        }
        Err(problem) => {
            let _ = process::kill(&child.pidfd);
            Err(problem.into_error(words))
        }
    }
}

/// Hands the near end of a terminal that was made inside to the caller. Fork-safe.
pub fn tell_terminal(control: BorrowedFd<'_>, controller: BorrowedFd<'_>) -> sys::Result<()> {
    protocol::report(control, Report::Ready, &[controller])
}

/// Tells the caller of [`visit_unguarded`] how the program ended. Fork-safe.
pub fn tell_end(socket: BorrowedFd<'_>, code: u8) {
    // Nobody to tell when the caller is gone.
    let _ = protocol::report(socket, Report::Ended(i32::from(code) << 8), &[]);
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

/// What comes with a program: the near end of its terminal, when that was made inside, and its seccomp listener.
#[derive(Default)]
struct Gifts {
    terminal: Option<OwnedFd>,
    seccomp: Option<OwnedFd>,
}

/// Waits until the program is executed, which closes the socket.
fn told(control: &OwnedFd, mut attendant: Option<&mut dyn Attendant>) -> std::result::Result<Gifts, Problem> {
    let mut gifts = Gifts::default();
    loop {
        match attend::receive(control.as_fd(), &mut attendant).map_err(Problem::Silence)? {
            None => return Ok(gifts),
            Some((Report::Ready, [controller, ..])) => gifts.terminal = controller,
            Some((Report::Listener, [listener, ..])) => gifts.seccomp = listener,
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
