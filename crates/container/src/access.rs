//! A cell's files seen from outside, for copying in and out: the root directory of a running or a stopped cell.
//!
//! The cell's files are hostile: links in them lead where the cell wants. **Look every path up with [`open_in`]** (or
//! `openat2` with the same flags), never by joining strings.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use model::{Lifetime, StartStep};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use store::Rootfs;

use crate::error::{Error, Result};
use crate::rootfs::{Mounter, Overlay};

/// The root directory of a running cell, with everything that is mounted in it.
pub fn root_of_running(pid: u32) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, format!("/proc/{pid}/root"), flags, Mode::empty()).map_err(|_| Error::NotRunning)
}

/// The root directory of a cell that does not run: the same overlay, mounted nowhere. It is gone when the descriptor is
/// closed. **While it is open the cell must not be started**: two overlays must not share what they write to.
pub fn root_of_stopped(rootfs: &Rootfs, upper: &Path, lifetime: Lifetime) -> Result<OwnedFd> {
    if !rustix::process::geteuid().is_root() {
        let what = "mounting the root of a stopped cell";
        return Err(Error::refused(
            StartStep::Mounts,
            what,
            "an ordinary user can reach the files of a running cell only",
        ));
    }
    let overlay = Overlay::open(rootfs, upper, lifetime, Mounter::Parent)?;
    overlay.mount().map_err(|failure| Error::start(failure.stage.step(), failure.stage.words(), failure.errno))
}

/// Opens `path` in the cell whose root directory is `root`, as a program in it would, never leaving it.
///
/// # Errors
///
/// The kernel's, as `open` gives them.
pub fn open_in(root: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode) -> sys::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..16 {
        match openat2(root.as_fd(), path, flags | OFlags::CLOEXEC, mode, resolve) {
            // Something was renamed meanwhile, and the kernel cannot tell whether that led outside.
            Err(sys::Errno::AGAIN | sys::Errno::INTR) => {}
            other => return other,
        }
    }
    Err(sys::Errno::AGAIN)
}
