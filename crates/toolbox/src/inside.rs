//! Files of a target and of `/proc`, opened by processes that must not allocate. **A target's paths are resolved inside its
//! root**: links lead where they would lead there, and never through `/proc` to anywhere else.

use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use sys::Errno;

/// Opens a path as a process whose root is `root` would, never leaving it. Fork-safe.
pub(crate) fn open_inside(root: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> sys::Result<OwnedFd> {
    sys::in_root::open(root, path, flags, Mode::empty())
}

/// The same, for a plain file only: anything else that a target may have put there is refused. Fork-safe.
pub(crate) fn open_file(root: BorrowedFd<'_>, path: &CStr) -> sys::Result<OwnedFd> {
    let file = open_inside(root, path, OFlags::PATH)?;
    match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file),
        _ => Err(Errno::NODEV),
    }
}

/// Reads a small file; how much of `buffer` it filled.
pub(crate) fn read_file(path: &CStr, buffer: &mut [u8]) -> sys::Result<usize> {
    let file = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|it| !it.is_empty()) {
        match rustix::io::read(&file, rest) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(length)
}
