//! The plain layout: a directory tree of hard links into a farm of files keyed by content and metadata, so that a file
//! that several images have in the same form is one inode in all of them.
//!
//! `plain/TREE/root` is the root directory, `plain/TREE/missing` says what could not be made. Within a tree two files
//! that agree in everything become one inode too. Attributes that overlayfs would read as its own are escaped, as in
//! the composed layout.
//!
//! Everything is made through directory handles, name by name, never by a path that could lead through a link.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use model::{ObjectId, Progress};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::{Omission, Staging, Taken, announce, in_pack_order, sync_file_system};
use crate::durable;
use crate::erofs::escaped;
use crate::error::{Context, Error, Result};
use crate::fail::{self, Point, power};
use crate::layout::Paths;
use crate::object::Content;
use crate::reader::Reader;
use crate::tree::{Entry, InodeId, Kind, Metadata, Node, Tree};

/// The name in the farm of a file with that content, owner, mode, time and attributes.
pub(crate) fn farm_key(node: &Node) -> ObjectId {
    crate::tree::encode_alone(node)
}

/// Unpacks a tree unless it is there already. Gives its root directory and what is missing in it.
pub(crate) fn plain(paths: &Paths, id: &ObjectId, progress: &dyn Progress) -> Result<(PathBuf, Vec<Omission>)> {
    let place = paths.plain_root(id);
    let missing = place.join("missing");
    if !missing.exists() {
        make(paths, id, &place, progress)?;
    }
    let json = fs::read(&missing).context("read", &missing)?;
    let missing =
        serde_json::from_slice(&json).map_err(|why| Error::damaged(missing.display().to_string(), why.to_string()))?;
    Ok((place.join("root"), missing))
}

fn make(paths: &Paths, id: &ObjectId, place: &Path, progress: &dyn Progress) -> Result<()> {
    let reader = Reader::open(paths)?;
    let tree = reader.tree(id)?;
    let mut omissions = BTreeSet::new();
    fill_farm(paths, &reader, &tree, id, &mut omissions, progress)?;

    let aside = durable::unique(&paths.tmp, "plain");
    let made = grow(paths, &reader, &tree, &aside, &mut omissions).and_then(|()| settle(&aside, place, &omissions));
    if made.is_err() {
        let _ = crate::gc::remove_tree(&aside);
    }
    progress.end();
    made
}

/// Makes the tree durable and gives it its name.
fn settle(aside: &Path, place: &Path, omissions: &BTreeSet<Omission>) -> Result<()> {
    let json = serde_json::to_vec(omissions).map_err(|why| Error::damaged("a list of omissions", why.to_string()))?;
    let missing = aside.join("missing");
    fail::point(Point::RootWrite).context("write", &missing)?;
    power::writing(&missing);
    fs::write(&missing, json).context("write", &missing)?;
    fail::point(Point::RootSync).context("sync", aside)?;
    sync_file_system(aside)?;
    fail::point(Point::RootRename).context("rename", place)?;
    power::renaming(aside, place);
    match rustix::fs::renameat_with(CWD, aside, CWD, place, rustix::fs::RenameFlags::NOREPLACE) {
        Ok(()) => {}
        // Another process was faster; its tree is the same.
        Err(Errno::EXIST) => crate::gc::remove_tree(aside).context("remove", aside)?,
        Err(errno) => return Err(errno).context("rename", place),
    }
    place.parent().map_or(Ok(()), |dir| durable::sync_dir(dir, Point::RootDirSync))
}

