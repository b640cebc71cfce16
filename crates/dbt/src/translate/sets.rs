//! What generated code looks up by itself: where pages are in our memory, and where code for an address is.
//!
//! There is a set of tables for each mode and address space that was used lately, so that a guest which changes between
//! them finds what it knew; a new set begins with what holds in every address space. **Invariant: an entry for writing is there only if its page has no translated code**, so that
//! whoever writes into code is noticed.

use isa::plan::access;
use rustc_hash::FxHashSet;

use crate::tlb::{Access, PAGE_BITS, Reach};

/// Entries of each table of pages.
pub(super) const ENTRIES: usize = 1024;
/// Entries of the table of jumps. (A kernel that boots has code in 10 MiB: with 1024 of them, a third of all jumps between
/// its pages was not found, which took longer than translating it; with 8192, it still left generated code 100,000 times
/// for that.)
pub(super) const JUMP_ENTRIES: usize = 16384;
const COUNTERS: usize = 4096;
/// So often a block runs before more effort is made for it.
const HOT_AFTER: i32 = 2000;
/// Eight processes of RISC-V have three each: their own, and their kernel's with and without their memory.
const SETS: usize = 64;
const NOTHING: u64 = u64::MAX;

/// A page that was found.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Page {
    /// Its address, with `UNPRIVILEGED` if that was found without privileges; no address is equal to `NOTHING`.
    tag: u64,
    /// What is added to an address of the guest's to have ours.
    addend: u64,
}

impl Page {
    fn address(self) -> u64 {
        self.tag & !UNPRIVILEGED
    }
}

/// The same for who reads and for who writes: who does one will do the other, and there is a short way to either.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Pages {
    read: Page,
    write: Page,
}

/// Code for an address.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Jump {
    pc: u64,
    code: u64,
}

/// Instructions begin at multiples of so many bytes, as a power of two.
#[derive(Debug, Clone, Copy)]
pub(super) struct Alignment(u32);

impl Alignment {
    /// That of instructions whose sizes are multiples of so many bits.
    pub(super) fn of(unit: u32) -> Alignment {
        Alignment((unit / 8).ilog2())
    }

    /// By how many bits an address is shifted to the left to be an offset in the table of jumps, but for what is cut away.
    pub(super) fn shift(self) -> u8 {
        (size_of::<Jump>().ilog2() - self.0) as u8
    }

    /// By how many bits it is shifted to the right, to be mixed into that.
    pub(super) fn fold(self) -> u8 {
        (JUMP_ENTRIES.ilog2() + self.0 - size_of::<Jump>().ilog2()) as u8
    }

    /// Places that are as far from each other as the table is long have slots of their own: mostly, code begins at the same
    /// offset of many pages.
    fn slot(self, pc: u64) -> usize {
        ((pc >> self.0) ^ (pc >> (JUMP_ENTRIES.ilog2() + self.0))) as usize & (JUMP_ENTRIES - 1)
    }

    /// What is in a slot where nothing is: an address that belongs in another, so that no look finds it here.
    fn no_jump(self, slot: usize) -> Jump {
        Jump { pc: ((slot ^ 1) << self.0) as u64, code: 0 }
    }
}

/// Tables of one mode and address space.
#[repr(C)]
pub(super) struct Set {
    pages: [Pages; ENTRIES],
    jumps: [Jump; JUMP_ENTRIES],
    /// How often blocks may run yet before they are worth more effort. Several share one, which does no harm: it is mostly
    /// those which run often that find it used up.
    counters: [i32; COUNTERS],
    /// The pages that there may be code of in `jumps`. (Guests forget pages of data by the ten thousand.)
    jump_pages: FxHashSet<u64>,
    /// How many pages had been forgotten when it was last up to date.
    seen: u64,
    alignment: Alignment,
    /// Whether there may be code of its own address space alone.
    has_own_jumps: bool,
    /// Which slots of each table hold what is so in every address space.
    read_everywhere: Slots,
    write_everywhere: Slots,
    jumps_everywhere: Slots,
}

/// Slots of a table: a bit of each.
struct Slots(Box<[u64]>);

impl Slots {
    fn none(entries: usize) -> Slots {
        Slots(vec![0; entries / 64].into())
    }

    fn set(&mut self, slot: usize, reach: Reach) {
        let bit = 1 << (slot % 64);
        match reach {
            Reach::Everywhere => self.0[slot / 64] |= bit,
            Reach::Space => self.0[slot / 64] &= !bit,
        }
    }

    /// Changes what is in the other slots.
    fn others<T>(&self, table: &mut [T], change: impl Fn(usize, &mut T)) {
        for (at, (word, entries)) in self.0.iter().zip(table.chunks_mut(64)).enumerate() {
            let others = entries.iter_mut().enumerate().filter(|(bit, _)| word >> bit & 1 == 0);
            others.for_each(|(bit, entry)| change(at * 64 + bit, entry));
        }
    }

    fn each(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().filter(|(_, word)| **word != 0).flat_map(|(at, word)| {
            let word = *word;
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at * 64 + bit)
        })
    }

    fn clear(&mut self) {
        self.0.fill(0);
    }
}

