//! A running cell whose messages and memory another cell shares (`--ipc cell:NAME`): its IPC namespace, and what it has
//! mounted at `/dev/shm` and `/dev/mqueue`.
//!
//! Root enters the namespace alone. An ordinary user's cell is root of a user namespace of its own, which has no say in
//! another's: there **the cell that joins is made in the user namespace of the cell that it joins**, whose one user is the
//! same. Both take a process that enters and makes the cell's first process as its own sibling, since there is no way back.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use model::StartStep;
use rustix::fs::{CWD, Mode, OFlags};
use sys::mount::{Reach, clone_tree};
use sys::namespace::{self, Namespaces};
use sys::{Errno, fork, process, socket};

use crate::access;
use crate::error::{Error, Result};
use crate::path;

/// Such a cell, while it is joined.
#[derive(Debug)]
pub(crate) struct Neighbour {
    pidfd: OwnedFd,
    /// What of its namespaces is entered.
    kinds: Namespaces,
    /// Its `/dev/shm`, mounted nowhere yet.
    pub(crate) memory: OwnedFd,
    /// Its `/dev/mqueue`, likewise.
    pub(crate) queues: OwnedFd,
}

const MEMORY: &CStr = c"dev/shm";
const QUEUES: &CStr = c"dev/mqueue";

impl Neighbour {
    /// The cell with that first process.
    pub(crate) fn open(first: u32) -> Result<Self> {
        let wrong = |errno| Error::start(StartStep::Namespaces, "joining the other cell's IPC (--ipc)", errno);
        let seen = access::visible(first);
        let pidfd = process::open(seen).map_err(wrong)?;
        let users = match namespace::shares(seen, "user").map_err(wrong)? {
            true => Namespaces::empty(),
            false => Namespaces::USER,
        };
        let [memory, queues] = trees(&pidfd, users.and(Namespaces::MOUNT)).map_err(wrong)?;
        // What is mounted over them is not what programs share: a directory of the host is joined by naming it twice.
        let kinds = [&memory, &queues].map(|it| rustix::fs::fstatfs(it).map(|it| it.f_type as u64));
        if kinds != [Ok(TMPFS), Ok(MQUEUE)] {
            return Err(Error::refused(
                StartStep::Namespaces,
                "joining the other cell's IPC (--ipc)",
                "it has something else mounted at /dev/shm or /dev/mqueue",
            ));
        }
        Ok(Self { pidfd, kinds: users.and(Namespaces::IPC), memory, queues })
    }

    /// What a process made by [`Neighbour::spawn`] has already.
    pub(crate) const fn kinds(&self) -> Namespaces {
        self.kinds
    }

    /// As [`fork::spawn`], in that cell's namespaces of [`Neighbour::kinds`].
    pub(crate) fn spawn(
        &self,
        further: Namespaces,
        group: Option<BorrowedFd<'_>>,
        child: impl FnOnce() -> u8,
    ) -> sys::Result<fork::Child> {
        let (pid, [pidfd]) = brought_from(&self.pidfd, self.kinds, || {
            fork::spawn_beside(further, group, child).map(|child| (child.pid, [child.pidfd]))
        })?;
        Ok(fork::Child { pid, pidfd })
    }
}

/// What a process gets that joins a cell's namespaces for it: a number and descriptors.
fn brought_from<const N: usize>(
    cell: &OwnedFd,
    kinds: Namespaces,
    get: impl FnOnce() -> sys::Result<(u32, [OwnedFd; N])>,
) -> sys::Result<(u32, [OwnedFd; N])> {
    let (ours, theirs) = socket::pair()?;
    let visitor = fork::spawn(Namespaces::empty(), None, || {
        let sent = match namespace::join(cell, kinds).and_then(|()| get()) {
            Ok((number, gotten)) => {
                socket::send(&theirs, &number.to_ne_bytes(), &gotten.each_ref().map(OwnedFd::as_fd))
            }
            Err(errno) => socket::send(&theirs, &errno.raw_os_error().to_ne_bytes(), &[]),
        };
        u8::from(sent.is_err())
    })?;
    drop(theirs);
    let mut answer = [0; 4];
    let received = socket::receive(&ours, &mut answer);
    process::wait(&visitor.pidfd)?;
    let (4, descriptors) = received? else { return Err(Errno::PIPE) };
    let brought: Vec<OwnedFd> = descriptors.into_iter().flatten().take(N).collect();
    match brought.try_into() {
        Ok(brought) => Ok((u32::from_ne_bytes(answer), brought)),
        Err(_) => Err(Errno::from_raw_os_error(i32::from_ne_bytes(answer).clamp(1, 4095))),
    }
}

const TMPFS: u64 = 0x0102_1994;
const MQUEUE: u64 = 0x1980_0202;

/// Copies of the two mounts, made by a process that is there.
fn trees(cell: &OwnedFd, kinds: Namespaces) -> sys::Result<[OwnedFd; 2]> {
    let (_, mounts) = brought_from(cell, kinds, || {
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, c"/", directory, Mode::empty())?;
        let copy = |path| clone_tree(path::open(root.as_fd(), path, directory)?, c"", Reach::One);
        Ok((0, [copy(MEMORY)?, copy(QUEUES)?]))
    })?;
    Ok(mounts)
}
