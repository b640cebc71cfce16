//! A root file system in memory: names, metadata, and which bytes each file has. No I/O.
//!
//! A tree is a set of inodes and the names that lead to them, as on a disk: a file with two names is one inode with two
//! names. Paths are bytes, relative to the root, taken literally (symbolic links are not followed unless
//! [`Tree::resolve`] is asked to). **Every name in a tree is one that a directory can hold:** not empty, `.` or `..`,
//! without `/` and NUL, at most 255 bytes. Every inode has a name; removing the last removes the inode.

mod decode;
mod encode;
mod node;
mod walk;

pub(crate) use decode::{MAX_NODES, decode, references};
pub(crate) use encode::{encode, encode_alone};
pub use node::{Device, Kind, MAX_NAME, MAX_TARGET, MAX_XATTR, Metadata, Mtime, Node};
pub use walk::Walk;

use std::collections::BTreeMap;

use model::ObjectId;

use crate::chunk::Sink;
use crate::error::{Error, Result};
use crate::object::Kind as ObjectKind;

/// The most bytes a path may have: `PATH_MAX` without its NUL.
pub const MAX_PATH: usize = 4095;
/// As many symbolic links as Linux follows on one path.
const MAX_FOLLOWED: usize = 40;

/// Which inode of a tree. Two names with the same number are hard links of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeId(u32);

impl InodeId {
    fn index(self) -> usize {
        self.0 as usize
    }
}

type Children = BTreeMap<Box<[u8]>, InodeId>;

#[derive(Clone, Debug)]
struct Inode {
    node: Node,
    /// How many names lead here; 0 for a slot that is free.
    names: u32,
    /// Empty unless it is a directory.
    children: Children,
}

/// A root file system in memory.
#[derive(Clone, Debug)]
pub struct Tree {
    inodes: Vec<Inode>,
    free: Vec<InodeId>,
}

/// An inode, as seen from one of its names.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Which inode.
    pub inode: InodeId,
    /// What it is.
    pub node: &'a Node,
    /// How many names it has in the tree; directories have one.
    pub names: u32,
}

/// Splits a path into its names. `/`, `a//b` and `a/` are taken as the kernel takes them; `.` and `..` are refused.
fn components(path: &[u8]) -> Result<Vec<&[u8]>> {
    if path.len() > MAX_PATH {
        return Err(Error::path(path, "the path is longer than 4095 bytes"));
    }
    let names: Vec<_> = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
    for name in &names {
        node::check_name(name).map_err(|why| Error::path(path, why))?;
    }
    Ok(names)
}

const ROOT: InodeId = InodeId(0);

impl Default for Tree {
    fn default() -> Self {
        Self::new(Metadata::new(0o755))
    }
}

impl Tree {
    /// A tree with nothing but a root directory.
    pub fn new(root: Metadata) -> Self {
        let node = Node { meta: root, kind: Kind::Directory };
        Self { inodes: vec![Inode { node, names: 1, children: Children::new() }], free: Vec::new() }
    }

    pub(crate) fn root(&self) -> InodeId {
        ROOT
    }

    /// Puts a node into a directory that has no such name yet.
    pub(crate) fn add(&mut self, dir: InodeId, name: &[u8], node: Node) -> Result<InodeId> {
        node::check_name(name).and_then(|()| node.check()).map_err(|why| Error::path(name, why))?;
        let inode = self.allocate(node)?;
        self.inode_mut(dir).children.insert(name.into(), inode);
        Ok(inode)
    }

    /// Gives an inode that is no directory a further name, which its directory does not have yet.
    pub(crate) fn add_name(&mut self, dir: InodeId, name: &[u8], inode: InodeId) -> Result<()> {
        node::check_name(name).map_err(|why| Error::path(name, why))?;
        self.inode_mut(inode).names += 1;
        self.inode_mut(dir).children.insert(name.into(), inode);
        Ok(())
    }

    fn inode(&self, id: InodeId) -> &Inode {
        &self.inodes[id.index()]
    }

    fn inode_mut(&mut self, id: InodeId) -> &mut Inode {
        &mut self.inodes[id.index()]
    }

