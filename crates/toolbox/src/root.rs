//! The root of a session: a tree of mounts that nobody else sees, made by the usher.
//!
//! The order matters. The session's `/proc` is made while the usher stands in its caller's mount namespace, the copy of the
//! target's tree while it stands in the target's, and everything is put together in one of its own. Nothing here allocates.
//! A mount that is given up without having been mounted anywhere makes the kernel wait for all processors, some 60 to 100
//! microseconds each: so what is needed for a moment only is kept open until the program runs, and let go of then.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use container::{Failure, Stage, Streams, WindowSize};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags, openat2};
use rustix::mount::{MountAttrFlags, UnmountFlags, unmount};
use sys::Errno;
use sys::mount::{
    Reach, attach, clone_tree, enter_root, made_by_child, make_slave, new_file_system, new_proc_of, set_attributes,
};
use sys::mountinfo::Access;
use sys::namespace::{self, Namespaces};
use sys::pty::{self, Pty};

use crate::inside::{open_file, open_inside};
use crate::session::Recipe;
use crate::swap::{Entry, Frame};
use crate::view::Cover;

type Done<T> = std::result::Result<T, Failure>;

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// All that the root is made of.
pub(crate) struct Root<'a> {
    /// Of the target, other than pid and user; the rest is the caller's own.
    pub(crate) namespaces: Namespaces,
    pub(crate) target: BorrowedFd<'a>,
    pub(crate) target_root: BorrowedFd<'a>,
    pub(crate) tools: ToolsMount<'a>,
    pub(crate) proc: ProcMount,
    pub(crate) plan: RootPlan,
    /// The size of the program's terminal, when it gets one.
    pub(crate) terminal: Option<WindowSize>,
    pub(crate) covers: Covers,
}

/// The toolbox.
pub(crate) enum ToolsMount<'a> {
    /// It is mounted, nowhere yet.
    Ready(Mounted),
    /// It is to be mounted by root of the target's user namespace, the caller being nobody in particular.
    Later(Recipe<'a>),
}

/// A toolbox that is mounted, nowhere yet.
#[derive(Debug)]
pub(crate) struct Mounted {
    pub(crate) root: OwnedFd,
    /// The file system in memory that what is written to it goes to, see [`crate::session::scratch`].
    pub(crate) scratch: OwnedFd,
    /// The image's own file system, which is mounted nowhere but beneath it.
    pub(crate) image: Option<OwnedFd>,
}

/// The new `/proc`.
pub(crate) enum ProcMount {
    /// It is mounted, nowhere yet.
    Ready(OwnedFd),
    /// It is to be mounted for that pid namespace.
    Later(OwnedFd),
}

/// What the session's root is made of.
pub(crate) enum RootPlan {
    /// The toolbox, with these files of the target's over its own (relative to the root of either).
    Toolbox(Vec<&'static CStr>),
    /// The target.
    Target(Frame),
}

/// What is done to the new `/proc`.
pub(crate) struct Covers {
    pub(crate) access: Access,
    pub(crate) options: Vec<(CString, CString)>,
    pub(crate) covers: Vec<(CString, Cover)>,
}

impl Root<'_> {
    /// Makes the session's tree of mounts and enters it; the program's terminal, if it gets one.
    pub(crate) fn build(&self, control: BorrowedFd<'_>) -> Done<Option<Streams>> {
        let mut made = None;
        let tools = match &self.tools {
            ToolsMount::Ready(tools) => tools,
            ToolsMount::Later(recipe) => {
                // Only in a mount namespace of its own user namespace may its root mount anything.
                namespace::leave(Namespaces::MOUNT).map_err(|errno| Stage::Unshare.fail(errno))?;
                made.insert(recipe.mount().map_err(|errno| Stage::Root.fail(errno))?)
            }
        };
        let terminal = self.terminal.map(Terminal::make).transpose().map_err(|errno| Stage::Terminal.fail(errno))?;
        // While the caller's mount namespace is around: in the target's the kernel may refuse a new `/proc`.
        let mut made_proc = None;
        let proc = match &self.proc {
            ProcMount::Ready(proc) => proc,
            ProcMount::Later(namespace) => {
                let proc = new_proc(self.target, namespace.as_fd(), &self.covers.options).map_err(mount(PROC))?;
                made_proc.insert(proc)
            }
        };
        let root = match &self.plan {
            RootPlan::Toolbox(files) => self.enter_toolbox(tools.root.as_fd(), files)?,
            RootPlan::Target(frame) => self.enter_frame(tools.root.as_fd(), frame)?,
        };
        let root = root.as_fd();
        if let Some(image) = &tools.image {
            // So it goes with the session, and nobody waits until it is given up. Where that cannot be, somebody does.
            let _ = put(image.as_fd(), root, c"proc");
        }
        let nothing = below_proc(tools.scratch.as_fd(), root).map_err(|errno| Stage::Mask.fail(errno))?;
        put(proc.as_fd(), root, c"proc").map_err(mount(PROC))?;
        let nothing = nothing.as_ref().map_or(tools.scratch.as_fd(), AsFd::as_fd);
        self.cover_proc(proc.as_fd(), nothing)?;
        if matches!(self.plan, RootPlan::Target(_)) {
            let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY;
            set_attributes(root, read_only, Reach::One).map_err(|errno| Stage::ReadOnlyRoot.fail(errno))?;
        }
        terminal.map(|it| it.hand_out(root, control)).transpose()
    }

