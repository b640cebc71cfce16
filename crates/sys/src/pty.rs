//! Pseudo-terminals.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{OptionalActions, Termios, Winsize};

use crate::{Errno, Result};

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

/// Both ends of a new pseudo-terminal.
#[derive(Debug)]
pub struct Pty {
    /// The end that whoever shows the terminal holds.
    pub controller: OwnedFd,
    /// The end that programs have as their terminal.
    pub terminal: OwnedFd,
}

/// A new pseudo-terminal of the instance of devpts that `devpts` is the root of. Fork-safe.
pub fn open_in(devpts: BorrowedFd<'_>, size: WindowSize) -> Result<Pty> {
    // Elsewhere `ptmx` could be anything: a hostile image may have put a file there.
    if rustix::fs::fstatfs(devpts)?.f_type as u64 != libc::DEVPTS_SUPER_MAGIC as u64 {
        return Err(Errno::NODEV);
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let controller = rustix::fs::openat(devpts, c"ptmx", flags, Mode::empty())?;
    unlockpt(&controller)?;
    let terminal = ioctl_tiocgptpeer(&controller, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    resize(&controller, size)?;
    Ok(Pty { controller, terminal })
}

/// Tells a terminal its size; programs in it get SIGWINCH. Fork-safe.
pub fn resize(terminal: impl AsFd, size: WindowSize) -> Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size)
}

/// The size of a terminal.
pub fn size(terminal: impl AsFd) -> Result<WindowSize> {
    let size = rustix::termios::tcgetwinsize(terminal)?;
    Ok(WindowSize { rows: size.ws_row, columns: size.ws_col })
}

/// A terminal in raw mode: every key goes through as it is. Dropping it restores what was.
#[derive(Debug)]
pub struct RawMode<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> RawMode<'a> {
    /// Puts the terminal in raw mode.
    pub fn enter(terminal: BorrowedFd<'a>) -> Result<Self> {
        let before = rustix::termios::tcgetattr(terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(terminal, OptionalActions::Now, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for RawMode<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = rustix::termios::tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}
