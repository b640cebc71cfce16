//! Page tables of four levels (AMD64 Architecture Programmer's Manual, volume 2, 5.3), all of them in the linear map.
//!
//! In a sealed guest no processor looks at these: they say what the guest wants, and the tender makes it so
//! ([`abi::call::FOLLOW`]). Every change is noted and told when it is to hold ([`settle`]).

use core::arch::asm;
use core::ops::Range;
use core::sync::atomic::Ordering;

use abi::call;

use abi::layout::kvm::{ADDRESS, LARGE, NO_EXECUTE, PRESENT, USED, USER, WRITABLE};
use abi::layout::{LINEAR, PAGE};

use super::{TABLES, address_of, frames};
use crate::errno::Result;
use crate::sync::Local;

/// An entry that is not present, but has a page: nothing may be done with it now.
pub const RESERVED: u64 = 1 << 9;
/// Its page is of a file, and not in the guest's memory.
pub const BORROWED: u64 = 1 << 10;
/// Writes to it are the file's.
pub const SHARED: u64 = 1 << 11;

/// It was executable once.
const CODE: u64 = 1 << 52;

const LARGE_PAGE: usize = 2 << 20;
const ENTRIES: usize = 512;
/// What leads to a further table: all rights, the last entry takes away.
const LEADS_ON: u64 = PRESENT | WRITABLE | USER | USED;

/// The last entry on the way to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(pub u64);

impl Entry {
    pub fn is_nothing(self) -> bool {
        self.0 == 0
    }

    pub fn is_shared(self) -> bool {
        self.0 & SHARED != 0
    }

    pub fn physical(self) -> u64 {
        let address = self.0 & ADDRESS;
        if self.0 & LARGE != 0 { address & !(LARGE_PAGE as u64 - 1) } else { address }
    }

    pub fn size(self) -> usize {
        if self.0 & LARGE != 0 { LARGE_PAGE } else { PAGE }
    }

    /// The same page with other bits.
    pub fn with(self, bits: u64) -> Self {
        let code = if self.is_executable() { CODE } else { 0 };
        Self(self.0 & ADDRESS | bits | self.0 & (SHARED | CODE) | code)
    }

    fn is_executable(self) -> bool {
        self.0 & PRESENT != 0 && self.0 & NO_EXECUTE == 0
    }

    /// Whether its frame can be another page's afterwards. What was code when a guest was sealed is written to by nobody
    /// any more.
    pub fn can_be_reused(self) -> bool {
        !is_locked() || (self.0 & CODE == 0 && !self.is_executable())
    }
}

fn index(at: usize, level: u32) -> usize {
    at >> (12 + 9 * level) & (ENTRIES - 1)
}

fn slot(table: u64, index: usize) -> *mut u64 {
    // SAFETY: a table is a page of the linear map, and the index is inside.
    unsafe { address_of(table).cast::<u64>().add(index) }
}

/// The entry of that level on the way to an address, if the way leads so far.
fn find(at: usize, level: u32) -> Option<*mut u64> {
    let mut table = TABLES.load(Ordering::Relaxed);
    for above in (level + 1..=3).rev() {
        // SAFETY: an entry of a table.
        let entry = unsafe { *slot(table, index(at, above)) };
        if entry & PRESENT == 0 || entry & LARGE != 0 {
            return None;
        }
        table = entry & ADDRESS;
    }
    Some(slot(table, index(at, level)))
}

/// The same, with tables made where there are none and large pages split.
fn make(at: usize, level: u32) -> Result<*mut u64> {
    let mut table = TABLES.load(Ordering::Relaxed);
    for above in (level + 1..=3).rev() {
        let entry = slot(table, index(at, above));
        // SAFETY: an entry of a table.
        let mut value = unsafe { *entry };
        if value == 0 {
            let (new, _) = frames::take(PAGE, PAGE)?;
            value = new | LEADS_ON;
            // SAFETY: the same.
            unsafe { *entry = value };
        } else if above == 1 && value & (LARGE | RESERVED) != 0 {
            value = split(value)?;
            // SAFETY: the same.
            unsafe { *entry = value };
        }
        table = value & ADDRESS;
    }
    Ok(slot(table, index(at, level)))
}

/// What was changed and not told yet: up to three parts of the address space.
static CHANGED: Local<[Range<usize>; 3]> = Local::new([const { 0..0 }; 3]);

/// Whether the tender writes the tables that count.
fn is_locked() -> bool {
    super::port().sealed.load(Ordering::Relaxed) != 0
}

/// Something between is not what it was.
fn note(at: usize, length: usize) {
    if !is_locked() {
        return;
    }
    let new = at..at + length;
    if note_among(&new) {
        return;
    }
    // Whoever changes so many hears of it when it is told himself.
    let _ = settle();
    note_among(&new);
}

/// Whether there was room for it.
fn note_among(new: &Range<usize>) -> bool {
    let mut changed = CHANGED.get();
    for it in changed.iter_mut() {
        if it.start >= it.end {
            *it = new.clone();
            return true;
        }
        if new.start <= it.end && it.start <= new.end {
            *it = it.start.min(new.start)..it.end.max(new.end);
            return true;
        }
    }
    false
}

