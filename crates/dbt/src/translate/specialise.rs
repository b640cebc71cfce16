//! From plans to a block: what is fixed is computed, the rest becomes operations.
//!
//! One instruction after the other, until one goes elsewhere, the page ends, or the block is long enough. An instruction
//! that does what this does not know becomes a call of the interpreter, so a block is always right. What an instruction
//! writes takes effect when all of it is done: whoever looks in the midst of it sees the state before it.

mod plans;
mod values;
mod vectors;
mod windows;

use isa::plan::{Op, Plan};
use isa::{Instruction, Isa};
use rustc_hash::FxHashMap;

use super::ir::{Block, Dirty, Exit, Ir, Modes, StateId, Test, Val, Value};
use crate::contract::Question;

/// What a block is worth. (With all the effort at once, a boot of Debian's arm64 kernel was 31 MB of code, most of which ran
/// a few times: loops turned out as several of their turns, and code that other blocks have, too.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effort {
    /// It is new: it counts how often it runs.
    Some,
    /// It runs often.
    All,
    /// As much as for a new one, because more was too much.
    Less,
    /// It is a part of a region: it goes into no other block.
    Region,
}

impl Effort {
    /// A block has at most so many instructions.
    const fn longest(self) -> u32 {
        match self {
            Effort::Some | Effort::Less => 16,
            Effort::All | Effort::Region => 64,
        }
    }
}

/// An instruction that begins here or later may not be all of its page.
pub(super) const LAST: i64 = PAGE as i64 - 3;
const PAGE: u32 = 1 << crate::tlb::PAGE_BITS;

/// Bytes of a page, from which instructions are taken.
pub(super) trait Fetch {
    /// The instruction at an offset of the page, by its number, and its bits. Nothing if it is none, or not all here.
    fn fetch(&mut self, at: u32) -> Option<(usize, u32)>;
}

/// Who uses the memory that blocks are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Sharing {
    /// One processor.
    Alone,
    Shared,
}

/// What blocks are made for.
pub(super) struct Given<'g> {
    pub(super) isa: &'g Isa,
    /// Values of the modes, by register.
    pub(super) modes: &'g [u64],
    /// Who answers questions, by their numbers.
    pub(super) questions: &'g [Question],
    pub(super) sharing: Sharing,
    pub(super) effort: Effort,
}

/// Room that making a block takes, kept for the next: without it, a tenth of a boot was asking for memory.
#[derive(Default)]
pub(super) struct Room {
    /// What the last block took.
    block: Block,
    seen: FxHashMap<Ir, Val>,
    registers: FxHashMap<u32, Val>,
    windows: FxHashMap<Val, Value>,
    widths: Vec<u8>,
    values: Vec<Val>,
    slots: Vec<Val>,
}

impl Room {
    /// A block that is not needed any more leaves its room for the next.
    pub(super) fn take_back(&mut self, block: Block) {
        self.block = block;
    }
}

/// Makes the block that begins at an offset of a page.
pub(super) fn block(given: &Given<'_>, begin: u32, code: &mut dyn Fetch, room: &mut Room) -> Block {
    room.seen.clear();
    room.registers.clear();
    room.windows.clear();
    room.widths.clear();
    let block = std::mem::take(&mut room.block).again(begin);
    let mut maker = Maker {
        isa: given.isa,
        modes: given.modes,
        questions: given.questions,
        sharing: given.sharing,
        effort: given.effort,
        turned: 0,
        around: None,
        widths: std::mem::take(&mut room.widths),
        block,
        seen: std::mem::take(&mut room.seen),
        registers: std::mem::take(&mut room.registers),
        dirty: Vec::with_capacity(16),
        windows: std::mem::take(&mut room.windows),
        values: std::mem::take(&mut room.values),
        slots: std::mem::take(&mut room.slots),
    };
    maker.all(begin, code);
    let Maker { block, widths, seen, registers, windows, values, slots, .. } = maker;
    *room = Room { block: Block::default(), seen, registers, windows, widths, values, slots };
    block
}

enum Next {
    Falls,
    /// The block goes on somewhere else in its page.
    Follows(u32),
    Left,
}

/// A turn of a loop.
#[derive(PartialEq, Eq)]
enum Turn {
    /// The next one has room, too.
    One,
    /// The next would not be whole: it is the next block's, which is this one.
    Last,
}

/// What can't be translated.
struct Unknown;
type Done<T> = Result<T, Unknown>;

struct Maker<'i> {
    isa: &'i Isa,
    /// Values of the modes, by register.
    modes: &'i [u64],
    questions: &'i [Question],
    sharing: Sharing,
    effort: Effort,
    /// Instructions until the block came back to where it begins.
    turned: u32,
    /// The loop that it was followed around last: where it begins, and where it turns back.
    around: Option<(u32, u32)>,
    block: Block,
    /// How many bits each value may have.
    widths: Vec<u8>,
    /// Equal operations are done once.
    seen: FxHashMap<Ir, Val>,
    /// What registers hold, by offset.
    registers: FxHashMap<u32, Val>,
    /// Which of them are not in the state.
    dirty: Vec<Dirty>,
    /// Where pages were looked for, by the address.
    windows: FxHashMap<Val, Value>,
    /// Room for an instruction's values and slots.
    values: Vec<Val>,
    slots: Vec<Val>,
}

