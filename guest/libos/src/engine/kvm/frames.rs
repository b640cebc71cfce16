//! Physical memory by the page: which is in use, and which was used and is to be zeroed before it is used again.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use abi::call;
use abi::layout::PAGE;
use abi::layout::kvm::{MEMORY_STEP, MOST_MEMORY};
use abi::post::MOST_RELEASED;

use super::tables::BORROWED;
use super::{NO_FRAMES, address_of, port, tables};
use crate::errno::Result;
use crate::sync::Local;
use crate::{number, string};

const MOST: usize = MOST_MEMORY as usize / PAGE;
const WORDS: usize = MOST / 64;
const LARGE_FRAMES: usize = 512;

/// The account.
pub struct Frames {
    /// A bit a frame: it is in use.
    used: [u64; WORDS],
    /// A bit a frame: it is not zero.
    dirty: [u64; WORDS],
    /// How many there are.
    count: usize,
    /// Where the search for a free one begins.
    next: usize,
}

/// What of files is mapped, kept apart from the frames: this account needs memory itself.
struct Borrowings {
    /// How many pages are mapped of each part, by its physical address.
    pages: BTreeMap<u64, usize>,
    /// Those of which nothing is mapped any more, for the tender.
    unused: Vec<u64>,
    /// The latest that was only to be read.
    latest: Option<Part>,
}

/// A part of a file that is mapped. Loaders map a library as a whole first and then its segments over it, so what they ask
/// for next is there already.
#[derive(Clone, Copy)]
struct Part {
    descriptor: i32,
    offset: u64,
    physical: u64,
    /// As much as is of the file: in bytes of whole pages.
    length: u64,
    /// Its code is to be asked for by itself.
    has_copy: bool,
}

static BORROWINGS: Local<Borrowings> =
    Local::new(Borrowings { pages: BTreeMap::new(), unused: Vec::new(), latest: None });

pub static FRAMES: Local<Frames> = Local::new(Frames { used: [0; WORDS], dirty: [0; WORDS], count: 0, next: 0 });

impl Frames {
    pub fn begin(&mut self, free: u64, length: u64) {
        self.count = length as usize / PAGE;
        let first = (free as usize).div_ceil(PAGE);
        for frame in 0..first {
            self.used[frame / 64] |= 1 << (frame % 64);
        }
        self.next = first;
    }

    fn is_used(&self, frame: usize) -> bool {
        self.used[frame / 64] >> (frame % 64) & 1 != 0
    }

    /// The first free frame from there on.
    fn free_from(&self, from: usize) -> Option<usize> {
        let mut frame = from;
        while frame < self.count {
            let word = !self.used[frame / 64] >> (frame % 64);
            if word != 0 {
                let found = frame + word.trailing_zeros() as usize;
                return (found < self.count).then_some(found);
            }
            frame = (frame / 64 + 1) * 64;
        }
        None
    }

    /// How many frames in a row are free from there, up to so many.
    fn run(&self, from: usize, most: usize) -> usize {
        (from..self.count.min(from + most)).take_while(|it| !self.is_used(*it)).count()
    }

    /// Takes a run of frames: as long as there is one of up to `wanted`, a whole large page if that is asked for.
    fn take(&mut self, wanted: usize, large: Size) -> Option<(usize, usize)> {
        let found = match large {
            Size::Large => self.find_large(),
            Size::Small => {
                let first = self.free_from(self.next).or_else(|| self.free_from(0));
                first.map(|it| (it, self.run(it, wanted)))
            }
        };
        let (first, count) = found?;
        for frame in first..first + count {
            self.used[frame / 64] |= 1 << (frame % 64);
        }
        if large == Size::Small {
            self.next = first + count;
        }
        Some((first, count))
    }

    fn find_large(&self) -> Option<(usize, usize)> {
        (0..self.count / LARGE_FRAMES)
            .map(|it| it * LARGE_FRAMES)
            .find(|first| self.used[first / 64..(first + LARGE_FRAMES) / 64].iter().all(|it| *it == 0))
            .map(|first| (first, LARGE_FRAMES))
    }

    /// Whether any of those frames was used before; they count as clean afterwards.
    fn wash(&mut self, first: usize, count: usize) -> bool {
        let mut any = false;
        for frame in first..first + count {
            let bit = 1 << (frame % 64);
            any |= self.dirty[frame / 64] & bit != 0;
            self.dirty[frame / 64] &= !bit;
        }
        any
    }

    fn free(&mut self, physical: u64, length: usize) {
        for frame in physical as usize / PAGE..(physical as usize + length) / PAGE {
            self.used[frame / 64] &= !(1 << (frame % 64));
            self.dirty[frame / 64] |= 1 << (frame % 64);
        }
        self.next = self.next.min(physical as usize / PAGE);
    }
}

