//! Objects: what the pool is made of, and how each gets its id.
//!
//! A chunk and an image record are named by the plain BLAKE3 of their bytes. The structures that point at other objects
//! are hashed under a context of their own kind, so that no file content can pose as a structure: **an id says which
//! bytes and which kind.**

use model::ObjectId;

use crate::codec::{Decoder, Malformed, put_varint};

/// The bytes of one file, whatever the file is called and whoever owns it. The same bytes always have the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Content {
    /// The chunk, when one holds it all, or else the list of chunks.
    pub id: ObjectId,
    /// Length in bytes.
    pub size: u64,
}

impl Content {
    /// No bytes. It needs no object.
    pub const EMPTY: Self = Self { id: EMPTY_ID, size: 0 };
}

/// BLAKE3 of nothing.
pub(crate) const EMPTY_ID: ObjectId = ObjectId::from_bytes([
    0xaf, 0x13, 0x49, 0xb9, 0xf5, 0xf9, 0xa1, 0xa6, 0xa0, 0x40, 0x4d, 0xea, 0x36, 0xdc, 0xc9, 0x49, 0x9b, 0xcb, 0x25,
    0xc9, 0xad, 0xc1, 0x12, 0xb7, 0xcc, 0x9a, 0x93, 0xca, 0xe4, 0x1f, 0x32, 0x62,
]);

/// The most bytes that one object may have. Bounds every allocation that a damaged length could ask for.
pub(crate) const MAX_OBJECT: usize = 64 << 20;

/// What an object is. The numbers are part of the format; volumes and snapshots will get the next ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// Bytes of files and blobs.
    Chunk = 1,
    /// The chunks of a content that does not fit in one.
    List = 2,
    /// The entries of a directory.
    Directory = 3,
    /// A root file system: its root directory and its hard links.
    Tree = 4,
    /// An image record, as JSON.
    Image = 5,
    /// A blob that keeps other objects alive.
    Linked = 6,
}

impl Kind {
    const ALL: [Self; 6] = [Self::Chunk, Self::List, Self::Directory, Self::Tree, Self::Image, Self::Linked];

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Whether it points at other objects or describes them: kept apart from file content, which compresses better so.
    pub(crate) fn is_metadata(self) -> bool {
        self != Self::Chunk
    }

    /// The id of an object of this kind with these bytes.
    pub(crate) fn id_of(self, bytes: &[u8]) -> ObjectId {
        let context = match self {
            Self::Chunk | Self::Image => return ObjectId::from_bytes(*blake3::hash(bytes).as_bytes()),
            Self::List => "skep store 2026 chunk list",
            Self::Directory => "skep store 2026 directory",
            Self::Tree => "skep store 2026 tree",
            Self::Linked => "skep store 2026 linked blob",
        };
        ObjectId::from_bytes(blake3::derive_key(context, bytes))
    }
}

/// One stretch of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// The bytes of a chunk.
    Chunk { id: ObjectId, size: u64 },
    /// So many zeros. They are stored nowhere, and unpacked as a hole.
    Zeros { size: u64 },
}

impl Extent {
    pub(crate) fn size(self) -> u64 {
        match self {
            Self::Chunk { size, .. } | Self::Zeros { size } => size,
        }
    }
}

/// Version byte of a chunk list. A later version may hold lists of lists.
pub(crate) const LIST_VERSION: u8 = 1;

pub(crate) fn put_extent(out: &mut Vec<u8>, extent: Extent) {
    match extent {
        Extent::Zeros { size } => put_varint(out, size << 1 | 1),
        Extent::Chunk { id, size } => {
            put_varint(out, size << 1);
            out.extend_from_slice(id.as_bytes());
        }
    }
}

/// Decodes a chunk list that must describe `size` bytes.
pub(crate) fn decode_list(bytes: &[u8], size: u64) -> Result<Vec<Extent>, Malformed> {
    let extents = decode_extents(bytes)?;
    let total = extents.iter().try_fold(0u64, |total, extent| total.checked_add(extent.size()));
    if total == Some(size) { Ok(extents) } else { Err("a chunk list is not as long as its content") }
}

/// Decodes a chunk list of whatever length.
pub(crate) fn decode_extents(bytes: &[u8]) -> Result<Vec<Extent>, Malformed> {
    let mut decoder = Decoder::new(bytes);
    if decoder.byte()? != LIST_VERSION {
        return Err("a chunk list of an unknown version");
    }
    let mut extents = Vec::with_capacity(decoder.remaining() / 34);
    while !decoder.is_empty() {
        let head = decoder.varint()?;
        let size = head >> 1;
        if size == 0 {
            return Err("an extent of no bytes");
        }
        extents.push(match head & 1 {
            1 => Extent::Zeros { size },
            _ => Extent::Chunk { id: decoder.id()?, size },
        });
    }
    Ok(extents)
}

/// The first chunk of a list; none when it is all zeros.
pub(crate) fn first_chunk(bytes: &[u8]) -> Result<Option<ObjectId>, Malformed> {
    let mut decoder = Decoder::new(bytes);
    decoder.byte()?;
    while !decoder.is_empty() {
        if decoder.varint()? & 1 == 0 {
            return decoder.id().map(Some);
        }
    }
    Ok(None)
}

/// Version byte of a linked blob.
const LINKED_VERSION: u8 = 1;

/// A blob and the objects that live as long as it does.
pub(crate) struct Linked {
    pub(crate) payload: Content,
    pub(crate) links: Vec<ObjectId>,
}

impl Linked {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(48 + 32 * self.links.len());
        out.push(LINKED_VERSION);
        put_varint(&mut out, self.payload.size);
        out.extend_from_slice(self.payload.id.as_bytes());
        for link in &self.links {
            out.extend_from_slice(link.as_bytes());
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut decoder = Decoder::new(bytes);
        if decoder.byte()? != LINKED_VERSION {
            return Err("a linked blob of an unknown version");
        }
        let size = decoder.varint()?;
        let payload = Content { id: decoder.id()?, size };
        let mut links = Vec::with_capacity(decoder.remaining() / 32);
        while !decoder.is_empty() {
            links.push(decoder.id()?);
        }
        Ok(Self { payload, links })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_empty_content_has_the_id_of_no_bytes() {
        assert_eq!(Kind::Chunk.id_of(b""), Content::EMPTY.id);
    }

    #[test]
    fn no_two_structures_share_an_id() {
        let mut ids: Vec<_> = Kind::ALL.iter().filter(|it| **it != Kind::Image).map(|it| it.id_of(b"x")).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), Kind::ALL.len() - 1);
    }

    proptest! {
        #[test]
        fn decoders_survive_anything(bytes in prop::collection::vec(any::<u8>(), 0..200), size: u64) {
            let _ = decode_list(&bytes, size);
            let _ = Linked::decode(&bytes);
        }
    }
}
