//! Reading the stored form of a tree. The bytes have the hash they should have, but whoever stored them may have been
//! hostile: names are checked as if they came from an archive, and the number of files is limited, because a directory
//! that is stored once may be named a million times.

use model::ObjectId;

use super::encode::{VERSION, types};
use super::node::{Device, Kind, Metadata, Mtime, Node, check_name};
use super::{InodeId, MAX_PATH, ROOT, Tree, components};
use crate::codec::{Decoder, Malformed};
use crate::error::{Error, Result};
use crate::object::{Content, Kind as ObjectKind};

/// The most inodes a tree may have.
pub(crate) const MAX_NODES: usize = 1 << 21;
/// The most directories within each other: a path of 4095 bytes has no more.
const MAX_DEPTH: usize = MAX_PATH / 2 + 1;

/// Reads the tree `id`; `get` gives an object's bytes.
pub(crate) fn decode(id: &ObjectId, get: impl FnMut(&ObjectId) -> Result<Vec<u8>>) -> Result<Tree> {
    decode_within(MAX_NODES, id, get)
}

/// Reads a tree that may have so many inodes.
pub(super) fn decode_within(
    most: usize,
    id: &ObjectId,
    mut get: impl FnMut(&ObjectId) -> Result<Vec<u8>>,
) -> Result<Tree> {
    let bytes = get(id)?;
    let damaged = |why: Malformed| Error::damaged(format!("tree {id}"), why);
    let (root, groups) = decode_tree(&bytes).map_err(damaged)?;
    let mut tree = Tree::new(root.node.meta);
    let mut todo: Vec<(InodeId, ObjectId, usize)> = root.directory.map(|it| (ROOT, it, 0)).into_iter().collect();
    while let Some((inode, object, depth)) = todo.pop() {
        if depth > MAX_DEPTH {
            return Err(Error::TooLarge { what: "the depth of a tree", limit: MAX_DEPTH as u64 });
        }
        let bytes = get(&object)?;
        let damaged = |why: Malformed| Error::damaged(format!("directory {object}"), why);
        let mut entries = Entries::new(&bytes).map_err(damaged)?;
        while let Some((name, stored)) = entries.next().map_err(damaged)? {
            if tree.len() >= most {
                return Err(Error::TooLarge { what: "the number of files of a tree", limit: most as u64 });
            }
            let child = tree.allocate(stored.node)?;
            tree.inode_mut(inode).children.insert(name.into(), child);
            todo.extend(stored.directory.map(|it| (child, it, depth + 1)));
        }
    }
    for group in groups {
        link(&mut tree, &group).map_err(damaged)?;
    }
    Ok(tree)
}

/// The objects that a tree or directory object points at, each with what it must be; contents with their sizes.
pub(crate) fn references(kind: ObjectKind, bytes: &[u8]) -> Result<(Vec<ObjectId>, Vec<Content>), Malformed> {
    let (mut directories, mut contents) = (Vec::new(), Vec::new());
    match kind {
        ObjectKind::Tree => directories.extend(decode_tree(bytes)?.0.directory),
        _ => {
            let mut entries = Entries::new(bytes)?;
            while let Some((_, stored)) = entries.next()? {
                directories.extend(stored.directory);
                if let Kind::File(content) = stored.node.kind {
                    contents.push(content);
                }
            }
        }
    }
    Ok((directories, contents))
}

struct Stored {
    node: Node,
    /// The object of a directory's entries.
    directory: Option<ObjectId>,
}

type Group<'a> = Vec<&'a [u8]>;

fn decode_tree(bytes: &[u8]) -> Result<(Stored, Vec<Group<'_>>), Malformed> {
    let mut decoder = Decoder::new(bytes);
    if decoder.byte()? != VERSION {
        return Err("a tree of an unknown version");
    }
    let root = take_node(&mut decoder, &mut 0)?;
    if root.directory.is_none() {
        return Err("a root that is no directory");
    }
    let mut groups = Vec::new();
    while !decoder.is_empty() {
        let count = decoder.count(2)?;
        if count < 2 {
            return Err("a hard link of a single name");
        }
        groups.push((0..count).map(|_| decoder.bytes()).collect::<Result<_, _>>()?);
    }
    Ok((root, groups))
}