/// Where tables are in a set, in bytes.
pub(super) const READ: i32 = 0;
pub(super) const WRITE: i32 = 16;
/// Bytes of an entry, as a power of two.
pub(super) const ENTRY_BITS: u8 = 5;
pub(super) const JUMPS: i32 = (ENTRIES * 32) as i32;

/// Where the counter of a block is in a set, by the block's number.
pub(super) fn counter(number: usize) -> i32 {
    std::mem::offset_of!(Set, counters) as i32 + (number % COUNTERS * 4) as i32
}

/// The bit of a page's tag that says: for accesses that are made without privileges, whoever makes them.
pub(super) const UNPRIVILEGED: u64 = 1;

const NO_PAGE: Page = Page { tag: NOTHING, addend: 0 };
const NO_PAGES: Pages = Pages { read: NO_PAGE, write: NO_PAGE };

impl Set {
    fn new(alignment: Alignment) -> Box<Set> {
        Box::new(Set {
            pages: [NO_PAGES; ENTRIES],
            jumps: std::array::from_fn(|slot| alignment.no_jump(slot)),
            counters: [HOT_AFTER; COUNTERS],
            jump_pages: FxHashSet::default(),
            seen: 0,
            alignment,
            has_own_jumps: false,
            read_everywhere: Slots::none(ENTRIES),
            write_everywhere: Slots::none(ENTRIES),
            jumps_everywhere: Slots::none(JUMP_ENTRIES),
        })
    }

    fn slot(address: u64) -> usize {
        (address >> PAGE_BITS) as usize & (ENTRIES - 1)
    }

    /// A page is at this address of ours, for accesses that are made so.
    pub(super) fn keep(&mut self, access: Access, how: u8, address: u64, host: u64, reach: Reach) {
        let (begin, slot) = (address >> PAGE_BITS << PAGE_BITS, Set::slot(address));
        let tag = if how & access::UNPRIVILEGED != 0 { begin | UNPRIVILEGED } else { begin };
        let pages = &mut self.pages[slot];
        let (page, everywhere) = if access == Access::Write {
            (&mut pages.write, &mut self.write_everywhere)
        } else {
            (&mut pages.read, &mut self.read_everywhere)
        };
        *page = Page { tag, addend: host.wrapping_sub(begin) };
        everywhere.set(slot, reach);
    }

    /// Code for an address is here.
    pub(super) fn keep_jump(&mut self, pc: u64, code: u64, reach: Reach) {
        let slot = self.alignment.slot(pc);
        self.jumps[slot] = Jump { pc, code };
        self.jumps_everywhere.set(slot, reach);
        self.has_own_jumps |= reach == Reach::Space;
        self.jump_pages.insert(pc >> PAGE_BITS);
    }

    /// An empty set takes over what another of the same mode knows of every address space.
    fn inherit(&mut self, other: &Set) {
        other.read_everywhere.each().for_each(|slot| self.pages[slot].read = other.pages[slot].read);
        other.write_everywhere.each().for_each(|slot| self.pages[slot].write = other.pages[slot].write);
        for slot in other.jumps_everywhere.each() {
            let jump = other.jumps[slot];
            if jump.code != 0 {
                self.jumps[slot] = jump;
                self.jump_pages.insert(jump.pc >> PAGE_BITS);
            }
        }
        self.read_everywhere.0.copy_from_slice(&other.read_everywhere.0);
        self.write_everywhere.0.copy_from_slice(&other.write_everywhere.0);
        self.jumps_everywhere.0.copy_from_slice(&other.jumps_everywhere.0);
    }

    /// Where code for an address is.
    pub(super) fn jump(&self, pc: u64) -> Option<u64> {
        let jump = &self.jumps[self.alignment.slot(pc)];
        // An empty slot has no code.
        (jump.pc == pc && jump.code != 0).then_some(jump.code)
    }

    /// The block of that number has used its counter up.
    pub(super) fn count_anew(&mut self, number: usize) {
        self.counters[number % COUNTERS] = HOT_AFTER;
    }

    fn forget_page(&mut self, address: u64) {
        let page = address >> PAGE_BITS << PAGE_BITS;
        let Pages { read, write } = &mut self.pages[Set::slot(address)];
        for entry in [read, write] {
            if entry.address() == page {
                *entry = NO_PAGE;
            }
        }
        // What begins on the page before may end here.
        let before = page.wrapping_sub(2);
        self.forget_jumps(before, before);
        if self.jump_pages.remove(&(address >> PAGE_BITS)) {
            self.forget_jumps(page, page | ((1 << PAGE_BITS) - 1));
        }
    }

    /// Forgets code from an address to another, of the same page.
    fn forget_jumps(&mut self, first: u64, last: u64) {
        let alignment = self.alignment;
        for pc in (first..=last).step_by(1 << alignment.0) {
            let slot = alignment.slot(pc);
            if (first..=last).contains(&self.jumps[slot].pc) {
                self.jumps[slot] = alignment.no_jump(slot);
            }
        }
    }

