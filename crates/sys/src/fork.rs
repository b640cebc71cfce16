//! Making processes: `clone3`, in new namespaces, directly in a cgroup, with a pidfd.
//!
//! What always holds: the child's closure runs once, in the child only, and the child never returns into its parent's
//! stack frames, not even by a panic.

#![expect(unsafe_code, reason = "clone3 has no safe wrapper")]

use std::mem::MaybeUninit;
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
    spawn_as(Relation::Child, namespaces, cgroup, child)
}

/// The same, but the process is its maker's sibling: a child of the maker's parent, which waits for it and hears of its end as
/// of the maker's.
pub fn spawn_beside(
    namespaces: Namespaces,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce() -> u8,
) -> Result<Child> {
    spawn_as(Relation::Sibling, namespaces, cgroup, child)
}

/// What a new process is to its maker.
enum Relation {
    Child,
    Sibling,
}

fn spawn_as(
    relation: Relation,
    namespaces: Namespaces,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce() -> u8,
) -> Result<Child> {
    let mut pidfd: RawFd = -1;
    let mut args = arguments(&mut pidfd, cgroup);
    args.flags |= namespaces.bits();
    if let Relation::Sibling = relation {
        args.flags |= libc::CLONE_PARENT as u64;
        // How its end is told is as the maker's is.
        args.exit_signal = 0;
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

/// The stack of a child that shares its parent's memory: it makes some system calls and executes.
const STACK: usize = 64 << 10;

/// Makes a child process for executing another program: `child` runs in the caller's own memory while the caller stands
/// still, until the child executed or ended. That spares copying the page tables, most of what a fork costs. The child is
/// made as a member of `cgroup` (version 2) when that is given.
///
/// What `child` writes to memory the caller sees. It must be fork-safe as for [`spawn`], and block signals that have
/// handlers. A kernel that changes somebody's user or capabilities hides all memory of his (`PR_SET_DUMPABLE`), which is
/// the caller's.
pub fn spawn_to_exec<F: FnOnce() -> u8>(cgroup: Option<BorrowedFd<'_>>, child: F) -> Result<Child> {
    #[repr(align(16))]
    struct Stack([MaybeUninit<u8>; STACK]);
    let mut stack = Stack([MaybeUninit::uninit(); STACK]);
    let mut slot = Some(child);
    let mut pidfd: RawFd = -1;
    let shared = libc::CLONE_VM | libc::CLONE_VFORK;
    let argument = (&raw mut slot).cast();
    // SAFETY (both): `enter` gets a stack of its own and the slot that it expects. With CLONE_VFORK the caller resumes only
    // when the child no longer uses this memory, so stack and slot outlive it; descriptors, directories and credentials
    // are copies.
    let pid = if cgroup.is_some() {
        let mut args = arguments(&mut pidfd, cgroup);
        args.flags |= shared as u64;
        args.stack = stack.0.as_mut_ptr() as u64;
        args.stack_size = STACK as u64;
        // SAFETY: as above.
        check(unsafe { clone_on_stack(&raw mut args, enter::<F>, argument) })?
    } else {
        // Filters of containers know the older call alone.
        extern "C" fn begin<F: FnOnce() -> u8>(argument: *mut libc::c_void) -> libc::c_int {
            enter::<F>(argument)
        }
        let flags = shared | libc::CLONE_PIDFD | libc::SIGCHLD;
        // SAFETY: as above; the stack grows down from its end.
        check(unsafe {
            let top = stack.0.as_mut_ptr().add(STACK).cast();
            libc::clone(begin::<F>, top, flags, argument, &raw mut pidfd).into()
        })?
    };
    // SAFETY: the kernel stored a new descriptor that nothing else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pid: pid as u32, pidfd })
}

/// Where a child of [`spawn_to_exec`] begins.
extern "C" fn enter<F: FnOnce() -> u8>(argument: *mut libc::c_void) -> ! {
    let guard = NoReturn;
    // SAFETY: it is the caller's slot, alive and untouched while the parent stands still.
    let child = unsafe { &mut *argument.cast::<Option<F>>() }.take();
    let code = child.map_or(101, |it| it());
    std::mem::forget(guard);
    exit_now(code)
}

/// `clone3` with a stack for the child, which begins with `enter`. The C library has it for no one but itself.
///
/// # Safety
/// As of `clone3`, with memory that is shared and a stack that is the child's alone.
unsafe fn clone_on_stack(
    args: *mut libc::clone_args,
    enter: extern "C" fn(*mut libc::c_void) -> !,
    argument: *mut libc::c_void,
) -> libc::c_long {
    let result: libc::c_long;
    // SAFETY: the parent goes on behind the call as after any other. The child has nothing on its stack but what it puts
    // there, finds the two registers as they were, and never returns.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!(
            "syscall", "test rax, rax", "jnz 2f", "xor ebp, ebp", "mov rdi, r13", "call r12", "ud2", "2:",
            inlateout("rax") libc::SYS_clone3 => result, in("rdi") args, in("rsi") size_of::<libc::clone_args>(),
            in("r12") enter, in("r13") argument, lateout("rcx") _, lateout("r11") _,
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!(
            "svc 0", "cbnz x0, 2f", "mov x29, xzr", "mov x30, xzr", "mov x0, x20", "blr x21", "brk 1", "2:",
            inlateout("x0") args => result, in("x1") size_of::<libc::clone_args>(), in("x8") libc::SYS_clone3,
            in("x21") enter, in("x20") argument,
        );
    }
    if (-4095..0).contains(&result) {
        // SAFETY: the C library's own place for the calling thread's error.
        unsafe { *libc::__errno_location() = -result as i32 };
        return -1;
    }
    result
}

/// What both ways of cloning ask of the kernel.
fn arguments(pidfd: &mut RawFd, cgroup: Option<BorrowedFd<'_>>) -> libc::clone_args {
    let into = if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 };
    libc::clone_args {
        flags: libc::CLONE_PIDFD as u64 | into,
        pidfd: std::ptr::from_mut(pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.map_or(0, |it| it.as_raw_fd() as u64),
    }
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

    #[test]
    fn a_child_that_shares_memory_tells_through_it() {
        let mut told = 0;
        let child = spawn_to_exec(None, || {
            told = 7;
            5
        })
        .unwrap();
        assert_eq!((told, wait(&child.pidfd).unwrap()), (7, Ended::Code(5)));
    }
}
