//! How much of what an archive or a registry sends is taken in before it counts as an attack.

use model::ByteSize;

/// Bounds on input that somebody else made. The defaults pass every image met in practice with room to spare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Layers of an image: 512.
    pub layers: usize,
    /// Entries of a layer, and of a whole image: 4 million.
    pub entries: u64,
    /// Bytes of an image's files with holes filled: 256 GiB.
    pub unpacked: ByteSize,
    /// How many bytes one compressed byte may become, counted once a layer has passed 256 MiB: 400. What gzip reaches on
    /// zeros is 1030; file systems seen in practice stay below 50.
    pub ratio: u64,
    /// Bytes of a path: 4096, the kernel's limit.
    pub path: usize,
    /// Bytes of names and attributes that describe a single tar entry: 1 MiB.
    pub entry_metadata: ByteSize,
    /// Bytes after the end of a tar: 16 MiB.
    pub trailing: ByteSize,
    /// Bytes of a JSON document (index, manifest, configuration): 4 MiB, what registries allow.
    pub document: ByteSize,
    /// Bytes of a layer's table of contents: 256 MiB, about a million files.
    pub table: ByteSize,
    /// How deep indexes may be nested in indexes: 4.
    pub nesting: usize,
}

impl Limits {
    /// Size of a layer from which its compression ratio is looked at.
    pub(crate) const RATIO_FLOOR: u64 = 256 << 20;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            layers: 512,
            entries: 4_000_000,
            unpacked: ByteSize::mib(256 << 10),
            ratio: 400,
            path: 4096,
            entry_metadata: ByteSize::mib(1),
            trailing: ByteSize::mib(16),
            document: ByteSize::mib(4),
            table: ByteSize::mib(256),
            nesting: 4,
        }
    }
}
