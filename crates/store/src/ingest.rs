//! Taking in a directory of the host, with everything a tree can hold.
//!
//! **Nothing outside of the directory is ever read:** directories are opened from its handle with
//! `openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)`, files by name from their directory's handle without following a link,
//! and what is stored is what the open file says of itself. What disappears while it is being read is left out.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::object::Content;
use crate::tree::{Device, InodeId, Kind, MAX_XATTR, Metadata, Mtime, Node, Tree};
use crate::writer::Writer;

/// Room for the names of a few attributes: the kernel allocates as much as it is offered, for each file anew.
const FEW_NAMES: usize = 256;
/// The longest list of names that Linux gives.
const MOST_NAMES: usize = 1 << 16;
/// Room for a part of a directory's listing.
const LISTING: usize = 32 << 10;

impl Writer {
    /// Stores the files of a host directory and gives the tree that it is, other file systems mounted in it included.
    /// Store the tree itself with [`Writer::tree`].
    pub fn directory(&mut self, path: &Path) -> Result<Tree> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, path, flags, Mode::empty()).context("open", path)?;
        let mut ingest = Ingest {
            writer: self,
            host: path.to_owned(),
            links: HashMap::new(),
            names: vec![0; FEW_NAMES],
            listing: Vec::with_capacity(LISTING),
        };
        let stat = rustix::fs::fstat(&root).context("inspect", path)?;
        let mut tree = Tree::new(ingest.metadata(&stat, root.as_fd(), path)?);
        let mut todo = vec![(tree.root(), Vec::new())];
        while let Some((inode, inner)) = todo.pop() {
            let Some(dir) = open_beneath(&root, &inner, path)? else { continue };
            ingest.fill(&mut tree, &dir, inode, &inner, &mut todo)?;
        }
        Ok(tree)
    }
}

/// Opens a directory of the tree; nothing when it is gone, or no directory any more.
fn open_beneath(root: &OwnedFd, inner: &[u8], host: &Path) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let path = if inner.is_empty() { b"." } else { inner };
    loop {
        return match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            // A rename elsewhere can make the kernel unsure whether the path stayed beneath.
            Err(Errno::AGAIN | Errno::INTR) => continue,
            Err(errno) => Err(errno).context("open", &host.join(OsStr::from_bytes(inner))),
        };
    }
}

struct Ingest<'a> {
    writer: &'a mut Writer,
    host: PathBuf,
    /// Inodes with several names that were seen already, by device and number.
    links: HashMap<(u64, u64), InodeId>,
    /// Reused for the lists of attribute names.
    names: Vec<u8>,
    /// Reused for what the system says is in a directory.
    listing: Vec<u8>,
}

/// Directories still to be read: where in the tree, and their path in it.
type Todo = Vec<(InodeId, Vec<u8>)>;

