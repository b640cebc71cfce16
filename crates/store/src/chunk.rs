//! Cutting a file's bytes into chunks.
//!
//! **Where the cuts are is a function of the bytes alone**, so the same bytes always give the same [`Content`]:
//! - a file of at most 64 KiB is one chunk;
//! - in a longer one, each 64 KiB-aligned block (the last may be shorter) that holds only zeros is not stored: a sparse
//!   file costs nothing, whether its zeros came as holes or as data;
//! - each stretch between such blocks is cut by FastCDC (Xia et al., "The Design of Fast Content-Defined Chunking for
//!   Data Deduplication Based Storage Systems", IEEE TPDS 2020) with 16, 64 and 256 KiB.

mod gear;

use std::fs::File;
use std::io::{ErrorKind, Read};

use model::ObjectId;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use self::gear::Gear;
use crate::error::{Error, Result};
use crate::object::{Content, Extent, Kind, LIST_VERSION, MAX_OBJECT, put_extent};

const MIN: usize = 16 << 10;
const AVERAGE: usize = 64 << 10;
/// The largest chunk.
pub(crate) const MAX_CHUNK: usize = 256 << 10;
/// The unit in which zeros are looked for, and the largest file that is always one chunk.
const BLOCK: usize = 64 << 10;
/// Small enough to stay in a processor's inner caches between being read, cut and hashed.
const BUFFER: usize = 512 << 10;

/// Where finished chunks and lists go.
pub(crate) trait Sink {
    /// Takes an object and gives its id.
    fn put(&mut self, kind: Kind, bytes: &[u8]) -> Result<ObjectId>;
}

/// A sink that only names what it is given: tells which content some bytes are.
pub(crate) struct HashOnly;

impl Sink for HashOnly {
    fn put(&mut self, kind: Kind, bytes: &[u8]) -> Result<ObjectId> {
        Ok(kind.id_of(bytes))
    }
}

/// Cuts one content after another. Its buffer is reused: a file costs no allocation.
pub(crate) struct Chunker {
    gear: Gear,
    buffer: Box<[u8]>,
    /// Bytes not yet cut are `buffer[start..end]`; those before `scanned` belong to the stretch being cut.
    start: usize,
    scanned: usize,
    end: usize,
    /// Length of the run of zero blocks just before `start`, not yet in the list.
    zeros: u64,
    /// Length so far, with what is in the buffer.
    total: u64,
    list: Vec<u8>,
    /// How many extents the list has, and the first.
    extents: u64,
    first: Option<Extent>,
}

impl Chunker {
    pub(crate) fn new() -> Self {
        Self {
            gear: Gear::new(),
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            scanned: 0,
            end: 0,
            zeros: 0,
            total: 0,
            list: vec![LIST_VERSION],
            extents: 0,
            first: None,
        }
    }

    /// Adds everything that `source` gives.
    pub(crate) fn read(&mut self, sink: &mut impl Sink, source: &mut impl Read) -> Result<()> {
        self.read_sized(sink, source, u64::MAX)
    }

