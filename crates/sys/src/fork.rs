//! Making processes: `clone3`, in new namespaces, directly in a cgroup, with a pidfd.
//!
//! What always holds: the child's closure runs once, in the child only, and the child never returns into its parent's
//! stack frames, not even by a panic.

#![expect(unsafe_code, reason = "clone3 has no safe wrapper")]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::namespace::Namespaces;
use crate::{Result, check};

/// The C library's constant is too narrow for its own value.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A process that [`spawn`] made.
#[derive(Debug)]
pub struct Child {
    /// Its number in the caller's pid namespace.
    pub pid: u32,
    /// A handle that stays valid when the number is reused; it polls readable when the process ends.
    pub pidfd: OwnedFd,
}

/// Ends the process at once if it is dropped, which happens only when the closure unwinds.
struct NoReturn;

impl Drop for NoReturn {
    fn drop(&mut self) {
        exit_now(101);
    }
}

/// Makes a child process that runs `child` and exits with the code that it returns.
///
/// The child is made in the new `namespaces` and, when `cgroup` is given, as a member of that cgroup (version 2). It
/// shares no memory with its parent. If the caller has other threads, the closure must be fork-safe: the child has only
/// the calling thread, and locks that others held (the allocator's among them) stay locked for ever.
pub fn spawn(namespaces: Namespaces, cgroup: Option<BorrowedFd<'_>>, child: impl FnOnce() -> u8) -> Result<Child> {
    let mut pidfd: RawFd = -1;
    let mut args = libc::clone_args {
        flags: namespaces.bits() | libc::CLONE_PIDFD as u64,
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` is a valid `clone_args` of the size given. Without CLONE_VM and with no stack of its own the child
    // goes on here with a copy of this memory, as after fork(2), and below it never returns from this function.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        let guard = NoReturn;
        let code = child();
        std::mem::forget(guard);
        exit_now(code);
    }
    // SAFETY: the kernel stored a new descriptor that nothing else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pid: pid as u32, pidfd })
}

/// Ends the calling process without running destructors or exit handlers. Fork-safe.
pub fn exit_now(code: u8) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(i32::from(code)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Ended, wait};

    #[test]
    fn a_child_runs_once_and_its_code_comes_back() {
        let child = spawn(Namespaces::empty(), None, || 42).unwrap();
        assert_eq!(wait(&child.pidfd).unwrap(), Ended::Code(42));
    }

    #[test]
    fn a_child_that_panics_does_not_come_back_here() {
        let child = spawn(Namespaces::empty(), None, || {
            std::panic::set_hook(Box::new(|_| {}));
            std::panic::panic_any(1)
        })
        .unwrap();
        assert_eq!(wait(&child.pidfd).unwrap(), Ended::Code(101));
    }
}
