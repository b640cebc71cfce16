//! Landlock: giving up file access for good, as whoever one is. A thin layer for processes of our own that unpack or
//! parse what others wrote.

#![expect(unsafe_code, reason = "landlock's calls take raw structures")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::{Errno, Result, check};

const VERSION_FLAG: libc::c_ulong = 1;
const RULE_PATH_BENEATH: libc::c_ulong = 1;
/// Execute, read a file, read a directory.
const READ: u64 = 1 | 1 << 2 | 1 << 3;
/// Every right over files of the first version of the interface, the one that every supported kernel has.
const ALL_OF_VERSION_1: u64 = (1 << 13) - 1;
/// Moving between directories and truncating, of versions 2 and 3.
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;

/// What may be done beneath a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading and executing.
    Read,
    /// Everything.
    All,
}

#[repr(C)]
struct Ruleset {
    handled: u64,
}

#[repr(C, packed)]
struct Beneath {
    allowed: u64,
    parent: i32,
}

/// The version of the interface that the kernel has.
pub fn version() -> Result<u32> {
    // SAFETY: with this flag the kernel takes neither structure nor size.
    let version =
        check(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, VERSION_FLAG) })?;
    Ok(version as u32)
}

/// From now on the calling thread and its children reach only what lies beneath `allowed`, in the way given. It also
/// sets no-new-privileges. Descriptors that are open stay as they are.
pub fn confine(allowed: &[(BorrowedFd<'_>, Access)]) -> Result<()> {
    let rights = match version()? {
        0 => return Err(Errno::NOSYS),
        1 => ALL_OF_VERSION_1,
        2 => ALL_OF_VERSION_1 | REFER,
        _ => ALL_OF_VERSION_1 | REFER | TRUNCATE,
    };
    let ruleset = Ruleset { handled: rights };
    // SAFETY: the structure is as large as told; more fields of later versions count as zero.
    let ruleset = check(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, &raw const ruleset, size_of::<Ruleset>(), 0)
    })?;
    // SAFETY: the kernel just made it; nothing else owns it.
    let ruleset = unsafe { OwnedFd::from_raw_fd(ruleset as i32) };
    for (directory, access) in allowed {
        let allowed = if *access == Access::All { rights } else { READ };
        let rule = Beneath { allowed, parent: directory.as_raw_fd() };
        let fd = ruleset.as_fd().as_raw_fd();
        // SAFETY: the rule has the kernel's packed layout and names a live descriptor.
        check(unsafe { libc::syscall(libc::SYS_landlock_add_rule, fd, RULE_PATH_BENEATH, &raw const rule, 0) })?;
    }
    crate::exec::no_new_privileges()?;
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) }).map(drop)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, Mode, OFlags, openat};

    use super::*;

    #[test]
    fn what_is_not_allowed_is_out_of_reach() {
        if version().is_err() {
            return;
        }
        let (read, write, other) = (tempfile::tempdir(), tempfile::tempdir(), tempfile::tempdir());
        let (read, write, other) = (read.unwrap(), write.unwrap(), other.unwrap());
        for dir in [&read, &write, &other] {
            std::fs::write(dir.path().join("file"), "x").unwrap();
        }
        let child = crate::fork::spawn(crate::namespace::Namespaces::empty(), None, || {
            let directory = |dir: &tempfile::TempDir| openat(CWD, dir.path(), OFlags::PATH, Mode::empty()).unwrap();
            let (readable, writable) = (directory(&read), directory(&write));
            confine(&[(readable.as_fd(), Access::Read), (writable.as_fd(), Access::All)]).unwrap();
            let open =
                |dir: &tempfile::TempDir, flags| openat(CWD, dir.path().join("file"), flags, Mode::empty()).err();
            let seen = [
                open(&read, OFlags::RDONLY),
                open(&read, OFlags::WRONLY),
                open(&write, OFlags::RDWR),
                open(&other, OFlags::RDONLY),
            ];
            u8::from(seen != [None, Some(Errno::ACCESS), None, Some(Errno::ACCESS)])
        });
        assert_eq!(crate::process::wait(child.unwrap().pidfd).unwrap(), crate::process::Ended::Code(0));
    }
}
