//! Where a directory is.

#![expect(unsafe_code, reason = "a working directory of one thread's own, and getcwd with a buffer")]

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Errno, Result, check};

/// The path of an open directory, with a zero at its end. The calling thread is in that directory afterwards, and shares
/// it with no other.
pub fn path_of(directory: BorrowedFd<'_>) -> Result<Vec<u8>> {
    const LONGEST: usize = 4096;
    // SAFETY: from here on this thread has a working directory, root and mask of its own; nothing of it is in memory.
    check(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_FS) })?;
    // SAFETY: takes a descriptor.
    check(unsafe { libc::syscall(libc::SYS_fchdir, directory.as_raw_fd()) })?;
    let mut text = vec![0u8; LONGEST];
    // SAFETY: the buffer is as long as it says.
    let length = check(unsafe { libc::syscall(libc::SYS_getcwd, text.as_mut_ptr(), LONGEST) })?;
    text.truncate(length as usize);
    // What cannot be reached from the root has no path.
    if text.first() == Some(&b'/') { Ok(text) } else { Err(Errno::NOENT) }
}