    fn join(&self) -> Done<()> {
        if self.namespaces == Namespaces::empty() {
            return Ok(());
        }
        namespace::join(self.target, self.namespaces).map_err(|errno| Stage::JoinNamespaces.fail(errno))
    }

    /// The toolbox as the root, the target's tree of mounts at `/target`.
    fn enter_toolbox(&self, tools: BorrowedFd<'_>, files: &[&CStr]) -> Done<OwnedFd> {
        self.join()?;
        let failed = |errno| Stage::Pivot.fail(errno);
        let leave = || namespace::leave(Namespaces::MOUNT).map_err(|errno| Stage::Unshare.fail(errno));
        let root = if self.target_has_whole_tree().map_err(failed)? {
            // The copy that comes with the new namespace moves to where it belongs. Taking it down and mounting another would
            // do, too, but the kernel takes half a millisecond for the first.
            leave()?;
            let target = open_root().map_err(failed)?;
            make_slave(&target, Reach::Tree).map_err(|errno| Stage::Tree.fail(errno))?;
            sys::mount::enter_root_keeping(tools, c"target").map_err(failed)?;
            open_root().map_err(failed)?
        } else {
            let tree = self.copy_tree()?;
            leave()?;
            let root = enter_root(tools).map_err(failed)?;
            put(tree.as_fd(), root.as_fd(), c"target").map_err(mount(OTHER))?;
            root
        };
        let target = open_inside(root.as_fd(), c"target", DIRECTORY).map_err(mount(OTHER))?;
        put_files(target.as_fd(), root.as_fd(), files)?;
        Ok(root)
    }

    /// What is at the target's root as the root, the toolbox at `/toolbox`.
    fn enter_frame(&self, tools: BorrowedFd<'_>, frame: &Frame) -> Done<OwnedFd> {
        self.join()?;
        let tree = self.copy_tree()?;
        namespace::leave(Namespaces::MOUNT).map_err(|errno| Stage::Unshare.fail(errno))?;
        let root = enter_root(frame.mount.as_fd()).map_err(|errno| Stage::Pivot.fail(errno))?;
        // For a moment: older kernels copy only what is mounted somewhere.
        put(tree.as_fd(), root.as_fd(), c"toolbox").map_err(mount(OTHER))?;
        put_entries(tree.as_fd(), root.as_fd(), &frame.entries)?;
        unmount(c"/toolbox", UnmountFlags::DETACH).map_err(mount(OTHER))?;
        put(tools, root.as_fd(), c"toolbox").map_err(mount(OTHER))?;
        Ok(root)
    }

