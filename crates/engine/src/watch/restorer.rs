//! Putting back what slimming took away, when a program looks for it.
//!
//! A look-up is held back while it is checked: does the original image have that path, the slim one not, and the cell
//! neither? Then the file, with the links and directories on the way, is copied from the complement into the cell's own
//! layer, and the call goes on and finds it. **The cell's root is only ever changed through `openat2` inside it**, and each
//! path is put back once in a run: what the program removes stays removed.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use container::Attendant;
use image::slim::{TreePath, passage};
use model::{CellSpec, Missed};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid, XattrFlags};
use store::{Kind, Node, Reader, Store, Tree};
use sys::Errno;

use super::call::{self, Subject};
use super::{Side, Waiting};
use crate::error::{Error, Result};

/// Puts back what is missed.
pub(crate) struct Restorer {
    waiting: Waiting,
    calls: Option<OwnedFd>,
    reader: Reader,
    /// The original: what the slim image and its complement are together.
    whole: Tree,
    slim: Tree,
    /// Process 1 of the cell: the way to its root.
    pid: u32,
    seen: BTreeSet<TreePath>,
    missed: Vec<Missed>,
}

impl Restorer {
    pub(super) fn new(store: &Store, spec: &CellSpec, pid: u32) -> Result<Self> {
        let record = store.image(&spec.image.id)?;
        let Some(slim) = &record.slim else {
            return Err(Error::Refused(format!("{} is no slim image: nothing can be missed of it", spec.image.name)));
        };
        let reader = store.reader()?;
        let (complement, slim) = (reader.tree(&slim.complement)?, reader.tree(&record.tree)?);
        let whole = image::slim::recombine(&slim, &complement)
            .map_err(|e| Error::Refused(format!("{}: {e}", spec.image.name)))?;
        let waiting = Waiting::new().map_err(|e| Error::io("watching the cell", e))?;
        Ok(Self { waiting, calls: None, reader, whole, slim, pid, seen: BTreeSet::new(), missed: Vec::new() })
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
        for subject in named.map(|name| call::subjects(listener, name, &call)).unwrap_or_default() {
            if let Subject::LookedUp(path) = subject {
                self.looked_up(&path);
            }
        }
        match sys::seccomp::let_go_on(listener, call.id) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    /// Puts back what a look-up of that path passes and ends at, as far as it is in the complement.
    fn looked_up(&mut self, path: &[u8]) {
        let (passed, end) = passage(&self.whole, path);
        let Some(end) = end else { return };
        let all = passed.into_iter().chain([end.clone()]);
        let gone: Vec<TreePath> = all.filter(|it| self.is_gone(it)).collect();
        if gone.is_empty() || !self.seen.insert(end.clone()) {
            return;
        }
        let outcome = container::root_of_running(self.pid)
            .map_err(|_| Errno::SRCH)
            .and_then(|root| gone.iter().try_for_each(|it| self.put_back(root.as_fd(), it)));
        let failure = outcome.err().map(|errno| errno.to_string());
        self.missed.push(Missed { path: end.to_string(), failure });
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
            container::open_in(root, path, flags, Mode::empty())
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

impl Attendant for Restorer {
    fn listen(&mut self, listener: OwnedFd) -> sys::Result<()> {
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
