//! From plans to a block: what is fixed is computed, the rest becomes operations.
//!
//! One instruction after the other, until one goes elsewhere, the page ends, or the block is long enough. An instruction
//! that does what this does not know becomes a call of the interpreter, so a block is always right. What an instruction
//! writes takes effect when all of it is done: whoever looks in the midst of it sees the state before it.

mod plans;
mod values;

use std::collections::HashMap;

use isa::plan::{Op, Plan};
use isa::{Instruction, Isa};

use super::ir::{Block, Exit, Ir, Known, StateId, Test, Val};

/// A block has at most so many instructions.
const LONGEST: u32 = 64;
const PAGE: u32 = 1 << crate::tlb::PAGE_BITS;

/// Bytes of a page, from which instructions are taken.
pub(super) trait Fetch {
    /// The instruction at an offset of the page, by its number, and its bits. Nothing if it is none, or not all here.
    fn fetch(&mut self, at: u32) -> Option<(usize, u32)>;
}

/// Makes the block that begins at an offset of a page.
pub(super) fn block(isa: &Isa, modes: &[u64], begin: u32, code: &mut dyn Fetch) -> Block {
    let mut maker = Maker {
        isa,
        modes,
        block: Block { begin, ..Block::default() },
        seen: HashMap::new(),
        registers: HashMap::new(),
        dirty: Vec::new(),
    };
    let mut at = begin;
    while let Some((number, word)) = code.fetch(at) {
        let instruction = &isa.instructions[number];
        maker.block.instructions += 1;
        match maker.instruction(number, instruction, word, at) {
            Next::Falls => at += u32::from(instruction.size),
            Next::Left => return maker.block,
        }
        if at >= PAGE || maker.block.instructions >= LONGEST {
            break;
        }
    }
    if maker.block.instructions > 0 {
        let state = maker.state(at);
        maker.block.code.push(Ir::Exit { to: Exit::Direct { plus: at.into() }, at: state });
    }
    maker.block
}

enum Next {
    Falls,
    Left,
}

/// What can't be translated.
struct Unknown;
type Done<T> = Result<T, Unknown>;

struct Maker<'i> {
    isa: &'i Isa,
    /// Values of the modes, by register.
    modes: &'i [u64],
    block: Block,
    /// Equal operations are done once.
    seen: HashMap<Ir, Val>,
    /// What registers hold, by offset.
    registers: HashMap<u32, Val>,
    /// Which of them are not in the state.
    dirty: Vec<(u32, Val)>,
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
    writes: Vec<(u32, Val)>,
    next: Option<Branch>,
    /// The state before it, once it was asked for.
    state: Option<StateId>,
    has_accessed: bool,
}

enum Branch {
    Always(Val),
    If(Test, Val, Option<Val>),
}

impl Maker<'_> {
    fn instruction(&mut self, number: usize, instruction: &Instruction, word: u32, at: u32) -> Next {
        let before = self.block.code.len();
        let plan = &instruction.plan;
        let mut work = Work {
            plan,
            instruction,
            word,
            at,
            values: vec![Val::Number(0); plan.nodes.len()],
            slots: vec![Val::Number(0); plan.slots.into()],
            writes: Vec::new(),
            next: None,
            state: None,
            has_accessed: false,
        };
        if self.range(&mut work, 0, plan.nodes.len()).is_ok() {
            self.finish(work)
        } else {
            self.block.code.truncate(before);
            self.seen.retain(|_, value| !matches!(value, Val::Value(value) if *value as usize >= before));
            self.registers.retain(|_, value| !matches!(value, Val::Value(value) if *value as usize >= before));
            self.interpret(number, instruction, word, at)
        }
    }

    /// All of it is known: its writes take effect.
    fn finish(&mut self, work: Work<'_>) -> Next {
        for (offset, value) in work.writes {
            self.registers.insert(offset, value);
            match self.dirty.iter_mut().find(|(known, _)| *known == offset) {
                Some((_, old)) => *old = value,
                None => self.dirty.push((offset, value)),
            }
        }
        let size = u32::from(work.instruction.size);
        match work.next {
            None => Next::Falls,
            Some(Branch::Always(to)) => {
                let to = self.exit_to(to);
                let state = self.state(work.at);
                self.block.code.push(Ir::Exit { to, at: state });
                Next::Left
            }
            Some(Branch::If(test, yes, no)) => {
                let to = self.exit_to(yes);
                let state = self.state(work.at);
                self.block.code.push(Ir::ExitIf { test, to, at: state });
                match no {
                    // What falls through stays in the block: what is known of registers still holds.
                    None => Next::Falls,
                    Some(no) => {
                        let to = self.exit_to(no);
                        self.block.code.push(Ir::Exit { to, at: state });
                        let _ = size;
                        Next::Left
                    }
                }
            }
        }
    }

    fn interpret(&mut self, number: usize, instruction: &Instruction, word: u32, at: u32) -> Next {
        let state = self.state(at);
        self.block.code.push(Ir::Interpret { instruction: number as u32, word, at: state });
        self.registers.clear();
        self.seen.clear();
        self.dirty.clear();
        // What throws or jumps leaves by itself; what may do so ends the block, so that nothing is translated in vain.
        let leaves = |op: &Op| matches!(op, Op::Jump(_));
        if instruction.plan.nodes.iter().any(|node| leaves(&node.op)) {
            let to = Exit::Direct { plus: i64::from(at) + i64::from(instruction.size) };
            let state = self.state(at);
            self.block.code.push(Ir::Exit { to, at: state });
            return Next::Left;
        }
        Next::Falls
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
        self.block.states.push(Known { dirty: self.dirty.clone(), pc });
        self.block.states.len() as StateId - 1
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
        let value = Val::Value(self.block.code.len() as u32);
        self.block.code.push(ir);
        self.seen.insert(ir, value);
        value
    }

    fn effect(&mut self, ir: Ir) -> Val {
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