    /// Adds everything that `source` gives, which is said to be `size` bytes. A read that gives less than it was asked
    /// for just then is taken for the end, which saves the read that gives nothing.
    pub(crate) fn read_sized(&mut self, sink: &mut impl Sink, source: &mut impl Read, size: u64) -> Result<()> {
        loop {
            self.make_room(sink)?;
            let room = &mut self.buffer[self.end..];
            let asked = room.len();
            match source.read(room) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    self.grown(count)?;
                    if self.total == size && count < asked {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Source(error)),
            }
        }
    }

    /// Adds the first `size` bytes of a file, reading its data and only counting its holes.
    pub(crate) fn read_sparse(&mut self, sink: &mut impl Sink, mut file: &File, size: u64) -> Result<()> {
        let source = |errno: Errno| Error::Source(errno.into());
        let mut at = 0;
        while at < size {
            let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
                Ok(data) => data.min(size),
                Err(Errno::NXIO) => size,
                Err(errno) => return Err(source(errno)),
            };
            let hole = match data < size {
                true => rustix::fs::seek(file, SeekFrom::Hole(data)).map_err(source)?.min(size),
                false => size,
            };
            self.zeros(sink, data.saturating_sub(at))?;
            rustix::fs::seek(file, SeekFrom::Start(data)).map_err(source)?;
            self.read(sink, &mut (&mut file).take(hole.saturating_sub(data)))?;
            at = hole.max(at + 1);
        }
        Ok(())
    }

    /// Adds bytes.
    pub(crate) fn data(&mut self, sink: &mut impl Sink, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            self.make_room(sink)?;
            let count = bytes.len().min(BUFFER - self.end);
            let (now, later) = bytes.split_at(count);
            self.buffer[self.end..self.end + count].copy_from_slice(now);
            bytes = later;
            self.grown(count)?;
        }
        Ok(())
    }

    /// Adds zeros without looking at each.
    pub(crate) fn zeros(&mut self, sink: &mut impl Sink, mut count: u64) -> Result<()> {
        const BLOCK64: u64 = BLOCK as u64;
        let to_block = (BLOCK64 - self.total % BLOCK64) % BLOCK64;
        count -= self.zero_data(sink, to_block.min(count))?;
        let whole = count / BLOCK64 * BLOCK64;
        // A file of one block is one chunk, even of zeros.
        if self.total + whole > BLOCK64 {
            self.total = self.total.checked_add(whole).ok_or(too_long())?;
            self.scan(sink)?;
            if whole > 0 {
                self.end_stretch(sink)?;
                self.zeros += whole;
            }
            count -= whole;
        }
        self.zero_data(sink, count)?;
        Ok(())
    }

    fn zero_data(&mut self, sink: &mut impl Sink, count: u64) -> Result<u64> {
        let zeros = [0; 4096];
        let mut left = count;
        while left > 0 {
            let part = left.min(zeros.len() as u64) as usize;
            self.data(sink, &zeros[..part])?;
            left -= part as u64;
        }
        Ok(count)
    }

    /// Ends the content and gets ready for the next.
    pub(crate) fn finish(&mut self, sink: &mut impl Sink) -> Result<Content> {
        let size = self.total;
        if size == 0 {
            return Ok(Content::EMPTY);
        }
        let id = if size <= BLOCK as u64 {
            sink.put(Kind::Chunk, &self.buffer[self.start..self.end])?
        } else {
            self.scan(sink)?;
            if self.scanned < self.end {
                self.scan_block(sink, self.end - self.scanned)?;
            }
            self.end_stretch(sink)?;
            self.end_zeros()?;
            match (self.extents, self.first) {
                (1, Some(Extent::Chunk { id, .. })) => id,
                _ => sink.put(Kind::List, &self.list)?,
            }
        };
        self.abandon();
        Ok(Content { id, size })
    }

    /// Forgets an unfinished content.
    pub(crate) fn abandon(&mut self) {
        (self.start, self.scanned, self.end) = (0, 0, 0);
        (self.zeros, self.total, self.extents, self.first) = (0, 0, 0, None);
        self.list.truncate(1);
    }

    fn make_room(&mut self, sink: &mut impl Sink) -> Result<()> {
        if self.end == BUFFER {
            self.scan(sink)?;
            // After a scan less than a chunk and a block are left.
            self.buffer.copy_within(self.start..self.end, 0);
            self.scanned -= self.start;
            self.end -= self.start;
            self.start = 0;
        }
        Ok(())
    }

    fn grown(&mut self, count: usize) -> Result<()> {
        self.end += count;
        self.total = self.total.checked_add(count as u64).ok_or(too_long())?;
        Ok(())
    }

    /// Looks at each whole block, and cuts what can be cut.
    fn scan(&mut self, sink: &mut impl Sink) -> Result<()> {
        while self.total > BLOCK as u64 && self.end - self.scanned >= BLOCK {
            self.scan_block(sink, BLOCK)?;
            while self.scanned - self.start >= MAX_CHUNK {
                self.cut_one(sink)?;
            }
        }
        Ok(())
    }

    fn scan_block(&mut self, sink: &mut impl Sink, length: usize) -> Result<()> {
        let block = &self.buffer[self.scanned..self.scanned + length];
        if is_zero(block) {
            self.end_stretch(sink)?;
            self.zeros += length as u64;
            self.start += length;
        } else {
            self.end_zeros()?;
        }
        self.scanned += length;
        Ok(())
    }

    fn cut_one(&mut self, sink: &mut impl Sink) -> Result<()> {
        let stretch = &self.buffer[self.start..self.scanned];
        let length = self.gear.cut(stretch);
        let id = sink.put(Kind::Chunk, &stretch[..length])?;
        self.start += length;
        self.push(Extent::Chunk { id, size: length as u64 })
    }

    fn end_stretch(&mut self, sink: &mut impl Sink) -> Result<()> {
        while self.start < self.scanned {
            self.cut_one(sink)?;
        }
        Ok(())
    }

    fn end_zeros(&mut self) -> Result<()> {
        match std::mem::take(&mut self.zeros) {
            0 => Ok(()),
            size => self.push(Extent::Zeros { size }),
        }
    }

    fn push(&mut self, extent: Extent) -> Result<()> {
        self.first.get_or_insert(extent);
        self.extents += 1;
        put_extent(&mut self.list, extent);
        if self.list.len() > MAX_OBJECT { Err(too_long()) } else { Ok(()) }
    }
}