fn fill_farm(
    paths: &Paths,
    reader: &Reader,
    tree: &Tree,
    id: &ObjectId,
    omissions: &mut BTreeSet<Omission>,
    progress: &dyn Progress,
) -> Result<()> {
    let mut wanted: BTreeMap<ObjectId, (Content, Vec<&Node>)> = BTreeMap::new();
    let mut empty = Vec::new();
    let mut seen = BTreeSet::new();
    for (_, entry) in tree.walk() {
        let Kind::File(content) = &entry.node.kind else { continue };
        let key = farm_key(entry.node);
        // What was missing when a file of the farm was made is missing still.
        note_omissions(&entry.node.meta, omissions);
        if !seen.insert(key) || Paths::fanned(&paths.farm, &key).exists() {
            continue;
        }
        match content.size {
            0 => empty.push(entry.node),
            _ => wanted.entry(content.id).or_insert((*content, Vec::new())).1.push(entry.node),
        }
    }
    announce(progress, id, wanted.values().map(|(content, _)| content.size).sum());
    let mut staging = Staging::begin(paths)?;
    let files = in_pack_order(reader, wanted)?.into_iter().chain([(Content::EMPTY, empty)]);
    for (content, nodes) in files {
        for node in nodes {
            let file = staging.write(reader, &content, Paths::fanned(&paths.farm, &farm_key(node)))?;
            let path = Path::new("a file of the farm");
            apply(&file, &node.meta, omissions).context("set metadata of", path)?;
        }
        progress.advance(content.size);
    }
    staging.publish(Taken::Keep)
}

/// What this process may not give a file with that metadata.
fn note_omissions(meta: &Metadata, omissions: &mut BTreeSet<Omission>) {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if uid.is_root() {
        return;
    }
    if (meta.uid, meta.gid) != (uid.as_raw(), gid.as_raw()) {
        omissions.insert(Omission::Owners);
    }
    if meta.xattrs.keys().any(|name| !name.starts_with(b"user.")) {
        omissions.insert(Omission::Attributes);
    }
}

/// Whether an error means that this process, or this file system, does not do such things.
fn is_refusal(errno: Errno) -> bool {
    matches!(errno, Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::INVAL)
}

fn or_omit(
    result: rustix::io::Result<()>,
    omission: Omission,
    omissions: &mut BTreeSet<Omission>,
) -> rustix::io::Result<()> {
    match result {
        Err(errno) if is_refusal(errno) => {
            omissions.insert(omission);
            Ok(())
        }
        result => result,
    }
}

fn owner(meta: &Metadata) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))
}

fn times(meta: &Metadata) -> Timestamps {
    let time = Timespec { tv_sec: meta.mtime.seconds, tv_nsec: meta.mtime.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// Gives an open file or directory its metadata. The order matters: a change of owner clears set-user-id bits and
/// capabilities, and everything changes the time.
fn apply(file: impl AsFd, meta: &Metadata, omissions: &mut BTreeSet<Omission>) -> rustix::io::Result<()> {
    let (uid, gid) = owner(meta);
    or_omit(rustix::fs::fchown(&file, uid, gid), Omission::Owners, omissions)?;
    for (name, value) in &meta.xattrs {
        let name = escaped(name.clone());
        let set = rustix::fs::fsetxattr(&file, &*name, value, XattrFlags::empty());
        or_omit(set, Omission::Attributes, omissions)?;
    }
    rustix::fs::fchmod(&file, Mode::from_raw_mode(meta.mode.into()))?;
    rustix::fs::futimens(&file, &times(meta))
}

/// Makes the directories with everything in them, then gives the directories their metadata, children first.
fn grow(paths: &Paths, reader: &Reader, tree: &Tree, aside: &Path, omissions: &mut BTreeSet<Omission>) -> Result<()> {
    let root = aside.join("root");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&root).context("create", &root)?;
    let handle: OwnedFd = File::open(&root).context("open", &root)?.into();
    let mut directories = Vec::new();
    let mut walk = tree.walk();
    while let Some((path, entry)) = walk.advance() {
        if entry.node.kind == Kind::Directory {
            directories.push(path.to_vec());
        }
    }
    let mut made = HashMap::new();
    let mut grower = Grower { paths, reader, handle, root, omissions, links: &mut made };
    for directory in &directories {
        grower.fill(tree, directory)?;
    }
    for directory in directories.iter().rev() {
        let handle = grower.open(directory)?;
        if let Some(entry) = tree.get(directory) {
            apply(&handle, &entry.node.meta, grower.omissions).context("set metadata of", &grower.root)?;
        }
    }
    Ok(())
}

struct Grower<'a> {
    paths: &'a Paths,
    reader: &'a Reader,
    handle: OwnedFd,
    root: PathBuf,
    omissions: &'a mut BTreeSet<Omission>,
    /// Where the first name of each special file with several names is.
    links: &'a mut HashMap<InodeId, (Vec<u8>, Vec<u8>)>,
}

