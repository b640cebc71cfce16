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
//! Who finds one block of a page takes all that he finds of it (`translate/reuse.rs`): records say which were made of one
//! page. That is a hint and no more, since each is compared with what is there.
//!
//! Who writes to a file decides what others execute. It is therefore for machines that may do so to each other: skep has one
//! for each image. What the host lost when it fell itself is found by each record's checksum.

#![expect(unsafe_code, reason = "a file is mapped")]

mod journal;
mod record;

use std::fs::File;
use std::hash::Hasher;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustc_hash::{FxHashMap, FxHasher};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use self::journal::{HEADER, Journal, PIECE, Title};
use self::record::{FRAME, Frame, Framed};
use super::specialise::{Effort, Sharing};

pub(super) use self::record::{Extent, Made, PRINTED, PageName, Place, Record, print};

/// What a file begins with.
const MAGIC: u64 = 0x7472_616e_736c_0002;
/// Of records that begin alike, so many are compared with what is there, and so many of a page.
const TRIES: usize = 16;
const MOST_OF_PAGE: usize = 1024;
/// No record.
const NONE: u32 = u32::MAX;

/// Translations that are kept in a file.
#[derive(Debug)]
pub struct Translations {
    map: Map,
    /// The last record of each place, and of each page.
    places: FxHashMap<Place, u32>,
    pages: FxHashMap<Group, u32>,
    records: Vec<Known>,
    journal: Mutex<Journal>,
}

/// Records that can be used together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Group {
    page: PageName,
    modes: u32,
    sharing: Sharing,
}

/// Where a record's frame and bytes are, and which were before it: numbers of records, or `NONE`.
#[derive(Debug, Clone, Copy)]
struct Known {
    frame: u32,
    bytes: u32,
    /// Of the same place.
    before: u32,
    /// Of the same page and modes.
    beside: u32,
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

    /// The frames of the piece there, and where the first of them is.
    fn piece(&self, at: usize) -> Option<(&[Frame], usize)> {
        let (count, rest) = self.bytes().get(at..)?.split_first_chunk::<PIECE>()?;
        let count = u32::from_le_bytes(*count) as usize;
        let frames = rest.get(..count.checked_mul(FRAME)?).filter(|it| !it.is_empty())?;
        Some((frames.as_chunks().0, at + PIECE))
    }

    /// A record's frame and bytes.
    fn framed(&self, known: &Known) -> Option<(&Frame, Framed, &[u8])> {
        let frame = self.bytes().get(known.frame as usize..)?.first_chunk::<FRAME>()?;
        let framed = Framed::of(frame);
        Some((frame, framed, self.bytes().get(known.bytes as usize..)?.get(..framed.length)?))
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

impl Translations {
    /// A number for this translator and a processor that is described by this: what another pair has made is of no use to it.
    pub fn maker(description: &[u8]) -> u64 {
        let mut hasher = FxHasher::default();
        hasher.write(env!("TRANSLATOR").as_bytes());
        hasher.write(description);
        hasher.finish()
    }

    /// What is in a file, and what is added to it, of a processor that is described by this: its table's bytes. A file that
    /// cannot be read is as good as an empty one.
    pub fn open(file: File, description: &[u8]) -> Translations {
        let title = title(description);
        let length = journal::length(&file, &title);
        let there = file.metadata().map_or(0, |it| it.len());
        let map = Map::new(&file, length.unwrap_or(0).min(there) as usize);
        let mut journal = Journal::new(file);
        if length.is_none() {
            journal.begin(&title);
        }
        let (places, pages) = (FxHashMap::default(), FxHashMap::default());
        let mut known = Translations { map, places, pages, records: Vec::new(), journal: Mutex::new(journal) };
        known.find_records();
        known
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find_records(&mut self) {
        /// About as long as a record is.
        const USUAL: usize = 700;
        let usual = self.map.length / USUAL;
        self.records.reserve(usual);
        self.places.reserve(usual);
        let mut at = HEADER;
        while let Some((frames, first)) = self.map.piece(at) {
            at = first + frames.len() * FRAME;
            for (number, frame) in frames.iter().enumerate() {
                let Framed { length, place, page } = Framed::of(frame);
                // What a host's fall left behind.
                if length == 0 || length > self.map.length - at {
                    return;
                }
                let group = Group { page, modes: place.modes, sharing: place.sharing };
                let own = self.records.len() as u32;
                let before = self.places.insert(place, own).unwrap_or(NONE);
                let beside = self.pages.insert(group, own).unwrap_or(NONE);
                self.records.push(Known { frame: (first + number * FRAME) as u32, bytes: at as u32, before, beside });
                at += length;
            }
        }
    }

    /// Whether there may be a block.
    pub(super) fn may_have(&self, place: Place) -> bool {
        self.places.contains_key(&place)
    }

    /// A block that was made with so much effort at least, of what `is_there`, and its page's name: the latest.
    pub(super) fn find(
        &self,
        place: Place,
        least: Effort,
        mut is_there: impl FnMut(&Record<'_>) -> bool,
    ) -> Option<(Record<'_>, PageName)> {
        let all = self.chain(self.places.get(&place).copied(), |it| it.before).take(TRIES);
        let mut all = all.filter_map(|it| self.map.framed(it));
        all.find_map(|(frame, framed, bytes)| {
            let record = Record::read(frame, bytes)?;
            let is_enough = least == Effort::Some || record.effort != Effort::Some;
            let is_it = is_enough && is_there(&record) && record.is_whole();
            is_it.then_some((record, framed.page))
        })
    }

    /// Blocks of a page, the latest first, and where they begin in it. Whether they are whole is to be asked of those that
    /// are going to be used.
    pub(super) fn of_page(
        &self,
        page: PageName,
        modes: u32,
        sharing: Sharing,
    ) -> impl Iterator<Item = (u16, Record<'_>)> {
        let last = self.pages.get(&Group { page, modes, sharing }).copied();
        let all = self.chain(last, |it| it.beside).take(MOST_OF_PAGE).filter_map(|it| self.map.framed(it));
        all.filter_map(|(frame, framed, bytes)| Some((framed.place.begin, Record::read(frame, bytes)?)))
    }

    /// Records, from one on to those that were before.
    fn chain(&self, first: Option<u32>, before: impl Fn(&Known) -> u32) -> impl Iterator<Item = &Known> {
        let get = |number: u32| self.records.get(number as usize);
        std::iter::successors(first.and_then(get), move |it| get(before(it)))
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.records.len()
    }

    /// A block was made.
    pub(super) fn add(&self, place: Place, page: PageName, made: &Made<'_>) {
        if let Some((frame, bytes)) = record::write(place, page, made) {
            self.journal().add(record::identity(&frame, &bytes), frame, &bytes);
        }
    }

    /// There is time to write what was added.
    pub(crate) fn rest(&self) {
        self.journal().rest();
    }
}

impl Drop for Translations {
    fn drop(&mut self) {
        self.journal().write();
    }
}

/// What a file of this translator begins with, for a processor that is described so.
fn title(description: &[u8]) -> Title {
    let mut title = Title::default();
    let words = [MAGIC, Translations::maker(description)];
    title.chunks_exact_mut(8).zip(words).for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
    title
}