    fn forget(&mut self) {
        self.pages.fill(NO_PAGES);
        if !self.jump_pages.is_empty() {
            let alignment = self.alignment;
            self.jumps.iter_mut().enumerate().for_each(|(slot, jump)| *jump = alignment.no_jump(slot));
            self.jump_pages.clear();
        }
        [&mut self.read_everywhere, &mut self.write_everywhere, &mut self.jumps_everywhere]
            .into_iter()
            .for_each(Slots::clear);
    }

    /// Forgets what holds in its own address space alone.
    fn forget_own(&mut self) {
        self.read_everywhere.others(&mut self.pages, |_, pages| pages.read = NO_PAGE);
        self.write_everywhere.others(&mut self.pages, |_, pages| pages.write = NO_PAGE);
        // A kernel's set has none of these.
        if self.has_own_jumps {
            let alignment = self.alignment;
            self.jumps_everywhere.others(&mut self.jumps, |slot, jump| *jump = alignment.no_jump(slot));
            self.has_own_jumps = false;
        }
    }
}

/// The sets.
///
/// Pages are forgotten one by one, often, and most sets are not in use then: each catches up when it is used again.
pub(super) struct Sets {
    alignment: Alignment,
    list: Vec<(u32, u32, Box<Set>)>,
    /// Which is replaced next.
    next: usize,
    latest: [usize; 2],
    /// Pages that were forgotten lately, and how many there were in all.
    forgotten: Vec<u64>,
    count: u64,
}

/// So many forgotten pages are remembered.
const FORGOTTEN: u64 = 64;

impl Sets {
    pub(super) fn new(alignment: Alignment) -> Sets {
        Sets { alignment, list: Vec::new(), next: 0, latest: [0; 2], forgotten: vec![0; FORGOTTEN as usize], count: 0 }
    }

    /// The set of a mode and an address space, by its number.
    pub(super) fn find(&mut self, key: u32, space: u32) -> usize {
        let is = |at: usize| self.list.get(at).is_some_and(|(k, s, _)| (*k, *s) == (key, space));
        // Of two that are changed between, mostly one of the last two.
        let known = self.latest.into_iter().find(|at| is(*at)).or_else(|| (0..self.list.len()).find(|at| is(*at)));
        let at = known.unwrap_or_else(|| self.take(key, space));
        if self.latest[0] != at {
            self.latest = [at, self.latest[0]];
        }
        self.catch_up(at);
        at
    }

    /// Never a part of `find`: a new set is made on the stack first, all pages of which would be touched at each look.
    #[cold]
    #[inline(never)]
    fn take(&mut self, key: u32, space: u32) -> usize {
        let at = if self.list.len() < SETS {
            self.list.push((key, space, Set::new(self.alignment)));
            self.list.len() - 1
        } else {
            let at = self.next;
            self.next = (at + 1) % SETS;
            let (k, s, set) = &mut self.list[at];
            (*k, *s) = (key, space);
            set.forget();
            at
        };
        self.list[at].2.seen = self.count;
        let is_relative = |other: &usize| *other != at && self.list.get(*other).is_some_and(|(k, ..)| *k == key);
        let relative = self.latest.into_iter().find(is_relative).or_else(|| (0..self.list.len()).find(is_relative));
        if let Some(relative) = relative {
            self.catch_up(relative);
            if let Ok([(.., set), (.., relative)]) = self.list.get_disjoint_mut([at, relative]) {
                set.inherit(relative);
            }
        }
        at
    }

    /// Forgets what was to be forgotten since it was used.
    fn catch_up(&mut self, at: usize) {
        let set = &mut self.list[at].2;
        if set.seen == self.count {
            return;
        }
        if self.count - set.seen > FORGOTTEN {
            set.forget();
        } else {
            for number in set.seen..self.count {
                set.forget_page(self.forgotten[(number % FORGOTTEN) as usize]);
            }
        }
        set.seen = self.count;
    }

    pub(super) fn get(&mut self, at: usize) -> &mut Set {
        &mut self.list[at].2
    }

    pub(super) fn flush(&mut self) {
        self.list.iter_mut().for_each(|(.., set)| set.forget());
    }

    /// The set that is in use forgets at once.
    pub(super) fn flush_page(&mut self, address: u64) {
        self.forgotten[(self.count % FORGOTTEN) as usize] = address;
        self.count += 1;
        if !self.list.is_empty() {
            self.catch_up(self.latest[0]);
        }
    }

    pub(super) fn flush_space(&mut self, space: u32) {
        self.list.iter_mut().filter(|(_, s, _)| *s == space).for_each(|(.., set)| set.forget_own());
    }

    /// Nobody writes to this page of ours by himself any more: it has code now.
    pub(super) fn protect(&mut self, host: u64) {
        for (.., set) in &mut self.list {
            for Pages { write: entry, .. } in &mut set.pages {
                if entry.tag != NOTHING && entry.address().wrapping_add(entry.addend) == host {
                    *entry = NO_PAGE;
                }
            }
        }
    }
}
