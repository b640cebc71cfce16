//! Where pages were found: what a walk through a guest's tables has said, until the guest says that it may not hold.

/// Bytes of a page, as a power of two.
pub const PAGE_BITS: u32 = 12;
const ENTRIES: usize = 4096;

/// How memory is accessed, as a description's `translate` is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// A load.
    Read = 0,
    /// A store.
    Write = 1,
    /// An instruction.
    Fetch = 2,
}

/// Bits of what `translate` gives, below the page's physical address.
pub mod found {
    /// It holds in every address space.
    pub const GLOBAL: u64 = 1;
}

/// Where a translation holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// In its address space alone.
    Space,
    /// In every address space.
    Everywhere,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The page, with the bits of the key; nothing is at `u64::MAX`.
    page: u64,
    key: u32,
    /// `u32::MAX`: any.
    space: u32,
    physical: u64,
}

const NOTHING: Entry = Entry { page: u64::MAX, key: 0, space: 0, physical: 0 };

/// Translations, by access, page, mode and address space.
#[derive(Debug)]
pub struct Tlb {
    entries: [Box<[Entry]>; 3],
}

impl Default for Tlb {
    fn default() -> Tlb {
        Tlb { entries: std::array::from_fn(|_| vec![NOTHING; ENTRIES].into()) }
    }
}

impl Tlb {
    #[inline]
    fn slot(page: u64) -> usize {
        page as usize & (ENTRIES - 1)
    }

    /// The physical address of a page that was found before.
    #[inline]
    pub fn look(&self, access: Access, address: u64, key: u32, space: u32) -> Option<u64> {
        self.found(access, address, key, space).map(|(physical, _)| physical)
    }

    /// The same, and where that holds.
    #[inline]
    pub fn found(&self, access: Access, address: u64, key: u32, space: u32) -> Option<(u64, Reach)> {
        let page = address >> PAGE_BITS;
        let entry = &self.entries[access as usize][Tlb::slot(page)];
        let is = entry.page == page && entry.key == key && (entry.space == space || entry.space == u32::MAX);
        let reach = if entry.space == u32::MAX { Reach::Everywhere } else { Reach::Space };
        is.then_some((entry.physical | address & ((1 << PAGE_BITS) - 1), reach))
    }

    /// Keeps what a walk gave.
    pub fn keep(&mut self, access: Access, address: u64, key: u32, space: u32, given: u64) {
        let page = address >> PAGE_BITS;
        let space = if given & found::GLOBAL != 0 { u32::MAX } else { space };
        let physical = given >> PAGE_BITS << PAGE_BITS;
        self.entries[access as usize][Tlb::slot(page)] = Entry { page, key, space, physical };
    }

    /// Forgets everything.
    pub fn flush(&mut self) {
        self.forget(|_| true);
    }

    /// Forgets a page in every mode and address space.
    pub fn flush_page(&mut self, address: u64) {
        let page = address >> PAGE_BITS;
        for entries in &mut self.entries {
            let entry = &mut entries[Tlb::slot(page)];
            if entry.page == page {
                *entry = NOTHING;
            }
        }
    }

    /// Forgets what holds in one address space alone.
    pub fn flush_space(&mut self, space: u32) {
        self.forget(|entry| entry.space == space);
    }

    fn forget(&mut self, which: impl Fn(&Entry) -> bool) {
        for entry in self.entries.iter_mut().flat_map(|entries| entries.iter_mut()) {
            if which(entry) {
                *entry = NOTHING;
            }
        }
    }
}
