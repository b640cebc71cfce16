//! One inode of an EROFS image: its size, its data beside it or in blocks, and its bytes.

use super::{BLOCK, Inline, Place, put};
use crate::error::{Error, Result};
use crate::layout::fanned_name;
use crate::object::Content;
use crate::tree::{Device, Entry, Kind, Metadata, Node};

const INODE: usize = 64;
const EXTENDED: u16 = 1;
const FLAT_PLAIN: u16 = 0 << 1;
const FLAT_INLINE: u16 = 2 << 1;
const CHUNK_BASED: u16 = 4 << 1;
/// The address of a chunk that is not there.
const NO_BLOCK: u32 = u32::MAX;
const DIRENT: usize = 12;
/// The largest chunk is 2^31 blocks.
const CHUNK_BITS_MOST: u32 = 12 + 31;

/// `DT_*` as EROFS numbers them.
mod file_type {
    pub(super) const REGULAR: u8 = 1;
    pub(super) const DIRECTORY: u8 = 2;
    pub(super) const CHAR: u8 = 3;
    pub(super) const BLOCK: u8 = 4;
    pub(super) const FIFO: u8 = 5;
    pub(super) const SOCKET: u8 = 6;
    pub(super) const SYMLINK: u8 = 7;
}

pub(super) struct Inode {
    meta: Metadata,
    pub(super) links: u32,
    pub(super) parent: Option<usize>,
    pub(super) data: Data,
    /// The attribute area as stored.
    xattrs: Vec<u8>,
}

pub(super) enum Data {
    Directory(Directory),
    /// Bytes of a small file or a link's target.
    Bytes(Vec<u8>, Bytes),
    /// A regular file whose bytes are elsewhere.
    Elsewhere(Content),
    Device(Device, u8),
    Special(u8),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Bytes {
    File,
    Symlink,
}

/// What overlayfs takes for a deletion.
pub(super) fn is_whiteout(node: &Node) -> bool {
    node.kind == Kind::CharDevice(Device { major: 0, minor: 0 })
}

impl Inode {
    pub(super) fn new(
        entry: &Entry<'_>,
        parent: Option<usize>,
        inline: Inline,
        bytes: &mut impl FnMut(&Content) -> Result<Vec<u8>>,
    ) -> Result<Self> {
        let mut meta = entry.node.meta.clone();
        meta.xattrs =
            std::mem::take(&mut meta.xattrs).into_iter().map(|(name, value)| (escaped(name), value)).collect();
        let mut set = |name: &[u8], value: &[u8]| meta.xattrs.insert(name.into(), value.into());
        let data = match &entry.node.kind {
            Kind::Directory => Data::Directory(Directory::default()),
            Kind::File(content) if content.size > 1 << CHUNK_BITS_MOST => {
                return Err(Error::TooLarge { what: "a file in a composed root", limit: 1 << CHUNK_BITS_MOST });
            }
            Kind::File(content) if !inline.holds(content) => {
                set(b"trusted.overlay.metacopy", b"");
                set(b"trusted.overlay.redirect", format!("/{}", fanned_name(&content.id)).as_bytes());
                Data::Elsewhere(*content)
            }
            Kind::File(content) => {
                let bytes = bytes(content)?;
                if bytes.len() as u64 != content.size {
                    return Err(Error::damaged(format!("content {}", content.id), "it is not as long as it should be"));
                }
                Data::Bytes(bytes, Bytes::File)
            }
            Kind::Symlink(target) => Data::Bytes(target.to_vec(), Bytes::Symlink),
            Kind::CharDevice(_) if is_whiteout(entry.node) => {
                set(b"trusted.overlay.overlay.whiteout", b"");
                Data::Bytes(Vec::new(), Bytes::File)
            }
            Kind::CharDevice(device) => Data::Device(*device, file_type::CHAR),
            Kind::BlockDevice(device) => Data::Device(*device, file_type::BLOCK),
            Kind::Fifo => Data::Special(file_type::FIFO),
            Kind::Socket => Data::Special(file_type::SOCKET),
        };
        let links = if entry.node.kind == Kind::Directory { 2 } else { entry.names };
        Ok(Self { meta, links, parent, data, xattrs: Vec::new() })
    }

    pub(super) fn file_type(&self) -> u8 {
        match &self.data {
            Data::Directory(_) => file_type::DIRECTORY,
            Data::Bytes(_, Bytes::Symlink) => file_type::SYMLINK,
            Data::Bytes(_, Bytes::File) | Data::Elsewhere(_) => file_type::REGULAR,
            Data::Device(_, file_type) | Data::Special(file_type) => *file_type,
        }
    }

    /// Says that there are deletions in this directory, in the form that a nested overlay reads.
    pub(super) fn mark_whiteouts(&mut self) {
        let opaque = self.meta.xattrs.entry((*b"trusted.overlay.overlay.opaque").into());
        opaque.or_insert((*b"x").into());
    }

