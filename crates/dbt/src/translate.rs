//! Guest code becomes code of the host.
//!
//! A block is made when it is first reached (`specialise`, `generate`), found again by where it is in physical memory and
//! by the modes that it was made for, and forgotten when its bytes are written. It does not know at which virtual address
//! it is: pages are shared by programs, and so is their code.

#![expect(unsafe_code, reason = "generated code calls back with a pointer to its processor")]

mod cache;
mod generate;
mod ir;
mod sets;
mod specialise;
mod x64;

use std::collections::HashMap;

use isa::Isa;

use self::cache::Cache;
use self::generate::{PLACES, TooBig};
use self::sets::Sets;
use self::specialise::Fetch;
use self::x64::{Alu, Code, Condition, Mem, Reg, Shift, Size};
use crate::board::Board;
use crate::processor::{End, Processor};
use crate::state::head;
use crate::tlb::{Access, PAGE_BITS};

const PAGE: u64 = 1 << PAGE_BITS;

/// Everything that was translated.
pub(crate) struct Translator {
    cache: Cache,
    sets: Sets,
    blocks: HashMap<Key, u32>,
    list: Vec<Translated>,
    /// Pages that code was made of, by physical address.
    pages: HashMap<u64, CodePage>,
    links: Vec<Link>,
    enter: usize,
    /// Where code of blocks begins.
    begin: usize,
    /// Blocks that were made.
    pub(crate) made: u64,
}

/// What a block is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    physical: u64,
    /// The page that is behind this one, if it reaches there.
    behind: Option<u64>,
    modes: u32,
}

struct Translated {
    /// Nothing if it must be interpreted.
    code: Option<usize>,
    stale: usize,
    /// Links that go straight to it.
    incoming: Vec<u32>,
}

#[derive(Default)]
struct CodePage {
    /// Which pieces of 64 bytes were translated.
    lines: u64,
    blocks: Vec<Key>,
}

struct Link {
    /// Its four bytes.
    at: usize,
}

/// What generated code calls back with.
struct Run<'r> {
    processor: *mut Processor,
    board: *mut (dyn Board + 'r),
    isa: *const Isa,
}

#[repr(C)]
struct Pair {
    value: u64,
    has_thrown: u64,
}

impl Translator {
    /// Nothing if the host can't execute what we generate.
    pub(crate) fn new() -> Option<Translator> {
        if !(std::is_x86_feature_detected!("bmi2") && std::is_x86_feature_detected!("lzcnt")) {
            return None;
        }
        let mut cache = Cache::new()?;
        let enter = cache.add(&enter_code())?;
        let begin = cache.used();
        Some(Translator {
            cache,
            sets: Sets::default(),
            blocks: HashMap::new(),
            list: Vec::new(),
            pages: HashMap::new(),
            // Number 0 is none.
            links: vec![Link { at: 0 }],
            enter,
            begin,
            made: 0,
        })
    }

