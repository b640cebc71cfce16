//! Noting what slimming took away when a program looks for it, and putting it back.
//!
//! A look-up is held back while it is checked: does the original image have that path, the slim one not, and the cell
//! neither? Then it is noted; and if that was asked for, the file, with the links and directories on the way, is copied
//! from the complement into the cell's own layer, and the call goes on and finds it. The listing of a directory is a look-up
//! of all its entries: the kernel reads an overlay's directory when it is first listed, so that what was put back while
//! that call waited is among them. **The cell's root is only ever changed through `openat2` inside it and never where
//! something is mounted**, and each path is put back once in a run: what the program removes stays removed.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use container::Attendant;
use image::slim::{Report, TreePath, passage};
use model::{CellSpec, Missed, ObjectId, Remedy, SlimRecord};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid, XattrFlags};
use store::{Kind, Node, Reader, Store, Tree};
use sys::Errno;

use super::call::{self, Subject};
use super::{Side, Waiting};
use crate::error::{Error, Result};

/// What is done about what is missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It is put back.
    PutBack,
    /// It is noted.
    Note,
}

/// What of a path was looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sought {
    Itself,
    Entries,
}

/// Notes what is missed, and puts it back if it shall.
pub(crate) struct Restorer {
    manner: Manner,
    waiting: Waiting,
    calls: Option<OwnedFd>,
    reader: Reader,
    record: Option<SlimRecord>,
    /// The slim image's tree, while the halves are not read yet: that takes milliseconds, in which the program may start.
    unread: Option<ObjectId>,
    /// The original: what the slim image and its complement are together.
    whole: Tree,
    slim: Tree,
    /// Process 1 of the cell: the way to its root.
    pid: u32,
    /// That root, from the first call on.
    root: Option<OwnedFd>,
    seen: BTreeSet<TreePath>,
    /// Directories that were listed.
    listed: BTreeSet<TreePath>,
    /// Directories that were listed when the image was proved, once somebody wanted to know.
    proved: Option<BTreeSet<TreePath>>,
    missed: Vec<Missed>,
}

impl Restorer {
    pub(super) fn new(store: &Store, spec: &CellSpec, pid: u32, manner: Manner) -> Result<Self> {
        let record = store.image(&spec.image.id)?;
        let Some(halves) = record.slim else {
            return Err(Error::Refused(format!("{} is no slim image: nothing can be missed of it", spec.image.name)));
        };
        let unread = Some(record.tree);
        let mut restorer = Self { record: Some(halves), unread, ..Self::of_nothing(store, pid)? };
        restorer.manner = manner;
        if manner == Manner::PutBack {
            restorer.read_halves()?;
        }
        Ok(restorer)
    }

    /// One that finds nothing missed.
    pub(super) fn of_nothing(store: &Store, pid: u32) -> Result<Self> {
        Ok(Self {
            manner: Manner::Note,
            waiting: Waiting::new().map_err(|e| Error::io("watching the cell", e))?,
            calls: None,
            reader: store.reader()?,
            record: None,
            unread: None,
            whole: Tree::default(),
            slim: Tree::default(),
            pid,
            root: None,
            seen: BTreeSet::new(),
            listed: BTreeSet::new(),
            proved: None,
            missed: Vec::new(),
        })
    }

    fn read_halves(&mut self) -> Result<()> {
        let (Some(halves), Some(tree)) = (&self.record, self.unread.take()) else { return Ok(()) };
        let (complement, slim) = (self.reader.tree(&halves.complement)?, self.reader.tree(&tree)?);
        self.whole = image::slim::recombine(&slim, &complement)
            .map_err(|e| Error::Refused(format!("a slim image and its complement: {e}")))?;
        self.slim = slim;
        Ok(())
    }

    pub(super) fn take_missed(&mut self) -> Vec<Missed> {
        std::mem::take(&mut self.missed)
    }

