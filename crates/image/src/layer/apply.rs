//! One layer's entries put into a tree: names judged, links followed inside the root, whiteouts applied.
//!
//! OCI image specification, "Applying Changesets". Where it leaves room, the root is treated as a process confined to it
//! would see it: directories on the way to an entry may be symbolic links, which are followed inside the root; the entry
//! itself replaces what has its name. Whiteouts hide lower layers only, wherever in their own layer they stand.

use std::collections::{BTreeMap, HashSet};

use store::{Device, Kind, Metadata, Mtime, Node, Tree};

use super::reader::{Entry, EntryKind};
use crate::{Error, Result};

/// What a whiteout's name begins with.
const WHITEOUT: &[u8] = b".wh.";
/// The whiteout of everything that lower layers have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names that old file systems kept for themselves.
const RESERVED: &[u8] = b".wh..wh.";

/// Whose rules an archive follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// A layer's: whiteouts hide, and a directory replaces what has its name.
    Layer,
    /// A Debian package's: a directory that is there already, or a link to one, stays as it is.
    Package,
}

/// Applies the entries of one layer.
pub(crate) struct LayerApplier<'t> {
    tree: &'t mut Tree,
    dialect: Dialect,
    /// Paths that this layer put there, without links.
    added: HashSet<Vec<u8>>,
}

/// What to do with an entry's content.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    /// Store it, then hand it to [`LayerApplier::file`] with this path.
    File(Vec<u8>),
    /// There is none.
    Done,
}

impl<'t> LayerApplier<'t> {
    pub(crate) fn new(tree: &'t mut Tree, dialect: Dialect) -> Self {
        Self { tree, dialect, added: HashSet::new() }
    }

    /// Applies everything but a regular file's content.
    pub(crate) fn apply(&mut self, entry: &Entry) -> Result<Placement> {
        let names = components(&entry.path)?;
        let Some((last, parents)) = names.split_last() else {
            return if self.dialect == Dialect::Layer { self.root(entry) } else { Ok(Placement::Done) };
        };
        let directory = self.enter(parents, &entry.path)?;
        if last.starts_with(WHITEOUT) && self.dialect == Dialect::Layer {
            return self.whiteout(&directory, last).map(|()| Placement::Done);
        }
        let path = join(&directory, last);
        if self.dialect == Dialect::Package && entry.kind == EntryKind::Directory && self.is_directory(&path) {
            return Ok(Placement::Done);
        }
        let node = match &entry.kind {
            EntryKind::File => return Ok(Placement::File(path)),
            EntryKind::HardLink(target) => return self.hard_link(target, path).map(|()| Placement::Done),
            EntryKind::Directory => Kind::Directory,
            EntryKind::Symlink(target) => Kind::Symlink(target.as_slice().into()),
            EntryKind::Fifo => Kind::Fifo,
            EntryKind::CharDevice { major, minor } => Kind::CharDevice(Device { major: *major, minor: *minor }),
            EntryKind::BlockDevice { major, minor } => Kind::BlockDevice(Device { major: *major, minor: *minor }),
        };
        self.insert(path, Node { meta: metadata(entry), kind: node })?;
        Ok(Placement::Done)
    }

    /// Puts a regular file in place, once its content is stored.
    pub(crate) fn file(&mut self, path: Vec<u8>, entry: &Entry, content: store::Content) -> Result<()> {
        self.insert(path, Node { meta: metadata(entry), kind: Kind::File(content) })
    }

    fn insert(&mut self, path: Vec<u8>, node: Node) -> Result<()> {
        self.tree.insert(&path, node)?;
        self.added.insert(path);
        Ok(())
    }

    fn is_directory(&self, path: &[u8]) -> bool {
        let target = self.tree.resolve(path).and_then(|target| self.tree.get(target));
        target.is_some_and(|found| found.node.kind == Kind::Directory)
    }

    fn root(&mut self, entry: &Entry) -> Result<Placement> {
        if entry.kind != EntryKind::Directory {
            return Err(Error::malformed("layer", "its root is no directory"));
        }
        self.tree.insert(b"", Node { meta: metadata(entry), kind: Kind::Directory })?;
        Ok(Placement::Done)
    }