/// Has all changes hold that were made so far.
pub fn settle() -> Result<()> {
    let changed = core::mem::replace(&mut *CHANGED.get(), [const { 0..0 }; 3]);
    if changed[0].is_empty() {
        return Ok(());
    }
    let mut arguments = [0; 6];
    for (words, it) in arguments.as_chunks_mut::<2>().0.iter_mut().zip(&changed) {
        *words = [it.start as u64, it.len() as u64];
    }
    crate::port::call(call::FOLLOW, arguments).map(drop)
}

/// A table of small pages that are a large one's.
fn split(large: u64) -> Result<u64> {
    let (table, _) = frames::take(PAGE, PAGE)?;
    let first = Entry(large).physical();
    let bits = large & !ADDRESS & !LARGE;
    for at in 0..ENTRIES {
        // SAFETY: a new table.
        unsafe { *slot(table, at) = first + (at * PAGE) as u64 | bits };
    }
    Ok(table | LEADS_ON)
}

/// Maps physical memory at an address where there is nothing.
pub fn map(at: usize, physical: u64, length: usize, bits: u64) -> Result<()> {
    // Making tables may take memory, and have what was noted told before all is written.
    let mapped = map_pages(at, physical, length, bits);
    note(at, length);
    mapped
}

fn map_pages(at: usize, physical: u64, length: usize, bits: u64) -> Result<()> {
    let mut done = 0;
    while done < length {
        let (to, from) = (at + done, physical + done as u64);
        let fits = length - done >= LARGE_PAGE && to % LARGE_PAGE == 0 && from % LARGE_PAGE as u64 == 0;
        if fits && find(to, 1).is_none_or(|it| unsafe { *it } == 0) {
            // SAFETY: an entry of a table.
            unsafe { *make(to, 1)? = from | bits | LARGE };
            done += LARGE_PAGE;
        } else {
            // SAFETY: the same.
            unsafe { *make(to, 0)? = from | bits };
            done += PAGE;
        }
    }
    Ok(())
}

/// The last entry on the way to an address; nothing when there is no page.
pub fn entry(at: usize) -> Option<Entry> {
    if let Some(large) = find(at, 1) {
        // SAFETY: an entry of a table.
        let value = unsafe { *large };
        if value & LARGE != 0 {
            return Some(Entry(value));
        }
    }
    // SAFETY: the same.
    let value = find(at, 0).map_or(0, |it| unsafe { *it });
    (value != 0).then_some(Entry(value))
}

/// How much behind an address without a page has none either, up to so much.
pub fn hole(at: usize, most: usize) -> usize {
    let mut length = 0;
    while length < most {
        let here = at + length;
        let step = match find(here, 1) {
            // SAFETY: an entry of a table.
            Some(large) if unsafe { *large } != 0 => {
                if entry(here).is_some() {
                    break;
                }
                PAGE
            }
            _ => LARGE_PAGE - here % LARGE_PAGE,
        };
        length += step;
    }
    length.min(most)
}

/// Changes every last entry between, and those that are nothing only if the change makes something of them, which it must
/// not. Large pages must be inside whole: see [`split_ends`].
pub fn change(at: usize, length: usize, mut how: impl FnMut(Entry) -> Entry) {
    let mut page = at;
    while page < at + length {
        let large = find(page, 1);
        // SAFETY: an entry of a table.
        if let Some(large) = large.filter(|it| unsafe { **it } & LARGE != 0) {
            // SAFETY: the same.
            unsafe { *large = how(Entry(*large)).0 };
            page += LARGE_PAGE - page % LARGE_PAGE;
            continue;
        }
        match find(page, 0) {
            // SAFETY: the same.
            Some(small) if unsafe { *small } != 0 => unsafe { *small = how(Entry(*small)).0 },
            _ => {
                how(Entry(0));
            }
        }
        page += PAGE;
    }
    note(at, length);
}

/// Splits the large pages that begin before or end behind.
pub fn split_ends(at: usize, length: usize) -> Result<()> {
    for end in [at, at + length] {
        if end % LARGE_PAGE != 0 && entry(end).is_some_and(|it| it.size() == LARGE_PAGE) {
            make(end, 0)?;
        }
    }
    Ok(())
}

/// Takes every page between out of the tables and hands each over.
pub fn take(at: usize, length: usize, mut each: impl FnMut(Entry, usize)) -> Result<()> {
    split_ends(at, length)?;
    let mut page = at;
    while page < at + length {
        match entry(page) {
            None => page += hole(page, at + length - page),
            Some(entry) => {
                let level = if entry.size() == LARGE_PAGE { 1 } else { 0 };
                if let Some(slot) = find(page, level) {
                    // SAFETY: an entry of a table.
                    unsafe { *slot = 0 };
                }
                each(entry, entry.size());
                page += entry.size();
            }
        }
    }
    note(at, length);
    Ok(())
}

/// More memory is there: it is added to the linear map, by large pages in a table that may be new.
pub fn extend_linear(physical: u64, length: u64) -> Result<()> {
    let bits = PRESENT | WRITABLE | USER | USED | NO_EXECUTE;
    map(LINEAR + physical as usize, physical, length as usize, bits)?;
    settle()
}

/// Has the processor forget what it knows of the tables. User mode cannot: the instruction faults, and the fault's handler
/// does it. Where the tender changes the tables, it has the processor forget, too.
pub fn flush() {
    if is_locked() {
        // Who asks for more than may be finds that it is not so.
        let _ = settle();
        return;
    }
    // SAFETY: it touches nothing; the handler goes on behind it.
    unsafe { asm!("call {}", sym super::traps::flush_tables, clobber_abi("C")) };
}
