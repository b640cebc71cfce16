//! Guest code becomes code of the host.
//!
//! A block is made when it was reached a few times (`visits`, `specialise`, `generate`), found again by where it is in physical memory and
//! by the modes that it was made for, and forgotten when its bytes are written. It does not know at which virtual address
//! it is: pages are shared by programs, and so is their code.

mod cache;
mod callbacks;
mod generate;
mod ir;
mod kept;
mod region;
mod run;
mod sets;
mod specialise;
mod visits;
mod x64;

use std::sync::Arc;

use rustc_hash::FxHashMap;

use self::cache::Cache;
use self::generate::Seams;
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
    /// What other machines have translated.
    kept: Option<Arc<Translations>>,
    shared: generate::Shared,
    /// Where loops are compiled as a whole, if they are.
    workshop: Option<Workshop>,
    /// Where code of blocks begins.
    begin: usize,
    /// Blocks that were made.
    pub(crate) made: u64,
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
    /// Links that go straight to it.
    incoming: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Link {
    /// Its four bytes.
    at: usize,
    /// Where it leads: so many bytes from the beginning of the page.
    plus: i32,
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
            // Number 0 is none.
            links: vec![Link { at: 0, plus: 0 }],
            kept: None,
            shared,
            workshop: None,
            begin,
            made: 0,
            epoch: 0,
        })
    }

    /// What is translated from now on is looked for here first, and added to it.
    pub(crate) fn share(&mut self, kept: Arc<Translations>) {
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

    /// Nobody writes to a page of ours by himself any more: it has code now.
    pub(crate) fn protect(&mut self, host: u64) {
        self.sets.protect(host);
    }

    /// A page was written where it had code: no block of it holds.
    pub(crate) fn drop_page(&mut self, page: u64) {
        let Some(blocks) = self.pages.remove(&page) else { return };
        if let Some(workshop) = &mut self.workshop {
            workshop.forget_page(page);
        }
        blocks.into_iter().for_each(|key| self.forget(key));
    }

    /// A block is not there any more: who goes to it looks for another.
    fn forget(&mut self, key: Key) {
        let Some(number) = self.blocks.remove(&key) else { return };
        self.visits.begin_anew(key);
        let block = &mut self.list[number as usize];
        if let Some(code) = block.code {
            self.cache.replace(code, block.stale);
        }
        for link in std::mem::take(&mut block.incoming) {
            let at = self.links[link as usize].at;
            self.cache.direct(at, at + 4);
        }
    }

    /// A block's code is there from now on. Nothing if there is no room for it.
    fn install(&mut self, key: Key, effort: Effort, code: &[u8], seams: &Seams) -> Option<u32> {
        let at = self.cache.add(code)?;
        let first = self.links.len();
        for (number, link) in seams.links.iter().enumerate() {
            self.cache.put(at + link.number as usize, (first + number) as u32);
        }
        let page = key.physical & !(PAGE - 1);
        for counter in &seams.counters {
            self.cache.put(at + counter.at as usize, sets::counter(page + u64::from(counter.plus)) as u32);
        }
        self.links.extend(seams.links.iter().map(|link| Link { at: at + link.jump as usize, plus: link.plus }));
        let stale = at + seams.stale as usize;
        Some(self.keep(key, Translated { code: Some(at), effort, stale, incoming: Vec::new() }))
    }

    /// A block is interpreted from now on.
    fn give_up(&mut self, key: Key) -> u32 {
        self.keep(key, Translated { code: None, effort: Effort::Less, stale: 0, incoming: Vec::new() })
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