    /// The directory those names lead to, links followed inside the root, missing ones made.
    pub(crate) fn enter(&mut self, names: &[&[u8]], whole: &[u8]) -> Result<Vec<u8>> {
        let mut at = Vec::new();
        for name in names {
            let next = join(&at, name);
            at = match self.tree.get(&next).map(|found| &found.node.kind) {
                Some(Kind::Directory) => next,
                Some(Kind::Symlink(_)) => self.follow(&next).ok_or_else(|| not_a_directory(whole))?,
                Some(_) => return Err(not_a_directory(whole)),
                None => {
                    self.insert(next.clone(), Node { meta: Metadata::new(0o755), kind: Kind::Directory })?;
                    next
                }
            };
        }
        Ok(at)
    }

    /// Where a link leads to. A directory it dangles towards is made, as the layer wants to put something there.
    fn follow(&mut self, link: &[u8]) -> Option<Vec<u8>> {
        let target = self.tree.resolve(link)?;
        match self.tree.get(&target).map(|found| &found.node.kind) {
            Some(Kind::Directory) => Some(target),
            Some(_) => None,
            None => {
                self.insert(target.clone(), Node { meta: Metadata::new(0o755), kind: Kind::Directory }).ok()?;
                Some(target)
            }
        }
    }

    fn hard_link(&mut self, target: &[u8], path: Vec<u8>) -> Result<()> {
        let names = components(target)?;
        let shown = || String::from_utf8_lossy(target).escape_debug().to_string();
        let missing = || Error::malformed("layer", format!("a hard link to '{}', which is not there", shown()));
        let (last, parents) = names.split_last().ok_or_else(missing)?;
        let directory = self.tree.resolve(parents.join(&b'/')).ok_or_else(missing)?;
        let target = join(&directory, last);
        if self.tree.get(&target).is_none() {
            return Err(missing());
        }
        self.tree.link(&target, &path)?;
        self.added.insert(path);
        Ok(())
    }

    fn whiteout(&mut self, directory: &[u8], name: &[u8]) -> Result<()> {
        if name == OPAQUE {
            self.hide_children(directory);
            return Ok(());
        }
        if name.starts_with(RESERVED) {
            return Ok(());
        }
        match name.get(WHITEOUT.len()..) {
            None | Some(b"" | b"." | b"..") => Err(Error::malformed("layer", "a whiteout of no name")),
            Some(hidden) => {
                self.hide(join(directory, hidden));
                Ok(())
            }
        }
    }

    /// Takes away what lower layers have at a path; tells whether anything of this layer keeps it there.
    fn hide(&mut self, path: Vec<u8>) -> bool {
        let Some(found) = self.tree.get(&path) else { return false };
        let kept_inside = found.node.kind == Kind::Directory && self.hide_children(&path);
        let kept = kept_inside || self.added.contains(&path);
        if !kept {
            // The path was just looked up, so there is a name to take away.
            let _ = self.tree.remove(&path);
        }
        kept
    }

    fn hide_children(&mut self, directory: &[u8]) -> bool {
        let children: Vec<Vec<u8>> = self.tree.children(directory).map(|(name, _)| join(directory, name)).collect();
        children.into_iter().fold(false, |kept, child| self.hide(child) | kept)
    }
}

/// A path's names. Leading slashes, doubled slashes and `.` are passed over; `..` is refused.
pub(crate) fn components(path: &[u8]) -> Result<Vec<&[u8]>> {
    let names: Vec<&[u8]> = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".").collect();
    if names.contains(&b"..".as_slice()) {
        let shown = String::from_utf8_lossy(path).escape_debug().to_string();
        return Err(Error::malformed("layer", format!("the name '{shown}' leads upward")));
    }
    Ok(names)
}

/// `directory/name`, where the empty path is the root.
pub(crate) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

fn not_a_directory(path: &[u8]) -> Error {
    let shown = String::from_utf8_lossy(path).escape_debug().to_string();
    Error::malformed("layer", format!("'{shown}' lies beneath something that is no directory"))
}

fn metadata(entry: &Entry) -> Metadata {
    let xattrs: BTreeMap<Box<[u8]>, Box<[u8]>> =
        entry.xattrs.iter().map(|(name, value)| (name.as_slice().into(), value.as_slice().into())).collect();
    Metadata {
        mode: (entry.mode & 0o7777) as u16,
        uid: entry.uid,
        gid: entry.gid,
        mtime: Mtime { seconds: entry.mtime.0, nanos: entry.mtime.1 },
        xattrs,
    }
}
