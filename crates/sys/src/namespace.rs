//! Namespaces: their names as a set, joining and leaving them.

#![expect(unsafe_code, reason = "setns with a pidfd, unshare of what a process shares with its threads, an ioctl")]

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};

use crate::{Errno, Result, check, fork, process};

/// A set of kinds of namespaces, by the bits that `clone`, `unshare` and `setns` share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespaces(u64);

impl Namespaces {
    /// Users, groups and capabilities.
    pub const USER: Self = Self(libc::CLONE_NEWUSER as u64);
    /// Process numbers.
    pub const PID: Self = Self(libc::CLONE_NEWPID as u64);
    /// The mount tree.
    pub const MOUNT: Self = Self(libc::CLONE_NEWNS as u64);
    /// The host name.
    pub const UTS: Self = Self(libc::CLONE_NEWUTS as u64);
    /// System V objects and POSIX message queues.
    pub const IPC: Self = Self(libc::CLONE_NEWIPC as u64);
    /// Interfaces, addresses, sockets.
    pub const NET: Self = Self(libc::CLONE_NEWNET as u64);
    /// What the cgroup tree's root seems to be.
    pub const CGROUP: Self = Self(libc::CLONE_NEWCGROUP as u64);

    /// The monotonic clock. Cells have none of their own; others may.
    pub const TIME: Self = Self(libc::CLONE_NEWTIME as u64);

    /// Each kind that cells have, with the name of its link in `/proc/PID/ns`.
    pub const NAMED: [(Self, &'static str); 7] = [
        (Self::USER, "user"),
        (Self::PID, "pid"),
        (Self::MOUNT, "mnt"),
        (Self::UTS, "uts"),
        (Self::IPC, "ipc"),
        (Self::NET, "net"),
        (Self::CGROUP, "cgroup"),
    ];

    /// No kind.
    pub const fn empty() -> Self {
        Self(0)
    }

    /// These kinds and those.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These kinds less those.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `other` are among these.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The kernel's bits.
    pub const fn bits(self) -> u64 {
        self.0
    }
}

/// Moves the calling thread into the namespaces of those kinds of the process that `pidfd` stands for (or, for one kind,
/// into the namespace that a file of `/proc/PID/ns` stands for). A pid namespace is for children made later. Fork-safe.
pub fn join(pidfd: impl AsFd, kinds: Namespaces) -> Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: setns takes two numbers. It changes what paths, ids and names mean, which no Rust invariant rests on.
    check(unsafe { libc::syscall(libc::SYS_setns, fd, kinds.bits()) }).map(drop)
}

/// Gives the calling thread new namespaces of those kinds. A pid namespace is for children made later. Fork-safe.
pub fn leave(kinds: Namespaces) -> Result<()> {
    // SAFETY: only CLONE_NEW* bits can be in `kinds`, so nothing that threads rely on being shared (the descriptor table)
    // stops being so.
    check(unsafe { libc::syscall(libc::SYS_unshare, kinds.bits()) }).map(drop)
}

/// How a user namespace's ids map to those outside: ids 0 to `count - 1` inside are `outside` and following.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMap {
    /// What uid 0 is outside.
    pub outside_uid: u32,
    /// What gid 0 is outside.
    pub outside_gid: u32,
    /// How many ids there are, of each kind.
    pub count: u32,
}

/// Who writes an id map: only somebody privileged may leave the new namespace the right to set groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapWriter {
    /// Has `SETUID` and `SETGID` outside.
    Privileged,
    /// Maps nothing but itself.
    Ordinary,
}

/// Gives the new user namespace of process `pid` its id map.
pub fn write_id_map(pid: u32, map: IdMap, writer: MapWriter) -> Result<()> {
    let write = |file: &str, text: &str| {
        let path = format!("/proc/{pid}/{file}");
        let file = rustix::fs::openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(file, text.as_bytes()).map(drop)
    };
    if writer == MapWriter::Ordinary {
        write("setgroups", "deny")?;
    }
    write("uid_map", &format!("0 {} {}\n", map.outside_uid, map.count))?;
    write("gid_map", &format!("0 {} {}\n", map.outside_gid, map.count))
}

/// A user namespace with that id map and no process in it, for mapping the owners of mounted files.
pub fn user_namespace(map: IdMap) -> Result<OwnedFd> {
    let child = fork::spawn(Namespaces::USER, None, || {
        loop {
            // Until it is killed below, or with the parent.
            let _ = crate::exec::die_with_parent();
            let _ = crate::signal::wait(crate::signal::SignalSet::ALL);
        }
    })?;
    let path = format!("/proc/{}/ns/user", child.pid);
    let opened = write_id_map(child.pid, map, MapWriter::Privileged)
        .and_then(|()| rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()));
    process::kill(&child.pidfd)?;
    process::wait(&child.pidfd)?;
    opened
}

/// `NS_GET_OWNER_UID`.
const GET_OWNER_UID: u64 = 0xb704;

/// The user, by the caller's numbers, who made the user namespace that process `pid` is in, and so has every capability
/// in it anyway.
pub fn owner(pid: u32) -> Result<u32> {
    let path = format!("/proc/{pid}/ns/user");
    let file = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut uid: libc::uid_t = 0;
    // SAFETY: the request writes one uid_t, which `uid` is and which outlives the call.
    check(unsafe { libc::syscall(libc::SYS_ioctl, file.as_raw_fd(), GET_OWNER_UID, &raw mut uid) })?;
    Ok(uid)
}

/// Whether that process is in the namespace of that kind that the caller is in.
pub fn shares(pid: u32, kind: &str) -> Result<bool> {
    let link = |pid: &str| rustix::fs::stat(format!("/proc/{pid}/ns/{kind}"));
    let (ours, theirs) = (link("self")?, link(&pid.to_string()).map_err(|_| Errno::SRCH)?);
    Ok((ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino))
}
