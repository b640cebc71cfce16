//! What the language has of its own: calls that are operations.

use super::elaborate::{Elaborator, Flow, Value};
use crate::ast::{Expr, Name};
use crate::error::{Error, Place, Result};
use crate::ops::{Binary, FLOATS, Float, INTRINSICS, Shape, Unary};
use crate::plan::{Atomic, Id, Op};

/// The register to which flags of floating-point operations are added.
const FLAGS: &str = "float_flags";

const UNARY: &[(&str, Unary)] = &[
    ("clz", Unary::LeadingZeros),
    ("ctz", Unary::TrailingZeros),
    ("popcount", Unary::Ones),
    ("bitrev", Unary::ReverseBits),
    ("byterev", Unary::ReverseBytes),
];

/// Operators of two operands of one width; whether they change places, and whether the result is inverted.
const BINARY: &[(&str, Binary, Order)] = &[
    ("udiv", Binary::Divide, Order::AsWritten),
    ("sdiv", Binary::SignedDivide, Order::AsWritten),
    ("urem", Binary::Remainder, Order::AsWritten),
    ("srem", Binary::SignedRemainder, Order::AsWritten),
    ("umulh", Binary::MultiplyHigh, Order::AsWritten),
    ("smulh", Binary::SignedMultiplyHigh, Order::AsWritten),
    ("slt", Binary::SignedLess, Order::AsWritten),
    ("sge", Binary::SignedLess, Order::Inverted),
    ("sgt", Binary::SignedLess, Order::Swapped),
    ("sle", Binary::SignedLess, Order::SwappedAndInverted),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    AsWritten,
    Inverted,
    Swapped,
    SwappedAndInverted,
}

const SHIFTS: &[(&str, Binary)] = &[("asr", Binary::SignedShiftRight), ("ror", Binary::RotateRight)];

const ATOMICS: &[(&str, Atomic)] = &[
    ("amo_swap", Atomic::Swap),
    ("amo_add", Atomic::Add),
    ("amo_and", Atomic::And),
    ("amo_or", Atomic::Or),
    ("amo_xor", Atomic::Xor),
    ("amo_smax", Atomic::SignedMax),
    ("amo_smin", Atomic::SignedMin),
    ("amo_umax", Atomic::UnsignedMax),
    ("amo_umin", Atomic::UnsignedMin),
];

/// The entry in a table.
fn find<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    table.iter().find(|(known, _)| *known == name).map(|(_, what)| *what)
}