    /// Called when nothing will be added any more.
    pub(super) fn finish(&mut self) -> Result<()> {
        if let Data::Directory(directory) = &mut self.data {
            directory.finish();
        }
        self.xattrs = encode_xattrs(&self.meta)?;
        Ok(())
    }

    fn head(&self) -> usize {
        INODE + self.xattrs.len()
    }

    fn size(&self) -> u64 {
        match &self.data {
            Data::Directory(directory) => directory.size() as u64,
            Data::Bytes(bytes, _) => bytes.len() as u64,
            Data::Elsewhere(content) => content.size,
            Data::Device(..) | Data::Special(_) => 0,
        }
    }

    /// How much of the data stands beside the inode: the last block if it fits there.
    fn tail(&self) -> usize {
        match &self.data {
            Data::Elsewhere(content) => 4 * chunks(content.size).1,
            Data::Directory(_) | Data::Bytes(..) => {
                let tail = self.size() as usize % BLOCK;
                if self.head() + tail <= BLOCK { tail } else { 0 }
            }
            Data::Device(..) | Data::Special(_) => 0,
        }
    }

    /// Length of what stands in the metadata area.
    pub(super) fn length(&self) -> usize {
        self.head() + self.tail()
    }

    /// How many blocks it has in the data area.
    pub(super) fn blocks(&self) -> usize {
        match &self.data {
            Data::Directory(_) | Data::Bytes(..) => (self.size() as usize - self.tail()).div_ceil(BLOCK),
            _ => 0,
        }
    }

