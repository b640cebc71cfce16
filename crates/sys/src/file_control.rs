//! fcntl and ioctl with an operation that is data.

#![expect(unsafe_code, reason = "calls whose meaning is in a number")]

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Result, check};

/// The bytes of a `struct flock`.
pub type Lock = [u8; size_of::<libc::flock>()];

/// fcntl with an operation that takes and gives numbers: `F_GETPIPE_SZ`, `F_ADD_SEALS` and the like.
pub fn number(fd: BorrowedFd<'_>, operation: i32, argument: u64) -> Result<u64> {
    // SAFETY: these operations follow no pointer.
    check(unsafe { libc::syscall(libc::SYS_fcntl, fd.as_raw_fd(), operation, argument) }).map(|it| it as u64)
}

/// fcntl with one of the operations on locks.
pub fn lock(fd: BorrowedFd<'_>, operation: i32, record: &mut Lock) -> Result<()> {
    // SAFETY: they read and write a `struct flock`, and it is as long.
    check(unsafe { libc::syscall(libc::SYS_fcntl, fd.as_raw_fd(), operation, record.as_mut_ptr()) }).map(drop)
}

/// ioctl with a request that reads or writes no more than `bytes`.
pub fn device(fd: BorrowedFd<'_>, request: u64, bytes: &mut [u8]) -> Result<u64> {
    // SAFETY: the caller gives the request and what it needs.
    check(unsafe { libc::syscall(libc::SYS_ioctl, fd.as_raw_fd(), request, bytes.as_mut_ptr()) }).map(|it| it as u64)
}
