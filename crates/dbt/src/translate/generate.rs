//! From a block to instructions of the host.
//!
//! One pass forward. Each value has a register from where it is made to where it is last used, or a place on the stack if
//! there are too many. What a block knows of guest registers is written to the state where it is left, and in the cold code
//! of accesses that might throw; the hot path writes nothing that nobody looks at.
//!
//! | register | holds |
//! |---|---|
//! | rbp | the processor's state: `STATE_AT` behind its beginning |
//! | r14 | the tables of the mode and address space |
//! | rax, rcx, rdx | nothing for longer than an operation |
//! | the others but rsp | values |

mod accesses;
mod errands;
mod floats;
mod leave;
mod operations;
mod places;
mod vectors;

use self::accesses::{Loaded, Saved};
pub(super) use self::errands::{Shared, shared};
use super::ir::{Block, Fence, Ir, Modes, Val, Value};
use super::sets::{self, Alignment};
use super::x64::{Alu, Code, Condition, Fixup, Group, Mem, Reg, Shift, Size, Xmm};
use crate::state::head;
use serde::{Deserialize, Serialize};

const VALUES: [Reg; 10] =
    [Reg::Rbx, Reg::Rsi, Reg::Rdi, Reg::R8, Reg::R9, Reg::R10, Reg::R11, Reg::R12, Reg::R13, Reg::R15];
/// Those that a call does not keep.
const LOST: [Reg; 6] = [Reg::Rsi, Reg::Rdi, Reg::R8, Reg::R9, Reg::R10, Reg::R11];
/// Places on the stack. A value that finds none makes the block too big, which is then cut.
const PLACES: usize = 64;
/// Places of 128 bits, behind those.
const WIDE_PLACES: usize = 32;

/// Code of a block, which is the same wherever it is put.
pub(super) struct Compiled {
    pub(super) bytes: Vec<u8>,
    pub(super) seams: Seams,
}

/// Where a block's code meets what is around it: offsets in its bytes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Seams {
    /// Jumps that may go straight to another block.
    pub(super) links: Vec<Link>,
    /// Where its counter is in a set, if it counts how often it runs: four bytes.
    pub(super) counter: Option<u32>,
    /// Code that leaves because the block does not hold any more.
    pub(super) stale: u32,
}

/// A jump that may go straight to another block.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Link {
    /// How far it goes: four bytes.
    pub(super) jump: u32,
    /// Its number among all links: four bytes.
    pub(super) number: u32,
    /// Where the other block begins: so many bytes from the beginning of the page.
    pub(super) plus: i32,
}

/// Where a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Nowhere,
    Host(Reg),
    Stack(usize),
    Vector(Xmm),
    /// On the stack, with all 128 bits.
    Wide(usize),
}

/// Where an operand is.
#[derive(Debug, Clone, Copy)]
enum Source {
    Number(u64),
    Host(Reg),
    Stack(usize),
    Vector(Xmm),
    Wide(usize),
}

/// What a register of the guest is written.
#[derive(Debug, Clone, Copy)]
struct Flush {
    offset: u32,
    from: Source,
    is_wide: bool,
}

/// Code that is seldom reached.
enum Cold {
    Access {
        jumps: Fixup,
        back: usize,
        flush: Vec<Flush>,
        save: Saved,
        address: Source,
        value: Option<Source>,
        meta: u32,
        to: Loaded,
    },
    /// The page of an access is looked for, and then the access is tried again.
    Touch {
        jumps: Fixup,
        again: usize,
        flush: Vec<Flush>,
        save: Saved,
        address: Source,
        meta: u32,
    },
    Exit {
        jumps: Fixup,
        flush: Vec<Flush>,
        to: Target,
    },
}

#[derive(Clone, Copy)]
enum Target {
    Direct(i64),
    Indirect(Source),
    Interpreter(u32),
    /// The same, with the flags of floating-point operations that were kept.
    InterpreterAsBefore(u32),
    /// At this instruction, when interrupts were looked at.
    Poll(u32),
    /// At the block's first instruction, when it is made anew.
    Hot,
}

struct Generator<'b> {
    block: &'b Block,
    code: Code,
    /// Where each value is last used; 0 if it is not.
    last: Vec<u32>,
    places: Vec<Place>,
    hosts: [Option<Value>; 16],
    stack: Vec<Option<Value>>,
    vectors: [Option<Value>; 16],
    wide_stack: Vec<Option<Value>>,
    cold: Vec<Cold>,
    seams: Seams,
    site: Site,
    at: u32,
}

/// A value had no place.
pub(super) struct TooBig;

/// What a block will be among others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site {
    pub(super) alignment: Alignment,
    pub(super) counting: Counting,
}

/// Whether a block counts how often it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counting {
    Yes,
    No,
}