/// An instruction that is being translated.
struct Work<'p> {
    plan: &'p Plan,
    instruction: &'p Instruction,
    word: u32,
    /// Where it is in its page.
    at: u32,
    values: Vec<Val>,
    slots: Vec<Val>,
    /// What it writes.
    writes: Vec<Dirty>,
    /// Where its operations begin in the block.
    begin: usize,
    next: Option<Branch>,
    /// The state before it, once it was asked for.
    state: Option<StateId>,
    has_accessed: bool,
    /// Of an entry that was thrown.
    arguments: Vec<Val>,
    /// Other code comes next.
    modes: Modes,
    /// Interrupts that were masked may not be any more.
    attends: bool,
    /// What comes next is done as it stands in memory.
    synchronises: bool,
    /// What the flags of floating-point operations become.
    float_flags: Option<(u32, Val)>,
}

/// How a part of a plan ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    /// It was thrown: nothing more is done.
    Thrown,
}

enum Branch {
    Always(Val),
    If(Test, Val, Option<Val>),
}

/// So many zeros, in room that there is.
fn emptied(room: &mut Vec<Val>, length: usize) -> Vec<Val> {
    let mut values = std::mem::take(room);
    values.clear();
    values.resize(length, Val::Number(0));
    values
}

impl<'i> Maker<'i> {
    /// Instructions up to the end of the block.
    fn all(&mut self, begin: u32, code: &mut dyn Fetch) {
        let isa = self.isa;
        let mut at = begin;
        while let Some((number, word)) = code.fetch(at) {
            // Who began in the midst of a loop comes by there again.
            if at == begin && self.block.instructions > self.turned && self.turn() == Turn::Last {
                break;
            }
            let instruction = &isa.instructions[number];
            self.block.instructions += 1;
            let size = u32::from(instruction.size);
            match self.instruction(number, instruction, word, at) {
                Next::Falls => at += size,
                Next::Follows(to) => at = to,
                Next::Left => return,
            }
            if at >= PAGE || self.block.instructions >= self.effort.longest() {
                break;
            }
        }
        if self.block.instructions > 0 {
            let state = self.state(at);
            self.effect(Ir::Exit { to: Exit::Direct { plus: at.into() }, at: state, modes: Modes::Same });
        }
    }

    fn instruction(&mut self, number: usize, instruction: &'i Instruction, word: u32, at: u32) -> Next {
        let before = self.block.code.len();
        let plan = &instruction.plan;
        let mut work = Work {
            plan,
            instruction,
            word,
            at,
            values: emptied(&mut self.values, plan.nodes.len()),
            slots: emptied(&mut self.slots, plan.slots.into()),
            writes: Vec::new(),
            begin: before,
            next: None,
            state: None,
            has_accessed: false,
            arguments: Vec::new(),
            modes: Modes::Same,
            attends: false,
            synchronises: false,
            float_flags: None,
        };
        let done = self.range(&mut work, 0, plan.nodes.len());
        (self.values, self.slots) = (std::mem::take(&mut work.values), std::mem::take(&mut work.slots));
        if done.is_ok() {
            self.finish(work)
        } else {
            self.block.code.truncate(before);
            self.widths.truncate(before);
            self.seen.retain(|_, value| !matches!(value, Val::Value(value) if *value as usize >= before));
            self.windows.retain(|_, window| (*window as usize) < before);
            self.registers.retain(|_, value| !matches!(value, Val::Value(value) if *value as usize >= before));
            self.interpret(number, instruction, word, at)
        }
    }

