//! Landlock: giving up file access for good, as whoever one is. A thin layer for processes of our own that unpack or
//! parse what others wrote.

#![expect(unsafe_code, reason = "landlock's calls take raw structures")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

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

/// Rights over files, wherever they lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights(u64);

impl Rights {
    /// Executing a file that has a path.
    pub const EXECUTE: Self = Self(1);
    /// Making a node of a device.
    pub const MAKE_DEVICES: Self = Self(1 << 6 | 1 << 11);

    /// Those, too.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What leads out of a confined process to others that are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ways(u64);

impl Ways {
    /// Connecting to their abstract sockets, and signalling them.
    pub const SOCKETS_AND_SIGNALS: Self = Self(1 | 1 << 1);
}

/// The first version of the interface that knows of [`Ways`].
pub const KNOWS_WAYS: u32 = 6;

#[repr(C)]
#[derive(Default)]
struct Ruleset {
    handled: u64,
    network: u64,
    scoped: u64,
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
    let rules = Rules::new(&Ruleset { handled: rights, ..Ruleset::default() })?;
    for (directory, access) in allowed {
        rules.allow(*directory, if *access == Access::All { rights } else { READ })?;
    }
    rules.apply()
}

/// From now on the calling thread and its children do without those rights, wherever, and without those ways if the kernel
/// knows of them; they keep all others. It also sets no-new-privileges. Takes version 2 of the interface, since in
/// version 1 nobody confined moves files between directories.
pub fn waive(rights: Rights, ways: Ways) -> Result<()> {
    let scoped = match version()? {
        0 | 1 => return Err(Errno::NOSYS),
        KNOWS_WAYS.. => ways.0,
        _ => 0,
    };
    let rules = Rules::new(&Ruleset { handled: rights.0 | REFER, scoped, network: 0 })?;
    let root = rustix::fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    rules.allow(root.as_fd(), REFER)?;
    rules.apply()
}

/// Rules that are being made.
struct Rules(OwnedFd);

impl Rules {
    fn new(ruleset: &Ruleset) -> Result<Self> {
        let (ruleset, size) = (std::ptr::from_ref(ruleset), size_of::<Ruleset>());
        // SAFETY: the structure is as large as told; what a kernel knows less of must be zero, and what it knows more of is.
        let made = check(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, ruleset, size, 0) })?;
        // SAFETY: the kernel just made it; nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(made as i32) }))
    }

    fn allow(&self, directory: BorrowedFd<'_>, allowed: u64) -> Result<()> {
        let rule = Beneath { allowed, parent: directory.as_raw_fd() };
        let fd = self.0.as_raw_fd();
        // SAFETY: the rule has the kernel's packed layout and names a live descriptor.
        let done = unsafe { libc::syscall(libc::SYS_landlock_add_rule, fd, RULE_PATH_BENEATH, &raw const rule, 0) };
        check(done).map(drop)
    }

    fn apply(self) -> Result<()> {
        crate::exec::no_new_privileges()?;
        // SAFETY: plain numbers.
        check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, self.0.as_raw_fd(), 0) }).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, openat};

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
