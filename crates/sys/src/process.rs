//! Processes by their pidfd: signals, waiting, and what the kernel tells of them.

use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

use crate::{Errno, Result};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It exited with that code.
    Code(u8),
    /// That signal ended it.
    Signal(i32),
}

impl Ended {
    /// Reads the status word that `wait(2)` stores.
    pub const fn from_wait_status(status: i32) -> Self {
        match status & 0x7f {
            0 => Self::Code((status >> 8 & 0xff) as u8),
            signal => Self::Signal(signal),
        }
    }
}

/// A pidfd of a live process.
pub fn open(pid: u32) -> Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty())
}

/// Sends a signal by number. That the process is gone already is an error ([`Errno::SRCH`]).
pub fn send_signal(pidfd: impl AsFd, signal: i32) -> Result<()> {
    rustix::process::pidfd_send_signal(pidfd, crate::signal::named(signal)?)
}

/// Kills at once; that the process is gone already is fine.
pub fn kill(pidfd: impl AsFd) -> Result<()> {
    match rustix::process::pidfd_send_signal(pidfd, Signal::KILL) {
        Err(Errno::SRCH) => Ok(()),
        other => other,
    }
}

/// Waits for a child to end and reaps it.
pub fn wait(pidfd: impl AsFd) -> Result<Ended> {
    loop {
        match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
            Ok(None) => return Err(Errno::CHILD),
            Ok(Some(status)) => {
                return Ok(match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Ended::Code((code & 0xff) as u8),
                    (None, signal) => Ended::Signal(signal.unwrap_or(libc::SIGKILL)),
                });
            }
        }
    }
}