    fn forget_all(&mut self) {
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

    /// Memory at a physical address was written: what was translated of it does not hold.
    pub(crate) fn wrote(&mut self, physical: u64, size: u64) {
        let Some(page) = self.pages.get(&(physical & !(PAGE - 1))) else { return };
        let first = (physical & (PAGE - 1)) >> 6;
        let last = ((physical & (PAGE - 1)) + size - 1).min(PAGE - 1) >> 6;
        if (first..=last).all(|line| page.lines >> line & 1 == 0) {
            return;
        }
        let Some(page) = self.pages.remove(&(physical & !(PAGE - 1))) else { return };
        for key in page.blocks {
            let Some(number) = self.blocks.remove(&key) else { continue };
            let block = &mut self.list[number as usize];
            if let Some(code) = block.code {
                self.cache.replace(code, block.stale);
            }
            for link in std::mem::take(&mut block.incoming) {
                let at = self.links[link as usize].at;
                self.cache.direct(at, at + 4);
            }
        }
    }

    /// The block is there from now on.
    fn keep(&mut self, key: Key, compiled: Option<(&generate::Compiled, usize)>, size: u64) -> u32 {
        let number = self.list.len() as u32;
        let begin = key.physical & (PAGE - 1);
        let page = self.pages.entry(key.physical - begin).or_default();
        (begin >> 6..=(begin + size.max(1) - 1).min(PAGE - 1) >> 6).for_each(|line| page.lines |= 1 << line);
        page.blocks.push(key);
        if let Some(behind) = key.behind {
            let behind = self.pages.entry(behind).or_default();
            behind.lines |= 1;
            behind.blocks.push(key);
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

/// Code that goes from us to generated code, comes back, and looks up addresses: in this order.
fn enter_code() -> Vec<u8> {
    let mut code = Code::default();
    let kept = [Reg::Rbp, Reg::Rbx, Reg::R12, Reg::R13, Reg::R14, Reg::R15];
    let frame = (PLACES * 8 + 8) as i32;
    let header = |word: u32| Mem::at(Reg::Rbp, (word * 8) as i32);
    kept.iter().for_each(|reg| code.push(*reg));
    code.alu_imm(Alu::Sub, Size::S64, Reg::Rsp, frame);
    code.mov(Size::S64, Reg::Rbp, Reg::Rdi);
    code.load(64, Reg::R14, header(head::SET));
    code.jmp_reg(Reg::Rsi);
    pad(&mut code, LEAVE);
    code.alu_imm(Alu::Add, Size::S64, Reg::Rsp, frame);
    kept.iter().rev().for_each(|reg| code.pop(*reg));
    code.ret();
    pad(&mut code, LOOK_UP);
    code.load(64, Reg::Rcx, header(head::ATTENTION));
    code.cmp_mem_imm(Mem::at(Reg::Rcx, 0), 0);
    let interrupted = code.jcc(Condition::NotEqual);
    code.mov(Size::S64, Reg::Rcx, Reg::Rax);
    code.shift_imm(Shift::Shl, Size::S32, Reg::Rcx, 3);
    code.alu_imm(Alu::And, Size::S32, Reg::Rcx, ((sets::ENTRIES - 1) << 4) as i32);
    let entry = Mem { base: Reg::R14, index: Some(Reg::Rcx), disp: sets::JUMPS };
    code.alu_mem(Alu::Cmp, Size::S64, Reg::Rax, entry);
    let unknown = code.jcc(Condition::NotEqual);
    code.alu_imm(Alu::And, Size::S64, Reg::Rax, -(PAGE as i32));
    code.store(64, header(head::PAGE), Reg::Rax);
    code.jmp_mem(Mem { disp: sets::JUMPS + 8, ..entry });
    code.land(interrupted);
    code.land(unknown);
    code.store(64, header(head::PC), Reg::Rax);
    code.mov_imm(Reg::Rax, 0);
    code.jmp_mem(header(head::LEAVE));
    code.bytes
}

/// Where the parts of `enter_code` are.
const LEAVE: usize = 64;
const LOOK_UP: usize = 128;

fn pad(code: &mut Code, to: usize) {
    debug_assert!(code.bytes.len() <= to, "the parts of the code that enters have their places");
    // What stands between is never reached: a breakpoint.
    code.bytes.resize(to, 0xcc);
}

/// Instructions of a page.
struct Reader<'r> {
    processor: &'r mut Processor,
    isa: &'r Isa,
    /// Its physical address.
    page: u64,
    /// That of the page behind it, where an instruction may end that begins here: then it is a block of its own.
    behind: Option<u64>,
}

impl Fetch for Reader<'_> {
    fn fetch(&mut self, at: u32) -> Option<(usize, u32)> {
        let room = PAGE - u64::from(at);
        if let (2, Some(behind)) = (room, self.behind) {
            let low = self.processor.ram.read(self.page + u64::from(at), 16)? as u32;
            let word = low | (self.processor.ram.read(behind, 16)? as u32) << 16;
            return self.processor.decode_number(self.isa, word).map(|number| (number, word));
        }
        let address = self.page + u64::from(at);
        let width = if room >= 4 { 32 } else { 16 };
        if room < 2 {
            return None;
        }
        let word = self.processor.ram.read(address, width)? as u32;
        let number = self.processor.decode_number(self.isa, word)?;
        let instruction = &self.isa.instructions[number];
        let word = if instruction.size == 2 { word & 0xffff } else { word };
        (u64::from(instruction.size) <= room).then_some((number, word))
    }
}

impl Processor {
    /// Runs generated code from where the processor is, until somebody may want something else.
    pub(crate) fn run_translated(&mut self, isa: &Isa, board: &mut dyn Board) {
        let mut link = 0;
        let mut is_stale = false;
        loop {
            let known = if is_stale { None } else { self.known(link) };
            let Some(address) = known.or_else(|| self.find(isa, board, link)) else { return };
            is_stale = false;
            match self.call(isa, board, address) {
                0 => return,
                head::INTERPRET_NEXT => {
                    self.count_next(isa);
                    self.step(isa, board);
                    return;
                }
                head::STALE => {
                    link = 0;
                    is_stale = true;
                }
                head::MODES_CHANGED => {
                    link = 0;
                    self.update_key();
                    if self.state.head(head::PENDING) != 0 {
                        return;
                    }
                }
                number => link = number as u32,
            }
        }
    }

    /// Counts the instruction at hand.
    fn count_next(&mut self, isa: &Isa) {
        let physical = self.tlb.look(Access::Fetch, self.pc, self.key, self.space());
        let word = physical.and_then(|at| self.ram.read(at, 32));
        if let Some(number) = word.and_then(|word| self.decode_number(isa, word as u32)) {
            self.counts[number] += 1;
        }
    }

    /// Calls generated code.
    fn call(&mut self, isa: &Isa, board: &mut dyn Board, address: u64) -> u64 {
        let mut run = Run { processor: self, board, isa };
        // SAFETY: as long as generated code runs, nobody but what it calls uses the processor.
        let reason = unsafe {
            let processor = run.processor;
            (*processor).state.set_head(head::RUN, &raw mut run as u64);
            let state = (*processor).state.address();
            match &(*processor).translator {
                Some(translator) => translator.cache.call(translator.enter, state, address),
                None => 0,
            }
        };
        self.pc = self.state.head(head::PC);
        reason
    }

    /// Code for where the processor is, if it ran here lately.
    fn known(&mut self, link: u32) -> Option<u64> {
        let (pc, key, space) = (self.pc, self.key, self.space());
        let translator = self.translator.as_mut()?;
        let set = translator.sets.find(key, space);
        let set = translator.sets.get(set);
        let address = set.jump(pc)?;
        // A link is made by whoever finds more than the address.
        if link != 0 {
            return None;
        }
        let set = &raw mut *set as u64;
        self.state.set_head(head::PAGE, pc & !(PAGE - 1));
        self.state.set_head(head::SET, set);
        Some(address)
    }

    /// Code for where the processor is. Nothing if that was interpreted instead.
    fn find(&mut self, isa: &Isa, board: &mut dyn Board, link: u32) -> Option<u64> {
        let physical = match self.translate(isa, board, Access::Fetch, self.pc, 0) {
            Ok(physical) => physical,
            Err(_) => {
                // It throws again.
                self.step(isa, board);
                return None;
            }
        };
        let (key, space) = (self.key, self.space());
        let behind = if self.is_across(isa, physical) {
            self.translate(isa, board, Access::Fetch, self.pc.wrapping_add(2), 0).ok()
        } else {
            None
        };
        let found = Key { physical, behind, modes: key };
        let number = match self.translator.as_ref()?.blocks.get(&found) {
            Some(number) => *number,
            None => self.make(isa, found)?,
        };
        let pc = self.pc;
        let translator = self.translator.as_mut()?;
        let Some(code) = translator.list[number as usize].code else {
            self.count_next(isa);
            self.step(isa, board);
            return None;
        };
        let set = translator.sets.find(key, space);
        let address = translator.cache.address(code);
        translator.sets.get(set).keep_jump(pc, address);
        if link != 0 && behind.is_none() && (link as usize) < translator.links.len() {
            // Whoever came here by a link can come straight from now on.
            translator.cache.direct(translator.links[link as usize].at, code);
            translator.list[number as usize].incoming.push(link);
        }
        let set = &raw mut *translator.sets.get(set) as u64;
        let head_values = [
            (head::PAGE, pc & !(PAGE - 1)),
            (head::SET, set),
            (head::LEAVE, translator.cache.address(LEAVE)),
            (head::LOOK_UP, translator.cache.address(LOOK_UP)),
            (head::LOAD, load as *const () as u64),
            (head::STORE, store as *const () as u64),
            (head::INTERPRET, interpret as *const () as u64),
            (head::TOUCH, touch as *const () as u64),
            (head::CLOCK_MULTIPLIER, self.clock.multiplier),
            (head::CLOCK_OFFSET, self.clock.offset),
            (head::ATTENTION, self.attention.as_ptr() as u64),
        ];
        head_values.into_iter().for_each(|(word, value)| self.state.set_head(word, value));
        Some(address)
    }

    /// Whether an instruction begins there that may end on the next page.
    fn is_across(&self, isa: &Isa, physical: u64) -> bool {
        isa.unit == 16 && physical & (PAGE - 1) == PAGE - 2
    }

    /// Translates the block at a physical address.
    ///
    /// An instruction that ends on another page is a block that only holds as long as that page is behind this one: it is
    /// found through the tables of its address space alone, which forget it when either page is somewhere else.
    fn make(&mut self, isa: &Isa, key: Key) -> Option<u32> {
        let Key { physical, behind, .. } = key;
        let page = physical & !(PAGE - 1);
        let modes: Vec<u64> = isa
            .registers
            .iter()
            .map(|register| if register.is_mode { self.state.narrow(register.offset) } else { 0 })
            .collect();
        let begin = (physical & (PAGE - 1)) as u32;
        let questions = std::mem::take(&mut self.questions);
        let given = specialise::Given { isa, modes: &modes, questions: &questions };
        let block = specialise::block(&given, begin, &mut Reader { processor: self, isa, page, behind });
        self.questions = questions;
        let host = self.ram.host_page(page);
        let behind_host = behind.and_then(|behind| self.ram.host_page(behind));
        let translator = self.translator.as_mut()?;
        translator.made += 1;
        for host in [host, behind_host].into_iter().flatten() {
            translator.sets.protect(host);
        }
        if block.instructions == 0 {
            return Some(translator.keep(key, None, 4));
        }
        let size = u64::from(block.instructions) * 4;
        let compiled = match generate::generate(&block, translator.links.len() as u64) {
            Ok(compiled) => compiled,
            Err(TooBig) => return Some(translator.keep(key, None, size)),
        };
        let at = match translator.cache.add(&compiled.bytes) {
            Some(at) => at,
            None => {
                translator.forget_all();
                return self.make(isa, key);
            }
        };
        Some(translator.keep(key, Some((&compiled, at)), size))
    }

    /// The next access to a page finds it by itself, if it may. Says whether.
    fn remember(&mut self, address: u64, access: Access) -> bool {
        let (key, space) = (self.key, self.space());
        let Some(physical) = self.tlb.look(access, address, key, space) else { return false };
        let Some(host) = self.ram.host_page(physical) else { return false };
        let Some(translator) = &mut self.translator else { return false };
        let is_write = access == Access::Write;
        if is_write && translator.pages.contains_key(&(physical & !(PAGE - 1))) {
            return false;
        }
        let set = translator.sets.find(key, space);
        translator.sets.get(set).keep(is_write, address, host);
        true
    }
}

/// What generated code gave, as references.
///
/// # Safety
/// `state` is that of a processor whose generated code is calling.
unsafe fn context<'r>(state: *mut u64) -> (&'r mut Processor, &'r mut dyn Board, &'r Isa) {
    // SAFETY: the caller says so: then the word points to what `run_translated` keeps until the code is back.
    unsafe {
        let run = &mut *(*state.add(head::RUN as usize) as *mut Run<'r>);
        (&mut *run.processor, &mut *run.board, &*run.isa)
    }
}

fn thrown_at(processor: &mut Processor) -> Pair {
    let pc = processor.pc;
    processor.state.set_head(head::PC, pc);
    Pair { value: 0, has_thrown: 1 }
}

extern "sysv64" fn load(state: *mut u64, address: u64, meta: u64) -> Pair {
    // SAFETY: generated code calls with its state.
    let (processor, board, isa) = unsafe { context(state) };
    processor.pc = processor.state.head(head::PAGE) + (meta >> 16);
    let (width, how) = (meta as u8, (meta >> 8) as u8);
    match processor.load(isa, board, address, width, how) {
        Ok(value) => {
            processor.remember(address, Access::Read);
            Pair { value: value as u64, has_thrown: 0 }
        }
        Err(thrown) => {
            processor.enter(isa, board, thrown);
            thrown_at(processor)
        }
    }
}

extern "sysv64" fn store(state: *mut u64, address: u64, meta: u64, value: u64) -> Pair {
    // SAFETY: generated code calls with its state.
    let (processor, board, isa) = unsafe { context(state) };
    processor.pc = processor.state.head(head::PAGE) + (meta >> 16);
    let (width, how) = (meta as u8, (meta >> 8) as u8);
    match processor.store(isa, board, address, width, value.into(), how) {
        Ok(()) => {
            processor.remember(address, Access::Write);
            Pair { value: 0, has_thrown: 0 }
        }
        Err(thrown) => {
            processor.enter(isa, board, thrown);
            thrown_at(processor)
        }
    }
}

/// Looks for a page that is to be written. Gives 0 if generated code can write to it.
extern "sysv64" fn touch(state: *mut u64, address: u64, meta: u64) -> u64 {
    // SAFETY: generated code calls with its state.
    let (processor, board, isa) = unsafe { context(state) };
    processor.pc = processor.state.head(head::PAGE) + (meta >> 16);
    let size = u64::from(meta as u8 / 8);
    let is_across = address % PAGE + size > PAGE;
    if is_across || processor.translate(isa, board, Access::Write, address, 0).is_err() {
        return 1;
    }
    u64::from(!processor.remember(address, Access::Write))
}

/// Does an instruction. Gives 0 if the next one comes behind it, in the same modes.
extern "sysv64" fn interpret(state: *mut u64, number: u64, word: u64, plus: u64) -> u64 {
    // SAFETY: generated code calls with its state.
    let (processor, board, isa) = unsafe { context(state) };
    processor.pc = processor.state.head(head::PAGE) + plus;
    let before = (processor.key, processor.space());
    let instruction = &isa.instructions[number as usize];
    processor.counts[number as usize] += 1;
    match processor.interpret(isa, board, &instruction.plan, Some((instruction, word as u32)), &[]) {
        End::Next | End::Give(_) => {
            processor.pc = processor.pc.wrapping_add(instruction.size.into());
            let is_same = (processor.key, processor.space()) == before;
            if is_same && !processor.must_attend && !processor.is_waiting {
                return 0;
            }
        }
        End::Jump(to) => processor.pc = to,
        End::Throw(thrown) => {
            processor.enter(isa, board, thrown);
        }
    }
    let pc = processor.pc;
    processor.state.set_head(head::PC, pc);
    1
}
