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
    /// By physical address and modes.
    blocks: HashMap<(u64, u32), u32>,
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
    blocks: Vec<(u64, u32)>,
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
    fn keep(&mut self, key: (u64, u32), block: Option<(&ir::Block, generate::Compiled, usize)>, size: u64) -> u32 {
        let number = self.list.len() as u32;
        let page = self.pages.entry(key.0 & !(PAGE - 1)).or_default();
        let first = (key.0 & (PAGE - 1)) >> 6;
        let last = ((key.0 & (PAGE - 1)) + size.max(1) - 1).min(PAGE - 1) >> 6;
        (first..=last).for_each(|line| page.lines |= 1 << line);
        page.blocks.push(key);
        self.blocks.insert(key, number);
        let mut translated = Translated { code: None, stale: 0, incoming: Vec::new() };
        if let Some((_, compiled, at)) = block {
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
}

impl Fetch for Reader<'_> {
    fn fetch(&mut self, at: u32) -> Option<(usize, u32)> {
        let room = PAGE - u64::from(at);
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
    /// Runs generated code from where the processor is, until it comes back.
    pub(crate) fn run_translated(&mut self, isa: &Isa, board: &mut dyn Board) {
        let mut link = 0;
        loop {
            let Some(code) = self.find(isa, board, link) else { return };
            let Some(translator) = &mut self.translator else { return };
            let (enter, address) = (translator.enter, translator.cache.address(code));
            let mut run = Run { processor: self, board, isa };
            // SAFETY: as long as generated code runs, nobody but what it calls uses the processor.
            let reason = unsafe {
                let processor = run.processor;
                (*processor).state.set_head(head::RUN, &raw mut run as u64);
                let state = (*processor).state.address();
                match &(*processor).translator {
                    Some(translator) => translator.cache.call(enter, state, address),
                    None => 0,
                }
            };
            self.pc = self.state.head(head::PC);
            if reason == head::INTERPRET_NEXT {
                self.step(isa, board);
                return;
            }
            link = reason as u32;
            if link == 0 {
                return;
            }
        }
    }

    /// Code for where the processor is. Nothing if that was interpreted instead.
    fn find(&mut self, isa: &Isa, board: &mut dyn Board, link: u32) -> Option<usize> {
        let physical = match self.translate(isa, board, Access::Fetch, self.pc, 0) {
            Ok(physical) => physical,
            Err(_) => {
                // It throws again.
                self.step(isa, board);
                return None;
            }
        };
        let (key, space) = (self.key, self.space());
        let known = self.translator.as_ref()?.blocks.get(&(physical, key)).copied();
        let number = match known {
            Some(number) => number,
            None => self.make(isa, physical)?,
        };
        let pc = self.pc;
        let translator = self.translator.as_mut()?;
        let Some(code) = translator.list[number as usize].code else {
            self.step(isa, board);
            return None;
        };
        let set = translator.sets.find(key, space);
        let address = translator.cache.address(code);
        translator.sets.get(set).keep_jump(pc, address);
        if link != 0 && (link as usize) < translator.links.len() {
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
            (head::ATTENTION, self.attention.as_ptr() as u64),
        ];
        head_values.into_iter().for_each(|(word, value)| self.state.set_head(word, value));
        Some(code)
    }

    /// Translates the block at a physical address.
    fn make(&mut self, isa: &Isa, physical: u64) -> Option<u32> {
        let page = physical & !(PAGE - 1);
        let modes: Vec<u64> = isa
            .registers
            .iter()
            .map(|register| if register.is_mode { self.state.narrow(register.offset) } else { 0 })
            .collect();
        let begin = (physical & (PAGE - 1)) as u32;
        let block = specialise::block(isa, &modes, begin, &mut Reader { processor: self, isa, page });
        let host = self.ram.host_page(page);
        let key = (physical, self.key);
        let translator = self.translator.as_mut()?;
        translator.made += 1;
        if let Some(host) = host {
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
                return self.make(isa, physical);
            }
        };
        Some(translator.keep(key, Some((&block, compiled, at)), size))
    }

    /// The next access to a page finds it by itself.
    fn remember(&mut self, address: u64, access: Access) {
        let (key, space) = (self.key, self.space());
        let Some(physical) = self.tlb.look(access, address, key, space) else { return };
        let Some(host) = self.ram.host_page(physical) else { return };
        let Some(translator) = &mut self.translator else { return };
        let is_write = access == Access::Write;
        if is_write && translator.pages.contains_key(&(physical & !(PAGE - 1))) {
            return;
        }
        let set = translator.sets.find(key, space);
        translator.sets.get(set).keep(is_write, address, host);
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

/// Does an instruction. Gives 0 if the next one comes behind it, in the same modes.
extern "sysv64" fn interpret(state: *mut u64, number: u64, word: u64, plus: u64) -> u64 {
    // SAFETY: generated code calls with its state.
    let (processor, board, isa) = unsafe { context(state) };
    processor.pc = processor.state.head(head::PAGE) + plus;
    let before = (processor.key, processor.space());
    let instruction = &isa.instructions[number as usize];
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