fn too_long() -> Error {
    Error::TooLarge { what: "a file's list of chunks", limit: MAX_OBJECT as u64 }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(64).all(|line| line.iter().fold(0, |seen, byte| seen | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::decode_list;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[derive(Default)]
    struct Memory(HashMap<ObjectId, Vec<u8>>);

    impl Sink for Memory {
        fn put(&mut self, kind: Kind, bytes: &[u8]) -> Result<ObjectId> {
            let id = kind.id_of(bytes);
            self.0.insert(id, bytes.to_vec());
            Ok(id)
        }
    }

    impl Memory {
        fn get(&self, content: Content) -> Vec<u8> {
            let Some(bytes) = self.0.get(&content.id) else { return Vec::new() };
            if Kind::Chunk.id_of(bytes) == content.id {
                return bytes.clone();
            }
            let mut out = Vec::new();
            for extent in decode_list(bytes, content.size).unwrap() {
                match extent {
                    Extent::Zeros { size } => out.resize(out.len() + size as usize, 0),
                    Extent::Chunk { id, size } => {
                        assert!(size <= MAX_CHUNK as u64);
                        out.extend_from_slice(&self.0[&id]);
                    }
                }
            }
            out
        }
    }

    /// Runs of pseudo-random bytes and of zeros.
    fn make(runs: &[(bool, usize)], seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let mut out = Vec::new();
        for &(zero, length) in runs {
            for _ in 0..length {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                out.push(if zero { 0 } else { (state >> 56) as u8 });
            }
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn content_is_a_function_of_the_bytes_and_gives_them_back(
            runs in prop::collection::vec((any::<bool>(), 0usize..300_000), 0..6),
            pieces in prop::collection::vec(1usize..100_000, 1..8),
            seed: u64,
        ) {
            let bytes = make(&runs, seed);
            let mut memory = Memory::default();
            let mut chunker = Chunker::new();
            chunker.read(&mut memory, &mut &bytes[..]).unwrap();
            let whole = chunker.finish(&mut memory).unwrap();
            prop_assert!(memory.get(whole) == bytes);

            // The same in pieces, zeros told instead of shown.
            let (mut at, mut next) = (0, 0);
            while at < bytes.len() {
                let end = (at + pieces[next % pieces.len()]).min(bytes.len());
                next += 1;
                let piece = &bytes[at..end];
                if piece.iter().all(|byte| *byte == 0) {
                    chunker.zeros(&mut memory, piece.len() as u64).unwrap();
                } else {
                    chunker.data(&mut memory, piece).unwrap();
                }
                at = end;
            }
            prop_assert_eq!(chunker.finish(&mut HashOnly).unwrap(), whole);
        }
    }

    #[test]
    fn a_terabyte_of_zeros_costs_one_list() {
        let mut memory = Memory::default();
        let mut chunker = Chunker::new();
        chunker.zeros(&mut memory, 1 << 40).unwrap();
        chunker.data(&mut memory, b"end").unwrap();
        let content = chunker.finish(&mut memory).unwrap();
        assert_eq!((content.size, memory.0.len()), ((1 << 40) + 3, 2));
    }

    #[test]
    fn a_small_file_is_its_own_chunk() {
        for length in [1, 100, BLOCK] {
            let mut chunker = Chunker::new();
            chunker.zeros(&mut HashOnly, length as u64).unwrap();
            let content = chunker.finish(&mut HashOnly).unwrap();
            assert_eq!(content.id, Kind::Chunk.id_of(&vec![0; length]));
        }
    }
}
