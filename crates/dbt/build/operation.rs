//! An operation becomes an expression: plainly where the host has the operator, or else a call of the function that says
//! what it is (`isa::ops`).
//!
//! **Invariant: as there, bits above a value's width are zero.**

use isa::Register;
use isa::ops::{Binary, Intrinsic, Unary, mask};
use isa::plan::{Id, Op};

use super::function::{Function, Written, word};
use Written::{Again, Effect, Once};

impl Function<'_> {
    fn width(&self, id: Id) -> u8 {
        self.plan.nodes[id as usize].width
    }

    /// An operand, as one of so many bits is held.
    fn held(&self, id: Id, width: u8) -> String {
        let value = self.value(id);
        if word(self.width(id)) == word(width) { value.into() } else { format!("({value} as {})", word(width)) }
    }

    fn wide(&self, id: Id) -> String {
        format!("{} as u128", self.value(id))
    }

    pub(crate) fn expression(&self, op: Op, width: u8, own: Id) -> Written {
        let value = |id: Id| self.value(id);
        match op {
            Op::Const(number) => Again(format!("{number:#x}_{}", word(width))),
            Op::Wide(number) => Again(format!("{:#x}_u128", self.plan.wide[number as usize])),
            Op::Field(number) => {
                let field = self.instruction.map(|instruction| &instruction.fields[usize::from(number)]);
                let field = field.map_or("0_u64".into(), |field| {
                    format!("(word >> {}) as u64 & {:#x}", field.low, mask(field.width))
                });
                Once(field)
            }
            Op::Argument(number) => Once(masked(&format!("arguments[{number}]"), width)),
            Op::Pc => Once("cpu.pc".into()),
            Op::Size => Again(format!("{}_u64", self.instruction.map_or(0, |instruction| instruction.size))),
            Op::Get(slot) => Once(format!("slot_{slot}")),
            Op::Read { register, index } => {
                let register = &self.isa.registers[usize::from(register)];
                let get = if register.width <= 64 { "narrow" } else { "wide" };
                Once(format!("cpu.state.{get}({})", self.offset(register, index)))
            }
            Op::Write { register, index, value: given } => {
                let register = &self.isa.registers[usize::from(register)];
                let set = if register.width <= 64 { "set_narrow" } else { "set_wide" };
                let given = masked(&self.held(given, register.width), register.width);
                let update = if register.is_mode { "; cpu.update_key()" } else { "" };
                Effect(format!("cpu.state.{set}({}, {given}){update}", self.offset(register, index)))
            }
            Op::Unary(operator, a) => self.unary(operator, width, a),
            Op::Binary(operator, a, b) => self.binary(operator, a, b),
            Op::Select(condition, yes, no) => {
                Once(format!("if {} != 0 {{ {} }} else {{ {} }}", value(condition), value(yes), value(no)))
            }
            Op::Slice(a, low) => {
                let shifted = if low == 0 { value(a).into() } else { format!("({} >> {low})", value(a)) };
                Once(masked(&format!("({shifted} as {})", word(width)), width))
            }
            Op::Concat(a, b) => Once(format!("{} << {} | {}", self.held(a, width), self.width(b), self.held(b, width))),
            Op::Zext(a) => Again(self.held(a, width)),
            Op::Sext(a) if width <= 64 => {
                let up = 64 - self.width(a);
                Once(masked(&format!("(({} << {up}) as i64 >> {up}) as u64", value(a)), width))
            }
            Op::Sext(a) => Once(format!("signed({}, {}) as u128 & {:#x}", self.wide(a), self.width(a), mask(width))),
            Op::SumFlags(a, b, c) => {
                Once(format!("ops::sum_flags({}, {}, {}, {})", self.width(a), value(a), value(b), value(c)))
            }
            _ => self.other(op, width, own),
        }
    }

    /// What is done by a call.
    fn other(&self, op: Op, width: u8, own: Id) -> Written {
        let value = |id: Id| self.value(id);
        let word = word(width);
        match op {
            Op::Intrinsic { which, lane, of: [a, b, c] } => {
                let operands = [a, b, c].map(|id| self.wide(id)).join(", ");
                Once(format!("ops::intrinsic({}, {lane}, {}, {operands}) as {word}", named(which), self.width(a)))
            }
            Op::Float { which, lane, mode, of } => {
                let operands = of.map(|id| self.wide(id)).join(", ");
                let given =
                    format!("Float::{which:?}, {lane}, {}, {} as u8, [{operands}]", self.width(of[0]), value(mode));
                Once(format!("cpu.float({given}) as {word}"))
            }
            Op::Load { address, how } => {
                Once(format!("tried!(cpu.load(isa, board, {}, {width}, {how})) as {word}", value(address)))
            }
            Op::Store { address, value: given, how } => {
                let (address, bits) = (value(address), self.width(given));
                Effect(format!("tried!(cpu.store(isa, board, {address}, {bits}, {}, {how}))", self.wide(given)))
            }
            Op::CompareAndSwap { address, old, new, how } => {
                let at = format!("({}, {width}, {how})", value(address));
                let (old, new) = (self.wide(old), self.wide(new));
                Once(format!("tried!(cpu.compare_and_swap(isa, board, {at}, {old}, {new})) as {word}"))
            }
            Op::Atomic { kind, address, value: given, how } => {
                let at = format!("({}, {width}, {how})", value(address));
                let given = self.wide(given);
                Once(format!("tried!(cpu.change(isa, board, {at}, Atomic::{kind:?}, {given})) as {word}"))
            }
            Op::PhysicalLoad(address) => Once(format!("cpu.physical_load({}, {width}) as {word}", value(address))),
            Op::PhysicalSwap { address, old, new } => {
                let (old, new) = (self.wide(old), self.wide(new));
                Once(format!("cpu.physical_swap({}, {width}, {old}, {new}) as {word}", value(address)))
            }
            Op::Call { which, arguments, count } => {
                let given = self.arguments(arguments, count, 0);
                let call = format!("cpu.question(isa, board, {which}, &[{given}])");
                if width == 0 { Effect(call) } else { Once(masked(&call, width)) }
            }
            op => panic!("operation {own} has no value: {op:?}"),
        }
    }

    /// Where a register is.
    fn offset(&self, register: &Register, index: Id) -> String {
        if !register.is_bank {
            return register.offset.to_string();
        }
        let (stride, last) = (register.stride, register.count - 1);
        format!("{} + {stride} * ({} as u32).min({last})", register.offset, self.value(index))
    }

    fn unary(&self, operator: Unary, width: u8, a: Id) -> Written {
        let value = self.value(a);
        Once(match operator {
            Unary::Invert => masked(&format!("!{value}"), width),
            Unary::Negate => masked(&format!("{value}.wrapping_neg()"), width),
            _ => format!("ops::unary(Unary::{operator:?}, {width}, {}) as {}", self.wide(a), word(width)),
        })
    }

    fn binary(&self, operator: Binary, a: Id, b: Id) -> Written {
        let width = self.width(a);
        let (left, right) = (self.value(a), self.value(b));
        let known = match self.plan.nodes[b as usize].op {
            Op::Const(number) if number < width.into() => Some(number),
            _ => None,
        };
        let plain = match (operator, known) {
            (Binary::Add, _) => masked(&format!("{left}.wrapping_add({right})"), width),
            (Binary::Subtract, _) => masked(&format!("{left}.wrapping_sub({right})"), width),
            (Binary::Multiply, _) => masked(&format!("{left}.wrapping_mul({right})"), width),
            (Binary::And, _) => format!("{left} & {right}"),
            (Binary::Or, _) => format!("{left} | {right}"),
            (Binary::Xor, _) => format!("{left} ^ {right}"),
            (Binary::ShiftLeft, Some(by)) => masked(&format!("({left} << {by})"), width),
            (Binary::ShiftRight, Some(by)) => format!("{left} >> {by}"),
            (Binary::Equal, _) => format!("({left} == {right}) as u64"),
            (Binary::Less, _) => format!("({left} < {right}) as u64"),
            (Binary::SignedLess, _) if width == 64 => format!("(({left} as i64) < {right} as i64) as u64"),
            _ if width <= 64 && self.width(b) <= 64 => {
                format!("ops::binary64(Binary::{operator:?}, {width}, {left}, {right})")
            }
            _ => {
                let is_comparison = matches!(operator, Binary::Equal | Binary::Less | Binary::SignedLess);
                let result = if is_comparison { 1 } else { width };
                let (left, right) = (self.wide(a), self.wide(b));
                format!("ops::binary(Binary::{operator:?}, {width}, {left}, {right}) as {}", word(result))
            }
        };
        Once(plain)
    }
}

/// Without the bits above a width.
fn masked(value: &str, width: u8) -> String {
    if width == 64 || width >= 128 { value.into() } else { format!("{value} & {:#x}", mask(width)) }
}

fn named(which: Intrinsic) -> String {
    match which {
        Intrinsic::Saturate(what) => format!("Intrinsic::Saturate(Saturating::{what:?})"),
        Intrinsic::Exceeds(what) => format!("Intrinsic::Exceeds(Saturating::{what:?})"),
        which => format!("Intrinsic::{which:?}"),
    }
}