    fn called(&mut self, listener: BorrowedFd<'_>) -> sys::Result<()> {
        let call = match sys::seccomp::next(listener) {
            // Whoever made it was killed meanwhile.
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        };
        let named = container::announced_name(&call);
        let subjects = named.map(|name| call::subjects(listener, name, &call)).unwrap_or_default();
        if self.root.is_none() {
            self.root = container::root_of_running(self.pid).ok();
        }
        let go_on = || match sys::seccomp::let_go_on(listener, call.id) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        };
        match self.manner {
            Manner::PutBack => {
                self.heed(subjects);
                go_on()
            }
            // Nobody need wait for what changes nothing. Until it is noted no further call is answered.
            Manner::Note => {
                go_on()?;
                self.heed(subjects);
                Ok(())
            }
        }
    }

    fn heed(&mut self, subjects: Vec<Subject>) {
        // What cannot be read was not asked for by anybody, or was read before.
        let _ = self.read_halves();
        for subject in subjects {
            match subject {
                Subject::LookedUp(path) => self.looked_up(&path),
                Subject::Listed(path) => self.listed(&TreePath::new(&path)),
            }
        }
    }

    /// Heeds a look-up of that path: what it passes and ends at.
    fn looked_up(&mut self, path: &[u8]) {
        let (passed, end) = passage(&self.whole, path);
        let Some(end) = end else { return };
        let gone: Vec<TreePath> = passed.into_iter().chain([end.clone()]).filter(|it| self.is_gone(it)).collect();
        if !gone.is_empty() && self.seen.insert(end.clone()) {
            self.found_missing(&end, gone, Sought::Itself);
        }
    }

    /// Heeds the listing of a directory.
    fn listed(&mut self, directory: &TreePath) {
        if !self.listed.insert(directory.clone()) {
            return;
        }
        let gone = image::slim::lost_entries(&self.whole, &self.slim, directory);
        let is_told = self.manner == Manner::PutBack || !gone.is_empty() && !self.is_proved(directory);
        if is_told {
            self.found_missing(directory, gone, Sought::Entries);
        }
    }

    /// Whether the image was proved with listings of that directory: then there is nothing to tell.
    fn is_proved(&mut self, directory: &TreePath) -> bool {
        let (reader, slim) = (&self.reader, &self.record);
        // Without a report everything is told.
        let listed = || {
            let report = slim.as_ref().and_then(|it| Report::of(reader, it).ok());
            report.map(|it| it.listed().cloned().collect()).unwrap_or_default()
        };
        self.proved.get_or_insert_with(listed).contains(directory)
    }

    /// Notes that `gone` is missed of what was looked for, as far as the cell does not have it, and puts it back if it shall.
    fn found_missing(&mut self, sought: &TreePath, mut gone: Vec<TreePath>, how: Sought) {
        let Some(root) = &self.root else { return };
        gone.retain(|it| lacks(root.as_fd(), it));
        if gone.is_empty() {
            return;
        }
        let remedy = match self.manner {
            Manner::Note => Remedy::Nothing,
            Manner::PutBack => {
                let put_back = gone.iter().try_for_each(|it| self.put_back(root.as_fd(), it));
                put_back.map_or_else(|errno| Remedy::Failed(errno.to_string()), |()| Remedy::PutBack)
            }
        };
        let entries = match how {
            Sought::Itself => None,
            Sought::Entries => Some(gone.len() as u64),
        };
        self.missed.push(Missed { path: sought.to_string(), entries, remedy });
    }

    /// Whether slimming took that path away.
    fn is_gone(&self, path: &TreePath) -> bool {
        self.whole.get(path).is_some() && self.slim.get(path).is_none()
    }

    fn put_back(&self, root: BorrowedFd<'_>, path: &TreePath) -> sys::Result<()> {
        let Some(node) = self.whole.get(path).map(|it| it.node) else { return Ok(()) };
        if node.kind == Kind::Directory {
            return self.directory(root, path.as_bytes()).map(drop);
        }
        let parent = self.directory(root, path.parent())?;
        let name = OsStr::from_bytes(path.name());
        match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => self.make(parent.as_fd(), name, node),
            // The program made something of that name itself, or removed the directory: it has its way.
            other => other.map(drop),
        }
    }

    /// The directory at a path, with those on the way, made as the original has them.
    fn directory(&self, root: BorrowedFd<'_>, path: &[u8]) -> sys::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let open = |path: &[u8]| {
            let path = if path.is_empty() { Path::new("/") } else { Path::new(OsStr::from_bytes(path)) };
            sys::in_root::open_in_mount(root, path, flags, Mode::empty())
        };
        match open(path) {
            Err(Errno::NOENT) if !path.is_empty() => {}
            other => return other,
        }
        let place = TreePath::new(path);
        let parent = self.directory(root, place.parent())?;
        let meta = self.whole.get(&place).map(|it| &it.node.meta).ok_or(Errno::NOENT)?;
        let name = OsStr::from_bytes(place.name());
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(meta.mode.into())) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        rustix::fs::chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        open(path)
    }

    fn make(&self, parent: BorrowedFd<'_>, name: &OsStr, node: &Node) -> sys::Result<()> {
        let (uid, gid) = (Uid::from_raw(node.meta.uid), Gid::from_raw(node.meta.gid));
        match &node.kind {
            Kind::Symlink(target) => {
                rustix::fs::symlinkat(OsStr::from_bytes(target), parent, name)?;
                rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            }
            Kind::File(content) => {
                // Under a name of its own until it is whole: another thread may look for it meanwhile.
                let staged = OsStr::new(".skep-restored");
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let _ = rustix::fs::unlinkat(parent, staged, AtFlags::empty());
                let mut file = File::from(rustix::fs::openat(parent, staged, flags, Mode::from_raw_mode(0o600))?);
                let written = self.fill(&mut file, content, node);
                let named = written
                    .and_then(|()| rustix::fs::renameat_with(parent, staged, parent, name, RenameFlags::NOREPLACE));
                if named.is_err() {
                    let _ = rustix::fs::unlinkat(parent, staged, AtFlags::empty());
                }
                named
            }
            // No package brings another kind.
            _ => Err(Errno::OPNOTSUPP),
        }
    }

    fn fill(&self, file: &mut File, content: &store::Content, node: &Node) -> sys::Result<()> {
        let mut bytes = self.reader.content(content).map_err(|_| Errno::IO)?;
        std::io::copy(&mut bytes, file).and_then(|_| file.flush()).map_err(|_| Errno::IO)?;
        let meta = &node.meta;
        rustix::fs::fchown(&*file, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))?;
        rustix::fs::fchmod(&*file, Mode::from_raw_mode(meta.mode.into()))?;
        for (name, value) in &meta.xattrs {
            rustix::fs::fsetxattr(&*file, OsStr::from_bytes(name), value, XattrFlags::empty())?;
        }
        let time = Timespec { tv_sec: meta.mtime.seconds, tv_nsec: meta.mtime.nanos.into() };
        rustix::fs::futimens(&*file, &Timestamps { last_access: time, last_modification: time })
    }
}

/// Whether there is nothing at a path of the cell, and nothing mounted over it either.
fn lacks(root: BorrowedFd<'_>, path: &TreePath) -> bool {
    let path = OsStr::from_bytes(path.as_bytes());
    let found = sys::in_root::open_in_mount(root, Path::new(path), OFlags::PATH | OFlags::NOFOLLOW, Mode::empty());
    found.is_err_and(|it| it == Errno::NOENT)
}

impl Attendant for Restorer {
    fn listen(&mut self, listener: OwnedFd) -> sys::Result<()> {
        // Where the kernel cannot, it only takes longer.
        let _ = sys::seccomp::take_turns(listener.as_fd());
        self.waiting.add(listener.as_fd(), 0)?;
        self.calls = Some(listener);
        Ok(())
    }

    fn questions(&self) -> BorrowedFd<'_> {
        self.waiting.0.as_fd()
    }

    fn attend(&mut self) -> sys::Result<()> {
        for (_, side) in self.waiting.ready()? {
            let Some(listener) = self.calls.take() else { continue };
            if side == Side::Gone {
                self.waiting.remove(listener.as_fd());
                continue;
            }
            let answered = self.called(listener.as_fd());
            self.calls = Some(listener);
            answered?;
        }
        Ok(())
    }
}
