//! Guest code becomes code of the host.
//!
//! A block is made when it was reached a few times (`visits`, `specialise`, `generate`), found again by where it is in physical memory and
//! by the modes that it was made for, and forgotten when its bytes are written. It does not know at which virtual address
//! it is: pages are shared by programs, and so is their code.

mod cache;
mod callbacks;
mod generate;
mod ir;
mod run;
mod sets;
mod specialise;
mod visits;
mod x64;

use rustc_hash::FxHashMap;

use self::cache::Cache;
use self::generate::{PLACES, WIDE_PLACES};
use self::sets::{Alignment, Sets};
use self::visits::Visits;
use self::x64::{Alu, Code, Mem, Reg, Size};
use crate::state::head;
use crate::tlb::PAGE_BITS;

const PAGE: u64 = 1 << PAGE_BITS;

/// Everything that was translated.
pub(crate) struct Translator {
    cache: Cache,
    sets: Sets,
    alignment: Alignment,
    visits: Visits,
    room: specialise::Room,
    blocks: FxHashMap<Key, u32>,
    list: Vec<Translated>,
    /// Pages that code was made of, by physical address.
    pages: FxHashMap<u64, Vec<Key>>,
    links: Vec<Link>,
    enter: usize,
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
    stale: usize,
    /// Links that go straight to it.
    incoming: Vec<u32>,
}

struct Link {
    /// Its four bytes.
    at: usize,
}

impl Translator {
    /// That translates what runs again. Nothing if the host can't execute what we generate.
    pub(crate) fn patient(unit: u32) -> Option<Translator> {
        Translator::new(unit, Visits::patient())
    }

    /// That translates everything at once.
    pub(crate) fn eager(unit: u32) -> Option<Translator> {
        Translator::new(unit, Visits::eager())
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
        let enter = cache.add(&enter_code())?;
        let begin = cache.used();
        let alignment = Alignment::of(unit);
        Some(Translator {
            cache,
            sets: Sets::new(alignment),
            alignment,
            visits,
            room: specialise::Room::default(),
            blocks: FxHashMap::default(),
            list: Vec::new(),
            pages: FxHashMap::default(),
            // Number 0 is none.
            links: vec![Link { at: 0 }],
            enter,
            begin,
            made: 0,
            epoch: 0,
        })
    }

    pub(crate) fn forget_all(&mut self) {
        self.epoch += 1;
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
        blocks.into_iter().for_each(|key| self.forget(key));
    }

    /// A block is not there any more: who goes to it looks for another.
    fn forget(&mut self, key: Key) {
        let Some(number) = self.blocks.remove(&key) else { return };
        let block = &mut self.list[number as usize];
        if let Some(code) = block.code {
            self.cache.replace(code, block.stale);
        }
        for link in std::mem::take(&mut block.incoming) {
            let at = self.links[link as usize].at;
            self.cache.direct(at, at + 4);
        }
    }

    /// The block is there from now on.
    fn keep(&mut self, key: Key, compiled: Option<(&generate::Compiled, usize)>) -> u32 {
        let number = self.list.len() as u32;
        let begin = key.physical & (PAGE - 1);
        for page in [Some(key.physical - begin), key.behind].into_iter().flatten() {
            self.pages.entry(page).or_default().push(key);
        }
        self.blocks.insert(key, number);
        let mut translated = Translated { code: None, stale: 0, incoming: Vec::new() };
        if let Some((compiled, at)) = compiled {
            self.links.extend(compiled.links.iter().map(|(link, _)| Link { at: at + link }));
            translated = Translated { code: Some(at), stale: at + compiled.stale, incoming: Vec::new() };
        }
        self.list.push(translated);
        number
    }
}

/// Code that goes from us to generated code, comes back, and leaves for an address: in this order.
fn enter_code() -> Vec<u8> {
    let mut code = Code::default();
    let kept = [Reg::Rbp, Reg::Rbx, Reg::R12, Reg::R13, Reg::R14, Reg::R15];
    let frame = (PLACES * 8 + WIDE_PLACES * 16 + 8) as i32;
    let header = |word: u32| Mem::at(Reg::Rbp, (word * 8) as i32);
    kept.iter().for_each(|reg| code.push(*reg));
    code.alu_imm(Alu::Sub, Size::S64, Reg::Rsp, frame);
    code.mov(Size::S64, Reg::Rbp, Reg::Rdi);
    code.load(64, Reg::R14, header(head::SET));
    code.float_control(header(head::FLOAT_CONTROL), false);
    code.jmp_reg(Reg::Rsi);
    pad(&mut code, LEAVE);
    code.float_control(header(head::FLOAT_LEFT), true);
    code.alu_imm(Alu::Add, Size::S64, Reg::Rsp, frame);
    kept.iter().rev().for_each(|reg| code.pop(*reg));
    code.ret();
    pad(&mut code, UNKNOWN);
    code.store(64, header(head::PC), Reg::Rax);
    code.mov_imm(Reg::Rax, 0);
    code.jmp_mem(header(head::LEAVE));
    code.bytes
}

/// Where the parts of `enter_code` are.
const LEAVE: usize = 64;
const UNKNOWN: usize = 128;

fn pad(code: &mut Code, to: usize) {
    debug_assert!(code.bytes.len() <= to, "the parts of the code that enters have their places");
    // What stands between is never reached: a breakpoint.
    code.bytes.resize(to, 0xcc);
}
