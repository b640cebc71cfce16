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
mod cold;
mod errands;
mod floats;
mod leave;
mod operations;
mod places;
mod regions;
mod uses;
mod vectors;

pub(super) use self::accesses::Access;
use self::accesses::Loaded;
use self::cold::Cold;
pub(super) use self::errands::{Shared, shared};
pub(super) use self::regions::{Call, WAY_BYTES, enclose};
use self::uses::{FlagsOf, Uses};
use super::ir::{Block, Class, Fence, Ir, Modes, Val, Value};
use super::sets::Alignment;
use super::x64::{Alu, Code, Group, Mem, Reg, Shift, Size, Xmm};
use crate::state::head;

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
#[derive(Debug, Clone, Default)]
pub(super) struct Seams {
    /// Jumps that may go straight to another block.
    pub(super) links: Vec<Link>,
    /// Where its counter is in a set, if it counts how often it runs: four bytes.
    pub(super) counter: Option<u32>,
    /// Where it counts how often it turns back.
    pub(super) turns: Vec<Turns>,
    /// Code that leaves because the block does not hold any more.
    pub(super) stale: u32,
}

/// Where it says which counter of a set is meant, in four bytes; and where it turns back to in the page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turns {
    pub(super) at: u32,
    pub(super) plus: u32,
}

/// A jump that may go straight to another block.
#[derive(Debug, Clone, Copy)]
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
    from: Origin,
    is_wide: bool,
}

/// Some of those that a block has: from one to another.
#[derive(Debug, Clone, Copy, Default)]
struct Flushes(u32, u32);

/// Windows that are open somewhere: some of those of a block, from one to another.
#[derive(Debug, Clone, Copy, Default)]
struct Open(u32, u32);

/// What is there already, or is computed where somebody looks.
#[derive(Debug, Clone, Copy)]
enum Origin {
    Place(Source),
    Flags(FlagsOf, [Source; 3]),
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
    /// At an instruction that runs often, when its code is made anew.
    Hot(u32),
}

struct Generator<'b> {
    block: &'b Block,
    code: Code,
    uses: Uses,
    places: Vec<Place>,
    hosts: [Option<Value>; 16],
    stack: Vec<Option<Value>>,
    vectors: [Option<Value>; 16],
    wide_stack: Vec<Option<Value>>,
    cold: Vec<Cold>,
    flushes: Vec<Flush>,
    /// Where windows are, where they are closed.
    open: Vec<Source>,
    /// Where the last of those is looked through that there were.
    last_window: u32,
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

/// What a block counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counting {
    /// How often it runs: it may be worth more effort.
    Visits,
    /// How often it turns back: that may be worth a region.
    Turns,
    Nothing,
}

/// Room that generating takes, kept for the next block.
#[derive(Default)]
pub(super) struct Room {
    bytes: Vec<u8>,
    uses: Uses,
    places: Vec<Place>,
    stack: Vec<Option<Value>>,
    wide_stack: Vec<Option<Value>>,
    cold: Vec<Cold>,
    flushes: Vec<Flush>,
    open: Vec<Source>,
}

impl Room {
    /// Code that was put where it belongs leaves its room for the next.
    pub(super) fn take_back(&mut self, compiled: Compiled) {
        self.bytes = compiled.bytes;
    }
}

/// Empties what was kept.
fn again<T>(room: &mut Vec<T>) -> Vec<T> {
    room.clear();
    std::mem::take(room)
}

/// Generates code for a block.
pub(super) fn generate(block: &Block, site: Site, room: &mut Room) -> Result<Compiled, TooBig> {
    let mut generator = Generator::of(block, site, room);
    generator.uses.find(block);
    generator.places.resize(block.code.len(), Place::Nowhere);
    let done = generator.all();
    let Generator { code, uses, places, stack, wide_stack, cold, flushes, open, seams, .. } = generator;
    *room = Room { bytes: Vec::new(), uses, places, stack, wide_stack, cold, flushes, open };
    done.map(|()| Compiled { bytes: code.bytes, seams })
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

impl<'b> Generator<'b> {
    fn of(block: &'b Block, site: Site, room: &mut Room) -> Generator<'b> {
        Generator {
            block,
            code: Code { bytes: again(&mut room.bytes) },
            uses: std::mem::take(&mut room.uses),
            places: again(&mut room.places),
            hosts: [None; 16],
            stack: again(&mut room.stack),
            vectors: [None; 16],
            wide_stack: again(&mut room.wide_stack),
            cold: again(&mut room.cold),
            flushes: again(&mut room.flushes),
            open: again(&mut room.open),
            last_window: 0,
            seams: Seams::default(),
            site,
            at: 0,
        }
    }

    fn all(&mut self) -> Result<(), TooBig> {
        if self.site.counting == Counting::Visits {
            self.count(self.block.begin);
        }
        let block = self.block;
        for (at, ir) in block.code.iter().enumerate() {
            self.at = at as u32;
            let is_done_elsewhere = self.uses.is_late[at] || self.uses.is_part[at];
            if is_done_elsewhere || (ir.is_pure() && self.uses.last[at] == 0) {
                continue;
            }
            self.operation(at as Value, *ir)?;
            self.release();
        }
        self.seams.stale = self.finish() as u32;
        Ok(())
    }

    /// What an operand is, if it is a part of what is done now.
    fn part(&self, operand: Val) -> Option<Ir> {
        match operand {
            Val::Value(value) if self.uses.is_part[value as usize] => Some(self.block.code[value as usize]),
            _ => None,
        }
    }

    /// Where a register of the guest is in the state, if it is read as a part of what is done now.
    fn register_in(&self, operand: Val) -> Option<Mem> {
        match self.part(operand) {
            Some(Ir::Read { offset }) => Some(state(offset)),
            _ => None,
        }
    }

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
            Ir::Binary(..) => self.binary(own, ir)?,
            Ir::Select(_, test, yes, no) => self.select(own, test, yes, no)?,
            Ir::Slice { of, low: 0, width } if let Some(place) = self.register_in(of) => {
                let to = self.destination(own)?;
                self.code.load(width, to, place);
            }
            Ir::Slice { of, low: 0, width: 32 } => {
                let of = self.operand(of, Reg::Rax);
                let to = self.destination(own)?;
                self.code.mov(Size::S32, to, of);
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
            Ir::Flags { .. } => self.flags(own, ir)?,
            Ir::Vector(vector) => self.vector_operation(own, vector)?,
            // Whoever looks through it first opens it.
            Ir::Window { .. } => {}
            Ir::Load { address, offset, window, width, how, at, class } => {
                // First of all, because making room for it is not done again in the cold code.
                let to = match (self.uses.last[own as usize] > 0, class) {
                    (true, Class::General) => Loaded::General(self.destination(own)?),
                    (true, Class::Vector) => Loaded::Vector(self.vector_destination(own)?),
                    (false, _) => Loaded::Nowhere,
                };
                self.load(to, Access { address, offset, window, width, how, at })?;
            }
            Ir::Store { address, offset, window, value, width, how, at } => {
                self.store(value, Access { address, offset, window, width, how, at })?;
            }
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
                self.flush(flush);
                match (modes, self.target(to, at)) {
                    (Modes::Same, to) => self.leave(to),
                    (Modes::Changed, to) => self.leave_for_modes(to),
                }
            }
        }
        Ok(())
    }
}
