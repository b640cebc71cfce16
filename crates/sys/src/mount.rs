//! The mount interface by descriptors, where `rustix` does not reach: `mount_setattr`, id-mapped mounts, whole new file
//! systems in one call.

#![expect(unsafe_code, reason = "mount_setattr has no safe wrapper")]

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};

use crate::namespace::Namespaces;
use crate::{Errno, Result, check, fork, process, socket};

#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

const ATTR_IDMAP: u64 = 0x0010_0000;

/// How far a change of mount attributes reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The one mount.
    One,
    /// The mount and everything mounted beneath it.
    Tree,
}

/// Sets attributes (such as read-only) of the mount that `mount` is the root of. Fork-safe.
pub fn set_attributes(mount: impl AsFd, attributes: MountAttrFlags, reach: Reach) -> Result<()> {
    setattr(mount.as_fd(), MountAttr { set: u64::from(attributes.bits()), ..MountAttr::default() }, reach)
}

/// Shows the owners of files through the map of a user namespace: what is uid 0 on disk is what the namespace calls 0.
/// The mount must be detached and not in use yet. Fork-safe.
pub fn map_owners(mount: impl AsFd, user_namespace: BorrowedFd<'_>, reach: Reach) -> Result<()> {
    let userns = user_namespace.as_raw_fd() as u64;
    setattr(mount.as_fd(), MountAttr { set: ATTR_IDMAP, userns, ..MountAttr::default() }, reach)
}

/// Cuts the mounts off from others that they exchange mount events with. Fork-safe.
pub fn make_private(mount: impl AsFd, reach: Reach) -> Result<()> {
    setattr(mount.as_fd(), MountAttr { propagation: libc::MS_PRIVATE, ..MountAttr::default() }, reach)
}

/// Lets the mounts hear of mount events elsewhere, and tell of none. Fork-safe.
pub fn make_slave(mount: impl AsFd, reach: Reach) -> Result<()> {
    setattr(mount.as_fd(), MountAttr { propagation: libc::MS_SLAVE, ..MountAttr::default() }, reach)
}

fn setattr(mount: BorrowedFd<'_>, attr: MountAttr, reach: Reach) -> Result<()> {
    let recursive = if reach == Reach::Tree { libc::AT_RECURSIVE } else { 0 };
    let flags = libc::AT_EMPTY_PATH | recursive;
    let (fd, size) = (mount.as_raw_fd(), size_of::<MountAttr>());
    // SAFETY: `attr` is the kernel's structure of the size given; the path is an empty C string.
    check(unsafe { libc::syscall(libc::SYS_mount_setattr, fd, c"".as_ptr(), flags, &raw const attr, size) }).map(drop)
}

/// A new instance of the file system `kind`, mounted nowhere yet. An option with an empty value is a flag. Fork-safe.
pub fn new_file_system<S: AsRef<CStr>>(kind: &CStr, options: &[(S, S)], attributes: MountAttrFlags) -> Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    mount_with(context.as_fd(), options, attributes)
}

/// A new `/proc` of a pid namespace that the caller is not in, mounted nowhere yet. `INVAL` on a kernel that has them of
/// the mounting process's own only (before Linux 6.17). Fork-safe.
pub fn new_proc_of<S: AsRef<CStr>>(
    pid_namespace: BorrowedFd<'_>,
    options: &[(S, S)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd> {
    let context = fsopen(c"proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_fd(context.as_fd(), c"pidns", pid_namespace)?;
    mount_with(context.as_fd(), options, attributes)
}

fn mount_with<S: AsRef<CStr>>(
    context: BorrowedFd<'_>,
    options: &[(S, S)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd> {
    for (name, value) in options {
        let (name, value) = (name.as_ref(), value.as_ref());
        if value.is_empty() {
            fsconfig_set_flag(context, name)?;
        } else {
            fsconfig_set_string(context, name, value)?;
        }
    }
    fsconfig_create(context)?;
    fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// A mount that a child makes where the caller cannot or must not, be that namespaces of the child's own, and hands over. It is
/// mounted nowhere yet, and outlives the child. Fork-safe, as `make` must be.
pub fn made_by_child(namespaces: Namespaces, make: impl FnOnce() -> Result<OwnedFd>) -> Result<OwnedFd> {
    let (ours, theirs) = socket::pair()?;
    let child = fork::spawn(namespaces, None, || {
        let sent = match make() {
            Ok(mount) => socket::send(&theirs, &[0; 4], &[mount.as_fd()]),
            Err(errno) => socket::send(&theirs, &errno.raw_os_error().to_ne_bytes(), &[]),
        };
        u8::from(sent.is_err())
    })?;
    drop(theirs);
    let mut answer = [0; 4];
    let received = socket::receive(&ours, &mut answer);
    process::wait(&child.pidfd)?;
    match (received?, i32::from_ne_bytes(answer)) {
        ((4, [Some(mount), ..]), 0) => Ok(mount),
        ((4, _), errno) if errno > 0 => Err(Errno::from_raw_os_error(errno)),
        _ => Err(Errno::IO),
    }
}

/// A detached copy of the mount at `path`, with what is mounted beneath it when `reach` says so. Fork-safe.
pub fn clone_tree(directory: impl AsFd, path: &CStr, reach: Reach) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if reach == Reach::Tree {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(directory, path, flags)
}

/// Puts a detached tree of mounts over `target`. Fork-safe.
pub fn attach(tree: impl AsFd, target: impl AsFd) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, c"", target, c"", flags)
}

/// Makes a detached tree of mounts the root directory of the caller, whose mount namespace must be its own, and lets go
/// of the whole tree that was there. The new root, opened. Fork-safe.
pub fn enter_root(root: BorrowedFd<'_>) -> Result<OwnedFd> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let before = rustix::fs::openat(CWD, c"/", directory, Mode::empty())?;
    make_private(&before, Reach::Tree)?;
    attach(root, &before)?;
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(c".", c".")?;
    unmount(c".", UnmountFlags::DETACH)?;
    rustix::process::chdir(c"/")?;
    rustix::fs::openat(CWD, c"/", directory, Mode::empty())
}

/// The same, but keeps the tree that was there: it moves to the directory `place` of the new root. Fork-safe.
pub fn enter_root_keeping(root: BorrowedFd<'_>, place: &CStr) -> Result<()> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let before = rustix::fs::openat(CWD, c"/", directory, Mode::empty())?;
    attach(root, &before)?;
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(c".", place)?;
    rustix::process::chdir(c"/")
}
