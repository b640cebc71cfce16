//! Does what a plan says: by the function that the build has made of it (`generated`), or else one operation after the
//! other.
//!
//! The latter is slow and plain: values are numbers in a list, and each operator is the function of [`isa::ops`] that also folded the
//! constants. A processor's registers are written in the order of the plan; a description accesses memory first.

use isa::ops::{self, mask, mask64, signed, signed64};
use isa::plan::{EntryId, Id, MOST_ARGUMENTS, Op, Plan};
use isa::{Instruction, Isa};

use crate::board::Board;
use crate::generated::Arguments;
use crate::processor::{End, Processor, Thrown};

/// Room for the values of a plan.
#[derive(Default)]
pub(crate) struct Scratch {
    values: Vec<u128>,
    slots: Vec<u128>,
}

impl Processor {
    /// Does an instruction, by its number, of these bits.
    pub(crate) fn interpret(&mut self, isa: &Isa, board: &mut dyn Board, number: usize, word: u32) -> End {
        if let Some(made) = self.code.instructions.get(number) {
            return made(self, isa, board, word);
        }
        let instruction = &isa.instructions[number];
        self.evaluate(isa, board, &instruction.plan, Some((instruction, word)), &[])
    }

    /// Does an entry.
    pub(crate) fn consult(&mut self, isa: &Isa, board: &mut dyn Board, entry: EntryId, arguments: &Arguments) -> End {
        if let Some(made) = self.code.entries.get(usize::from(entry)) {
            return made(self, isa, board, arguments);
        }
        self.evaluate(isa, board, &isa.entries[usize::from(entry)].plan, None, arguments)
    }

    /// Does a plan: an instruction's, or an entry's with its arguments.
    fn evaluate(
        &mut self,
        isa: &Isa,
        board: &mut dyn Board,
        plan: &Plan,
        instruction: Option<(&Instruction, u32)>,
        arguments: &[u64],
    ) -> End {
        let mut scratch = self.scratch.pop().unwrap_or_default();
        if scratch.values.len() < plan.nodes.len() {
            scratch.values.resize(plan.nodes.len(), 0);
        }
        if scratch.slots.len() < plan.slots.into() {
            scratch.slots.resize(plan.slots.into(), 0);
        }
        let mut run = Run { cpu: self, isa, board, plan, instruction, arguments };
        let end = run.all(&mut scratch);
        self.scratch.push(scratch);
        match end {
            Ok(end) => end,
            Err(thrown) => End::Throw(thrown),
        }
    }
}

/// A plan that is being done.
struct Run<'r> {
    cpu: &'r mut Processor,
    isa: &'r Isa,
    board: &'r mut dyn Board,
    plan: &'r Plan,
    instruction: Option<(&'r Instruction, u32)>,
    arguments: &'r [u64],
}