impl<'a> Elaborator<'_, 'a> {
    /// A call of whatever the name stands for.
    pub(super) fn call(&mut self, name: &'a Name, arguments: &'a [Expr], expected: Option<u8>) -> Result<Flow> {
        let place = name.place;
        if let Some(function) = self.symbols.functions.get(name.text.as_str()).copied() {
            let values = arguments.iter().map(|argument| self.value(argument, None)).collect::<Result<_>>()?;
            return self.inline(function, values, place);
        }
        if let Some((which, signature)) = self.symbols.extern_(&name.text) {
            let (at, count) = self.call_arguments(place, &signature.parameters, arguments)?;
            let width = match &signature.result {
                crate::ast::Type::Tuple(none) if none.is_empty() => 0,
                class => self.width_of(class, place)?,
            };
            let id = self.builder.effect(Op::Call { which, arguments: at, count }, width);
            if signature.is_sync {
                self.builder.forget_modes();
            }
            return Ok(Flow::Value(if width == 0 { Value::nothing() } else { Value::Bits(id) }));
        }
        if let "sysreg_read" | "sysreg_write" = name.text.as_str() {
            return self.system_register(name, arguments);
        }
        self.builtin(name, arguments, expected).map(Flow::Value)
    }

    fn builtin(&mut self, name: &'a Name, arguments: &'a [Expr], expected: Option<u8>) -> Result<Value> {
        let text = name.text.as_str();
        if let Some(operator) = find(UNARY, text) {
            let [a] = exactly(arguments, name.place)?;
            let a = self.some_bits(a)?;
            let width = self.builder.width(a);
            if operator == Unary::ReverseBytes && !width.is_multiple_of(8) {
                return Err(Error::at(name.place, format!("{width} bits are not whole bytes")));
            }
            return Ok(Value::Bits(self.builder.pure(Op::Unary(operator, a), width)));
        }
        if let Some((_, operator, order)) = BINARY.iter().find(|(known, ..)| *known == text) {
            return self.ordered(*operator, *order, exactly(arguments, name.place)?);
        }
        if let Some(operator) = find(SHIFTS, text) {
            let [a, by] = exactly(arguments, name.place)?;
            let a = self.some_bits(a)?;
            let by = self.amount(by)?;
            let width = self.builder.width(a);
            return Ok(Value::Bits(self.builder.pure(Op::Binary(operator, a, by), width)));
        }
        if let Some((_, which, count, shape)) = INTRINSICS.iter().find(|(known, ..)| *known == text) {
            let (lane, width, of) = self.lanes(*count, *shape, arguments, name.place)?;
            return Ok(Value::Bits(self.builder.pure(Op::Intrinsic { which: *which, lane, of }, width)));
        }
        if let Some((_, which, count, shape)) = FLOATS.iter().find(|(known, ..)| *known == text) {
            return self.float(*which, *count, *shape, arguments, name.place);
        }
        if let Some(kind) = find(ATOMICS, text) {
            let [address, value, how] = exactly(arguments, name.place)?;
            let address = self.bits(address, 64)?;
            let value = self.some_bits(value)?;
            let how = self.how(how)?;
            let width = self.builder.width(value);
            return Ok(Value::Bits(self.builder.effect(Op::Atomic { kind, address, value, how }, width)));
        }
        match text {
            "zext" | "sext" | "trunc" => self.resize(text, exactly(arguments, name.place)?),
            "cat" => self.concatenate(arguments, name.place),
            "rep" => self.repeat(exactly(arguments, name.place)?),
            "ones" => {
                let [width] = exactly(arguments, name.place)?;
                let width = self.width(width)?;
                Ok(Value::Bits(self.builder.constant(u128::MAX, width)))
            }
            "zeros" => {
                let [width] = exactly(arguments, name.place)?;
                let width = self.width(width)?;
                Ok(Value::Bits(self.builder.constant(0, width)))
            }
            "bit" => {
                let [a, number] = exactly(arguments, name.place)?;
                let a = self.some_bits(a)?;
                let number = self.amount(number)?;
                let width = self.builder.width(a);
                let shifted = self.builder.pure(Op::Binary(Binary::ShiftRight, a, number), width);
                Ok(Value::Bits(self.builder.pure(Op::Slice(shifted, 0), 1)))
            }
            "log2" => {
                let [of] = exactly(arguments, name.place)?;
                match u128::try_from(self.int(of)?).ok().and_then(u128::checked_ilog2) {
                    Some(log) => Ok(Value::Int(log.into())),
                    None => Err(Error::at(of.place, "there is no logarithm of this")),
                }
            }
            "select" => self.select(exactly(arguments, name.place)?, expected),
            "sum_flags" => self.sum_flags(exactly(arguments, name.place)?),
            "load" | "store" | "cas" | "phys_load" | "phys_cas" => self.memory(name, arguments),
            "jump" => {
                let [to] = exactly(arguments, name.place)?;
                let to = self.bits(to, 64)?;
                self.builder.effect(Op::Jump(to), 0);
                Ok(Value::nothing())
            }
            _ => Err(Error::at(name.place, format!("there is no function '{text}'"))),
        }
    }

    fn some_bits(&mut self, expr: &'a Expr) -> Result<Id> {
        match self.value(expr, None)? {
            Value::Bits(id) => Ok(id),
            _ => Err(Error::at(expr.place, "it is not known how wide this is")),
        }
    }

    /// By how much is shifted.
    fn amount(&mut self, expr: &'a Expr) -> Result<Id> {
        let value = self.value(expr, None)?;
        match value {
            Value::Bits(id) => Ok(id),
            value => self.sized(value, 8, expr.place),
        }
    }

    fn how(&mut self, expr: &'a Expr) -> Result<u8> {
        u8::try_from(self.int(expr)?).map_err(|_| Error::at(expr.place, "this is no way of access"))
    }

    /// Two operands, of which one may be a number.
    fn pair(&mut self, a: &'a Expr, b: &'a Expr) -> Result<(Id, Id)> {
        let (left, right) = (self.value(a, None)?, self.value(b, None)?);
        match (left, right) {
            (Value::Bits(left), right) => {
                let width = self.builder.width(left);
                Ok((left, self.sized(right, width, b.place)?))
            }
            (left, Value::Bits(right)) => {
                let width = self.builder.width(right);
                Ok((self.sized(left, width, a.place)?, right))
            }
            _ => Err(Error::at(a.place, "it is not known how wide this is")),
        }
    }

    fn ordered(&mut self, operator: Binary, order: Order, [a, b]: [&'a Expr; 2]) -> Result<Value> {
        let (mut a, mut b) = self.pair(a, b)?;
        if matches!(order, Order::Swapped | Order::SwappedAndInverted) {
            (a, b) = (b, a);
        }
        let is_inverted = matches!(order, Order::Inverted | Order::SwappedAndInverted);
        Ok(Value::Bits(self.compare_or_compute(operator, a, b, is_inverted)))
    }

    fn float(
        &mut self,
        which: Float,
        count: usize,
        shape: Shape,
        arguments: &'a [Expr],
        place: Place,
    ) -> Result<Value> {
        let [lane, mode, operands @ ..] = arguments else {
            return Err(Error::at(place, "this takes the width of a lane, a mode, and operands"));
        };
        if self.symbols.register(FLAGS, place)?.1.width < 6 {
            return Err(Error::at(place, format!("'{FLAGS}' needs 6 bits")));
        }
        let mode = self.bits(mode, 8)?;
        let (lane, width, of) = self.lanes_of(count, shape, lane, operands, place)?;
        let given = shape.width(lane, lane).unwrap_or(0);
        for bits in [lane, given] {
            if !(matches!(bits, 16 | 32 | 64) || which == Float::Order) {
                return Err(Error::at(place, format!("no floating-point number has {bits} bits")));
            }
        }
        Ok(Value::Bits(self.builder.effect(Op::Float { which, lane, mode, of }, width)))
    }

    /// The width of lanes, that of the result, and operands.
    fn lanes(&mut self, count: usize, shape: Shape, arguments: &'a [Expr], place: Place) -> Result<(u8, u8, [Id; 3])> {
        let [lane, operands @ ..] = arguments else {
            return Err(Error::at(place, "the first argument is the width of a lane"));
        };
        self.lanes_of(count, shape, lane, operands, place)
    }

    fn lanes_of(
        &mut self,
        count: usize,
        shape: Shape,
        lane: &'a Expr,
        operands: &'a [Expr],
        place: Place,
    ) -> Result<(u8, u8, [Id; 3])> {
        if operands.len() != count {
            return Err(Error::at(place, format!("this takes {count} operands behind the lane's width")));
        }
        let place = lane.place;
        let lane = self.width(lane)?;
        if !matches!(lane, 8 | 16 | 32 | 64) {
            return Err(Error::at(place, format!("a lane has 8, 16, 32 or 64 bits, not {lane}")));
        }
        let ids = operands.iter().map(|operand| self.amount(operand)).collect::<Result<Vec<_>>>()?;
        let width = self.builder.width(ids[0]);
        if !width.is_multiple_of(lane) {
            return Err(Error::at(place, format!("{width} bits are not whole lanes of {lane}")));
        }
        let result = shape.width(lane, width);
        let result = result.ok_or_else(|| Error::at(place, format!("a result of {width} bits is no value")))?;
        Ok((lane, result, [0, 1, 2].map(|at| *ids.get(at).unwrap_or(&ids[0]))))
    }

    fn resize(&mut self, how: &str, [width, value]: [&'a Expr; 2]) -> Result<Value> {
        let place = value.place;
        let width = self.width(width)?;
        let value = match self.value(value, None)? {
            Value::Bits(id) => id,
            number => return self.sized(number, width, place).map(Value::Bits),
        };
        let found = self.builder.width(value);
        let is_wider = found > width;
        let op = match how {
            "trunc" if found >= width => Op::Slice(value, 0),
            "zext" if !is_wider => Op::Zext(value),
            "sext" if !is_wider => Op::Sext(value),
            _ => return Err(Error::at(place, format!("{found} bits can't become {width} by '{how}'"))),
        };
        Ok(Value::Bits(self.builder.pure(op, width)))
    }

    /// The first is the highest.
    fn concatenate(&mut self, arguments: &'a [Expr], place: Place) -> Result<Value> {
        let mut whole: Option<Id> = None;
        for argument in arguments {
            let part = self.some_bits(argument)?;
            whole = Some(match whole {
                None => part,
                Some(above) => self.join_bits(above, part, place)?,
            });
        }
        whole.map(Value::Bits).ok_or_else(|| Error::at(place, "this takes at least one argument"))
    }

    fn join_bits(&mut self, above: Id, below: Id, place: Place) -> Result<Id> {
        let width = u32::from(self.builder.width(above)) + u32::from(self.builder.width(below));
        match u8::try_from(width) {
            Ok(width) if width <= 128 => Ok(self.builder.pure(Op::Concat(above, below), width)),
            _ => Err(Error::at(place, format!("a value has at most 128 bits, and this has {width}"))),
        }
    }

    fn repeat(&mut self, [count, value]: [&'a Expr; 2]) -> Result<Value> {
        let place = value.place;
        let count = self.int(count)?;
        let part = self.some_bits(value)?;
        let mut whole = part;
        for _ in 1..count {
            whole = self.join_bits(whole, part, place)?;
        }
        Ok(Value::Bits(whole))
    }

    fn select(&mut self, [condition, yes, no]: [&'a Expr; 3], expected: Option<u8>) -> Result<Value> {
        let condition = self.bits(condition, 1)?;
        let (yes, no) = match expected {
            Some(width) => (self.bits(yes, width)?, self.bits(no, width)?),
            None => self.pair(yes, no)?,
        };
        let width = self.builder.width(yes);
        Ok(Value::Bits(self.builder.pure(Op::Select(condition, yes, no), width)))
    }

    fn sum_flags(&mut self, [a, b, carry]: [&'a Expr; 3]) -> Result<Value> {
        let place = a.place;
        let (a, b) = self.pair(a, b)?;
        let carry = self.bits(carry, 1)?;
        if self.builder.width(a) > 64 {
            return Err(Error::at(place, "flags are of at most 64 bits"));
        }
        Ok(Value::Bits(self.builder.pure(Op::SumFlags(a, b, carry), 4)))
    }

    fn memory(&mut self, name: &'a Name, arguments: &'a [Expr]) -> Result<Value> {
        let id = match name.text.as_str() {
            "load" => {
                let [width, address, how] = exactly(arguments, name.place)?;
                let (width, address, how) = (self.bytes(width)?, self.bits(address, 64)?, self.how(how)?);
                self.builder.effect(Op::Load { address, how }, width)
            }
            "store" => {
                let [address, value, how] = exactly(arguments, name.place)?;
                let (address, value, how) = (self.bits(address, 64)?, self.some_bits(value)?, self.how(how)?);
                self.whole_bytes(value, name.place)?;
                self.builder.effect(Op::Store { address, value, how }, 0);
                return Ok(Value::nothing());
            }
            "cas" => {
                let [address, old, new, how] = exactly(arguments, name.place)?;
                let address = self.bits(address, 64)?;
                let (old, new) = self.pair(old, new)?;
                let how = self.how(how)?;
                let width = self.whole_bytes(old, name.place)?;
                self.builder.effect(Op::CompareAndSwap { address, old, new, how }, width)
            }
            "phys_load" => {
                let [width, address] = exactly(arguments, name.place)?;
                let (width, address) = (self.bytes(width)?, self.bits(address, 64)?);
                self.builder.effect(Op::PhysicalLoad(address), width)
            }
            _ => {
                let [address, old, new] = exactly(arguments, name.place)?;
                let address = self.bits(address, 64)?;
                let (old, new) = self.pair(old, new)?;
                let width = self.whole_bytes(old, name.place)?;
                self.builder.effect(Op::PhysicalSwap { address, old, new }, width)
            }
        };
        Ok(Value::Bits(id))
    }

    /// A width that memory is accessed in.
    fn bytes(&mut self, width: &'a Expr) -> Result<u8> {
        match self.width(width)? {
            width @ (8 | 16 | 32 | 64 | 128) => Ok(width),
            other => Err(Error::at(width.place, format!("memory is not accessed by {other} bits"))),
        }
    }

    fn whole_bytes(&mut self, value: Id, place: Place) -> Result<u8> {
        match self.builder.width(value) {
            width @ (8 | 16 | 32 | 64 | 128) => Ok(width),
            other => Err(Error::at(place, format!("memory is not accessed by {other} bits"))),
        }
    }
}

fn exactly<const N: usize>(arguments: &[Expr], place: Place) -> Result<[&Expr; N]> {
    let list: Vec<&Expr> = arguments.iter().collect();
    list.try_into().map_err(|_| Error::at(place, format!("this takes {N} arguments")))
}