    /// Whether the target's root directory is the root of its mount namespace, in which this process is.
    fn target_has_whole_tree(&self) -> sys::Result<bool> {
        let identity = |directory: BorrowedFd<'_>| {
            let wanted = StatxFlags::INO | StatxFlags::MNT_ID;
            let found = rustix::fs::statx(directory, c"", AtFlags::EMPTY_PATH, wanted)?;
            Ok((found.stx_mnt_id, found.stx_ino))
        };
        Ok(identity(self.target_root)? == identity(open_root()?.as_fd())?)
    }

    /// A copy of the target's tree of mounts, mounted nowhere. What is mounted in the target from now on is seen in it, and
    /// never the other way round.
    fn copy_tree(&self) -> Done<OwnedFd> {
        let failed = |errno| Stage::Tree.fail(errno);
        let tree = clone_tree(self.target_root, c"", Reach::Tree).map_err(failed)?;
        make_slave(&tree, Reach::Tree).map_err(failed)?;
        Ok(tree)
    }

    fn cover_proc(&self, proc: BorrowedFd<'_>, nothing: BorrowedFd<'_>) -> Done<()> {
        let first = match &self.plan {
            RootPlan::Toolbox(files) => FURTHER + files.len() as u32,
            RootPlan::Target(frame) => FURTHER + frame.entries.len() as u32,
        };
        for (index, (path, cover)) in (first..).zip(&self.covers.covers) {
            self::cover(proc, nothing, path, *cover).map_err(|errno| Failure { index, ..Stage::Mask.fail(errno) })?;
        }
        if self.covers.access == Access::ReadOnly {
            let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY;
            set_attributes(proc, read_only, Reach::One).map_err(|errno| Stage::Mask.fail(errno))?;
        }
        Ok(())
    }
}

/// A terminal of a session, and the file system that it lies in: one of its own, so that nobody in the target can write to
/// it or read what is typed.
struct Terminal {
    devpts: OwnedFd,
    pty: Pty,
}

impl Terminal {
    fn make(size: WindowSize) -> sys::Result<Self> {
        let all = [(c"newinstance", c""), (c"mode", c"620"), (c"ptmxmode", c"666"), (c"gid", c"5")];
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let devpts = match new_file_system(c"devpts", &all, attributes) {
            // A user namespace that has no such group.
            Err(Errno::INVAL) => new_file_system(c"devpts", &all[..3], attributes)?,
            other => other?,
        };
        let pty = pty::open_in(devpts.as_fd(), size)?;
        Ok(Self { devpts, pty })
    }

    /// Puts it in its place, and gives its near end to the caller; its far end.
    fn hand_out(self, root: BorrowedFd<'_>, control: BorrowedFd<'_>) -> Done<Streams> {
        // Without the place, the terminal only has no name.
        if let Ok(place) = open_inside(root, c"dev/pts", DIRECTORY) {
            attach(self.devpts, place).map_err(mount(TERMINAL))?;
        }
        let sent = container::tell_terminal(control, self.pty.controller.as_fd());
        sent.map_err(|errno| Stage::Terminal.fail(errno))?;
        Ok(Streams::Terminal(self.pty.terminal))
    }
}

/// The target's kernel file systems and files in the toolbox's root.
fn put_files(target: BorrowedFd<'_>, root: BorrowedFd<'_>, files: &[&CStr]) -> Done<()> {
    for (index, name) in [(SYS, c"sys"), (DEV, c"dev")] {
        // A target that has none goes without.
        if let Ok(theirs) = open_inside(target, name, DIRECTORY) {
            copy(theirs.as_fd(), root, name).map_err(mount(index))?;
        }
    }
    for (index, file) in (FURTHER..).zip(files) {
        // It was there a moment ago; that a target takes it away now is its own affair.
        let Ok(theirs) = open_file(target, file) else { continue };
        copy(theirs.as_fd(), root, file).map_err(mount(index))?;
    }
    Ok(())
}

/// What is at the target's root, in the frame.
fn put_entries(target: BorrowedFd<'_>, root: BorrowedFd<'_>, entries: &[Entry]) -> Done<()> {
    for (index, entry) in (FURTHER..).zip(entries) {
        let Ok(theirs) = open_inside(target, &entry.name, OFlags::PATH | OFlags::NOFOLLOW) else { continue };
        let kind = rustix::fs::fstat(&theirs).map(|it| FileType::from_raw_mode(it.st_mode));
        if kind == Ok(entry.kind) {
            copy(theirs.as_fd(), root, &entry.name).map_err(mount(index))?;
        }
    }
    Ok(())
}

