//! The one home of raw system calls.
//!
//! Everything above this crate is safe Rust: what the kernel offers and `rustix` does not wrap is wrapped here, each call
//! with the reason why it is sound. Nothing here decides anything: policy (which namespaces, which capabilities, which
//! cgroup) belongs to the callers. **Errors are the kernel's own numbers** ([`rustix::io::Errno`]); callers add the words.
//!
//! Functions marked *fork-safe* neither allocate nor take a lock, so they may be called between [`fork::spawn`] and
//! `exec` even when the parent had other threads.

pub mod capability;
pub mod cgroup;
pub mod exec;
pub mod fanotify;
pub mod file_control;
pub mod file_identity;
pub mod fork;
pub mod in_root;
pub mod inherit;
pub mod kvm;
pub mod landlock;
pub mod limit;
pub mod mount;
pub mod mountinfo;
pub mod namespace;
pub mod network;
pub mod pagemap;
pub mod probe;
pub mod process;
pub mod ptrace;
pub mod pty;
pub mod random;
pub mod seccomp;
pub mod signal;
pub mod socket;

pub use rustix::io::Errno;

/// What a system call gives.
pub type Result<T> = std::result::Result<T, Errno>;

/// What the raw `syscall` function returned, as a result. Fork-safe.
pub(crate) fn check(returned: libc::c_long) -> Result<libc::c_long> {
    if returned >= 0 { Ok(returned) } else { Err(last_error()) }
}

/// `errno` as set by the C library's `syscall`. Fork-safe.
pub(crate) fn last_error() -> Errno {
    Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}
