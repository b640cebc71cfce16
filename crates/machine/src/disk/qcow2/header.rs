//! The header of a qcow2 file: what it is, and where its tables are.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

use super::broken;
use crate::disk::Access;

const MAGIC: &[u8; 4] = b"QFI\xfb";
/// Bytes of the first table, and of the table of counts, at most.
const MOST_TABLE: u64 = 32 << 20;

/// Features without which a file is not understood.
const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const OTHER_COMPRESSION: u64 = 1 << 3;

/// Where the features are that are lost when somebody writes who does not know them.
const CLEARED: u64 = 88;

/// What a header says.
pub(super) struct Header {
    version: u32,
    pub(super) bits: u32,
    /// Bytes of the disk.
    pub(super) length: u64,
    pub(super) first_at: u64,
    pub(super) first_size: u64,
    pub(super) counts_at: u64,
    pub(super) counts_clusters: u64,
    below: u64,
    encryption: u32,
    features: u64,
    count_order: u32,
}

impl Header {
    pub(super) fn read(file: &File) -> io::Result<Header> {
        let mut bytes = [0; 104];
        file.read_exact_at(&mut bytes[..72], 0).map_err(|_| broken("it is shorter than its header"))?;
        if !bytes.starts_with(MAGIC) {
            return Err(io::Error::new(ErrorKind::InvalidData, "it is no qcow2 file"));
        }
        let version = word(&bytes, 4);
        if version >= 3 {
            file.read_exact_at(&mut bytes, 0).map_err(|_| broken("it is shorter than its header"))?;
        }
        Ok(Header {
            version,
            bits: word(&bytes, 20),
            length: long(&bytes, 24),
            first_at: long(&bytes, 40),
            first_size: word(&bytes, 36).into(),
            counts_at: long(&bytes, 48),
            counts_clusters: word(&bytes, 56).into(),
            below: long(&bytes, 8),
            encryption: word(&bytes, 32),
            features: if version >= 3 { long(&bytes, 72) } else { 0 },
            count_order: if version >= 3 { word(&bytes, 96) } else { 4 },
        })
    }

    /// Whether we can do what the file asks for.
    pub(super) fn must_be_served(&self, access: Access) -> io::Result<()> {
        let refuse = |why: &str| Err(io::Error::new(ErrorKind::Unsupported, format!("the qcow2 file {why}")));
        if !(2..=3).contains(&self.version) {
            return refuse("is of another version than 2 and 3");
        }
        if self.below != 0 {
            return refuse("lies over another file: put both into one with 'qemu-img convert'");
        }
        if self.encryption != 0 {
            return refuse("is encrypted");
        }
        if self.features & OTHER_COMPRESSION != 0 {
            return refuse("is compressed with something other than deflate");
        }
        if self.features & !(DIRTY | CORRUPT) != 0 {
            return refuse("has features that are not known here");
        }
        if self.features != 0 && access == Access::ReadWrite {
            return refuse("was not closed cleanly: repair it with 'qemu-img check -r all'");
        }
        if self.count_order != 4 {
            return refuse("counts with other than 16 bits");
        }
        self.must_be_sound()
    }

    fn must_be_sound(&self) -> io::Result<()> {
        if !(9..=21).contains(&self.bits) {
            return Err(broken("its clusters are of no size"));
        }
        let per_table = 1u128 << (2 * self.bits - 3);
        let needed = u128::from(self.length).div_ceil(per_table);
        if needed > self.first_size.into() || self.first_size * 8 > MOST_TABLE {
            return Err(broken("its first table is not of its size"));
        }
        if self.counts_clusters == 0 || self.counts_clusters << self.bits > MOST_TABLE {
            return Err(broken("its table of counts is not of its size"));
        }
        Ok(())
    }

    pub(super) fn clear_features(&self, file: &File) -> io::Result<()> {
        if self.version >= 3 { file.write_all_at(&[0; 8], CLEARED) } else { Ok(()) }
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) << 32 | u64::from(word(bytes, at + 4))
}
