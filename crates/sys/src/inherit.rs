//! Descriptors that this process was executed with.
#![expect(unsafe_code, reason = "a number that another program left open becomes an owned descriptor here")]

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::FdFlags;

use crate::Result;

/// Takes over a descriptor that the executing program left open under that number; what this process executes in turn
/// does not get it. To be called once for a number, before anything else opens descriptors.
pub fn adopt(number: RawFd) -> Result<OwnedFd> {
    if number < 0 {
        return Err(crate::Errno::BADF);
    }
    // SAFETY: only looked at: a number that is not open fails with EBADF below.
    let seen = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(seen, FdFlags::CLOEXEC)?;
    // SAFETY: it is open (above), and the caller is the first and only one to take it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
