//! Code that outlives its machine: what one has translated, the next one of the same programs finds.
//!
//! A file holds records, one behind the other: a block's code, and the instructions that it was made of. Generated code
//! names no address of the host's, so it is the same wherever it is put; what is put in with it is the numbers of its links
//! and its counter (`generate::Seams`).
//!
//! **Invariant: a record is used only where the very bytes are that it was made of**, at the same place of a page and in the
//! same modes, by the translator that made it: another's file begins differently, and is nothing to this one. So a guest
//! that loads code gets what it would have got by translation, and one that changes code gets none of what was before.
//!
//! Who writes to a file decides what others execute. It is therefore for machines that may do so to each other: skep has one
//! for each image.
//!
//! The file is only ever added to, and the number of its bytes at its beginning says how much of it counts; who adds holds a
//! lock. So machines share one, and who is killed in the midst of it leaves nothing. What the host lost when it fell itself
//! is found by each record's checksum.

#![expect(unsafe_code, reason = "a file is mapped")]

use std::fs::File;
use std::hash::Hasher;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use rustc_hash::{FxHashMap, FxHashSet, FxHasher};
use rustix::fs::{FlockOperation, flock};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use serde::{Deserialize, Serialize};

use super::generate::Seams;
use super::specialise::{Effort, Sharing};

/// What a file begins with.
const MAGIC: u64 = 0x7472_616e_736c_0001;
/// Its beginning, and where that says how many bytes count.
const HEADER: usize = 24;
const LENGTH_AT: u64 = 16;
/// No file becomes longer.
const MOST: u64 = 192 << 20;
/// So much is written at once.
const CHUNK: usize = 1 << 20;
/// Where a processor has time.
const WORTH_WRITING: usize = 64 << 10;
/// Of records that begin alike, so many are compared with what is there.
const TRIES: usize = 8;

/// What a block is looked for by, beside its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) modes: u32,
    /// Where it begins in its page.
    pub(super) begin: u16,
    /// The four bytes there.
    pub(super) first: u32,
    pub(super) sharing: Sharing,
}

/// Bytes of a page that a block was made of: where they begin in it, and how many they are.
pub(super) type Extent = (u16, u16);

/// A block.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record<'r> {
    pub(super) effort: Effort,
    pub(super) extents: Vec<Extent>,
    /// The bytes of all of them.
    pub(super) source: &'r [u8],
    pub(super) code: &'r [u8],
    pub(super) seams: Seams,
}

/// Translations that are kept in a file.
#[derive(Debug)]
pub struct Translations {
    map: Map,
    /// The last record of each place.
    index: FxHashMap<Place, u32>,
    /// Where each is, and which of the same place was before it: numbers, and nothing is `u32::MAX`.
    records: Vec<(usize, u32)>,
    journal: Mutex<Journal>,
}

/// What is going to be added.
#[derive(Debug)]
struct Journal {
    file: File,
    added: Vec<u8>,
    /// What stands before each record that was added: code that comes and goes is added once.
    known: FxHashSet<[u8; FRAME]>,
    is_full: bool,
}

/// A beginning of a file.
#[derive(Debug)]
struct Map {
    at: Option<NonNull<u8>>,
    length: usize,
}

// SAFETY: it owns its mapping, and nobody writes to what it shows: files are only added to.
unsafe impl Send for Map {}
// SAFETY: the same.
unsafe impl Sync for Map {}

impl Map {
    fn new(file: &File, length: usize) -> Map {
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a new mapping.
        let at = unsafe { mmap(std::ptr::null_mut(), length, ProtFlags::READ, flags, file, 0) };
        Map { at: at.ok().and_then(|it| NonNull::new(it.cast())), length }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: all of it is mapped as long as this is there, and nobody changes it.
        self.at.map_or(&[], |at| unsafe { std::slice::from_raw_parts(at.as_ptr(), self.length) })
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if let Some(at) = self.at {
            // SAFETY: ours, and nobody has a reference into it any more.
            let _ = unsafe { munmap(at.as_ptr().cast(), self.length) };
        }
    }
}

/// What stands before each record: how long it is, its checksum, and its place.
const FRAME: usize = 24;

fn frame(place: Place, record: &[u8]) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    let sharing = u16::from(place.sharing == Sharing::Shared) << 15;
    frame[..4].copy_from_slice(&(record.len() as u32).to_le_bytes());
    frame[4..8].copy_from_slice(&place.modes.to_le_bytes());
    frame[8..12].copy_from_slice(&place.first.to_le_bytes());
    frame[12..14].copy_from_slice(&(place.begin | sharing).to_le_bytes());
    let sum = checksum(&frame[..16], record);
    frame[16..].copy_from_slice(&sum.to_le_bytes());
    frame
}

/// The frame's parts: the record's length, and its place.
fn framed(frame: &[u8; FRAME]) -> (usize, Place) {
    let word = |at: usize| u32::from_le_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
    let begin = word(12) as u16;
    let sharing = if begin >> 15 == 1 { Sharing::Shared } else { Sharing::Alone };
    (word(0) as usize, Place { modes: word(4), first: word(8), begin: begin & 0x7fff, sharing })
}

/// Tells what a host's fall left behind from what was written; it is not to keep anybody out.
fn checksum(frame: &[u8], record: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(frame);
    hasher.write(record);
    hasher.finish()
}

impl Translations {
    /// A number for this translator and a processor that is described by this: what another pair has made is of no use to it.
    pub fn maker(description: &[u8]) -> u64 {
        checksum(env!("TRANSLATOR").as_bytes(), description)
    }