/// Generates code for a block.
pub(super) fn generate(block: &Block, site: Site) -> Result<Compiled, TooBig> {
    let count = block.code.len();
    let mut generator = Generator {
        block,
        code: Code::with_room_for(count),
        last: last_uses(block),
        places: vec![Place::Nowhere; count],
        hosts: [None; 16],
        stack: vec![None; PLACES],
        vectors: [None; 16],
        wide_stack: vec![None; WIDE_PLACES],
        cold: Vec::new(),
        seams: Seams::default(),
        site,
        at: 0,
    };
    generator.count();
    for (at, ir) in block.code.iter().enumerate() {
        generator.at = at as u32;
        if ir.is_pure() && generator.last[at] == 0 {
            continue;
        }
        generator.operation(at as Value, *ir)?;
        generator.release();
    }
    generator.seams.stale = generator.finish() as u32;
    Ok(Compiled { bytes: generator.code.bytes, seams: generator.seams })
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
            block.states[state as usize].dirty.iter().for_each(|dirty| used(dirty.value));
        }
    }
    last
}

fn slot(place: usize) -> Mem {
    Mem::at(Reg::Rsp, (place * 8) as i32)
}

fn wide_slot(place: usize) -> Mem {
    Mem::at(Reg::Rsp, ((PLACES + 2 * place) * 8) as i32)
}

/// Where rbp is: a displacement of a byte reaches the first thirty-two registers from there.
const STATE_AT: i32 = head::SIZE as i32 + 128;

fn state(offset: u32) -> Mem {
    Mem::at(Reg::Rbp, offset as i32 - 128)
}

fn header(word: u32) -> Mem {
    Mem::at(Reg::Rbp, (word * 8) as i32 - STATE_AT)
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
            Ir::Clock => {
                let to = self.destination(own)?;
                self.code.rdtsc();
                self.code.shift_imm(Shift::Shl, Size::S64, Reg::Rdx, 32);
                self.code.alu(Alu::Or, Size::S64, Reg::Rax, Reg::Rdx);
                self.code.load(64, Reg::Rcx, header(head::CLOCK_MULTIPLIER));
                self.code.group(Group::Mul, Size::S64, Reg::Rcx);
                self.code.mov(Size::S64, to, Reg::Rdx);
                self.code.alu_mem(Alu::Add, Size::S64, to, header(head::CLOCK_OFFSET));
            }
            Ir::FloatFlags { offset } => self.float_flags(own, offset)?,
            Ir::SetFloatFlags { offset, value } => self.set_float_flags(offset, value),
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
            Ir::Vector(vector) => self.vector_operation(own, vector)?,
            Ir::Load { address, width, how, at, class } => self.load(own, class, (address, width, at), how)?,
            Ir::Store { address, value, width, how, at } => self.store(address, value, width, how, at),
            Ir::Interpret { instruction, word, at } => self.interpret(instruction, word, at),
            Ir::ExitIf { test, to, at } => self.exit_if(test, to, at),
            Ir::Atomic { kind, address, value, width, at } => self.atomic(own, kind, (address, width, at), value)?,
            Ir::CompareAndSwap { address, old, new, width, at } => {
                self.compare_and_swap(own, (address, width, at), old, new)?;
            }
            Ir::Poll { next, at } => self.poll(next, at),
            Ir::Fence(Fence::Memory) => self.code.fence(),
            Ir::Fence(Fence::Clock) => self.code.load_fence(),
            Ir::Settle { at } => self.settle(at),
            Ir::Synchronise { next, at } => self.synchronise(next, at),
            Ir::Exit { to, at, modes } => {
                let flush = self.flush_of(at);
                self.flush(&flush);
                match (modes, self.target(to, at)) {
                    (Modes::Same, to) => self.leave(to),
                    (Modes::Changed, to) => self.leave_for_modes(to),
                }
            }
        }
        Ok(())
    }

    /// Cold code. Gives where what leaves a stale block is.
    /// A block that has run often enough asks for more effort.
    fn count(&mut self) {
        if self.site.counting == Counting::No {
            return;
        }
        self.code.decrement(Mem::at(Reg::R14, sets::counter(0)));
        self.seams.counter = Some(self.code.here() as u32 - 4);
        let jumps = self.code.jcc(Condition::Sign);
        self.cold.push(Cold::Exit { jumps, flush: Vec::new(), to: Target::Hot });
    }

    fn finish(&mut self) -> usize {
        for cold in std::mem::take(&mut self.cold) {
            match cold {
                Cold::Exit { jumps, flush, to } => {
                    self.code.land(jumps);
                    self.flush(&flush);
                    self.leave(to);
                }
                Cold::Touch { jumps, again, flush, save, address, meta } => {
                    self.code.land(jumps);
                    self.flush(&flush);
                    self.touch(save, address, meta);
                    self.code.jmp_to(again);
                }
                Cold::Access { jumps, back, flush, save, address, value, meta, to } => {
                    self.code.land(jumps);
                    self.flush(&flush);
                    self.access(save, address, value, meta, to);
                    self.code.jmp_to(back);
                }
            }
        }
        let stale = self.code.here();
        self.set_pc(self.block.begin.into());
        self.code.mov_imm(Reg::Rax, head::STALE);
        self.code.jmp_mem(header(head::LEAVE));
        stale
    }
}