    /// The layout bits and the union field of the inode.
    fn format(&self, place: &Place) -> (u16, u32) {
        match &self.data {
            Data::Directory(_) | Data::Bytes(..) => {
                let layout = if self.tail() > 0 { FLAT_INLINE } else { FLAT_PLAIN };
                (layout, if self.blocks() > 0 { place.block } else { NO_BLOCK })
            }
            Data::Elsewhere(content) => (CHUNK_BASED, chunks(content.size).0 - BLOCK.trailing_zeros()),
            Data::Device(Device { major, minor }, _) => {
                (FLAT_PLAIN, (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
            }
            Data::Special(_) => (FLAT_PLAIN, 0),
        }
    }

    fn mode(&self) -> u16 {
        let kind = match self.file_type() {
            file_type::DIRECTORY => 0o040_000,
            file_type::SYMLINK => 0o120_000,
            file_type::CHAR => 0o020_000,
            file_type::BLOCK => 0o060_000,
            file_type::FIFO => 0o010_000,
            file_type::SOCKET => 0o140_000,
            _ => 0o100_000,
        };
        kind | self.meta.mode
    }

    /// Writes the inode, what stands beside it, and its blocks.
    pub(super) fn write(&self, out: &mut [u8], place: &Place, parent: u64, nid: impl Fn(usize) -> u64) {
        let (layout, union) = self.format(place);
        let at = place.offset;
        let count = if self.xattrs.is_empty() { 0 } else { (self.xattrs.len() - 12) / 4 + 1 };
        put(out, at, &(EXTENDED | layout).to_le_bytes());
        put(out, at + 2, &(count as u16).to_le_bytes());
        put(out, at + 4, &self.mode().to_le_bytes());
        put(out, at + 8, &self.size().to_le_bytes());
        put(out, at + 16, &union.to_le_bytes());
        put(out, at + 20, &(place.nid() as u32).to_le_bytes());
        put(out, at + 24, &self.meta.uid.to_le_bytes());
        put(out, at + 28, &self.meta.gid.to_le_bytes());
        put(out, at + 32, &self.meta.mtime.seconds.to_le_bytes());
        put(out, at + 40, &self.meta.mtime.nanos.to_le_bytes());
        put(out, at + 44, &self.links.to_le_bytes());
        put(out, at + INODE, &self.xattrs);
        match &self.data {
            Data::Directory(directory) => {
                // The root is its own parent.
                let parent = if self.parent.is_some() { parent } else { place.nid() };
                self.write_data(out, place, &directory.bytes(place.nid(), parent, nid));
            }
            Data::Bytes(bytes, _) => self.write_data(out, place, bytes),
            Data::Elsewhere(_) => put(out, at + self.head(), &vec![0xff; self.tail()]),
            Data::Device(..) | Data::Special(_) => {}
        }
    }

    fn write_data(&self, out: &mut [u8], place: &Place, bytes: &[u8]) {
        let (blocks, tail) = bytes.split_at(bytes.len() - self.tail());
        put(out, place.block as usize * BLOCK, blocks);
        put(out, place.offset + self.head(), tail);
    }
}

/// Into how many chunks of which size (as a power of two) a file is said to be divided: one, if it can be.
fn chunks(size: u64) -> (u32, usize) {
    let bits = size.next_power_of_two().trailing_zeros().clamp(BLOCK.trailing_zeros(), CHUNK_BITS_MOST);
    (bits, size.div_ceil(1 << bits) as usize)
}

/// An attribute's name as it must be stored so that overlayfs shows it as it was.
pub(crate) fn escaped(name: Box<[u8]>) -> Box<[u8]> {
    match name.strip_prefix(b"trusted.overlay.") {
        Some(rest) => [b"trusted.overlay.overlay.", rest].concat().into(),
        None => name,
    }
}

/// The numbers that stand for the beginnings of names.
fn split_name(name: &[u8]) -> (u8, &[u8]) {
    const WHOLE: [(u8, &[u8]); 2] = [(2, b"system.posix_acl_access"), (3, b"system.posix_acl_default")];
    const PREFIXES: [(u8, &[u8]); 3] = [(1, b"user."), (4, b"trusted."), (6, b"security.")];
    if let Some((index, _)) = WHOLE.into_iter().find(|(_, whole)| *whole == name) {
        return (index, b"");
    }
    PREFIXES
        .into_iter()
        .find_map(|(index, prefix)| name.strip_prefix(prefix).map(|rest| (index, rest)))
        .unwrap_or((0, name))
}

fn encode_xattrs(meta: &Metadata) -> Result<Vec<u8>> {
    if meta.xattrs.is_empty() {
        return Ok(Vec::new());
    }
    let mut out = vec![0; 12];
    for (name, value) in &meta.xattrs {
        let (index, rest) = split_name(name);
        if index == 0 {
            // EROFS has no number for other namespaces, and Linux shows none of them for it.
            continue;
        }
        let (Ok(name_length), Ok(value_length)) = (u8::try_from(rest.len()), u16::try_from(value.len())) else {
            return Err(Error::TooLarge { what: "an extended attribute", limit: u16::MAX.into() });
        };
        out.extend_from_slice(&[name_length, index]);
        out.extend_from_slice(&value_length.to_le_bytes());
        out.extend_from_slice(rest);
        out.extend_from_slice(value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    if out.len() == 12 {
        return Ok(Vec::new());
    }
    if (out.len() - 12) / 4 + 1 > usize::from(u16::MAX) {
        return Err(Error::TooLarge { what: "the extended attributes of a file", limit: 4 * u64::from(u16::MAX) });
    }
    Ok(out)
}

/// A directory's entries, laid out in blocks: in each a table, then the names.
#[derive(Default)]
pub(super) struct Directory {
    entries: Vec<(Box<[u8]>, Target, u8)>,
    /// Which entries each block has, and how many of its bytes are used.
    blocks: Vec<(std::ops::Range<usize>, usize)>,
}

#[derive(Clone, Copy)]
enum Target {
    Itself,
    Parent,
    Child(usize),
}

impl Directory {
    pub(super) fn add(&mut self, name: &[u8], position: usize, file_type: u8) {
        self.entries.push((name.into(), Target::Child(position), file_type));
    }

    fn finish(&mut self) {
        self.entries.push(((*b".").into(), Target::Itself, file_type::DIRECTORY));
        self.entries.push(((*b"..").into(), Target::Parent, file_type::DIRECTORY));
        // The kernel searches by byte order, and some names come before ".".
        self.entries.sort_by(|left, right| left.0.cmp(&right.0));
        let (mut first, mut used) = (0, 0);
        for (place, (name, ..)) in self.entries.iter().enumerate() {
            let length = DIRENT + name.len();
            if used + length > BLOCK {
                self.blocks.push((first..place, used));
                (first, used) = (place, 0);
            }
            used += length;
        }
        self.blocks.push((first..self.entries.len(), used));
    }

    fn size(&self) -> usize {
        let last = self.blocks.last().map_or(0, |(_, used)| *used);
        self.blocks.len().saturating_sub(1) * BLOCK + last
    }

    fn bytes(&self, itself: u64, parent: u64, nid: impl Fn(usize) -> u64) -> Vec<u8> {
        let mut out = vec![0; self.size()];
        for (number, (range, _)) in self.blocks.iter().enumerate() {
            let base = number * BLOCK;
            let mut name_at = range.len() * DIRENT;
            for (place, (name, target, file_type)) in self.entries[range.clone()].iter().enumerate() {
                let nid = match target {
                    Target::Itself => itself,
                    Target::Parent => parent,
                    Target::Child(position) => nid(*position),
                };
                let at = base + place * DIRENT;
                put(&mut out, at, &nid.to_le_bytes());
                put(&mut out, at + 8, &(name_at as u16).to_le_bytes());
                out[at + 10] = *file_type;
                put(&mut out, base + name_at, name);
                name_at += name.len();
            }
        }
        out
    }
}