/// Frames that are not mapped any more; or pages of a file, if that bit is given.
pub fn give_back(physical: u64, length: usize, borrowed: u64) {
    if borrowed & BORROWED == 0 {
        return FRAMES.get().free(physical, length);
    }
    let mut borrowings = BORROWINGS.get();
    let Some((&begin, pages)) = borrowings.pages.range_mut(..=physical).next_back() else { return };
    *pages = pages.saturating_sub(length / PAGE);
    if *pages == 0 {
        borrowings.pages.remove(&begin);
        borrowings.unused.push(begin);
        if borrowings.latest.is_some_and(|it| it.physical == begin) {
            borrowings.latest = None;
        }
    }
}

/// A part of a file is mapped there to be read, as long as the file is: `word` is what the tender says of that.
pub fn note_latest(physical: u64, length: usize, word: u64, descriptor: i32, offset: u64) {
    // That is another file each time.
    if descriptor == abi::library::FILE {
        return;
    }
    let has_copy = word & abi::patched::HAS != 0;
    let there = word & !abi::patched::HAS;
    let length = there.min(length as u64).next_multiple_of(PAGE as u64);
    BORROWINGS.get().latest = Some(Part { descriptor, offset, physical, length, has_copy });
}

/// Whether the file is the latest, so that it is known that there is no copy of its code.
pub fn is_known_without_copy(descriptor: i32) -> bool {
    BORROWINGS.get().latest.is_some_and(|it| it.descriptor == descriptor && !it.has_copy)
}

/// The same part of the file once more, if it is mapped to be read already.
pub fn borrow_again(descriptor: i32, offset: u64, length: usize) -> Option<u64> {
    let mut borrowings = BORROWINGS.get();
    let latest = borrowings.latest.filter(|it| it.descriptor == descriptor)?;
    let inside = offset.checked_sub(latest.offset)?;
    let pages = length.div_ceil(PAGE);
    if inside + (pages * PAGE) as u64 > latest.length {
        return None;
    }
    *borrowings.pages.get_mut(&latest.physical)? += pages;
    Some(latest.physical + inside)
}

/// The tender mapped a part of a file there.
pub fn borrowed(physical: u64, length: usize) {
    BORROWINGS.get().pages.insert(physical, length.div_ceil(PAGE));
}

/// A call is about to be made of the tender: after most it is not known any more which file is at a number, or how long.
pub fn before(number: u32, [descriptor, ..]: &[u64; 6]) {
    match number {
        // Our own, which may also come of memory that is taken in here.
        call::BOOT.. if number != call::EXECUTED => {}
        number::OPENAT | number::FACCESSAT2 | number::NEWFSTATAT | number::FSTAT | number::READ | number::PREAD => {}
        number::CLOSE => forget(*descriptor),
        _ => forget_all(),
    }
}

/// What is at that number is about to change.
pub fn forget(descriptor: u64) {
    BORROWINGS.get().latest.take_if(|it| it.descriptor as u64 == descriptor);
}

/// The same of all.
pub fn forget_all() {
    BORROWINGS.get().latest = None;
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Size {
    Small,
    Large,
}

/// Zeroed frames in a row for a mapping of up to that length at that address: where, and how many bytes.
pub fn take(length: usize, at: usize) -> Result<(u64, usize)> {
    let large = LARGE_FRAMES * PAGE;
    let size = if length >= large && at % large == 0 { Size::Large } else { Size::Small };
    // Up to where a large page could begin.
    let wanted = if length >= large && size == Size::Small { large - at % large } else { length };
    loop {
        let taken = FRAMES.get().take(wanted / PAGE, size);
        let taken = match taken {
            None if size == Size::Large && !can_grow() => FRAMES.get().take(wanted.min(large) / PAGE, Size::Small),
            other => other,
        };
        let Some((first, count)) = taken else {
            grow()?;
            continue;
        };
        if FRAMES.get().wash(first, count) {
            // SAFETY: frames of nobody's, all of them in the linear map.
            unsafe { string::zero(address_of((first * PAGE) as u64) as usize, count * PAGE) };
        }
        return Ok(((first * PAGE) as u64, count * PAGE));
    }
}

fn can_grow() -> bool {
    FRAMES.get().count * PAGE + MEMORY_STEP as usize <= MOST_MEMORY as usize
}

/// Asks for more memory. It is mapped with large pages, whose tables are there already.
fn grow() -> Result<()> {
    if !can_grow() {
        return Err(NO_FRAMES);
    }
    let end = (FRAMES.get().count * PAGE) as u64;
    crate::port::call(call::GROW, [MEMORY_STEP, 0, 0, 0, 0, 0])?;
    tables::extend_linear(end, MEMORY_STEP)?;
    FRAMES.get().count += MEMORY_STEP as usize / PAGE;
    Ok(())
}

/// Tells the tender at the next stop which parts of files it need not keep mapped.
pub fn release() {
    let parts = core::mem::take(&mut BORROWINGS.get().unused);
    let released = &port().released;
    for part in parts {
        if released.count.load(Ordering::Relaxed) as usize >= MOST_RELEASED {
            let _ = crate::port::call(call::CHECK, [0; 6]);
        }
        let count = (released.count.load(Ordering::Relaxed) as usize).min(MOST_RELEASED - 1);
        released.all[count].store(part, Ordering::Relaxed);
        released.count.store(count as u32 + 1, Ordering::Release);
    }
}
