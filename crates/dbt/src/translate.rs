//! Guest code becomes code of the host.
//!
//! A block is made when it was reached a few times (`visits`, `specialise`, `generate`), found again by where it is in physical memory and
//! by the modes that it was made for, and forgotten when its bytes are written. It does not know at which virtual address
//! it is: pages are shared by programs, and so is their code.

mod batch;
mod cache;
mod callbacks;
mod generate;
mod ir;
mod kept;
mod region;
mod reuse;
mod run;
mod sets;
mod specialise;
mod visits;
mod x64;

use std::sync::Arc;

use rustc_hash::FxHashMap;

use self::batch::Batch;
use self::cache::Cache;
use self::kept::PageName;
use self::region::Workshop;
use self::sets::{Alignment, Sets};
use self::specialise::Effort;
use self::visits::Visits;
use crate::tlb::PAGE_BITS;

pub use self::kept::Translations;

const PAGE: u64 = 1 << PAGE_BITS;

/// Everything that was translated.
pub(crate) struct Translator {
    cache: Cache,
    sets: Sets,
    alignment: Alignment,
    visits: Visits,
    room: specialise::Room,
    generating: generate::Room,
    blocks: FxHashMap<Key, u32>,
    list: Vec<Translated>,
    /// Pages that code was made of, by physical address.
    pages: FxHashMap<u64, Vec<Key>>,
    links: Vec<Link>,
    /// What other machines have translated, and what it calls pages that it has met.
    kept: Option<Arc<Translations>>,
    names: FxHashMap<u64, PageName>,
    /// How often pages were written since some of their code was dropped for that.
    written: FxHashMap<u64, u32>,
    /// Room for what is being installed.
    batch: Batch,
    shared: generate::Shared,
    /// Where loops are compiled as a whole, if they are.
    workshop: Option<Workshop>,
    /// Where code of blocks begins.
    begin: usize,
    /// Blocks that were made, and regions.
    pub(crate) made: u64,
    pub(crate) regions: u64,
    /// How often everything was forgotten: numbers of links are those of one epoch.
    epoch: u64,
}

/// What a block is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    physical: u64,
    /// The page that is behind this one, if it reaches there.
    behind: Option<u64>,
    modes: u32,
}

impl Key {
    /// The pages that it is made of.
    fn pages(&self) -> [u64; 2] {
        [self.physical & !(PAGE - 1), self.behind.unwrap_or(self.physical) & !(PAGE - 1)]
    }
}

struct Translated {
    /// Nothing if it must be interpreted.
    code: Option<usize>,
    effort: Effort,
    stale: usize,
    /// The lines of its page that it was made of: all, if it is of two pages or none of it is known.
    lines: u64,
    /// The last of the links that go straight to it.
    incoming: u32,
}

/// What became of a page's code when the page was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dropped {
    Nothing,
    Some,
    /// There is none of it any more.
    All,
}

/// So often a page may be written before none of its code is left.
const MOST_WRITTEN: u32 = 64;

/// The number of none.
const NO_LINK: u32 = 0;

#[derive(Clone, Copy)]
struct Link {
    /// Its four bytes.
    at: usize,
    /// Where it leads: so many bytes from the beginning of the page.
    plus: i32,
    /// Whether it goes straight there, and which other does.
    is_straight: bool,
    next: u32,
}

impl Translator {
    /// That translates what runs again. Nothing if the host can't execute what we generate.
    pub(crate) fn patient(unit: u32) -> Option<Translator> {
        Translator::new(unit, Visits::patient())
    }

    /// The same, and loops are compiled as a whole.
    pub(crate) fn looping(unit: u32) -> Option<Translator> {
        let patient = Translator::patient(unit)?;
        Some(Translator { workshop: Some(Workshop::default()), ..patient })
    }

    /// That translates everything at once.
    pub(crate) fn eager(unit: u32) -> Option<Translator> {
        Translator::new(unit, Visits::eager(Effort::All))
    }

    /// That compiles everything as regions, at once.
    pub(crate) fn thorough(unit: u32) -> Option<Translator> {
        let eager = Translator::new(unit, Visits::eager(Effort::Region))?;
        Some(Translator { workshop: Some(Workshop::default()), ..eager })
    }

    /// For instructions whose sizes are multiples of so many bits.
    fn new(unit: u32, visits: Visits) -> Option<Translator> {
        if !(std::is_x86_feature_detected!("bmi2")
            && std::is_x86_feature_detected!("lzcnt")
            && std::is_x86_feature_detected!("avx2")
            && std::is_x86_feature_detected!("cmpxchg16b")
            && std::is_x86_feature_detected!("fma"))
        {
            return None;
        }
        let mut cache = Cache::new()?;
        let alignment = Alignment::of(unit);
        let shared = generate::shared(alignment);
        // The cache's first bytes: where its parts are is where they are in it.
        cache.add(&shared.code)?;
        let begin = cache.used();
        Some(Translator {
            cache,
            sets: Sets::new(alignment),
            alignment,
            visits,
            room: specialise::Room::default(),
            generating: generate::Room::default(),
            blocks: FxHashMap::default(),
            list: Vec::new(),
            pages: FxHashMap::default(),
            links: vec![Link { at: 0, plus: 0, is_straight: false, next: NO_LINK }],
            kept: None,
            names: FxHashMap::default(),
            written: FxHashMap::default(),
            batch: Batch::default(),
            shared,
            workshop: None,
            begin,
            made: 0,
            regions: 0,
            epoch: 0,
        })
    }