/// The entries of a directory object, one by one.
struct Entries<'a> {
    decoder: Decoder<'a>,
    before: i64,
    last: Option<&'a [u8]>,
}

impl<'a> Entries<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut decoder = Decoder::new(bytes);
        match decoder.byte()? {
            VERSION => Ok(Self { decoder, before: 0, last: None }),
            _ => Err("a directory of an unknown version"),
        }
    }

    fn next(&mut self) -> Result<Option<(&'a [u8], Stored)>, Malformed> {
        if self.decoder.is_empty() {
            return Ok(None);
        }
        let name = self.decoder.bytes()?;
        check_name(name)?;
        if self.last.replace(name).is_some_and(|last| last >= name) {
            return Err("names out of order");
        }
        Ok(Some((name, take_node(&mut self.decoder, &mut self.before)?)))
    }
}

fn take_node(decoder: &mut Decoder<'_>, before: &mut i64) -> Result<Stored, Malformed> {
    let kind = decoder.byte()?;
    let meta = take_metadata(decoder, before)?;
    let mut directory = None;
    let kind = match kind {
        types::DIRECTORY => {
            directory = Some(decoder.id()?);
            Kind::Directory
        }
        types::FILE => Kind::File(match decoder.varint()? {
            0 => Content::EMPTY,
            size => Content { size, id: decoder.id()? },
        }),
        types::SYMLINK => Kind::Symlink(decoder.bytes()?.into()),
        types::CHAR => Kind::CharDevice(take_device(decoder)?),
        types::BLOCK => Kind::BlockDevice(take_device(decoder)?),
        types::FIFO => Kind::Fifo,
        types::SOCKET => Kind::Socket,
        _ => return Err("a file of an unknown kind"),
    };
    let node = Node { meta, kind };
    node.check()?;
    Ok(Stored { node, directory })
}

fn take_device(decoder: &mut Decoder<'_>) -> Result<Device, Malformed> {
    Ok(Device { major: decoder.varint32()?, minor: decoder.varint32()? })
}

fn take_metadata(decoder: &mut Decoder<'_>, before: &mut i64) -> Result<Metadata, Malformed> {
    let mode = u16::try_from(decoder.varint()?).map_err(|_| "a mode out of range")?;
    let mut meta = Metadata::new(mode);
    meta.mode = mode;
    meta.uid = decoder.varint32()?;
    meta.gid = decoder.varint32()?;
    *before = before.wrapping_add(decoder.signed()?);
    meta.mtime = Mtime { seconds: *before, nanos: decoder.varint32()? };
    let mut last: Option<&[u8]> = None;
    for _ in 0..decoder.count(2)? {
        let (name, value) = (decoder.bytes()?, decoder.bytes()?);
        if last.replace(name).is_some_and(|last| last >= name) {
            return Err("attributes out of order");
        }
        meta.xattrs.insert(name.into(), value.into());
    }
    Ok(meta)
}

/// Makes one inode of several names.
fn link(tree: &mut Tree, paths: &[&[u8]]) -> Result<(), Malformed> {
    let wrong = "a hard link of names that are not one file";
    let mut first = None;
    for path in paths {
        let names = components(path).map_err(|_| wrong)?;
        let (name, parents) = names.split_last().ok_or(wrong)?;
        let dir = tree.find(parents).ok_or(wrong)?;
        let inode = *tree.inode(dir).children.get(*name).ok_or(wrong)?;
        match first {
            None => first = Some(inode),
            Some(first) => {
                let same = tree.inode(first).node == tree.inode(inode).node;
                if !same
                    || tree.inode(inode).node.kind == Kind::Directory
                    || tree.inode(inode).names != 1
                    || first == inode
                {
                    return Err(wrong);
                }
                tree.unlink(dir, name);
                tree.inode_mut(first).names += 1;
                tree.inode_mut(dir).children.insert((*name).into(), first);
            }
        }
    }
    Ok(())
}
