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
const JUMP_ENTRIES: usize = 16384;
const COUNTERS: usize = 4096;
/// So often a block runs before more effort is made for it.
const HOT_AFTER: i32 = 2000;
/// So often a block that all effort was made for turns back before a region is made of it: that takes milliseconds to compile.
pub(super) const TURNS: i32 = 200_000;
/// Eight processes of RISC-V have three each: their own, and their kernel's with and without their memory.
const SETS: usize = 64;
/// Entries of the table of those that had to make room there. (Four hundred places that call each other have some ten pairs
/// that are in each other's way, and a kernel that changes between processes went to them by us each time.)
const SECOND_ENTRIES: usize = 2048;
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

/// A set's tables of jumps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Jumps {
    First,
    /// Those that had to make room in the first.
    Second,
}

impl Jumps {
    pub(super) const fn entries(self) -> usize {
        match self {
            Jumps::First => JUMP_ENTRIES,
            Jumps::Second => SECOND_ENTRIES,
        }
    }

    /// Where it is in a set.
    pub(super) const fn offset(self) -> i32 {
        match self {
            Jumps::First => std::mem::offset_of!(Set, jumps) as i32,
            Jumps::Second => std::mem::offset_of!(Set, seconds) as i32,
        }
    }
}

/// Instructions begin at multiples of so many bytes, as a power of two.
#[derive(Debug, Clone, Copy)]
pub(super) struct Alignment(u32);

impl Alignment {
    /// That of instructions whose sizes are multiples of so many bits.
    pub(super) fn of(unit: u32) -> Alignment {
        Alignment((unit / 8).ilog2())
    }

    pub(super) fn bits(self) -> u8 {
        self.0 as u8
    }

    /// By how many bits an address is shifted to the left to be an offset in a table of jumps, but for what is cut away.
    pub(super) fn shift(self) -> u8 {
        (size_of::<Jump>().ilog2() - self.0) as u8
    }

    /// By how many bits it is shifted to the right, to be mixed into that.
    pub(super) fn fold(self, table: Jumps) -> u8 {
        match table {
            // Places that are as far from each other as the table is long have slots of their own: mostly, code begins at
            // the same offset of many pages.
            Jumps::First => JUMP_ENTRIES.ilog2() as u8,
            // Slots are others for those that share one of the first.
            Jumps::Second => PAGE_BITS as u8 - self.bits(),
        }
    }

    fn slot(self, table: Jumps, pc: u64) -> usize {
        let slot = pc >> self.0;
        (slot ^ slot >> self.fold(table)) as usize & (table.entries() - 1)
    }

    /// What is in a slot where nothing is: an address that belongs in another, so that no look finds it here.
    fn no_jump(self, slot: usize) -> Jump {
        Jump { pc: ((slot ^ 1) << self.0) as u64, code: 0 }
    }

    /// The same of the second table.
    fn no_second(self, slot: usize) -> Jump {
        Jump { pc: if slot == 0 { 1 << self.0 } else { 0 }, code: 0 }
    }
}

/// Tables of one mode and address space.
#[repr(C)]
pub(super) struct Set {
    pages: [Pages; ENTRIES],
    jumps: [Jump; JUMP_ENTRIES],
    /// Those that had to make room there.
    seconds: [Jump; SECOND_ENTRIES],
    /// How often blocks may run yet before they are worth more effort. Several share one, which does no harm: it is mostly
    /// those which run often that find it used up.
    counters: [i32; COUNTERS],
    /// The pages that there may be code of in `jumps`. (Guests forget pages of data by the ten thousand.)
    jump_pages: FxHashSet<u64>,
    /// How many pages had been forgotten when it was last up to date.
    seen: u64,
    alignment: Alignment,
    /// Which slots of each table hold something.
    read_slots: Slots,
    write_slots: Slots,
    jump_slots: Slots,
    second_slots: Slots,
}

/// Which slots of a table hold something, and where that is so: a bit of each. Of thousands of slots, few are in use.
struct Slots {
    everywhere: Box<[u64]>,
    own: Box<[u64]>,
}

impl Slots {
    fn none(entries: usize) -> Slots {
        Slots { everywhere: vec![0; entries / 64].into(), own: vec![0; entries / 64].into() }
    }

    fn set(&mut self, slot: usize, reach: Reach) {
        let (at, bit) = (slot / 64, 1 << (slot % 64));
        let (here, there) = match reach {
            Reach::Everywhere => (&mut self.everywhere, &mut self.own),
            Reach::Space => (&mut self.own, &mut self.everywhere),
        };
        here[at] |= bit;
        there[at] &= !bit;
    }

    /// Where what is in a slot holds.
    fn reach(&self, slot: usize) -> Reach {
        if self.everywhere[slot / 64] >> (slot % 64) & 1 == 1 { Reach::Everywhere } else { Reach::Space }
    }

    /// Calls with each slot of what holds in one address space alone, and forgets that there are any.
    fn take_own(&mut self, forget: impl FnMut(usize)) {
        each(&self.own, forget);
        self.own.fill(0);
    }