impl Grower<'_> {
    /// A directory of the tree, one name after another.
    fn open(&self, path: &[u8]) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut handle = self.handle.try_clone().context("open", &self.root)?;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            handle = rustix::fs::openat(&handle, name, flags, Mode::empty()).context("open", &self.root)?;
        }
        Ok(handle)
    }

    fn fill(&mut self, tree: &Tree, directory: &[u8]) -> Result<()> {
        let handle = self.open(directory)?;
        for (name, entry) in tree.children(directory) {
            fail::point(Point::RootWrite).context("write", &self.root)?;
            self.make(&handle, directory, name, &entry)?;
        }
        Ok(())
    }

    fn make(&mut self, dir: &OwnedFd, directory: &[u8], name: &[u8], entry: &Entry<'_>) -> Result<()> {
        match &entry.node.kind {
            Kind::Directory => {
                return rustix::fs::mkdirat(dir, name, Mode::RWXU).context("create", &self.root);
            }
            Kind::File(content) => return self.link_farm(dir, name, entry.node, content),
            _ => {}
        }
        if let Some((other_dir, other)) = self.links.get(&entry.inode) {
            let other_dir = self.open(other_dir)?;
            return match rustix::fs::linkat(&other_dir, other.as_slice(), dir, name, AtFlags::empty()) {
                // The first name could not be made either.
                Err(Errno::NOENT) => Ok(()),
                result => result.context("link", &self.root),
            };
        }
        if entry.names > 1 {
            self.links.insert(entry.inode, (directory.to_vec(), name.to_vec()));
        }
        self.special(dir, name, entry.node)
    }

    fn link_farm(&mut self, dir: &OwnedFd, name: &[u8], node: &Node, content: &Content) -> Result<()> {
        let farm = Paths::fanned(&self.paths.farm, &farm_key(node));
        match rustix::fs::linkat(CWD, &farm, dir, name, AtFlags::empty()) {
            // As many names as the file system allows: this one gets a copy.
            Err(Errno::MLINK) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let handle = rustix::fs::openat(dir, name, flags, Mode::RUSR).context("create", &self.root)?;
                let mut file = File::from(handle);
                super::fill(&mut file, &self.root, self.reader, content)?;
                apply(&file, &node.meta, self.omissions).context("set metadata of", &self.root)
            }
            result => result.context("link", &farm),
        }
    }

    fn special(&mut self, dir: &OwnedFd, name: &[u8], node: &Node) -> Result<()> {
        let make = |file_type, device| rustix::fs::mknodat(dir, name, file_type, Mode::RUSR, device);
        let made = match &node.kind {
            Kind::Symlink(target) => rustix::fs::symlinkat(&**target, dir, name),
            Kind::CharDevice(it) => make(FileType::CharacterDevice, rustix::fs::makedev(it.major, it.minor)),
            Kind::BlockDevice(it) => make(FileType::BlockDevice, rustix::fs::makedev(it.major, it.minor)),
            Kind::Fifo => make(FileType::Fifo, 0),
            _ => make(FileType::Socket, 0),
        };
        match made {
            Err(Errno::PERM) => {
                self.omissions.insert(Omission::Devices);
                return Ok(());
            }
            made => made.context("create", &self.root)?,
        }
        self.special_metadata(dir, name, node).context("set metadata of", &self.root)
    }

    fn special_metadata(&mut self, dir: &OwnedFd, name: &[u8], node: &Node) -> rustix::io::Result<()> {
        let (uid, gid) = owner(&node.meta);
        let chown = rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
        or_omit(chown, Omission::Owners, self.omissions)?;
        if !node.meta.xattrs.is_empty() {
            let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
            path.extend_from_slice(name);
            for (name, value) in &node.meta.xattrs {
                let set = rustix::fs::lsetxattr(&*path, &*escaped(name.clone()), value, XattrFlags::empty());
                or_omit(set, Omission::Attributes, self.omissions)?;
            }
        }
        if !matches!(node.kind, Kind::Symlink(_)) {
            rustix::fs::chmodat(dir, name, Mode::from_raw_mode(node.meta.mode.into()), AtFlags::empty())?;
        }
        rustix::fs::utimensat(dir, name, &times(&node.meta), AtFlags::SYMLINK_NOFOLLOW)
    }
}
