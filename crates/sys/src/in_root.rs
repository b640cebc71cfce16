//! Opening paths inside a root directory that somebody else has filled.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use crate::{Errno, Result};

/// Opens `path` as a process whose root directory is `root` would, never leaving it: links lead where they would lead
/// there, and never through `/proc` to anywhere else. Closed by `execve`. Fork-safe when `path` is a C string.
pub fn open(root: BorrowedFd<'_>, path: impl rustix::path::Arg + Copy, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    resolve_in(root, path, flags, mode, ResolveFlags::empty())
}

/// The same for what lies in the mount of `root` itself: what is mounted below it is [`Errno::XDEV`].
pub fn open_in_mount(
    root: BorrowedFd<'_>,
    path: impl rustix::path::Arg + Copy,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd> {
    resolve_in(root, path, flags, mode, ResolveFlags::NO_XDEV)
}

fn resolve_in(
    root: BorrowedFd<'_>,
    path: impl rustix::path::Arg + Copy,
    flags: OFlags,
    mode: Mode,
    further: ResolveFlags,
) -> Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | further;
    for _ in 0..16 {
        match openat2(root, path, flags | OFlags::CLOEXEC, mode, resolve) {
            // Something was renamed meanwhile, and the kernel cannot tell whether that led outside.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}