    /// What is translated from now on is looked for here first, and added to it.
    pub(crate) fn share(&mut self, kept: Arc<Translations>) {
        self.blocks.reserve(kept.count());
        self.list.reserve(kept.count());
        self.kept = Some(kept);
    }

    /// There is time for what is not urgent.
    pub(crate) fn rest(&self) {
        if let Some(kept) = &self.kept {
            kept.rest();
        }
    }

    pub(crate) fn forget_all(&mut self) {
        self.epoch += 1;
        if let Some(workshop) = &mut self.workshop {
            workshop.forget_all();
        }
        self.cache.truncate(self.begin);
        self.sets.flush();
        self.blocks.clear();
        self.list.clear();
        self.pages.clear();
        self.names.clear();
        self.written.clear();
        self.links.truncate(1);
    }

    pub(crate) fn flush(&mut self) {
        self.sets.flush();
    }

    pub(crate) fn flush_page(&mut self, address: u64) {
        self.sets.flush_page(address);
    }

    pub(crate) fn flush_space(&mut self, space: u32) {
        self.sets.flush_space(space);
    }

    /// The pages of ours that generated code may write to by itself, some of them more than once.
    pub(crate) fn writable(&self) -> Vec<u64> {
        self.sets.writable()
    }

    /// Generated code asks of each page that it writes to.
    pub(crate) fn forget_writable(&mut self) {
        self.sets.forget_writable();
    }

    /// Nobody writes to a page of ours by himself any more: it has code now.
    pub(crate) fn protect(&mut self, host: u64) {
        self.sets.protect(host);
    }

    /// A page was written where it had code: no block of it holds.
    pub(crate) fn drop_page(&mut self, page: u64) {
        self.names.remove(&page);
        self.written.remove(&page);
        let Some(blocks) = self.take_page(page) else { return };
        blocks.into_iter().for_each(|key| self.forget(key));
    }

    /// Blocks of a page, if there are any. What was ordered of it is not wanted any more.
    fn take_page(&mut self, page: u64) -> Option<Vec<Key>> {
        let blocks = self.pages.remove(&page)?;
        if let Some(workshop) = &mut self.workshop {
            workshop.forget_page(page);
        }
        Some(blocks)
    }

    /// A page that may have code was written, in these lines of those that code was made of: blocks of others hold still.
    ///
    /// Who writes there is noticed each time. So a page that is written on and on has no code from then on: it was given to
    /// somebody else, most likely. (A kernel that starts changes instructions here and there in most of its pages.)
    pub(crate) fn wrote(&mut self, page: u64, lines: u64) -> Dropped {
        let dropped = if lines == 0 { Dropped::Nothing } else { self.drop_lines(page, lines) };
        if dropped == Dropped::Some {
            self.written.entry(page).or_default();
        }
        match self.written.get_mut(&page) {
            Some(times) if *times < MOST_WRITTEN => *times += 1,
            Some(_) => {
                self.drop_page(page);
                return Dropped::All;
            }
            None => {}
        }
        dropped
    }

    fn drop_lines(&mut self, page: u64, lines: u64) -> Dropped {
        let Some(mut keys) = self.take_page(page) else { return Dropped::All };
        let count = keys.len();
        keys.retain(|key| {
            let block = self.blocks.get(key).map(|number| &self.list[*number as usize]);
            let holds = block.is_some_and(|it| it.lines & lines == 0);
            if !holds {
                self.forget(*key);
            }
            holds
        });
        match keys.len() {
            0 => {
                self.drop_page(page);
                Dropped::All
            }
            left if left == count => {
                self.pages.insert(page, keys);
                Dropped::Nothing
            }
            _ => {
                self.pages.insert(page, keys);
                Dropped::Some
            }
        }
    }

    /// A block is not there any more: who goes to it looks for another.
    fn forget(&mut self, key: Key) {
        let Some(number) = self.blocks.remove(&key) else { return };
        self.visits.begin_anew(key);
        let block = &mut self.list[number as usize];
        if let Some(code) = block.code {
            self.cache.replace(code, block.stale);
        }
        let mut next = std::mem::replace(&mut block.incoming, NO_LINK);
        while next != NO_LINK {
            let link = &mut self.links[next as usize];
            self.cache.direct(link.at, link.at + 4);
            link.is_straight = false;
            next = std::mem::replace(&mut link.next, NO_LINK);
        }
    }

    /// A link is there, whose four bytes are there; gives its number.
    fn add_link(&mut self, at: usize, plus: i32) -> u32 {
        self.links.push(Link { at, plus, is_straight: false, next: NO_LINK });
        self.links.len() as u32 - 1
    }

    /// Where the code is that a link is going to lead straight to. Nothing if that is none, or it does already: who is wanted
    /// leaves by such links, too.
    fn lead(&mut self, link: u32, to: u32) -> Option<usize> {
        let block = &mut self.list[to as usize];
        let code = block.code?;
        let own = &mut self.links[link as usize];
        if own.is_straight {
            return None;
        }
        own.is_straight = true;
        own.next = std::mem::replace(&mut block.incoming, link);
        Some(code)
    }

    /// A block is interpreted from now on.
    fn give_up(&mut self, key: Key) -> u32 {
        self.keep(key, Translated { code: None, effort: Effort::Less, stale: 0, lines: u64::MAX, incoming: NO_LINK })
    }

    fn keep(&mut self, key: Key, translated: Translated) -> u32 {
        let number = self.list.len() as u32;
        let begin = key.physical & (PAGE - 1);
        for page in [Some(key.physical - begin), key.behind].into_iter().flatten() {
            self.pages.entry(page).or_default().push(key);
        }
        self.blocks.insert(key, number);
        self.list.push(translated);
        number
    }
}
