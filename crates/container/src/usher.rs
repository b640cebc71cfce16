//! A program in the pid namespace of something that runs, without anything of skep's ever being there.
//!
//! Between the caller and the program stands another program, the **steward**, which makes the process that is born inside
//! (see the toolbox crate). What is done before it is executed is done by an **usher**: a process outside, which those
//! inside do not see, in its caller's memory. It makes mounts and joins namespaces with the host's privileges, and gives
//! them up when it executes the steward.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use model::StartStep;
use rustix::process::Pid;
use sys::namespace::Namespaces;
use sys::signal::{self, SignalSet};
use sys::{fork, process, socket};

use crate::error::{Error, Result};
use crate::prepare::{Running, Words};
use crate::protocol::{self, Failure, Report, Stage};
use crate::visit::{Problem, told};

/// What the processes of a session tell their caller by.
#[derive(Debug)]
pub struct Line {
    /// How it begins: failures, descriptors, and when the last of them closes it, that the program runs.
    control: (OwnedFd, OwnedFd),
    /// How it ends. While the caller is there, its end is open.
    ending: (OwnedFd, OwnedFd),
}

/// Whose memory an usher works in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// The caller's, which stands still meanwhile.
    Shared,
    /// A copy of it: the kernel lets nobody who shares memory change the clock.
    Copied,
}

impl Line {
    /// A line that nobody holds yet but the caller.
    pub fn new() -> Result<Self> {
        let pair =
            || socket::pair().map_err(|errno| Error::start(StartStep::Namespaces, "making a socket pair", errno));
        Ok(Self { control: pair()?, ending: pair()? })
    }

    /// Where beginnings are told.
    pub fn control(&self) -> BorrowedFd<'_> {
        self.control.1.as_fd()
    }

    /// Where ends are told.
    pub fn ending(&self) -> BorrowedFd<'_> {
        self.ending.1.as_fd()
    }
}

/// Makes a process in the control group `group` (version 2) that runs `usher`, and follows what comes of it until a program
/// runs. What `usher` gives is why none does. It must be fork-safe as [`sys::fork::spawn`] says, and execute a program that
/// makes another process, as the caller's child, and tells that on the line. The usher dies with the calling thread.
///
/// **The caller must have asked the kernel to reap its children** ([`sys::signal::reap_automatically`]): process 1 of a pid
/// namespace ends only when each process in there is reaped, one that came from outside by its parent outside, and that
/// must not be kept by stopping the caller, as a terminal does.
pub fn send_in(
    group: Option<BorrowedFd<'_>>,
    memory: Memory,
    line: Line,
    words: &Words,
    usher: impl FnOnce(&Line) -> Failure,
) -> Result<Running> {
    let caller = rustix::process::getpid();
    let live = || {
        let failure = match begin(caller) {
            Ok(()) => usher(&line),
            Err(failure) => failure,
        };
        let _ = protocol::report(line.control(), Report::Failed(failure), &[]);
        125
    };
    let child = match memory {
        Memory::Shared => fork::spawn_to_exec(group, live),
        Memory::Copied => fork::spawn(Namespaces::empty(), group, live),
    };
    let child = child.map_err(|errno| Error::start(StartStep::Namespaces, "making the program's process", errno))?;
    let Line { control: (control, theirs), ending: (ending, tellers) } = line;
    drop((theirs, tellers));
    let problem = match told(&control, None) {
        Ok(mut gifts) => match gifts.made.take() {
            Some(made) => {
                let mut running = Running::telling(made, gifts.seccomp, ending);
                running.terminal = gifts.terminal;
                return Ok(running);
            }
            None => Problem::Silence(sys::Errno::PIPE),
        },
        Err(problem) => problem,
    };
    // Whoever was made by it knows by the line that the caller has left.
    let _ = process::kill(&child.pidfd);
    Err(problem.into_error(words))
}

fn begin(caller: Pid) -> std::result::Result<(), Failure> {
    let handshake = |errno| Stage::Handshake.fail(errno);
    signal::block(SignalSet::ALL).map_err(handshake)?;
    signal::reset_handlers();
    sys::exec::die_with_parent().map_err(handshake)?;
    match rustix::process::getppid() == Some(caller) {
        true => Ok(()),
        false => Err(handshake(sys::Errno::SRCH)),
    }
}

/// Hands the near end of a terminal to the caller. Fork-safe.
pub fn tell_terminal(control: BorrowedFd<'_>, controller: BorrowedFd<'_>) -> sys::Result<()> {
    protocol::report(control, Report::Ready, &[controller])
}