/// What failures of mounts are numbered by: the words of [`crate::session`] stand in that order, then those of files or
/// entries, then those of covers.
const OTHER: u32 = 0;
const PROC: u32 = 1;
const SYS: u32 = 2;
const DEV: u32 = 3;
const TERMINAL: u32 = 4;
const FURTHER: u32 = 5;

/// Nothing in it raises privileges, is a device or can be executed.
pub(crate) const SAFE: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV).union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

fn mount(index: u32) -> impl Fn(Errno) -> Failure {
    move |errno| Failure { index, ..Stage::Mount.fail(errno) }
}

fn open_root() -> sys::Result<OwnedFd> {
    rustix::fs::openat(CWD, c"/", DIRECTORY, Mode::empty())
}

/// Mounts a tree at a place in our own root.
fn put(tree: BorrowedFd<'_>, root: BorrowedFd<'_>, place: &CStr) -> sys::Result<()> {
    attach(tree, rustix::fs::openat(root, place, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

/// Mounts a copy of something, with what is mounted beneath it, at a place in our own root.
fn copy(theirs: BorrowedFd<'_>, root: BorrowedFd<'_>, place: &CStr) -> sys::Result<()> {
    put(clone_tree(theirs, c"", Reach::Tree)?.as_fd(), root, place)
}

/// Covers a part of the new `/proc`, if it is there.
fn cover(proc: BorrowedFd<'_>, nothing: BorrowedFd<'_>, path: &CStr, cover: Cover) -> sys::Result<()> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let place = match openat2(proc, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let is_directory = FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode) == FileType::Directory;
    let cover = match (cover, is_directory) {
        (Cover::Protect, _) => {
            let copy = clone_tree(&place, c"", Reach::Tree)?;
            set_attributes(&copy, MountAttrFlags::MOUNT_ATTR_RDONLY | SAFE, Reach::Tree)?;
            copy
        }
        (Cover::Hide, true) => clone_tree(nothing, c"directory", Reach::One)?,
        (Cover::Hide, false) => clone_tree(nothing, c"file", Reach::One)?,
    };
    attach(cover, place)
}

/// Puts the empty file and the empty directory that hide parts of `/proc` where nobody comes by them, and where nobody can
/// write to them: below `/proc`. (Older kernels copy only what is mounted somewhere.) They lie in the scratch file system,
/// or in another where that has been mounted elsewhere already, as older kernels need it to mount the toolbox.
fn below_proc(scratch: BorrowedFd<'_>, root: BorrowedFd<'_>) -> sys::Result<Option<OwnedFd>> {
    let other = match put(scratch, root, c"proc") {
        Ok(()) => None,
        Err(Errno::INVAL) => {
            let size = [(c"size", c"4k"), (c"nr_inodes", c"3")];
            let other = new_file_system(c"tmpfs", &size, MountAttrFlags::empty())?;
            make_nothing(other.as_fd())?;
            put(other.as_fd(), root, c"proc")?;
            Some(other)
        }
        Err(errno) => return Err(errno),
    };
    let nothing = other.as_ref().map_or(scratch, AsFd::as_fd);
    set_attributes(nothing, MountAttrFlags::MOUNT_ATTR_RDONLY | SAFE, Reach::One)?;
    Ok(other)
}

/// An empty file and an empty directory. (The target's `/dev/null` may be anything.) Fork-safe.
pub(crate) fn make_nothing(place: BorrowedFd<'_>) -> sys::Result<()> {
    rustix::fs::mknodat(place, c"file", FileType::RegularFile, Mode::from_raw_mode(0o444), 0)?;
    rustix::fs::mkdirat(place, c"directory", Mode::from_raw_mode(0o555))
}

/// Mounts a new `/proc` of the target's pid namespace, nowhere yet. A kernel that does not let that be done from outside
/// lets a child do it that is inside for as long. Fork-safe.
fn new_proc(target: BorrowedFd<'_>, namespace: BorrowedFd<'_>, options: &[(CString, CString)]) -> sys::Result<OwnedFd> {
    match new_proc_of(namespace, options, SAFE) {
        Err(Errno::INVAL) => {}
        other => return other,
    }
    namespace::join(target, Namespaces::PID)?;
    // Before it is visible inside. (This memory is skep's own, which it may as well be for.)
    sys::exec::hide()?;
    made_by_child(Namespaces::empty(), || new_file_system(c"proc", options, SAFE))
}