    /// What is in a file, and what is added to it, of a processor that is described by this: its table's bytes. A file that
    /// cannot be read is as good as an empty one.
    pub fn open(file: File, description: &[u8]) -> Translations {
        let mut beginning = [0; HEADER];
        let ours = header(description);
        let mut length = 0;
        if file.read_exact_at(&mut beginning, 0).is_ok() && beginning[..LENGTH_AT as usize] == ours {
            length = length_of(&beginning);
        }
        let there = file.metadata().map_or(0, |it| it.len());
        let map = Map::new(&file, length.min(there) as usize);
        let mut known = Translations {
            map,
            index: FxHashMap::default(),
            records: Vec::new(),
            journal: Mutex::new(Journal { file, added: Vec::new(), known: FxHashSet::default(), is_full: false }),
        };
        known.find_records();
        if length == 0 {
            known.journal().begin(&ours);
        }
        known
    }

    fn journal(&self) -> std::sync::MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find_records(&mut self) {
        let bytes = self.map.bytes();
        let mut at = HEADER;
        while let Some((head, rest)) = bytes.get(at..).and_then(|it| it.split_first_chunk::<FRAME>()) {
            let (length, place) = framed(head);
            if length == 0 || length > rest.len() {
                break;
            }
            let number = self.records.len() as u32;
            let before = self.index.insert(place, number).unwrap_or(u32::MAX);
            self.records.push((at, before));
            at += FRAME + length;
        }
    }

    /// Whether there may be a block.
    pub(super) fn may_have(&self, place: Place) -> bool {
        self.index.contains_key(&place)
    }

    /// A block that was made with so much effort at least, of what `is_there`: the latest.
    pub(super) fn find(
        &self,
        place: Place,
        least: Effort,
        mut is_there: impl FnMut(&Record<'_>) -> bool,
    ) -> Option<Record<'_>> {
        let mut number = *self.index.get(&place)?;
        for _ in 0..TRIES {
            let (at, before) = *self.records.get(number as usize)?;
            let (head, rest) = self.map.bytes().get(at..)?.split_first_chunk::<FRAME>()?;
            let bytes = rest.get(..framed(head).0)?;
            if let Ok(record) = postcard::from_bytes::<Record<'_>>(bytes)
                && (least == Effort::Some || record.effort != Effort::Some)
                && is_there(&record)
                && checksum(&head[..16], bytes).to_le_bytes() == head[16..]
            {
                return Some(record);
            }
            number = before;
        }
        None
    }

    /// A block was made.
    pub(super) fn add(&self, place: Place, record: &Record<'_>) {
        let mut journal = self.journal();
        if journal.is_full {
            return;
        }
        let Ok(bytes) = postcard::to_stdvec(record) else { return };
        let frame = frame(place, &bytes);
        if !journal.known.insert(frame) {
            return;
        }
        journal.added.extend_from_slice(&frame);
        journal.added.extend_from_slice(&bytes);
        if journal.added.len() >= CHUNK {
            journal.write();
        }
    }

    /// There is time to write what was added.
    pub(crate) fn rest(&self) {
        let mut journal = self.journal();
        if journal.added.len() >= WORTH_WRITING {
            journal.write();
        }
    }
}

impl Drop for Translations {
    fn drop(&mut self) {
        self.journal().write();
    }
}

/// What a file of this translator begins with, for a processor that is described so.
fn header(description: &[u8]) -> [u8; LENGTH_AT as usize] {
    let mut header = [0; LENGTH_AT as usize];
    let words = [MAGIC, Translations::maker(description)];
    header.chunks_exact_mut(8).zip(words).for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
    header
}

fn length_of(beginning: &[u8; HEADER]) -> u64 {
    let [.., a, b, c, d, e, f, g, h] = *beginning;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

impl Journal {
    /// A file that was nothing becomes an empty one. One of another translator stays as it is: machines may have it mapped.
    fn begin(&mut self, header: &[u8]) {
        let is_done = self.locked(|file| {
            let mut beginning = [0; HEADER];
            if file.metadata()?.len() == 0 {
                beginning[..header.len()].copy_from_slice(header);
                beginning[header.len()..].copy_from_slice(&(HEADER as u64).to_le_bytes());
                file.write_all_at(&beginning, 0)?;
            }
            file.read_exact_at(&mut beginning, 0)?;
            Ok(beginning[..header.len()] == *header)
        });
        self.is_full = !is_done.unwrap_or(false);
    }

    /// Adds to the file what there is. What fails is not tried again: these are things that can be made anew.
    fn write(&mut self) {
        if self.added.is_empty() || self.is_full {
            return;
        }
        let added = std::mem::take(&mut self.added);
        let is_done = self.locked(|file| {
            let mut beginning = [0; HEADER];
            file.read_exact_at(&mut beginning, 0)?;
            let length = length_of(&beginning);
            if length + added.len() as u64 > MOST {
                return Ok(false);
            }
            file.write_all_at(&added, length)?;
            file.write_all_at(&(length + added.len() as u64).to_le_bytes(), LENGTH_AT)?;
            Ok(true)
        });
        self.is_full = !is_done.unwrap_or(false);
    }

    /// Does something to the file that nobody else does meanwhile.
    fn locked<T>(&self, change: impl FnOnce(&File) -> std::io::Result<T>) -> std::io::Result<T> {
        flock(&self.file, FlockOperation::LockExclusive)?;
        let changed = change(&self.file);
        flock(&self.file, FlockOperation::Unlock)?;
        changed
    }
}
