//! From plans to a block: what is fixed is computed, the rest becomes operations.
//!
//! One instruction after the other, until one goes elsewhere, the page ends, or the block is long enough. An instruction
//! that does what this does not know becomes a call of the interpreter, so a block is always right. What an instruction
//! writes takes effect when all of it is done: whoever looks in the midst of it sees the state before it.

use std::collections::HashMap;

use isa::ops::{self, Binary, Unary, mask64, signed64};
use isa::plan::{Id, Op, Plan, access};
use isa::{Instruction, Isa};

use super::ir::{Block, Exit, Ir, Known, StateId, Test, TestKind, Val};

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
    let mut maker = Maker { isa, modes, block: Block { begin, ..Block::default() }, seen: HashMap::new(), registers: HashMap::new(), dirty: Vec::new() };
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

    fn range(&mut self, work: &mut Work<'_>, from: usize, to: usize) -> Done<()> {
        let mut at = from;
        while at < to {
            let node = work.plan.nodes[at];
            let own = at;
            at += 1;
            match node.op {
                Op::End | Op::Nothing => {}
                Op::Else(end) | Op::Leave(end) => at = end as usize,
                Op::Put(slot, value) => work.slots[usize::from(slot)] = work.values[value as usize],
                Op::Get(slot) => work.values[own] = work.slots[usize::from(slot)],
                Op::If(condition, middle) => match work.values[condition as usize] {
                    Val::Number(0) => at = middle as usize + 1,
                    Val::Number(_) => {}
                    Val::Value(_) => at = self.branch(work, work.values[condition as usize], own, middle as usize)?,
                },
                Op::Switch(value, table) => match work.values[value as usize] {
                    Val::Number(number) => at = work.plan.tables[table as usize].target(number) as usize,
                    Val::Value(_) => return Err(Unknown),
                },
                Op::Jump(to) => {
                    if work.next.is_some() {
                        return Err(Unknown);
                    }
                    work.next = Some(Branch::Always(work.values[to as usize]));
                }
                op => {
                    if node.width > 64 {
                        return Err(Unknown);
                    }
                    work.values[own] = self.operation(work, op, node.width)?;
                }
            }
        }
        Ok(())
    }

    /// A branch that depends on values. Gives where to go on in the plan.
    fn branch(&mut self, work: &mut Work<'_>, condition: Val, own: usize, middle: usize) -> Done<usize> {
        let Op::Else(end) = work.plan.nodes[middle].op else { return Err(Unknown) };
        let end = end as usize;
        let test = self.test(condition);
        let throws = |range: std::ops::Range<usize>| {
            work.plan.nodes[range].iter().any(|node| matches!(node.op, Op::Throw { .. }))
        };
        let (yes_throws, no_throws) = (throws(own + 1..middle), throws(middle + 1..end));
        if yes_throws || no_throws {
            if work.has_accessed || (yes_throws && no_throws) {
                return Err(Unknown);
            }
            let test = if yes_throws { test } else { Test { kind: test.kind.inverted(), ..test } };
            let state = self.state_before(work);
            self.block.code.push(Ir::ExitIf { test, to: Exit::Interpreter, at: state });
            return Ok(if yes_throws { middle + 1 } else { own + 1 });
        }
        let slots = work.slots.clone();
        let yes = self.arm(work, own + 1..middle)?;
        let yes_slots = std::mem::replace(&mut work.slots, slots);
        let no = self.arm(work, middle + 1..end)?;
        match (yes, no) {
            (None, None) => {}
            (Some(yes), no) => work.next = Some(Branch::If(test, yes, no)),
            (None, Some(no)) => {
                work.next = Some(Branch::If(Test { kind: test.kind.inverted(), ..test }, no, None));
            }
        }
        for slot in 0..work.slots.len() {
            let (yes, no) = (yes_slots[slot], work.slots[slot]);
            if yes != no {
                work.slots[slot] = self.select(64, condition, yes, no);
            }
        }
        Ok(end)
    }

    /// An arm that only computes, and perhaps jumps.
    fn arm(&mut self, work: &mut Work<'_>, range: std::ops::Range<usize>) -> Done<Option<Val>> {
        let before = (work.writes.len(), work.next.is_some());
        let has_effect = work.plan.nodes[range.clone()].iter().any(|node| {
            matches!(
                node.op,
                Op::Write { .. }
                    | Op::Load { .. }
                    | Op::Store { .. }
                    | Op::CompareAndSwap { .. }
                    | Op::Atomic { .. }
                    | Op::Call { .. }
            )
        });
        if has_effect || before.1 {
            return Err(Unknown);
        }
        self.range(work, range.start, range.end)?;
        match work.next.take() {
            None => Ok(None),
            Some(Branch::Always(to)) => Ok(Some(to)),
            Some(Branch::If(..)) => Err(Unknown),
        }
    }

    fn operation(&mut self, work: &mut Work<'_>, op: Op, width: u8) -> Done<Val> {
        let of = |work: &Work<'_>, id: Id| work.values[id as usize];
        let bits = |work: &Work<'_>, id: Id| work.plan.nodes[id as usize].width;
        Ok(match op {
            Op::Const(value) => Val::Number(value),
            Op::Field(number) => Val::Number(work.instruction.fields[usize::from(number)].of(work.word)),
            Op::Size => Val::Number(work.instruction.size.into()),
            Op::Pc => self.pure(Ir::Page { plus: work.at }),
            Op::Read { register, index } => self.read(work, register, index)?,
            Op::Write { register, index, value } => {
                self.write(work, register, index, of(work, value))?;
                Val::Number(0)
            }
            Op::Unary(operator, a) => {
                let (width, a) = (bits(work, a), of(work, a));
                let is_known = matches!(operator, Unary::Invert | Unary::Negate)
                    || matches!(width, 32 | 64) && operator != Unary::ReverseBits;
                if width > 64 || (!is_known && matches!(a, Val::Value(_))) {
                    return Err(Unknown);
                }
                self.unary(operator, width, a)
            }
            Op::Binary(operator, a, b) => {
                if bits(work, a) > 64 || bits(work, b) > 64 {
                    return Err(Unknown);
                }
                self.checked(operator, bits(work, a), bits(work, b), of(work, a), of(work, b))?
            }
            Op::Select(condition, yes, no) => self.select(width, of(work, condition), of(work, yes), of(work, no)),
            Op::Slice(a, low) => {
                if bits(work, a) > 64 {
                    return Err(Unknown);
                }
                self.slice(of(work, a), bits(work, a), low, width)
            }
            Op::Concat(a, b) => {
                let by = bits(work, b);
                let above = self.binary(Binary::ShiftLeft, 64, of(work, a), Val::Number(by.into()));
                self.binary(Binary::Or, 64, above, of(work, b))
            }
            Op::Zext(a) => of(work, a),
            Op::Sext(a) => self.sext(of(work, a), bits(work, a), width),
            Op::SumFlags(a, b, carry) => {
                let (width, a, b, carry) = (bits(work, a), of(work, a), of(work, b), of(work, carry));
                if let (Val::Number(a), Val::Number(b), Val::Number(carry)) = (a, b, carry) {
                    Val::Number(ops::sum_flags(width, a, b, carry))
                } else if !matches!(width, 32 | 64) {
                    return Err(Unknown);
                } else {
                    self.pure(Ir::Flags { width, a, b, carry })
                }
            }
            Op::Load { how, .. } | Op::Store { how, .. } if how & access::UNPRIVILEGED != 0 => return Err(Unknown),
            Op::Load { address, how } => {
                let state = self.state_before(work);
                work.has_accessed = true;
                self.effect(Ir::Load { address: of(work, address), width, how, at: state })
            }
            Op::Store { address, value, how } => {
                let (width, value) = (bits(work, value), of(work, value));
                if width > 64 {
                    return Err(Unknown);
                }
                let state = self.state_before(work);
                work.has_accessed = true;
                self.effect(Ir::Store { address: of(work, address), value, width, how, at: state })
            }
            _ => return Err(Unknown),
        })
    }

    fn place(&self, work: &Work<'_>, register: u16, index: Id) -> Done<u32> {
        let register = &self.isa.registers[usize::from(register)];
        if register.width > 64 {
            return Err(Unknown);
        }
        if !register.is_bank {
            return Ok(register.offset);
        }
        match work.values[index as usize] {
            Val::Number(number) => Ok(register.offset + register.stride * (number as u32).min(register.count - 1)),
            Val::Value(_) => Err(Unknown),
        }
    }

    fn read(&mut self, work: &Work<'_>, register: u16, index: Id) -> Done<Val> {
        if self.isa.registers[usize::from(register)].is_mode {
            return Ok(Val::Number(self.modes[usize::from(register)]));
        }
        let offset = self.place(work, register, index)?;
        if let Some((_, value)) = work.writes.iter().rev().find(|(written, _)| *written == offset) {
            return Ok(*value);
        }
        if let Some(value) = self.registers.get(&offset) {
            return Ok(*value);
        }
        let value = self.effect(Ir::Read { offset });
        self.registers.insert(offset, value);
        Ok(value)
    }

    fn write(&mut self, work: &mut Work<'_>, register: u16, index: Id, value: Val) -> Done<()> {
        if self.isa.registers[usize::from(register)].is_mode {
            // What stays as it is changes nothing.
            return if value == Val::Number(self.modes[usize::from(register)]) { Ok(()) } else { Err(Unknown) };
        }
        let offset = self.place(work, register, index)?;
        work.writes.push((offset, value));
        Ok(())
    }

    fn unary(&mut self, operator: Unary, width: u8, a: Val) -> Val {
        match a {
            Val::Number(a) => Val::Number(ops::unary(operator, width, a.into()) as u64),
            a => self.pure(Ir::Unary(operator, width, a)),
        }
    }

    /// What the host has for all operands, or can be made of it.
    fn checked(&mut self, operator: Binary, width: u8, by_width: u8, a: Val, b: Val) -> Done<Val> {
        use Binary::{
            MultiplyHigh, RotateRight, SignedDivide, SignedLess, SignedMultiplyHigh, SignedRemainder, SignedShiftRight,
        };
        let is_whole = matches!(width, 32 | 64);
        match operator {
            MultiplyHigh | SignedMultiplyHigh | SignedDivide | SignedRemainder | RotateRight if !is_whole => {
                Err(Unknown)
            }
            SignedLess if !is_whole => {
                let to = if width < 32 { 32 } else { 64 };
                let (a, b) = (self.sext(a, width, to), self.sext(b, width, to));
                Ok(self.binary(operator, to, a, b))
            }
            SignedShiftRight if !is_whole => {
                let to = if width < 32 { 32 } else { 64 };
                let a = self.sext(a, width, to);
                let shifted = self.shift(operator, to, by_width, a, b);
                Ok(self.slice(shifted, to, 0, width))
            }
            Binary::ShiftLeft | Binary::ShiftRight | SignedShiftRight => Ok(self.shift(operator, width, by_width, a, b)),
            _ => Ok(self.binary(operator, width, a, b)),
        }
    }

    /// The host shifts by the low bits of the amount; ours may be the width or more.
    fn shift(&mut self, operator: Binary, width: u8, by_width: u8, a: Val, b: Val) -> Val {
        let may_be_more = by_width >= 64 || 1u64 << by_width > u64::from(width);
        let Val::Value(_) = b else { return self.binary(operator, width, a, b) };
        let shifted = self.binary(operator, width, a, b);
        if !may_be_more {
            return shifted;
        }
        let is_less = self.binary(Binary::Less, 64, b, Val::Number(width.into()));
        let otherwise = if operator == Binary::SignedShiftRight {
            self.binary(operator, width, a, Val::Number(u64::from(width) - 1))
        } else {
            Val::Number(0)
        };
        self.select(width, is_less, shifted, otherwise)
    }

    fn binary(&mut self, operator: Binary, width: u8, a: Val, b: Val) -> Val {
        match (a, b) {
            (Val::Number(a), Val::Number(b)) => return Val::Number(ops::binary64(operator, width, a, b)),
            (a, Val::Number(0)) if is_nothing(operator) => return a,
            (Val::Number(0), b) if matches!(operator, Binary::Add | Binary::Or | Binary::Xor) => return b,
            (a, Val::Number(ones)) if operator == Binary::And && ones == mask64(width) => return a,
            (_, Val::Number(0)) if matches!(operator, Binary::And | Binary::Multiply) => return Val::Number(0),
            _ => {}
        }
        // An address in this page is known up to the page.
        if width == 64
            && operator == Binary::Add
            && let (Some(Ir::Page { plus }), Val::Number(by)) = (self.of(a), b)
            && let Ok(plus) = i32::try_from(i64::from(plus as i32).wrapping_add(by as i64))
        {
            return self.pure(Ir::Page { plus: plus as u32 });
        }
        // A number is on the right.
        let (a, b) = match (a, b) {
            (Val::Number(_), Val::Value(_)) if is_symmetric(operator) => (b, a),
            both => both,
        };
        if operator == Binary::Equal
            && let Some(simpler) = self.equal(width, a, b)
        {
            return simpler;
        }
        self.pure(Ir::Binary(operator, width, a, b))
    }

    /// A bit that is compared with a number is the bit, or the other way.
    fn equal(&mut self, width: u8, a: Val, b: Val) -> Option<Val> {
        match (width, b) {
            (1, Val::Number(1)) => Some(a),
            (1, Val::Number(0)) => Some(self.pure(Ir::Binary(Binary::Xor, 1, a, Val::Number(1)))),
            _ => None,
        }
    }

    fn select(&mut self, width: u8, condition: Val, yes: Val, no: Val) -> Val {
        match condition {
            Val::Number(0) => no,
            Val::Number(_) => yes,
            _ if yes == no => yes,
            _ if (yes, no) == (Val::Number(1), Val::Number(0)) => condition,
            _ => self.pure(Ir::Select(width, condition, yes, no)),
        }
    }

    fn slice(&mut self, of: Val, from: u8, low: u8, width: u8) -> Val {
        if low == 0 && width == from {
            return of;
        }
        if let Val::Number(number) = of {
            return Val::Number(number >> low & mask64(width));
        }
        match self.of(of) {
            Some(Ir::Slice { of: inner, low: inner_low, width: inner_width }) if low + width <= inner_width => {
                self.pure(Ir::Slice { of: inner, low: inner_low + low, width })
            }
            // Its sign is not looked at.
            Some(Ir::Sext { of: inner, from: inner_from, .. }) if low + width <= inner_from => {
                self.slice(inner, inner_from, low, width)
            }
            // The low bits of a sum are the sum of the low bits.
            Some(Ir::Binary(operator @ (Binary::And | Binary::Or | Binary::Xor | Binary::Add | Binary::Subtract), w, a, b))
                if low == 0 && width == 32 && w == 64 =>
            {
                let (a, b) = (self.slice(a, 64, 0, 32), self.slice(b, 64, 0, 32));
                self.binary(operator, 32, a, b)
            }
            Some(Ir::Flags { width: w, a, b, carry }) if width == 1 => {
                self.flag(w, a, b, carry, low).unwrap_or_else(|| self.pure(Ir::Slice { of, low, width }))
            }
            _ => self.pure(Ir::Slice { of, low, width }),
        }
    }

    /// A flag of a difference, as a comparison: bit 3 is N, 2 is Z, 1 is C.
    fn flag(&mut self, width: u8, a: Val, b: Val, carry: Val, bit: u8) -> Option<Val> {
        let subtrahend = match (carry, b) {
            (Val::Number(1), Val::Number(b)) => Some(Val::Number(!b & mask64(width))),
            (Val::Number(1), b) => match self.of(b) {
                Some(Ir::Unary(Unary::Invert, _, inner)) => Some(inner),
                _ => None,
            },
            _ => None,
        };
        match (bit, subtrahend) {
            (2, Some(b)) => Some(self.binary(Binary::Equal, width, a, b)),
            (1, Some(b)) => {
                let below = self.binary(Binary::Less, width, a, b);
                Some(self.binary(Binary::Xor, 1, below, Val::Number(1)))
            }
            (3, Some(b)) => {
                let difference = self.binary(Binary::Subtract, width, a, b);
                Some(self.slice(difference, width, width - 1, 1))
            }
            (2 | 3, None) if carry == Val::Number(0) => {
                let sum = self.binary(Binary::Add, width, a, b);
                Some(if bit == 2 {
                    self.binary(Binary::Equal, width, sum, Val::Number(0))
                } else {
                    self.slice(sum, width, width - 1, 1)
                })
            }
            _ => None,
        }
    }

    fn sext(&mut self, of: Val, from: u8, to: u8) -> Val {
        if from == to {
            return of;
        }
        match of {
            Val::Number(number) => Val::Number(signed64(number, from) as u64 & mask64(to)),
            of => self.pure(Ir::Sext { of, from, to }),
        }
    }

    /// A condition as a comparison.
    fn test(&self, condition: Val) -> Test {
        let plain = Test { kind: TestKind::NotEqual, width: 32, a: condition, b: Val::Number(0) };
        match self.of(condition) {
            Some(Ir::Binary(Binary::Xor, 1, inner, Val::Number(1))) | Some(Ir::Unary(Unary::Invert, 1, inner)) => {
                let test = self.test(inner);
                Test { kind: test.kind.inverted(), ..test }
            }
            Some(Ir::Binary(operator @ (Binary::Equal | Binary::Less | Binary::SignedLess), width, a, b))
                if matches!(width, 32 | 64) =>
            {
                let kind = match operator {
                    Binary::Equal => TestKind::Equal,
                    Binary::Less => TestKind::Below,
                    _ => TestKind::Less,
                };
                Test { kind, width, a, b }
            }
            _ => plain,
        }
    }
}

/// With zero on the right, it is the left.
fn is_nothing(operator: Binary) -> bool {
    matches!(
        operator,
        Binary::Add
            | Binary::Subtract
            | Binary::Or
            | Binary::Xor
            | Binary::ShiftLeft
            | Binary::ShiftRight
            | Binary::SignedShiftRight
            | Binary::RotateRight
    )
}

fn is_symmetric(operator: Binary) -> bool {
    matches!(
        operator,
        Binary::Add | Binary::Multiply | Binary::And | Binary::Or | Binary::Xor | Binary::Equal
    )
}