impl Ingest<'_> {
    fn host_path(&self, inner: &[u8]) -> PathBuf {
        if inner.is_empty() { self.host.clone() } else { self.host.join(OsStr::from_bytes(inner)) }
    }

    fn fill(&mut self, tree: &mut Tree, dir: &OwnedFd, at: InodeId, inner: &[u8], todo: &mut Todo) -> Result<()> {
        let mut path = self.host_path(inner);
        let mut entries = Vec::new();
        let mut listing = RawDir::new(dir, self.listing.spare_capacity_mut());
        while let Some(entry) = listing.next() {
            let entry = entry.context("list", &path)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                entries.push((name.to_vec(), entry.file_type()));
            }
        }
        // In byte order, so that equal directories give equal packs.
        entries.sort_unstable_by(|left, right| left.0.cmp(&right.0));
        let first = todo.len();
        for (name, file_type) in entries {
            path.push(OsStr::from_bytes(&name));
            let found = self.node(dir, &name, file_type, &path)?;
            path.pop();
            let Some((stat, node)) = found else { continue };
            let is_directory = node.kind == Kind::Directory;
            let key = (stat.st_dev, stat.st_ino);
            let many = stat.st_nlink > 1 && !is_directory;
            if many && let Some(inode) = self.links.get(&key).copied() {
                tree.add_name(at, &name, inode)?;
                continue;
            }
            let inode = tree.add(at, &name, node)?;
            if many {
                self.links.insert(key, inode);
            }
            if is_directory {
                let separator: &[u8] = if inner.is_empty() { b"" } else { b"/" };
                todo.push((inode, [inner, separator, &name].concat()));
            }
        }
        // The stack gives them back in order.
        if let Some(new) = todo.get_mut(first..) {
            new.reverse();
        }
        Ok(())
    }

    /// What a name of a directory is. Bytes of regular files are stored, unless they were under another name.
    fn node(&mut self, dir: &OwnedFd, name: &[u8], hint: FileType, path: &Path) -> Result<Option<(Stat, Node)>> {
        if hint == FileType::RegularFile
            && let Some(file) = open_file(dir, name, path)?
        {
            let stat = rustix::fs::fstat(&file).context("inspect", path)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
                return self.regular(file, stat, path).map(Some);
            }
        }
        let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            stat => stat.context("inspect", path)?,
        };
        let device = Device { major: rustix::fs::major(stat.st_rdev), minor: rustix::fs::minor(stat.st_rdev) };
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let Some(file) = open_file(dir, name, path)? else { return Ok(None) };
                let stat = rustix::fs::fstat(&file).context("inspect", path)?;
                return self.regular(file, stat, path).map(Some);
            }
            FileType::Directory => return self.subdirectory(dir, name, path),
            FileType::Symlink => match rustix::fs::readlinkat(dir, name, Vec::new()) {
                Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
                target => Kind::Symlink(target.context("read", path)?.into_bytes().into()),
            },
            FileType::CharacterDevice => Kind::CharDevice(device),
            FileType::BlockDevice => Kind::BlockDevice(device),
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::Unknown => return Err(Error::path(name, "a file of a kind that nothing can store")),
        };
        let mut meta = plain_metadata(&stat);
        self.special_xattrs(dir, name, &mut meta, path)?;
        Ok(Some((stat, Node { meta, kind })))
    }

    fn subdirectory(&mut self, dir: &OwnedFd, name: &[u8], path: &Path) -> Result<Option<(Stat, Node)>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            handle => handle.context("open", path)?,
        };
        let stat = rustix::fs::fstat(&handle).context("inspect", path)?;
        let meta = self.metadata(&stat, handle.as_fd(), path)?;
        Ok(Some((stat, Node { meta, kind: Kind::Directory })))
    }

    fn regular(&mut self, file: File, stat: Stat, path: &Path) -> Result<(Stat, Node)> {
        let meta = self.metadata(&stat, file.as_fd(), path)?;
        let seen = stat.st_nlink > 1 && self.links.contains_key(&(stat.st_dev, stat.st_ino));
        let content = if seen { Content::EMPTY } else { self.content(file, &stat, path)? };
        Ok((stat, Node { meta, kind: Kind::File(content) }))
    }

    fn content(&mut self, mut file: File, stat: &Stat, path: &Path) -> Result<Content> {
        let (size, allocated) = (stat.st_size as u64, (stat.st_blocks as u64).saturating_mul(512));
        let stored = if size > 1 << 16 && allocated < size {
            self.writer.sparse_file(&file, size)
        } else {
            self.writer.file_of_size(&mut file, size)
        };
        stored.map_err(|error| match error {
            Error::Source(source) => Error::Io { action: "read", path: path.to_owned(), source },
            error => error,
        })
    }

    fn metadata(&mut self, stat: &Stat, file: impl AsFd, path: &Path) -> Result<Metadata> {
        let mut meta = plain_metadata(stat);
        let list = |buffer: &mut [u8]| rustix::fs::flistxattr(&file, buffer);
        let get = |name: &[u8], buffer: &mut [u8]| rustix::fs::fgetxattr(&file, name, buffer);
        take_xattrs(&mut self.names, &mut meta, list, get).context("read attributes of", path)?;
        Ok(meta)
    }

    fn special_xattrs(&mut self, dir: &OwnedFd, name: &[u8], meta: &mut Metadata, path: &Path) -> Result<()> {
        let mut by_handle = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
        by_handle.extend_from_slice(name);
        let list = |buffer: &mut [u8]| rustix::fs::llistxattr(by_handle.as_slice(), buffer);
        let get = |name: &[u8], buffer: &mut [u8]| rustix::fs::lgetxattr(by_handle.as_slice(), name, buffer);
        take_xattrs(&mut self.names, meta, list, get).context("read attributes of", path)
    }
}

/// Opens a file for reading without waiting for a fifo's other end and, where allowed, without touching its access time.
fn open_file(dir: &OwnedFd, name: &[u8], path: &Path) -> Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = match rustix::fs::openat(dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(dir, name, flags, Mode::empty()),
        opened => opened,
    };
    match opened {
        Ok(handle) => Ok(Some(handle.into())),
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => Ok(None),
        Err(errno) => Err(errno).context("open", path),
    }
}

fn plain_metadata(stat: &Stat) -> Metadata {
    let mut meta = Metadata::new((stat.st_mode & 0o7777) as u16);
    (meta.uid, meta.gid) = (stat.st_uid, stat.st_gid);
    meta.mtime = Mtime { seconds: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 };
    meta
}

/// Reads all attributes; none on a file system that has none.
fn take_xattrs(
    names: &mut Vec<u8>,
    meta: &mut Metadata,
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<()> {
    let length = loop {
        match list(names) {
            Ok(0) | Err(Errno::OPNOTSUPP | Errno::NOENT) => return Ok(()),
            Err(Errno::RANGE) if names.len() < MOST_NAMES => names.resize(MOST_NAMES, 0),
            length => break length?,
        }
    };
    let mut value = vec![0; MAX_XATTR + 1];
    let listed = names.get(..length).unwrap_or_default();
    for name in listed.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        match get(name, &mut value) {
            // Removed since it was listed, or not for this process to read.
            Err(Errno::NODATA | Errno::PERM) => {}
            length => drop(meta.xattrs.insert(name.into(), value.get(..length?).unwrap_or_default().into())),
        }
    }
    Ok(())
}