    /// All of it is known: its writes take effect.
    fn finish(&mut self, work: Work<'_>) -> Next {
        if let Some((offset, value)) = work.float_flags {
            self.effect(Ir::SetFloatFlags { offset, value });
        }
        for write in work.writes {
            self.registers.insert(write.offset, write.value);
            match self.dirty.iter_mut().find(|known| known.offset == write.offset) {
                Some(old) => *old = write,
                None => self.dirty.push(write),
            }
        }
        let after = work.at + u32::from(work.instruction.size);
        let modes = work.modes;
        match work.next {
            None if modes == Modes::Changed => {
                let state = self.state(work.at);
                self.effect(Ir::Exit { to: Exit::Direct { plus: after.into() }, at: state, modes });
                Next::Left
            }
            None => {
                if work.attends {
                    let state = self.state(work.at);
                    self.effect(Ir::Poll { next: after, at: state });
                }
                if work.synchronises {
                    let state = self.state(work.at);
                    self.effect(Ir::Synchronise { next: after, at: state });
                }
                Next::Falls
            }
            Some(Branch::Always(to)) => {
                let to = self.exit_to(to);
                if modes == Modes::Same
                    && !work.attends
                    && let Some(at) = self.followed(to)
                {
                    return Next::Follows(at);
                }
                let state = self.state(work.at);
                self.effect(Ir::Exit { to, at: state, modes });
                Next::Left
            }
            Some(Branch::If(test, yes, no)) => {
                let to = self.exit_to(yes);
                let is_back = matches!(to, Exit::Direct { plus } if plus <= i64::from(work.at));
                let state = self.state(work.at);
                // What turns back is mostly a loop that goes on.
                if no.is_none()
                    && is_back
                    && !self.leaves_loop(work.at, to)
                    && let Some(at) = self.followed(to)
                {
                    self.around = Some((at, work.at));
                    let test = Test { kind: test.kind.inverted(), ..test };
                    self.effect(Ir::ExitIf { test, to: Exit::Direct { plus: after.into() }, at: state });
                    return Next::Follows(at);
                }
                self.effect(Ir::ExitIf { test, to, at: state });
                let to = match no {
                    Some(no) => self.exit_to(no),
                    // Behind what turns back, another loop may go on, or none.
                    None if self.effort == Effort::Region && is_back => Exit::Direct { plus: after.into() },
                    // What falls through stays in the block: what is known of registers still holds.
                    None => return Next::Falls,
                };
                self.effect(Ir::Exit { to, at: state, modes });
                Next::Left
            }
        }
    }

    fn interpret(&mut self, number: usize, instruction: &Instruction, word: u32, at: u32) -> Next {
        let state = self.state(at);
        self.effect(Ir::Interpret { instruction: number as u32, word, at: state });
        self.registers.clear();
        self.seen.clear();
        self.windows.clear();
        self.dirty.clear();
        // What throws or jumps leaves by itself; what may do so ends the block, so that nothing is translated in vain.
        let leaves = |op: &Op| matches!(op, Op::Jump(_));
        if instruction.plan.nodes.iter().any(|node| leaves(&node.op)) {
            let to = Exit::Direct { plus: i64::from(at) + i64::from(instruction.size) };
            let state = self.state(at);
            self.effect(Ir::Exit { to, at: state, modes: Modes::Same });
            return Next::Left;
        }
        Next::Falls
    }

    /// Where the block goes on instead of leaving: a loop becomes several turns of it, between which registers stay where
    /// they are.
    fn followed(&mut self, to: Exit) -> Option<u32> {
        let Exit::Direct { plus: plus @ 0..LAST } = to else { return None };
        let (done, longest) = (self.block.instructions, self.effort.longest());
        let is_turn = plus == i64::from(self.block.begin);
        if done >= longest || (self.effort == Effort::Region && !is_turn) {
            return None;
        }
        if is_turn && self.turn() == Turn::Last {
            return None;
        }
        Some(plus as u32)
    }

    /// A turn of a loop is done, of one that begins where the block does.
    fn turn(&mut self) -> Turn {
        let done = self.block.instructions;
        let turn = done - self.turned;
        self.turned = done;
        if done + turn <= self.effort.longest() { Turn::One } else { Turn::Last }
    }

    /// Whether a branch goes from a loop that was followed to somewhere before it: a loop may end at what other ways end at, too.
    fn leaves_loop(&self, at: u32, to: Exit) -> bool {
        let Exit::Direct { plus } = to else { return false };
        self.around.is_some_and(|(first, last)| (first..=last).contains(&at) && plus < i64::from(first))
    }

    fn exit_to(&self, to: Val) -> Exit {
        if let Val::Value(value) = to
            && let Ir::Page { plus } = self.block.code[value as usize]
        {
            return Exit::Direct { plus: i64::from(plus as i32) };
        }
        Exit::Indirect(to)
    }

    /// What is known now.
    fn state(&mut self, pc: u32) -> StateId {
        self.block.add_state(&self.dirty, pc)
    }

    fn state_before(&mut self, work: &mut Work<'_>) -> StateId {
        if work.state.is_none() {
            work.state = Some(self.state(work.at));
        }
        work.state.unwrap_or(0)
    }

    /// An operation, or an equal one that is there already.
    fn pure(&mut self, ir: Ir) -> Val {
        if let Some(value) = self.seen.get(&ir) {
            return *value;
        }
        let value = self.effect(ir);
        self.seen.insert(ir, value);
        value
    }

    fn effect(&mut self, ir: Ir) -> Val {
        let width = self.width_of(&ir);
        self.widths.push(width);
        self.block.code.push(ir);
        Val::Value(self.block.code.len() as u32 - 1)
    }

    fn of(&self, value: Val) -> Option<Ir> {
        match value {
            Val::Value(value) => Some(self.block.code[value as usize]),
            Val::Number(_) => None,
        }
    }
}