    /// The same of all.
    fn take_all(&mut self, mut forget: impl FnMut(usize)) {
        each(&self.everywhere, &mut forget);
        self.everywhere.fill(0);
        self.take_own(forget);
    }

    /// Calls with each slot of what holds everywhere in another table, which then holds here.
    fn inherit(&mut self, other: &Slots, take: impl FnMut(usize)) {
        each(&other.everywhere, take);
        self.everywhere.copy_from_slice(&other.everywhere);
    }
}

/// Calls with the number of each bit that is set.
fn each(words: &[u64], mut call: impl FnMut(usize)) {
    for (at, word) in words.iter().enumerate() {
        let mut left = *word;
        while left != 0 {
            call(at * 64 + left.trailing_zeros() as usize);
            left &= left - 1;
        }
    }
}

/// Where tables are in a set, in bytes.
pub(super) const READ: i32 = 0;
pub(super) const WRITE: i32 = 16;
/// Bytes of an entry, as a power of two.
pub(super) const ENTRY_BITS: u8 = 5;

/// Which counter is that of the code at a physical address.
fn counter_of(physical: u64) -> usize {
    (physical >> 1 ^ physical >> 13) as usize % COUNTERS
}

/// Where that is in a set.
pub(super) fn counter(physical: u64) -> i32 {
    std::mem::offset_of!(Set, counters) as i32 + (counter_of(physical) * 4) as i32
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
            seconds: std::array::from_fn(|slot| alignment.no_second(slot)),
            counters: [HOT_AFTER; COUNTERS],
            jump_pages: FxHashSet::default(),
            seen: 0,
            alignment,
            read_slots: Slots::none(ENTRIES),
            write_slots: Slots::none(ENTRIES),
            jump_slots: Slots::none(JUMP_ENTRIES),
            second_slots: Slots::none(SECOND_ENTRIES),
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
        let (page, slots) = if access == Access::Write {
            (&mut pages.write, &mut self.write_slots)
        } else {
            (&mut pages.read, &mut self.read_slots)
        };
        *page = Page { tag, addend: host.wrapping_sub(begin) };
        slots.set(slot, reach);
    }

    /// Code for an address is here.
    pub(super) fn keep_jump(&mut self, pc: u64, code: u64, reach: Reach) {
        let slot = self.alignment.slot(Jumps::First, pc);
        let other = self.jumps[slot];
        if other.code != 0 && other.pc != pc {
            let second = self.alignment.slot(Jumps::Second, other.pc);
            self.seconds[second] = other;
            self.second_slots.set(second, self.jump_slots.reach(slot));
        }
        self.jumps[slot] = Jump { pc, code };
        self.jump_slots.set(slot, reach);
        self.jump_pages.insert(pc >> PAGE_BITS);
    }

    /// An empty set takes over what another of the same mode knows of every address space.
    fn inherit(&mut self, other: &Set) {
        self.read_slots.inherit(&other.read_slots, |slot| self.pages[slot].read = other.pages[slot].read);
        self.write_slots.inherit(&other.write_slots, |slot| self.pages[slot].write = other.pages[slot].write);
        self.jump_slots.inherit(&other.jump_slots, |slot| self.jumps[slot] = other.jumps[slot]);
        self.second_slots.inherit(&other.second_slots, |slot| self.seconds[slot] = other.seconds[slot]);
        // There may be nothing any more of some of these.
        self.jump_pages.clone_from(&other.jump_pages);
    }

    /// Where code for an address is.
    pub(super) fn jump(&self, pc: u64) -> Option<u64> {
        // An empty slot has no code.
        let places =
            [&self.jumps[self.alignment.slot(Jumps::First, pc)], &self.seconds[self.alignment.slot(Jumps::Second, pc)]];
        places.into_iter().find(|jump| jump.pc == pc && jump.code != 0).map(|jump| jump.code)
    }

    /// The code at a physical address has used its counter up.
    pub(super) fn count_anew(&mut self, physical: u64, often: i32) {
        self.counters[counter_of(physical)] = often;
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
            let slot = alignment.slot(Jumps::First, pc);
            if (first..=last).contains(&self.jumps[slot].pc) {
                self.jumps[slot] = alignment.no_jump(slot);
            }
            let second = alignment.slot(Jumps::Second, pc);
            if (first..=last).contains(&self.seconds[second].pc) {
                self.seconds[second] = alignment.no_second(second);
            }
        }
    }

    fn forget(&mut self) {
        self.read_slots.take_all(|slot| self.pages[slot].read = NO_PAGE);
        self.write_slots.take_all(|slot| self.pages[slot].write = NO_PAGE);
        self.jump_slots.take_all(|slot| self.jumps[slot] = self.alignment.no_jump(slot));
        self.second_slots.take_all(|slot| self.seconds[slot] = self.alignment.no_second(slot));
        self.jump_pages.clear();
    }

    /// Forgets what holds in its own address space alone.
    fn forget_own(&mut self) {
        self.read_slots.take_own(|slot| self.pages[slot].read = NO_PAGE);
        self.write_slots.take_own(|slot| self.pages[slot].write = NO_PAGE);
        self.jump_slots.take_own(|slot| self.jumps[slot] = self.alignment.no_jump(slot));
        self.second_slots.take_own(|slot| self.seconds[slot] = self.alignment.no_second(slot));
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

    /// The pages of ours that generated code may write to by itself, some of them more than once.
    pub(super) fn writable(&self) -> Vec<u64> {
        let mut hosts = Vec::new();
        for (.., set) in &self.list {
            let Slots { everywhere, own } = &set.write_slots;
            for slots in [everywhere, own] {
                each(slots, |slot| {
                    let entry = set.pages[slot].write;
                    if entry.tag != NOTHING {
                        hosts.push(entry.address().wrapping_add(entry.addend));
                    }
                });
            }
        }
        hosts
    }

    /// Generated code asks of each page that it writes to.
    pub(super) fn forget_writable(&mut self) {
        for (.., set) in &mut self.list {
            set.write_slots.take_all(|slot| set.pages[slot].write = NO_PAGE);
        }
    }

    /// Nobody writes to this page of ours by himself any more: it has code now.
    pub(super) fn protect(&mut self, host: u64) {
        for (.., set) in &mut self.list {
            let Set { pages, write_slots: Slots { everywhere, own }, .. } = &mut **set;
            for slots in [everywhere, own] {
                each(slots, |slot| {
                    let entry = &mut pages[slot].write;
                    if entry.tag != NOTHING && entry.address().wrapping_add(entry.addend) == host {
                        *entry = NO_PAGE;
                    }
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two addresses that have the same slot of the first table.
    const ONE: u64 = 0x40_0000;
    const OTHER: u64 = ONE + (JUMP_ENTRIES as u64 * 4) + 4;

    fn sets() -> (Sets, usize) {
        let mut sets = Sets::new(Alignment::of(32));
        let at = sets.find(1, 7);
        let alignment = sets.alignment;
        assert_eq!(alignment.slot(Jumps::First, ONE), alignment.slot(Jumps::First, OTHER));
        assert_ne!(alignment.slot(Jumps::Second, ONE), alignment.slot(Jumps::Second, OTHER));
        let set = sets.get(at);
        set.keep_jump(ONE, 0x1111, Reach::Everywhere);
        set.keep_jump(OTHER, 0x2222, Reach::Space);
        (sets, at)
    }

    #[test]
    fn code_that_makes_room_is_found_still() {
        let (mut sets, at) = sets();
        let set = sets.get(at);
        assert_eq!((set.jump(ONE), set.jump(OTHER), set.jump(ONE + 4)), (Some(0x1111), Some(0x2222), None));
        set.keep_jump(ONE, 0x3333, Reach::Everywhere);
        assert_eq!((set.jump(ONE), set.jump(OTHER)), (Some(0x3333), Some(0x2222)), "the newest of either");
    }

    #[test]
    fn what_is_forgotten_is_not_found() {
        let jumps = |sets: &mut Sets, at: usize| (sets.get(at).jump(ONE), sets.get(at).jump(OTHER));
        let (mut both, at) = sets();
        both.flush_page(ONE);
        assert_eq!(jumps(&mut both, at), (None, Some(0x2222)));
        both.flush_page(OTHER);
        assert_eq!(jumps(&mut both, at), (None, None));
        let (mut both, at) = sets();
        both.flush_space(7);
        assert_eq!(jumps(&mut both, at), (Some(0x1111), None), "it holds everywhere");
        let another = both.find(1, 8);
        assert_eq!(jumps(&mut both, another), (Some(0x1111), None), "so it holds there");
        both.flush();
        assert_eq!((jumps(&mut both, at), jumps(&mut both, another)), ((None, None), (None, None)));
    }

    /// Generated code looks at addresses alone.
    #[test]
    fn what_is_in_an_empty_slot_belongs_elsewhere() {
        for alignment in [Alignment::of(16), Alignment::of(32)] {
            assert!((0..JUMP_ENTRIES).all(|slot| alignment.slot(Jumps::First, alignment.no_jump(slot).pc) != slot));
            assert!(
                (0..SECOND_ENTRIES).all(|slot| alignment.slot(Jumps::Second, alignment.no_second(slot).pc) != slot)
            );
        }
    }

    #[test]
    fn nobody_writes_by_himself_where_code_is() {
        let (mut sets, at) = sets();
        let host = 0x7000_0000;
        for reach in [Reach::Space, Reach::Everywhere] {
            sets.get(at).keep(Access::Write, 0, 0x5000, host, reach);
            sets.get(at).keep(Access::Read, 0, 0x5000, host, reach);
            assert_eq!(sets.writable(), [host]);
            sets.forget_writable();
            assert_eq!(sets.writable(), []);
            sets.get(at).keep(Access::Write, 0, 0x5000, host, reach);
            sets.protect(host);
            assert_eq!(sets.writable(), []);
            let pages = sets.get(at).pages[Set::slot(0x5000)];
            assert_eq!((pages.write.tag, pages.read.tag), (NOTHING, 0x5000));
        }
    }
}