    fn entry(&self, inode: InodeId) -> Entry<'_> {
        let Inode { node, names, .. } = self.inode(inode);
        Entry { inode, node, names: *names }
    }

    fn find(&self, names: &[&[u8]]) -> Option<InodeId> {
        names.iter().try_fold(ROOT, |at, name| self.inode(at).children.get(*name).copied())
    }

    /// The directory that holds the last name of `path`, and that name.
    fn parent<'p>(&self, path: &'p [u8]) -> Result<(InodeId, &'p [u8])> {
        let names = components(path)?;
        let (last, parents) = names.split_last().ok_or_else(|| Error::path(path, "the root cannot be replaced"))?;
        let dir = self.find(parents).ok_or_else(|| Error::path(path, "its directory does not exist"))?;
        match self.inode(dir).node.kind {
            Kind::Directory => Ok((dir, last)),
            _ => Err(Error::path(path, "what should be its directory is none")),
        }
    }

    /// How many inodes there are, the root included.
    pub fn len(&self) -> usize {
        self.inodes.len() - self.free.len()
    }

    /// Whether there is nothing but the root.
    pub fn is_empty(&self) -> bool {
        self.len() == 1
    }

    /// What is at `path`; the root at the empty path. Symbolic links are not followed.
    pub fn get(&self, path: impl AsRef<[u8]>) -> Option<Entry<'_>> {
        let names = components(path.as_ref()).ok()?;
        self.find(&names).map(|inode| self.entry(inode))
    }

    /// The metadata of what is at `path`, to be changed. It is that of each of its names.
    pub fn metadata_mut(&mut self, path: impl AsRef<[u8]>) -> Option<&mut Metadata> {
        let names = components(path.as_ref()).ok()?;
        let inode = self.find(&names)?;
        Some(&mut self.inode_mut(inode).node.meta)
    }

    /// The names in the directory at `path`, in byte order; none when it is no directory.
    pub fn children(&self, path: impl AsRef<[u8]>) -> impl Iterator<Item = (&[u8], Entry<'_>)> {
        let dir = components(path.as_ref()).ok().and_then(|names| self.find(&names));
        let children = dir.map(|dir| self.inode(dir).children.iter()).into_iter().flatten();
        children.map(|(name, inode)| (&**name, self.entry(*inode)))
    }

    /// Puts `node` at `path`, whose directory must exist. Whatever had that name loses it, but **a directory put over a
    /// directory keeps what is in it** and only takes the new metadata.
    pub fn insert(&mut self, path: impl AsRef<[u8]>, node: Node) -> Result<InodeId> {
        let path = path.as_ref();
        node.check().map_err(|why| Error::path(path, why))?;
        if components(path)?.is_empty() {
            if node.kind != Kind::Directory {
                return Err(Error::path(path, "the root must be a directory"));
            }
            self.inode_mut(ROOT).node = node;
            return Ok(ROOT);
        }
        let (dir, name) = self.parent(path)?;
        if let Some(&old) = self.inode(dir).children.get(name) {
            if node.kind == Kind::Directory && self.inode(old).node.kind == Kind::Directory {
                self.inode_mut(old).node = node;
                return Ok(old);
            }
            self.unlink(dir, name);
        }
        let inode = self.allocate(node)?;
        self.inode_mut(dir).children.insert(name.into(), inode);
        Ok(inode)
    }

    /// Makes the directories on the way to `path` that do not exist, with `meta`. Fails when one of them is something
    /// else.
    pub fn make_parents(&mut self, path: impl AsRef<[u8]>, meta: &Metadata) -> Result<()> {
        let path = path.as_ref();
        let names = components(path)?;
        let mut dir = ROOT;
        for name in names.split_last().map_or(&[][..], |(_, parents)| parents) {
            let next = match self.inode(dir).children.get(*name) {
                Some(next) => *next,
                None => {
                    let made = self.allocate(Node { meta: meta.clone(), kind: Kind::Directory })?;
                    self.inode_mut(dir).children.insert((*name).into(), made);
                    made
                }
            };
            if self.inode(next).node.kind != Kind::Directory {
                return Err(Error::path(path, "what should be its directory is none"));
            }
            dir = next;
        }
        Ok(())
    }

    /// Gives the inode at `target` the further name `path`. Whatever had that name loses it.
    pub fn link(&mut self, target: impl AsRef<[u8]>, path: impl AsRef<[u8]>) -> Result<InodeId> {
        let (target, path) = (target.as_ref(), path.as_ref());
        let found = self.find(&components(target)?);
        let inode = found.ok_or_else(|| Error::path(target, "what it should be linked to does not exist"))?;
        if self.inode(inode).node.kind == Kind::Directory {
            return Err(Error::path(target, "a directory cannot have two names"));
        }
        let (dir, name) = self.parent(path)?;
        if self.inode(dir).children.get(name) == Some(&inode) {
            return Ok(inode);
        }
        // The new name first: what had it may be a directory that holds the old one.
        self.inode_mut(inode).names += 1;
        self.unlink(dir, name);
        self.inode_mut(dir).children.insert(name.into(), inode);
        Ok(inode)
    }

    /// Takes away the name at `path`, and all that is beneath it. Tells whether there was something.
    pub fn remove(&mut self, path: impl AsRef<[u8]>) -> Result<bool> {
        let path = path.as_ref();
        let names = components(path)?;
        let Some((last, parents)) = names.split_last() else {
            return Err(Error::path(path, "the root cannot be removed"));
        };
        Ok(self.find(parents).is_some_and(|dir| self.unlink(dir, last)))
    }

    /// Takes away everything in the directory at `path`, but not the directory.
    pub fn clear(&mut self, path: impl AsRef<[u8]>) -> Result<()> {
        let path = path.as_ref();
        let dir = self.find(&components(path)?).ok_or_else(|| Error::path(path, "it does not exist"))?;
        let children = std::mem::take(&mut self.inode_mut(dir).children);
        self.release(children.into_values().collect());
        Ok(())
    }

    /// Follows the symbolic links on `path` as a process whose root is this tree would, `..` included, and gives the
    /// path without links of what it leads to, whose last name need not exist. Nothing when a link loops, when a
    /// directory on the way is missing, or when the path leads through something that is none.
    pub fn resolve(&self, path: impl AsRef<[u8]>) -> Option<Vec<u8>> {
        let mut todo: Vec<Vec<u8>> = path.as_ref().split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec).collect();
        let mut done: Vec<Vec<u8>> = Vec::new();
        let mut followed = 0;
        while let Some(name) = todo.pop() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    done.pop();
                    continue;
                }
                _ => {}
            }
            node::check_name(&name).ok()?;
            let names: Vec<_> = done.iter().map(Vec::as_slice).collect();
            let dir = self.inode(self.find(&names)?);
            if dir.node.kind != Kind::Directory {
                return None;
            }
            match dir.children.get(name.as_slice()).map(|child| &self.inode(*child).node.kind) {
                Some(Kind::Symlink(target)) => {
                    followed += 1;
                    if followed > MAX_FOLLOWED {
                        return None;
                    }
                    if target.starts_with(b"/") {
                        done.clear();
                    }
                    todo.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
                }
                _ => done.push(name),
            }
        }
        Some(done.join(&b'/'))
    }

    /// Every name, sorted so that a directory comes just before what is in it, names in byte order. The root has the
    /// empty path.
    pub fn walk(&self) -> Walk<'_> {
        Walk::new(self)
    }

    /// The id that the tree would be stored under.
    pub fn identity(&self) -> Result<ObjectId> {
        struct Named;
        impl Sink for Named {
            fn put(&mut self, kind: ObjectKind, bytes: &[u8]) -> Result<ObjectId> {
                Ok(kind.id_of(bytes))
            }
        }
        encode(self, &mut Named)
    }

    /// The bytes of all files together, each inode counted once.
    pub fn content_size(&self) -> u64 {
        let live = self.inodes.iter().filter(|inode| inode.names > 0);
        live.fold(0u64, |sum, inode| match inode.node.kind {
            Kind::File(content) => sum.saturating_add(content.size),
            _ => sum,
        })
    }

    fn allocate(&mut self, node: Node) -> Result<InodeId> {
        let inode = Inode { node, names: 1, children: Children::new() };
        if let Some(id) = self.free.pop() {
            *self.inode_mut(id) = inode;
            return Ok(id);
        }
        if self.inodes.len() >= MAX_NODES {
            return Err(Error::TooLarge { what: "the number of files of a tree", limit: MAX_NODES as u64 });
        }
        self.inodes.push(inode);
        Ok(InodeId(self.inodes.len() as u32 - 1))
    }

    fn unlink(&mut self, dir: InodeId, name: &[u8]) -> bool {
        let removed = self.inode_mut(dir).children.remove(name);
        self.release(removed.into_iter().collect());
        removed.is_some()
    }

    /// Takes one name from each of these inodes, and from what is beneath those that have none left.
    fn release(&mut self, mut inodes: Vec<InodeId>) {
        while let Some(id) = inodes.pop() {
            let inode = self.inode_mut(id);
            inode.names -= 1;
            if inode.names == 0 {
                inodes.extend(std::mem::take(&mut inode.children).into_values());
                inode.node = Node { meta: Metadata::new(0), kind: Kind::Fifo };
                self.free.push(id);
            }
        }
    }
}

/// Trees are equal when they have the same names with the same nodes, and the same names are links of each other.
impl PartialEq for Tree {
    fn eq(&self, other: &Self) -> bool {
        let mut pairs = BTreeMap::new();
        self.len() == other.len()
            && self.walk().eq_by(other.walk(), |(left_path, left), (right_path, right)| {
                left_path == right_path
                    && left.node == right.node
                    && left.names == right.names
                    && *pairs.entry(left.inode).or_insert(right.inode) == right.inode
            })
    }
}

#[cfg(test)]
mod tests;
