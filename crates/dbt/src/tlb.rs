//! Where pages were found: what a walk through a guest's tables has said, until the guest says that it may not hold.

/// Bytes of a page, as a power of two.
pub const PAGE_BITS: u32 = 12;
const ENTRIES: usize = 16384;
/// Address spaces that are told apart when one is forgotten: several share a number, and are forgotten together.
const SPACES: usize = 4096;

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
    /// How often something had been forgotten when it was found.
    found: u64,
}

const NOTHING: Entry = Entry { page: u64::MAX, key: 0, space: 0, physical: 0, found: 0 };

/// Translations, by access, page, mode and address space.
///
/// Guests forget whole address spaces often, and look few of their pages up again: so nothing is cleared then, but it is
/// noted what is older than that.
#[derive(Debug)]
pub struct Tlb {
    entries: [Box<[Entry]>; 3],
    /// How often something was forgotten.
    count: u64,
    /// What that was when everything was forgotten last, and each address space.
    all: u64,
    spaces: Box<[u64]>,
}

impl Default for Tlb {
    fn default() -> Tlb {
        let entries = std::array::from_fn(|_| vec![NOTHING; ENTRIES].into());
        Tlb { entries, count: 0, all: 0, spaces: vec![0; SPACES].into() }
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
        let reach = if entry.space == u32::MAX { Reach::Everywhere } else { Reach::Space };
        let is_here = match reach {
            Reach::Everywhere => true,
            Reach::Space => entry.space == space && entry.found >= self.spaces[space as usize % SPACES],
        };
        let is = entry.page == page && entry.key == key && entry.found >= self.all && is_here;
        is.then_some((entry.physical | address & ((1 << PAGE_BITS) - 1), reach))
    }

    /// Keeps what a walk gave.
    pub fn keep(&mut self, access: Access, address: u64, key: u32, space: u32, given: u64) {
        let page = address >> PAGE_BITS;
        let space = if given & found::GLOBAL != 0 { u32::MAX } else { space };
        let physical = given >> PAGE_BITS << PAGE_BITS;
        self.entries[access as usize][Tlb::slot(page)] = Entry { page, key, space, physical, found: self.count };
    }

    /// Forgets everything.
    pub fn flush(&mut self) {
        self.count += 1;
        self.all = self.count;
    }

    /// How often anything was forgotten. As long as this is the same, what was found holds.
    pub fn forgotten(&self) -> u64 {
        self.count
    }

    /// Forgets a page in every mode and address space.
    pub fn flush_page(&mut self, address: u64) {
        self.count += 1;
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
        self.count += 1;
        self.spaces[space as usize % SPACES] = self.count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_is_not_found() {
        let mut tlb = Tlb::default();
        let here = |tlb: &Tlb, address, space| tlb.found(Access::Read, address, 1, space);
        tlb.keep(Access::Read, 0x1000, 1, 7, 0x8000);
        tlb.keep(Access::Read, 0x2000, 1, 7, 0x9000 | found::GLOBAL);
        assert_eq!(here(&tlb, 0x1234, 7), Some((0x8234, Reach::Space)));
        assert_eq!(here(&tlb, 0x1234, 8), None, "another address space");
        assert_eq!(tlb.look(Access::Write, 0x1234, 1, 7), None, "another access");
        assert_eq!(tlb.look(Access::Read, 0x1234, 2, 7), None, "another mode");
        tlb.flush_space(8);
        assert!(here(&tlb, 0x1234, 7).is_some());
        tlb.flush_space(7);
        assert_eq!(here(&tlb, 0x1234, 7), None);
        assert_eq!(here(&tlb, 0x2234, 7), Some((0x9234, Reach::Everywhere)));
        tlb.keep(Access::Read, 0x1000, 1, 7, 0xa000);
        assert_eq!(here(&tlb, 0x1234, 7), Some((0xa234, Reach::Space)), "found again");
        tlb.flush_page(0x1000);
        assert_eq!(here(&tlb, 0x1234, 7), None);
        tlb.flush();
        assert_eq!(here(&tlb, 0x2234, 7), None);
    }
}
