//! One plan: what is fixed decides where it goes.

use isa::ops::{self, Binary, Unary};
use isa::plan::{Id, Op, Plan, access};

use super::super::ir::{Class, Dirty, Exit, Fence, Ir, Modes, Table, Test, Val, Vector};
use super::{Branch, Done, Flow, Maker, Sharing, Unknown, Work};
use crate::contract::Question;

impl<'i> Maker<'i> {
    pub(super) fn range(&mut self, work: &mut Work<'i>, from: usize, to: usize) -> Done<Flow> {
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
                Op::Throw { entry, arguments, count } => {
                    self.throw(work, entry, arguments, count)?;
                    return Ok(Flow::Thrown);
                }
                op => {
                    let is_wide = node.width > 64 || self.is_of_vectors(work, &op);
                    work.values[own] = if is_wide {
                        self.wide_operation(work, op, node.width)?
                    } else {
                        self.operation(work, op, node.width)?
                    };
                }
            }
        }
        Ok(Flow::On)
    }

    /// An entry is done as a part of the instruction.
    fn throw(&mut self, work: &mut Work<'i>, entry: u16, at: u32, count: u8) -> Done<()> {
        // One that throws again is not worth it.
        if !work.arguments.is_empty() || work.next.is_some() {
            return Err(Unknown);
        }
        let isa: &'i isa::Isa = self.isa;
        let plan: &'i Plan = &isa.entries[usize::from(entry)].plan;
        let ids = &work.plan.arguments[at as usize..at as usize + usize::from(count)];
        work.arguments = ids.iter().map(|id| work.values[*id as usize]).collect();
        // So that there are some.
        work.arguments.push(Val::Number(0));
        work.plan = plan;
        work.values = vec![Val::Number(0); plan.nodes.len()];
        work.slots = vec![Val::Number(0); plan.slots.into()];
        match self.range(work, 0, plan.nodes.len())? {
            Flow::On if work.next.is_some() => Ok(()),
            // An exception goes somewhere.
            Flow::On | Flow::Thrown => Err(Unknown),
        }
    }

    /// A branch that depends on values. Gives where to go on in the plan.
    pub(super) fn branch(&mut self, work: &mut Work<'i>, condition: Val, own: usize, middle: usize) -> Done<usize> {
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
            self.effect(Ir::ExitIf { test, to: Exit::Interpreter, at: state });
            return Ok(if yes_throws { middle + 1 } else { own + 1 });
        }
        // Of two arms, one of which does something, that one is likely; the interpreter does the other.
        let acts = |range: std::ops::Range<usize>| work.plan.nodes[range].iter().any(|node| self.is_act(&node.op));
        let (yes_acts, no_acts) = (acts(own + 1..middle), acts(middle + 1..end));
        if yes_acts || no_acts {
            if work.has_accessed {
                return Err(Unknown);
            }
            let test = if yes_acts { Test { kind: test.kind.inverted(), ..test } } else { test };
            let state = self.state_before(work);
            self.effect(Ir::ExitIf { test, to: Exit::Interpreter, at: state });
            return Ok(if yes_acts { own + 1 } else { middle + 1 });
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
        for (slot, yes) in yes_slots.into_iter().enumerate() {
            let no = work.slots[slot];
            if yes != no {
                work.slots[slot] = self.select(64, condition, yes, no);
            }
        }
        Ok(end)
    }

    /// An arm that only computes, and perhaps jumps.
    pub(super) fn arm(&mut self, work: &mut Work<'i>, range: std::ops::Range<usize>) -> Done<Option<Val>> {
        if work.next.is_some() {
            return Err(Unknown);
        }
        if self.range(work, range.start, range.end)? == Flow::Thrown {
            return Err(Unknown);
        }
        match work.next.take() {
            None => Ok(None),
            Some(Branch::Always(to)) => Ok(Some(to)),
            Some(Branch::If(..)) => Err(Unknown),
        }
    }

    pub(super) fn operation(&mut self, work: &mut Work<'i>, op: Op, width: u8) -> Done<Val> {
        let of = |work: &Work<'i>, id: Id| work.values[id as usize];
        let bits = |work: &Work<'i>, id: Id| work.plan.nodes[id as usize].width;
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
                let is_known =
                    matches!(operator, Unary::Invert | Unary::Negate | Unary::ReverseBits | Unary::ReverseBytes)
                        || matches!(width, 32 | 64);
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
            Op::Load { address, how } => {
                let state = self.state_before(work);
                work.has_accessed = true;
                let class = Class::General;
                let (address, offset, window) = self.window(of(work, address), width, how, Table::Read);
                self.effect(Ir::Load { address, offset, window, width, how, at: state, class })
            }
            Op::Store { address, value, how } => {
                let (width, value) = (bits(work, value), of(work, value));
                let state = self.state_before(work);
                work.has_accessed = true;
                let (address, offset, window) = self.window(of(work, address), width, how, Table::Write);
                self.effect(Ir::Store { address, offset, window, value, width, how, at: state })
            }
            Op::Argument(number) => *work.arguments.get(usize::from(number)).ok_or(Unknown)?,
            Op::Atomic { kind, address, value, how } if how & access::UNPRIVILEGED == 0 => {
                let state = self.state_before(work);
                work.has_accessed = true;
                let (address, value) = (of(work, address), of(work, value));
                self.effect(Ir::Atomic { kind, address, value, width, at: state })
            }
            Op::CompareAndSwap { address, old, new, how } if how & access::UNPRIVILEGED == 0 => {
                let state = self.state_before(work);
                work.has_accessed = true;
                let (address, old, new) = (of(work, address), of(work, old), of(work, new));
                self.effect(Ir::CompareAndSwap { address, old, new, width, at: state })
            }
            Op::Call { which, .. } if self.questions[usize::from(which)] == Question::Clock => {
                // A clock that is read early would be behind what another processor has just said of it.
                if self.sharing == Sharing::Shared {
                    self.effect(Ir::Fence(Fence::Clock));
                }
                self.effect(Ir::Clock)
            }
            Op::Call { which, .. } if self.questions[usize::from(which)] == Question::Synchronise => {
                work.synchronises = true;
                Val::Number(0)
            }
            Op::Call { which, .. } if self.sharing == Sharing::Alone && self.is_of_many(which) => Val::Number(0),
            Op::Call { which, .. } if self.questions[usize::from(which)] == Question::Settle => {
                self.effect(Ir::Fence(Fence::Memory));
                let state = self.state_before(work);
                self.effect(Ir::Settle { at: state });
                Val::Number(0)
            }
            Op::Call { which, .. } if self.questions[usize::from(which)] == Question::Fence => {
                self.effect(Ir::Fence(Fence::Memory));
                Val::Number(0)
            }
            Op::Call { which, .. } if self.questions[usize::from(which)] == Question::Attend => {
                work.attends = true;
                Val::Number(0)
            }
            _ => return Err(Unknown),
        })
    }

    pub(super) fn place(&self, work: &Work<'i>, register: u16, index: Id) -> Done<u32> {
        let register = &self.isa.registers[usize::from(register)];
        if !register.is_bank {
            return Ok(register.offset);
        }
        match work.values[index as usize] {
            Val::Number(number) => Ok(register.offset + register.stride * (number as u32).min(register.count - 1)),
            Val::Value(_) => Err(Unknown),
        }
    }

    pub(super) fn read(&mut self, work: &Work<'i>, register: u16, index: Id) -> Done<Val> {
        let offset = self.place(work, register, index)?;
        // Flags that operations have just met are the host's still.
        if self.isa.registers[usize::from(register)].name == "float_flags" {
            return Ok(work.float_flags.map_or_else(|| self.effect(Ir::FloatFlags { offset }), |(_, value)| value));
        }
        if let Some(written) = work.writes.iter().rev().find(|written| written.offset == offset) {
            return Ok(written.value);
        }
        if self.isa.registers[usize::from(register)].is_mode {
            return Ok(Val::Number(self.modes[usize::from(register)]));
        }
        if let Some(value) = self.registers.get(&offset) {
            return Ok(*value);
        }
        let is_wide = self.isa.registers[usize::from(register)].width > 64;
        let value = self.effect(if is_wide { Ir::Vector(Vector::Read { offset }) } else { Ir::Read { offset } });
        self.registers.insert(offset, value);
        Ok(value)
    }

    pub(super) fn write(&mut self, work: &mut Work<'i>, register: u16, index: Id, value: Val) -> Done<()> {
        if self.isa.registers[usize::from(register)].is_mode && value != Val::Number(self.modes[usize::from(register)])
        {
            work.modes = Modes::Changed;
        }
        if self.isa.registers[usize::from(register)].name == "address_space" {
            // Another set of tables is in use: whoever looked on in this one would never find what is kept in that.
            work.modes = Modes::Changed;
        }
        let offset = self.place(work, register, index)?;
        if self.isa.registers[usize::from(register)].name == "float_flags" {
            work.float_flags = Some((offset, value));
            return Ok(());
        }
        let is_wide = self.isa.registers[usize::from(register)].width > 64;
        if is_wide {
            self.load_as_vector(work, value);
        }
        work.writes.push(Dirty { offset, value, is_wide });
        Ok(())
    }

    /// Whether a question is none for a processor that is alone.
    fn is_of_many(&self, which: u16) -> bool {
        matches!(self.questions[usize::from(which)], Question::Fence | Question::Settle | Question::Relax)
    }

    /// Whether it does more than compute. To look for interrupts in vain does no harm.
    fn is_act(&self, op: &Op) -> bool {
        match op {
            Op::Call { which, .. } => {
                !matches!(self.questions[usize::from(*which)], Question::Attend | Question::Clock)
            }
            Op::Write { .. }
            | Op::Load { .. }
            | Op::Store { .. }
            | Op::CompareAndSwap { .. }
            | Op::Atomic { .. }
            | Op::PhysicalLoad(_)
            | Op::PhysicalSwap { .. } => true,
            _ => false,
        }
    }
}