impl Run<'_> {
    fn all(&mut self, scratch: &mut Scratch) -> Result<End, Thrown> {
        let Scratch { values, slots } = scratch;
        let mut end = End::Next;
        let mut at = 0;
        while let Some(node) = self.plan.nodes.get(at) {
            let own = at;
            at += 1;
            match node.op {
                Op::If(condition, other) => {
                    if values[condition as usize] == 0 {
                        at = other as usize + 1;
                    }
                }
                Op::Else(to) | Op::Leave(to) => at = to as usize,
                Op::Switch(value, table) => {
                    at = self.plan.tables[table as usize].target(values[value as usize] as u64) as usize;
                }
                Op::Put(slot, value) => slots[usize::from(slot)] = values[value as usize],
                Op::Get(slot) => values[own] = slots[usize::from(slot)],
                Op::End | Op::Nothing => {}
                Op::Jump(to) => end = End::Jump(values[to as usize] as u64),
                Op::Give(value) => return Ok(End::Give(values[value as usize])),
                Op::Throw { entry, arguments, count } => {
                    let arguments = self.operands(values, arguments, count);
                    return Err(Thrown { entry, arguments });
                }
                op if node.width <= 64 && self.narrow(op, node.width, own, values) => {}
                op => values[own] = self.other(op, node.width, values)?,
            }
        }
        Ok(end)
    }

    fn width(&self, id: Id) -> u8 {
        self.plan.nodes[id as usize].width
    }

    fn operands(&self, values: &[u128], at: u32, count: u8) -> [u64; MOST_ARGUMENTS] {
        let mut list = [0; MOST_ARGUMENTS];
        let ids = &self.plan.arguments[at as usize..at as usize + usize::from(count)];
        list.iter_mut().zip(ids).for_each(|(to, id)| *to = values[*id as usize] as u64);
        list
    }

    /// What most instructions are made of. Says whether it was one of these.
    #[inline]
    fn narrow(&mut self, op: Op, width: u8, own: usize, values: &mut [u128]) -> bool {
        let of = |id: Id| values[id as usize] as u64;
        let value = match op {
            Op::Const(value) => value,
            Op::Field(number) => match self.instruction {
                Some((instruction, word)) => instruction.fields[usize::from(number)].of(word),
                None => 0,
            },
            Op::Argument(number) => self.arguments[usize::from(number)] & mask64(width),
            Op::Pc => self.cpu.pc,
            Op::Read { register, index } => {
                let register = &self.isa.registers[usize::from(register)];
                let offset = if register.is_bank {
                    register.offset + register.stride * (of(index) as u32).min(register.count - 1)
                } else {
                    register.offset
                };
                self.cpu.state.narrow(offset)
            }
            Op::Binary(operator, a, b) if self.width(a) <= 64 && self.width(b) <= 64 => {
                ops::binary64(operator, self.width(a), of(a), of(b))
            }
            Op::Select(condition, yes, no) => of(if of(condition) != 0 { yes } else { no }),
            Op::Slice(a, low) => (values[a as usize] >> low) as u64 & mask64(width),
            Op::Concat(a, b) => of(a) << self.width(b) | of(b),
            Op::Zext(a) => of(a),
            Op::Sext(a) => signed64(of(a), self.width(a)) as u64 & mask64(width),
            Op::SumFlags(a, b, c) => ops::sum_flags(self.width(a), of(a), of(b), of(c)),
            _ => return false,
        };
        values[own] = value.into();
        true
    }

    fn other(&mut self, op: Op, width: u8, values: &[u128]) -> Result<u128, Thrown> {
        let of = |id: Id| values[id as usize];
        let (isa, plan) = (self.isa, self.plan);
        Ok(match op {
            Op::Wide(number) => plan.wide[number as usize],
            Op::Size => self.instruction.map_or(0, |(instruction, _)| instruction.size).into(),
            Op::Unary(operator, a) => ops::unary(operator, self.width(a), of(a)),
            Op::Binary(operator, a, b) => ops::binary(operator, self.width(a), of(a), of(b)),
            Op::Select(condition, yes, no) => of(if of(condition) != 0 { yes } else { no }),
            Op::Slice(a, low) => of(a) >> low & mask(width),
            Op::Concat(a, b) => of(a) << self.width(b) | of(b),
            Op::Zext(a) => of(a),
            Op::Sext(a) => signed(of(a), self.width(a)) as u128 & mask(width),
            Op::Intrinsic { which, lane, of: [a, b, c] } => {
                ops::intrinsic(which, lane, self.width(a), of(a), of(b), of(c))
            }
            Op::Float { which, lane, mode, of: [a, b, c] } => {
                self.cpu.float(which, lane, self.width(a), of(mode) as u8, [of(a), of(b), of(c)])
            }
            Op::Read { register, index } => {
                let register = &isa.registers[usize::from(register)];
                self.cpu.state.get(register, if register.is_bank { of(index) as u32 } else { 0 })
            }
            Op::Write { register, index, value } => {
                let register = &isa.registers[usize::from(register)];
                self.cpu.state.set(register, if register.is_bank { of(index) as u32 } else { 0 }, of(value));
                if register.is_mode {
                    self.cpu.update_key();
                }
                0
            }
            Op::Load { address, how } => self.cpu.load(isa, self.board, of(address) as u64, width, how)?,
            Op::Store { address, value, how } => {
                let width = plan.nodes[value as usize].width;
                self.cpu.store(isa, self.board, of(address) as u64, width, of(value), how)?;
                0
            }
            Op::CompareAndSwap { address, old, new, how } => {
                self.cpu.compare_and_swap(isa, self.board, (of(address) as u64, width, how), of(old), of(new))?
            }
            Op::Atomic { kind, address, value, how } => {
                self.cpu.change(isa, self.board, (of(address) as u64, width, how), kind, of(value))?
            }
            Op::PhysicalLoad(address) => self.cpu.physical_load(of(address) as u64, width),
            Op::PhysicalSwap { address, old, new } => {
                self.cpu.physical_swap(of(address) as u64, width, of(old), of(new))
            }
            Op::Call { which, arguments, count } => {
                let arguments = self.operands(values, arguments, count);
                let answer = self.cpu.question(isa, self.board, which, &arguments[..count.into()]);
                u128::from(answer) & mask(width.max(1))
            }
            _ => 0,
        })
    }
}
