//! What generated code looks up by itself: where pages are in our memory, and where code for an address is.
//!
//! There is a set of tables for each mode and address space that was used lately, so that a guest which changes between
//! them finds what it knew. **Invariant: an entry for writing is there only if its page has no translated code**, so that
//! whoever writes into code is noticed.

use crate::tlb::PAGE_BITS;

/// Entries of each table.
pub(super) const ENTRIES: usize = 1024;
const SETS: usize = 32;
const NOTHING: u64 = u64::MAX;

/// A page that was found.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Page {
    /// Its address; no address is equal to `NOTHING`.
    tag: u64,
    /// What is added to an address of the guest's to have ours.
    addend: u64,
}

/// Code for an address.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Jump {
    pc: u64,
    code: u64,
}

/// Tables of one mode and address space.
#[repr(C)]
pub(super) struct Set {
    read: [Page; ENTRIES],
    write: [Page; ENTRIES],
    jumps: [Jump; ENTRIES],
    /// Which pages, by the low bits of their numbers, there may be code of in `jumps`.
    jump_pages: u64,
    /// How many pages had been forgotten when it was last up to date.
    seen: u64,
}

/// Where tables are in a set, in bytes.
pub(super) const READ: i32 = 0;
pub(super) const WRITE: i32 = (ENTRIES * 16) as i32;
pub(super) const JUMPS: i32 = (ENTRIES * 32) as i32;

const NO_PAGE: Page = Page { tag: NOTHING, addend: 0 };
/// What is in a slot of `jumps` where nothing is: an address that belongs in another, so that no look finds it here.
fn no_jump(slot: usize) -> Jump {
    Jump { pc: ((slot ^ 1) << 1) as u64, code: 0 }
}

impl Set {
    fn new() -> Box<Set> {
        Box::new(Set {
            read: [NO_PAGE; ENTRIES],
            write: [NO_PAGE; ENTRIES],
            jumps: std::array::from_fn(no_jump),
            jump_pages: 0,
            seen: 0,
        })
    }

    fn slot(address: u64) -> usize {
        (address >> PAGE_BITS) as usize & (ENTRIES - 1)
    }

    /// A page is at this address of ours.
    pub(super) fn keep(&mut self, is_write: bool, address: u64, host: u64) {
        let tag = address >> PAGE_BITS << PAGE_BITS;
        let table = if is_write { &mut self.write } else { &mut self.read };
        table[Set::slot(address)] = Page { tag, addend: host.wrapping_sub(tag) };
    }

    /// Code for an address is here.
    pub(super) fn keep_jump(&mut self, pc: u64, code: u64) {
        self.jumps[(pc >> 1) as usize & (ENTRIES - 1)] = Jump { pc, code };
        self.jump_pages |= 1 << (pc >> PAGE_BITS & 63);
    }

    /// Where code for an address is.
    pub(super) fn jump(&self, pc: u64) -> Option<u64> {
        let jump = &self.jumps[(pc >> 1) as usize & (ENTRIES - 1)];
        // An empty slot has no code.
        (jump.pc == pc && jump.code != 0).then_some(jump.code)
    }

    fn forget_page(&mut self, address: u64) {
        let page = address >> PAGE_BITS << PAGE_BITS;
        for table in [&mut self.read, &mut self.write] {
            let entry = &mut table[Set::slot(address)];
            if entry.tag == page {
                *entry = NO_PAGE;
            }
        }
        // What begins on the page before may end here.
        let before = page.wrapping_sub(2);
        let slot = (before >> 1) as usize & (ENTRIES - 1);
        if self.jumps[slot].pc == before {
            self.jumps[slot] = no_jump(slot);
        }
        let bit = 1 << (address >> PAGE_BITS & 63);
        if self.jump_pages & bit == 0 {
            return;
        }
        for (slot, jump) in self.jumps.iter_mut().enumerate() {
            if jump.pc >> PAGE_BITS << PAGE_BITS == page {
                *jump = no_jump(slot);
            }
        }
    }

    fn forget(&mut self) {
        self.read.fill(NO_PAGE);
        self.write.fill(NO_PAGE);
        self.jumps.iter_mut().enumerate().for_each(|(slot, jump)| *jump = no_jump(slot));
        self.jump_pages = 0;
    }
}

/// The sets.
///
/// Pages are forgotten one by one, often, and most sets are not in use then: each catches up when it is used again.
#[derive(Default)]
pub(super) struct Sets {
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

    fn take(&mut self, key: u32, space: u32) -> usize {
        if self.list.len() < SETS {
            let mut set = Set::new();
            set.seen = self.count;
            self.list.push((key, space, set));
            return self.list.len() - 1;
        }
        let at = self.next;
        self.next = (at + 1) % SETS;
        let (k, s, set) = &mut self.list[at];
        (*k, *s) = (key, space);
        set.forget();
        set.seen = self.count;
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
        self.forgotten.resize(FORGOTTEN as usize, 0);
        self.forgotten[(self.count % FORGOTTEN) as usize] = address;
        self.count += 1;
        if !self.list.is_empty() {
            self.catch_up(self.latest[0]);
        }
    }

    pub(super) fn flush_space(&mut self, space: u32) {
        self.list.iter_mut().filter(|(_, s, _)| *s == space).for_each(|(.., set)| set.forget());
    }

    /// Nobody writes to this page of ours by himself any more: it has code now.
    pub(super) fn protect(&mut self, host: u64) {
        for (.., set) in &mut self.list {
            for entry in &mut set.write {
                if entry.tag != NOTHING && entry.tag.wrapping_add(entry.addend) == host {
                    *entry = NO_PAGE;
                }
            }
        }
    }
}
