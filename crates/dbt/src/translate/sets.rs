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
}

/// Where tables are in a set, in bytes.
pub(super) const READ: i32 = 0;
pub(super) const WRITE: i32 = (ENTRIES * 16) as i32;
pub(super) const JUMPS: i32 = (ENTRIES * 32) as i32;

const NO_PAGE: Page = Page { tag: NOTHING, addend: 0 };
const NO_JUMP: Jump = Jump { pc: NOTHING, code: 0 };

impl Set {
    fn new() -> Box<Set> {
        Box::new(Set { read: [NO_PAGE; ENTRIES], write: [NO_PAGE; ENTRIES], jumps: [NO_JUMP; ENTRIES] })
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
    }

    fn forget_page(&mut self, address: u64) {
        let page = address >> PAGE_BITS << PAGE_BITS;
        for table in [&mut self.read, &mut self.write] {
            let entry = &mut table[Set::slot(address)];
            if entry.tag == page {
                *entry = NO_PAGE;
            }
        }
        for jump in &mut self.jumps {
            if jump.pc >> PAGE_BITS << PAGE_BITS == page {
                *jump = NO_JUMP;
            }
        }
    }

    fn forget(&mut self) {
        self.read.fill(NO_PAGE);
        self.write.fill(NO_PAGE);
        self.jumps.fill(NO_JUMP);
    }
}

/// The sets.
#[derive(Default)]
pub(super) struct Sets {
    list: Vec<(u32, u32, Box<Set>)>,
    /// Which is replaced next.
    next: usize,
}

impl Sets {
    /// The set of a mode and an address space, by its number.
    pub(super) fn find(&mut self, key: u32, space: u32) -> usize {
        if let Some(at) = self.list.iter().position(|(k, s, _)| (*k, *s) == (key, space)) {
            return at;
        }
        if self.list.len() < SETS {
            self.list.push((key, space, Set::new()));
            return self.list.len() - 1;
        }
        let at = self.next;
        self.next = (at + 1) % SETS;
        let (k, s, set) = &mut self.list[at];
        (*k, *s) = (key, space);
        set.forget();
        at
    }

    pub(super) fn get(&mut self, at: usize) -> &mut Set {
        &mut self.list[at].2
    }

    pub(super) fn flush(&mut self) {
        self.list.iter_mut().for_each(|(.., set)| set.forget());
    }

    pub(super) fn flush_page(&mut self, address: u64) {
        self.list.iter_mut().for_each(|(.., set)| set.forget_page(address));
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
