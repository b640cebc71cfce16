//! Writing a tree as an EROFS image that holds names and metadata but not the bytes of files.
//!
//! Mounted as the lowest directory layer of an overlayfs whose data-only layer is the pool's `objects` (Linux 6.5 or
//! later), it is the tree: each regular file's inode carries `trusted.overlay.metacopy` and `trusted.overlay.redirect`,
//! which names the file that has its bytes. The image is a pure function of the tree, so `fsck` can check it by making
//! it again.
//!
//! **Why not the crate `composefs`** (0.9.4, looked at before this was written): its object ids are fs-verity digests by
//! type (SHA-256 or SHA-512, each bound to a kernel algorithm number), where ours are BLAKE3; it brings about 55 crates,
//! OpenSSL (a system library, so no static binary), tokio and anyhow among them; and its repository, tree and tar formats
//! come with it. What is needed of EROFS here, uncompressed metadata of four inode layouts, is the two files of this
//! module.
//!
//! Format: <https://erofs.docs.kernel.org/en/latest/ondisk/index.html>. All integers are little-endian, blocks are 4 KiB,
//! inodes are the extended ones.
//!
//! What overlayfs would read as its own is escaped so that it comes out of the mount as it went in: attributes
//! `trusted.overlay.X` are stored as `trusted.overlay.overlay.X`. A character device 0:0, which any lower layer takes for
//! a deletion, becomes an empty file with the escaped attribute form of a deletion, as overlayfs itself nests them.

mod inode;

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::object::Content;
use crate::tree::{Entry, InodeId, Kind, Tree};
pub(crate) use inode::escaped;
use inode::{Data, Inode};

const BLOCK: usize = 4096;
const SLOT: usize = 32;
const SUPERBLOCK_AT: usize = 1024;
const SUPERBLOCK: usize = 128;
const MAGIC: u32 = 0xe0f5_e1e2;
/// Times are those of content changes.
const COMPAT_MTIME: u32 = 2;
const INCOMPAT_CHUNKED_FILE: u32 = 4;

/// Files up to that long are stored in the image itself: an inode of their own would cost more.
pub(crate) const INLINE_MOST: u64 = 64;

/// Which files are stored in the image itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inline {
    /// Those of at most [`INLINE_MOST`] bytes.
    Small,
    /// Those without any: making the image reads no content.
    Empty,
}

impl Inline {
    fn holds(self, content: &Content) -> bool {
        match self {
            Self::Small => !needs_object(content),
            Self::Empty => content.size == 0,
        }
    }
}

/// Whether a file's bytes are in the `objects` directory when its tree is composed.
pub(crate) fn needs_object(content: &Content) -> bool {
    content.size > INLINE_MOST
}

/// Makes the image of a tree. `bytes` gives those of a content that is stored in it.
pub(crate) fn build(tree: &Tree, inline: Inline, bytes: impl FnMut(&Content) -> Result<Vec<u8>>) -> Result<Vec<u8>> {
    let inodes = collect(tree, inline, bytes)?;
    let layout = Layout::of(&inodes)?;
    let mut out = vec![0; layout.blocks as usize * BLOCK];
    superblock(&mut out, &inodes, &layout);
    for (inode, place) in inodes.iter().zip(&layout.places) {
        let parent = inode.parent.map_or(0, |parent| layout.places[parent].nid());
        inode.write(&mut out, place, parent, |child| layout.places[child].nid());
    }
    Ok(out)
}

/// Where an inode is.
struct Place {
    /// Offset of the inode.
    offset: usize,
    /// First block of the data that is not beside the inode.
    block: u32,
}

impl Place {
    fn nid(&self) -> u64 {
        (self.offset / SLOT) as u64
    }
}

struct Layout {
    places: Vec<Place>,
    blocks: u32,
}

impl Layout {
    fn of(inodes: &[Inode]) -> Result<Self> {
        let mut places = Vec::with_capacity(inodes.len());
        let mut at = SUPERBLOCK_AT + SUPERBLOCK;
        for inode in inodes {
            let length = inode.length();
            // What stands beside an inode must not cross a block; the format asks it of data, and it costs little.
            if length <= BLOCK && at % BLOCK + length > BLOCK {
                at = at.next_multiple_of(BLOCK);
            }
            places.push(Place { offset: at, block: 0 });
            at = (at + length).next_multiple_of(SLOT);
        }
        let mut block = at.div_ceil(BLOCK);
        for (inode, place) in inodes.iter().zip(&mut places) {
            place.block = u32::try_from(block).map_err(|_| too_large())?;
            block += inode.blocks();
        }
        Ok(Self { places, blocks: u32::try_from(block).map_err(|_| too_large())? })
    }
}

fn too_large() -> Error {
    Error::TooLarge { what: "a metadata image", limit: u32::MAX.into() }
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

fn superblock(out: &mut [u8], inodes: &[Inode], layout: &Layout) {
    let mut block = [0; SUPERBLOCK];
    put(&mut block, 0, &MAGIC.to_le_bytes());
    put(&mut block, 8, &COMPAT_MTIME.to_le_bytes());
    block[12] = BLOCK.trailing_zeros() as u8;
    // The root is the first inode, so its number is small.
    put(&mut block, 14, &(layout.places[0].nid() as u16).to_le_bytes());
    put(&mut block, 16, &(inodes.len() as u64).to_le_bytes());
    put(&mut block, 36, &layout.blocks.to_le_bytes());
    put(&mut block, 80, &INCOMPAT_CHUNKED_FILE.to_le_bytes());
    put(out, SUPERBLOCK_AT, &block);
}

/// The tree's inodes, the root first, each directory with its entries by position.
fn collect(tree: &Tree, inline: Inline, mut bytes: impl FnMut(&Content) -> Result<Vec<u8>>) -> Result<Vec<Inode>> {
    let mut inodes: Vec<Inode> = Vec::with_capacity(tree.len());
    let mut positions: HashMap<InodeId, usize> = HashMap::with_capacity(tree.len());
    // The directories on the way to where the walk is, by position; the root first.
    let mut open: Vec<usize> = Vec::new();
    let mut walk = tree.walk();
    while let Some((path, entry)) = walk.advance() {
        let depth = if path.is_empty() { 0 } else { path.iter().filter(|byte| **byte == b'/').count() + 1 };
        open.truncate(depth);
        let parent = open.last().copied();
        let name = path.iter().rposition(|byte| *byte == b'/').map_or(path, |slash| &path[slash + 1..]);
        let position = match positions.get(&entry.inode) {
            Some(position) => *position,
            None => {
                let position = inodes.len();
                inodes.push(Inode::new(&entry, parent, inline, &mut bytes)?);
                positions.insert(entry.inode, position);
                position
            }
        };
        if let Some(parent) = parent {
            add_entry(&mut inodes, parent, name, position, &entry);
        }
        if entry.node.kind == Kind::Directory {
            open.push(position);
        }
    }
    inodes.iter_mut().try_for_each(Inode::finish)?;
    Ok(inodes)
}

fn add_entry(inodes: &mut [Inode], parent: usize, name: &[u8], position: usize, entry: &Entry<'_>) {
    let whiteout = inode::is_whiteout(entry.node);
    let file_type = inodes[position].file_type();
    let parent = &mut inodes[parent];
    if let Data::Directory(directory) = &mut parent.data {
        directory.add(name, position, file_type);
    }
    if entry.node.kind == Kind::Directory {
        parent.links += 1;
    }
    if whiteout {
        parent.mark_whiteouts();
    }
}
