//! From a block to instructions of the host.
//!
//! One pass forward. Each value has a register from where it is made to where it is last used, or a place on the stack if
//! there are too many. What a block knows of guest registers is written to the state where it is left, and in the cold code
//! of accesses that might throw; the hot path writes nothing that nobody looks at.
//!
//! | register | holds |
//! |---|---|
//! | rbp | the processor's state |
//! | r14 | the tables of the mode and address space |
//! | rax, rcx, rdx | nothing for longer than an operation |
//! | the others but rsp | values |

mod accesses;
mod leave;
mod operations;
mod places;

use super::ir::{Block, Ir, Val, Value};
use super::x64::{Alu, Code, Condition, Fixup, Mem, Reg, Shift, Size};
use crate::state::head;

const VALUES: [Reg; 10] =
    [Reg::Rbx, Reg::Rsi, Reg::Rdi, Reg::R8, Reg::R9, Reg::R10, Reg::R11, Reg::R12, Reg::R13, Reg::R15];
/// Those that a call does not keep.
const LOST: [Reg; 6] = [Reg::Rsi, Reg::Rdi, Reg::R8, Reg::R9, Reg::R10, Reg::R11];
/// Places on the stack. A value that finds none makes the block too big, which is then cut.
pub(super) const PLACES: usize = 64;

/// Code of a block.
pub(super) struct Compiled {
    pub(super) bytes: Vec<u8>,
    /// Jumps that may go straight to another block: where their four bytes are, and where the other begins.
    pub(super) links: Vec<(usize, i64)>,
    /// Code that leaves because the block does not hold any more.
    pub(super) stale: usize,
}

/// Where a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Nowhere,
    Host(Reg),
    Stack(usize),
}

/// Where an operand is.
#[derive(Debug, Clone, Copy)]
enum Source {
    Number(u64),
    Host(Reg),
    Stack(usize),
}

/// Code that is seldom reached.
enum Cold {
    Access {
        jumps: Fixup,
        back: usize,
        flush: Vec<(u32, Source)>,
        save: Vec<Reg>,
        address: Source,
        value: Option<Source>,
        meta: u64,
        to: Option<Reg>,
    },
    Exit {
        jumps: Fixup,
        flush: Vec<(u32, Source)>,
        to: Target,
    },
}

#[derive(Clone, Copy)]
enum Target {
    Direct(i64),
    Indirect(Source),
    Interpreter(u32),
}

struct Generator<'b> {
    block: &'b Block,
    code: Code,
    /// Where each value is last used; 0 if it is not.
    last: Vec<u32>,
    places: Vec<Place>,
    hosts: [Option<Value>; 16],
    stack: Vec<Option<Value>>,
    cold: Vec<Cold>,
    links: Vec<(usize, i64)>,
    /// The number of the first link.
    first_link: u64,
    at: u32,
}

/// A value had no place.
pub(super) struct TooBig;

/// Generates code for a block, the links of which have numbers from `first_link` on.
pub(super) fn generate(block: &Block, first_link: u64) -> Result<Compiled, TooBig> {
    let count = block.code.len();
    let mut generator = Generator {
        block,
        code: Code::default(),
        last: last_uses(block),
        places: vec![Place::Nowhere; count],
        hosts: [None; 16],
        stack: vec![None; PLACES],
        cold: Vec::new(),
        links: Vec::new(),
        first_link,
        at: 0,
    };
    for (at, ir) in block.code.iter().enumerate() {
        generator.at = at as u32;
        if ir.is_pure() && generator.last[at] == 0 {
            continue;
        }
        generator.operation(at as Value, *ir)?;
        generator.release();
    }
    let stale = generator.finish();
    Ok(Compiled { bytes: generator.code.bytes, links: generator.links, stale })
}

