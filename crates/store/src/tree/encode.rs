//! The stored form of a tree: one object a directory, so that equal directories are stored once.
//!
//! ```text
//! directory  version, then entries in name order:
//!            name, type byte, mode, uid, gid, mtime seconds (against the entry before), nanoseconds, attributes, then
//!            by type: file: size, content id · directory: object id · symlink: target · device: major, minor
//! tree       version, root's entry without a name, then the groups of names that are one inode: count of names, paths
//! ```
//! A directory's own metadata stands in its parent's object, and hard links stand in the tree object, so that neither
//! keeps equal directories apart. Each tree has exactly one stored form.

use std::collections::BTreeMap;

use model::ObjectId;

use super::{InodeId, Kind, Metadata, Node, ROOT, Tree};
use crate::chunk::Sink;
use crate::codec::{put_bytes, put_signed, put_varint};
use crate::error::{Error, Result};
use crate::object::{Kind as ObjectKind, MAX_OBJECT};

pub(super) const VERSION: u8 = 1;

/// Type bytes. Part of the format.
pub(super) mod types {
    pub(in super::super) const DIRECTORY: u8 = 1;
    pub(in super::super) const FILE: u8 = 2;
    pub(in super::super) const SYMLINK: u8 = 3;
    pub(in super::super) const CHAR: u8 = 4;
    pub(in super::super) const BLOCK: u8 = 5;
    pub(in super::super) const FIFO: u8 = 6;
    pub(in super::super) const SOCKET: u8 = 7;
}

/// Hands a tree's objects to `sink`, directories from the bottom up, and gives the tree's id.
pub(crate) fn encode(tree: &Tree, sink: &mut impl Sink) -> Result<ObjectId> {
    let mut encoded: BTreeMap<InodeId, ObjectId> = BTreeMap::new();
    // Parents come before children in a walk, so children come first in its reverse.
    let mut directories = Vec::new();
    let mut groups: BTreeMap<InodeId, Vec<Vec<u8>>> = BTreeMap::new();
    let mut walk = tree.walk();
    while let Some((path, entry)) = walk.advance() {
        match entry.node.kind {
            Kind::Directory => directories.push(entry.inode),
            _ if entry.names > 1 => groups.entry(entry.inode).or_default().push(path.to_vec()),
            _ => {}
        }
    }
    let mut bytes = Vec::new();
    for inode in directories.into_iter().rev() {
        bytes.clear();
        bytes.push(VERSION);
        let mut before = 0;
        for (name, child) in &tree.inode(inode).children {
            put_bytes(&mut bytes, name);
            put_node(&mut bytes, &tree.inode(*child).node, encoded.get(child), &mut before);
        }
        encoded.insert(inode, put(sink, ObjectKind::Directory, &bytes)?);
    }
    bytes.clear();
    bytes.push(VERSION);
    put_node(&mut bytes, &tree.inode(ROOT).node, encoded.get(&ROOT), &mut 0);
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort();
    for paths in groups {
        put_varint(&mut bytes, paths.len() as u64);
        paths.iter().for_each(|path| put_bytes(&mut bytes, path));
    }
    put(sink, ObjectKind::Tree, &bytes)
}

fn put(sink: &mut impl Sink, kind: ObjectKind, bytes: &[u8]) -> Result<ObjectId> {
    if bytes.len() > MAX_OBJECT {
        return Err(Error::TooLarge { what: "a directory's list of entries", limit: MAX_OBJECT as u64 });
    }
    sink.put(kind, bytes)
}

fn put_node(out: &mut Vec<u8>, node: &Node, directory: Option<&ObjectId>, before: &mut i64) {
    let kind = match &node.kind {
        Kind::Directory => types::DIRECTORY,
        Kind::File(_) => types::FILE,
        Kind::Symlink(_) => types::SYMLINK,
        Kind::CharDevice(_) => types::CHAR,
        Kind::BlockDevice(_) => types::BLOCK,
        Kind::Fifo => types::FIFO,
        Kind::Socket => types::SOCKET,
    };
    out.push(kind);
    put_metadata(out, &node.meta, before);
    match &node.kind {
        Kind::Directory => out.extend_from_slice(directory.unwrap_or(&crate::object::EMPTY_ID).as_bytes()),
        Kind::File(content) => {
            put_varint(out, content.size);
            // The empty content needs no id: its size says it all.
            if content.size > 0 {
                out.extend_from_slice(content.id.as_bytes());
            }
        }
        Kind::Symlink(target) => put_bytes(out, target),
        Kind::CharDevice(device) | Kind::BlockDevice(device) => {
            put_varint(out, device.major.into());
            put_varint(out, device.minor.into());
        }
        Kind::Fifo | Kind::Socket => {}
    }
}

fn put_metadata(out: &mut Vec<u8>, meta: &Metadata, before: &mut i64) {
    put_varint(out, meta.mode.into());
    put_varint(out, meta.uid.into());
    put_varint(out, meta.gid.into());
    put_signed(out, meta.mtime.seconds.wrapping_sub(*before));
    *before = meta.mtime.seconds;
    put_varint(out, meta.mtime.nanos.into());
    put_varint(out, meta.xattrs.len() as u64);
    for (name, value) in &meta.xattrs {
        put_bytes(out, name);
        put_bytes(out, value);
    }
}

/// A name for a file by all that it is: content and metadata.
pub(crate) fn encode_alone(node: &Node) -> ObjectId {
    let mut bytes = Vec::new();
    put_node(&mut bytes, node, None, &mut 0);
    ObjectId::from_bytes(blake3::derive_key("skep store 2026 farm", &bytes))
}
