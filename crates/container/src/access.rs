//! A cell's files seen from outside, for copying in and out: the root directory of a running or a stopped cell.
//!
//! The cell's files are hostile: links in them lead where the cell wants. **Look every path up with [`open_in`]** (or
//! `openat2` with the same flags), never by joining strings.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use model::{Init, Lifetime, StartStep};
use rustix::fs::{CWD, Mode, OFlags};
use store::Rootfs;
use sys::exec::GroupChange;
use sys::namespace::{self, IdMap, MapWriter, Namespaces};
use sys::{fork, process, socket};

use crate::error::{Error, Result};
use crate::protocol::{self, Report, Stage};
use crate::rootfs::{Mounter, Overlay};

/// The root directory of a running cell, with everything that is mounted in it.
pub fn root_of_running(pid: u32) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let path = format!("/proc/{}/root", visible(pid));
    rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|_| Error::NotRunning)
}

/// A process of the cell that the caller may look at, given its first. An init of ours hides from ordinary users (it
/// never executed anything, so its memory is a supervisor's); its program, in the same namespaces, does not, and what stands
/// for a program shows itself to the cell's owner.
pub(crate) fn visible(first: u32) -> u32 {
    if rustix::process::geteuid().is_root() || rustix::fs::stat(format!("/proc/{first}/ns/user")).is_ok() {
        return first;
    }
    first_child(first).unwrap_or(first)
}

/// The program of a running cell, given its first process: with an init of ours as the first, that is its first child.
pub fn program_of(first: u32, init: Init) -> Result<u32> {
    match init {
        Init::Program => Ok(first),
        Init::Reaper => first_child(first).ok_or(Error::NotRunning),
    }
}

fn first_child(pid: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_ascii_whitespace().next()?.parse().ok()
}

/// The root directory of a cell that does not run: the same overlay, mounted nowhere. It is gone when the descriptor is
/// closed. **While it is open the cell must not be started**: two overlays must not share what they write to.
pub fn root_of_stopped(rootfs: &Rootfs, upper: &Path, lifetime: Lifetime) -> Result<OwnedFd> {
    if rustix::process::geteuid().is_root() {
        let overlay = Overlay::open(rootfs, upper, lifetime, Mounter::Parent)?;
        return overlay.mount().map_err(|it| Error::start(it.stage.step(), it.stage.words(), it.errno));
    }
    let overlay = Overlay::open(rootfs, upper, lifetime, Mounter::Child)?;
    mount_as_child(&overlay).map_err(|errno| {
        Error::start(StartStep::Mounts, "mounting the root of a stopped cell in a user namespace", errno)
    })
}

/// An ordinary user may mount only as root of a user namespace, so a child does it and hands the mount out.
fn mount_as_child(overlay: &Overlay) -> sys::Result<OwnedFd> {
    let (ours, theirs) = socket::pair()?;
    let child = fork::spawn(Namespaces::USER.and(Namespaces::MOUNT), None, || {
        let mounted = protocol::wait_for_go(theirs.as_fd())
            .and_then(|()| sys::exec::become_user(0, 0, &[], GroupChange::Leave))
            .and_then(|()| overlay.mount().map_err(|it| it.errno));
        let sent = match mounted {
            Ok(mount) => protocol::report(theirs.as_fd(), Report::Ready, &[mount.as_fd()]),
            Err(errno) => protocol::report(theirs.as_fd(), Report::Failed(Stage::Root.fail(errno)), &[]),
        };
        u8::from(sent.is_err())
    })?;
    drop(theirs);
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let map = IdMap { outside_uid: uid.as_raw(), outside_gid: gid.as_raw(), count: 1 };
    let answer = namespace::write_id_map(child.pid, map, MapWriter::Ordinary)
        .and_then(|()| protocol::go(ours.as_fd()))
        .and_then(|()| protocol::receive(ours.as_fd()));
    // It ends when it sent its answer, or waits for a word that does not come.
    drop(ours);
    process::wait(&child.pidfd)?;
    match answer? {
        Some((Report::Ready, [Some(mount), ..])) => Ok(mount),
        Some((Report::Failed(failure), _)) => Err(failure.errno),
        _ => Err(sys::Errno::PIPE),
    }
}

/// Opens `path` in the cell whose root directory is `root`, as a program in it would, never leaving it.
///
/// # Errors
///
/// The kernel's, as `open` gives them.
pub fn open_in(root: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode) -> sys::Result<OwnedFd> {
    sys::in_root::open(root, path, flags, mode)
}