fn last_uses(block: &Block) -> Vec<u32> {
    let mut last = vec![0; block.code.len()];
    for (at, ir) in block.code.iter().enumerate().rev() {
        if ir.is_pure() && last[at] == 0 {
            continue;
        }
        let mut used = |value: Val| {
            if let Val::Value(value) = value {
                let last = &mut last[value as usize];
                *last = (*last).max(at as u32);
            }
        };
        ir.each(&mut used);
        if let Some(state) = ir.state() {
            block.states[state as usize].dirty.iter().for_each(|(_, value)| used(*value));
        }
    }
    last
}

fn slot(place: usize) -> Mem {
    Mem::at(Reg::Rsp, (place * 8) as i32)
}

fn state(offset: u32) -> Mem {
    Mem::at(Reg::Rbp, (head::SIZE + offset) as i32)
}

fn header(word: u32) -> Mem {
    Mem::at(Reg::Rbp, (word * 8) as i32)
}

fn imm(value: Val, size: Size) -> Option<i32> {
    match value {
        Val::Number(number) => match size {
            Size::S32 => Some(number as u32 as i32),
            Size::S64 => i32::try_from(number as i64).ok(),
        },
        Val::Value(_) => None,
    }
}

impl Generator<'_> {
    fn operation(&mut self, own: Value, ir: Ir) -> Result<(), TooBig> {
        match ir {
            Ir::Read { offset } => {
                let to = self.destination(own)?;
                self.code.load(64, to, state(offset));
            }
            Ir::Page { plus } => {
                let to = self.destination(own)?;
                self.code.load(64, to, header(head::PAGE));
                self.code.alu_imm(Alu::Add, Size::S64, to, plus as i32);
            }
            Ir::Unary(operator, width, a) => self.unary(own, operator, width, a)?,
            Ir::Binary(operator, width, a, b) => self.binary(own, operator, width, a, b)?,
            Ir::Select(_, condition, yes, no) => {
                let condition = self.operand(condition, Reg::Rax);
                self.code.test(Size::S32, condition, condition);
                // A move touches no flag, but a number zero would.
                let yes = match self.source(yes) {
                    Source::Host(reg) => reg,
                    other => {
                        self.move_keeping_flags(Reg::Rcx, other);
                        Reg::Rcx
                    }
                };
                let no = self.source(no);
                let to = self.destination(own)?;
                self.move_keeping_flags(to, no);
                self.code.cmov(Condition::NotEqual, Size::S64, to, yes);
            }
            Ir::Slice { of, low, width } => {
                let to = self.destination_from(own, of)?;
                if low > 0 {
                    self.code.shift_imm(Shift::Shr, Size::S64, to, low);
                }
                if low + width < 64 {
                    self.trim(to, width);
                }
            }
            Ir::Sext { of, from, to: width } => self.sext(own, of, from, width)?,
            Ir::Flags { width, a, b, carry } => self.flags(own, width, a, b, carry)?,
            Ir::Load { address, width, how, at } => self.load(own, address, width, how, at)?,
            Ir::Store { address, value, width, how, at } => self.store(address, value, width, how, at),
            Ir::Interpret { instruction, word, at } => self.interpret(instruction, word, at),
            Ir::ExitIf { test, to, at } => self.exit_if(test, to, at),
            Ir::Exit { to, at } => {
                let flush = self.flush_of(at);
                self.flush(&flush);
                let to = self.target(to, at);
                self.leave(to);
            }
        }
        Ok(())
    }

    /// Cold code. Gives where what leaves a stale block is.
    fn finish(&mut self) -> usize {
        for cold in std::mem::take(&mut self.cold) {
            match cold {
                Cold::Exit { jumps, flush, to } => {
                    self.code.land(jumps);
                    self.flush(&flush);
                    self.leave(to);
                }
                Cold::Access { jumps, back, flush, save, address, value, meta, to } => {
                    self.code.land(jumps);
                    self.flush(&flush);
                    self.access(&save, address, value, meta, to);
                    self.code.jmp_to(back);
                }
            }
        }
        let stale = self.code.here();
        self.set_pc(self.block.begin.into());
        self.code.mov_imm(Reg::Rax, 0);
        self.code.jmp_mem(header(head::LEAVE));
        stale
    }
}
