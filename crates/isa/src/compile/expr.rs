//! Expressions become operations, and their widths are checked.

use super::builder::{bits_of, fits};
use super::elaborate::{Elaborator, Flow, Value};
use super::meet::Behind;
use crate::ast::{self, Expr, ExprKind, Type};
use crate::error::{Error, Place, Result};
use crate::ops::{Binary, Unary};
use crate::plan::{Id, Op};

impl<'a> Elaborator<'_, 'a> {
    /// What it is worth, or how it ended instead.
    pub(super) fn flow(&mut self, expr: &'a Expr, expected: Option<u8>) -> Result<Flow> {
        match &expr.kind {
            ExprKind::If(condition, yes, no) => {
                let condition = self.value(condition, Some(1))?;
                let flow = self.branch(condition, expected, Behind::More, |this, is| {
                    this.block(if is { yes } else { no }, expected)
                });
                flow.map_err(|error| located(error, expr.place))
            }
            ExprKind::Match(of, arms) => {
                let flow =
                    self.switch(of, arms, expected, Behind::More, &mut |this, block| this.block(block, expected));
                flow.map_err(|error| located(error, expr.place))
            }
            ExprKind::Block(block) => self.block(block, expected),
            ExprKind::Call(name, arguments) => self.call(name, arguments, expected),
            _ => self.plain(expr, expected).map(Flow::Value),
        }
    }

    /// What it is worth; it has to be worth something.
    pub(super) fn value(&mut self, expr: &'a Expr, expected: Option<u8>) -> Result<Value> {
        match self.flow(expr, expected)? {
            Flow::Value(value) => Ok(value),
            Flow::Returned(_) => Err(Error::at(expr.place, "a value can't return")),
            // Nothing will use it.
            Flow::Diverged => match expected {
                Some(width) => Ok(Value::Bits(self.builder.constant(0, width))),
                None => Ok(Value::Int(0)),
            },
        }
    }

    /// A value of `width` bits.
    pub(super) fn bits(&mut self, expr: &'a Expr, width: u8) -> Result<Id> {
        let value = self.value(expr, Some(width))?;
        self.sized(value, width, expr.place)
    }

    /// A number that is known now.
    pub(super) fn int(&mut self, expr: &'a Expr) -> Result<i128> {
        match self.value(expr, None)? {
            Value::Int(number) => Ok(number),
            Value::Bits(id) => self
                .builder
                .known(id)
                .map(|number| number as i128)
                .ok_or_else(|| Error::at(expr.place, "this has to be a number that is known in the description")),
            Value::Tuple(_) => Err(Error::at(expr.place, "this is not one number")),
        }
    }

    pub(super) fn width(&mut self, expr: &'a Expr) -> Result<u8> {
        match self.int(expr)? {
            width @ 1..=128 => Ok(width as u8),
            width => Err(Error::at(expr.place, format!("a value has 1 to 128 bits, not {width}"))),
        }
    }

    pub(super) fn width_of(&mut self, class: &'a Type, place: Place) -> Result<u8> {
        match class {
            Type::Bits(width) => self.width(width),
            _ => Err(Error::at(place, "this has to have a width")),
        }
    }

    pub(super) fn sized(&mut self, value: Value, width: u8, place: Place) -> Result<Id> {
        match value {
            Value::Int(number) if fits(number, width) => Ok(self.builder.constant(bits_of(number, width), width)),
            Value::Int(number) => Err(Error::at(place, format!("{number} does not fit {width} bits"))),
            Value::Bits(id) if self.builder.width(id) == width => Ok(id),
            Value::Bits(id) => {
                let found = self.builder.width(id);
                Err(Error::at(place, format!("this has {found} bits, and {width} are needed")))
            }
            Value::Tuple(_) => Err(Error::at(place, format!("this is not a value of {width} bits"))),
        }
    }

    pub(super) fn convert(&mut self, value: Value, class: &'a Type, place: Place) -> Result<Value> {
        match (class, value) {
            (Type::Int, value) => match value {
                Value::Int(_) => Ok(value),
                Value::Bits(id) => match self.builder.known(id) {
                    Some(number) => Ok(Value::Int(number as i128)),
                    None => Err(Error::at(place, "this has to be a number that is known in the description")),
                },
                Value::Tuple(_) => Err(Error::at(place, "this is not one number")),
            },
            (Type::Bits(width), value) => {
                let width = self.width(width)?;
                self.sized(value, width, place).map(Value::Bits)
            }
            (Type::Tuple(classes), Value::Tuple(values)) if classes.len() == values.len() => {
                let both = classes.iter().zip(values);
                both.map(|(class, value)| self.convert(value, class, place)).collect::<Result<_>>().map(Value::Tuple)
            }
            (Type::Tuple(classes), _) if classes.is_empty() => Ok(Value::nothing()),
            (Type::Tuple(classes), _) => Err(Error::at(place, format!("{} values are needed", classes.len()))),
        }
    }

    fn plain(&mut self, expr: &'a Expr, expected: Option<u8>) -> Result<Value> {
        match &expr.kind {
            ExprKind::Number(number) => Ok(match i128::try_from(*number) {
                Ok(number) => Value::Int(number),
                Err(_) => Value::Bits(self.builder.constant(*number, 128)),
            }),
            ExprKind::Name(name) => self.name(name, expr.place),
            ExprKind::Index(base, index) => self.index(base, index),
            ExprKind::Slice(base, high, low) => {
                let base_value = self.value(base, None)?;
                let (high, low) = (self.int(high)?, self.int(low)?);
                self.slice(base_value, high, low, expr.place)
            }
            ExprKind::Unary(operator, of) => self.unary(*operator, of, expected),
            ExprKind::Binary(operator, a, b) => self.binary(*operator, a, b, expected, expr.place),
            ExprKind::Tuple(list) => {
                list.iter().map(|part| self.value(part, None)).collect::<Result<_>>().map(Value::Tuple)
            }
            _ => Err(Error::at(expr.place, "this is no value")),
        }
    }

    fn name(&mut self, name: &'a str, place: Place) -> Result<Value> {
        if let Some(value) = self.lookup(name) {
            return Ok(value.clone());
        }
        if let Some(number) = self.symbols.constants.get(name) {
            return Ok(Value::Int(*number));
        }
        match name {
            "pc" => return Ok(Value::Bits(self.builder.pure(Op::Pc, 64))),
            "size" => {
                return match self.size {
                    Some(size) => Ok(Value::Int(size.into())),
                    None => Err(Error::at(place, "only an instruction has a size")),
                };
            }
            _ => {}
        }
        let (register, info) = self.symbols.register(name, place)?;
        if info.count.is_some() {
            return Err(Error::at(place, format!("'{name}' is a bank: write '{name}[number]'")));
        }
        Ok(Value::Bits(self.builder.read(register, None, info.width, info.is_mode)))
    }

    pub(super) fn is_bank(&self, expr: &Expr) -> bool {
        let ExprKind::Name(name) = &expr.kind else { return false };
        self.lookup(name).is_none() && self.symbols.is_register(name) && {
            self.symbols.register(name, expr.place).is_ok_and(|(_, info)| info.count.is_some())
        }
    }

    pub(super) fn bank_index(&mut self, index: &'a Expr, count: Option<u32>) -> Result<Id> {
        match self.value(index, None)? {
            Value::Int(number) => {
                if !(0..i128::from(count.unwrap_or(1))).contains(&number) {
                    return Err(Error::at(index.place, format!("there is no number {number} in this bank")));
                }
                Ok(self.builder.constant(number as u128, 8))
            }
            Value::Bits(id) => Ok(id),
            Value::Tuple(_) => Err(Error::at(index.place, "this is not one number")),
        }
    }

    fn index(&mut self, base: &'a Expr, index: &'a Expr) -> Result<Value> {
        if self.is_bank(base) {
            let ExprKind::Name(name) = &base.kind else { return Ok(Value::nothing()) };
            let (register, info) = self.symbols.register(name, base.place)?;
            let index = self.bank_index(index, info.count)?;
            return Ok(Value::Bits(self.builder.read(register, Some(index), info.width, false)));
        }
        let value = self.value(base, None)?;
        let bit = self.int(index)?;
        self.slice(value, bit, bit, base.place)
    }

    fn slice(&mut self, value: Value, high: i128, low: i128, place: Place) -> Result<Value> {
        let id = match value {
            Value::Bits(id) => id,
            Value::Int(number) if 0 <= low && low <= high && high < 127 => {
                return Ok(Value::Int((number >> low) & ((1i128 << (high - low + 1)) - 1)));
            }
            _ => return Err(Error::at(place, "this has no bits")),
        };
        let width = self.builder.width(id);
        if !(0 <= low && low <= high && high < width.into()) {
            return Err(Error::at(place, format!("bits {high} to {low} are not in {width} bits")));
        }
        Ok(Value::Bits(self.builder.pure(Op::Slice(id, low as u8), (high - low + 1) as u8)))
    }

    fn unary(&mut self, operator: ast::Unary, of: &'a Expr, expected: Option<u8>) -> Result<Value> {
        let value = self.value(of, if operator == ast::Unary::Not { Some(1) } else { expected })?;
        match value {
            Value::Int(number) => Ok(Value::Int(match operator {
                ast::Unary::Negate => number.wrapping_neg(),
                ast::Unary::Invert => !number,
                ast::Unary::Not => i128::from(number == 0),
            })),
            Value::Bits(id) => {
                let width = self.builder.width(id);
                let operator = match operator {
                    ast::Unary::Negate => Unary::Negate,
                    ast::Unary::Invert => Unary::Invert,
                    ast::Unary::Not if width == 1 => Unary::Invert,
                    ast::Unary::Not => return Err(Error::at(of.place, "'!' is for one bit; '~' inverts all")),
                };
                Ok(Value::Bits(self.builder.pure(Op::Unary(operator, id), width)))
            }
            Value::Tuple(_) => Err(Error::at(of.place, "this is not one value")),
        }
    }

    fn binary(
        &mut self,
        operator: ast::Binary,
        a: &'a Expr,
        b: &'a Expr,
        expected: Option<u8>,
        place: Place,
    ) -> Result<Value> {
        let expected = if is_comparison(operator) { None } else { expected };
        let left = self.value(a, expected)?;
        // What decides already is not asked further, so that a guard protects what stands behind it.
        match (operator, self.known_condition(&left)) {
            (ast::Binary::And, Some(false)) => return Ok(Value::Int(0)),
            (ast::Binary::Or, Some(true)) => return Ok(Value::Int(1)),
            _ => {}
        }
        let right = self.value(b, expected)?;
        if let (Value::Int(left), Value::Int(right)) = (&left, &right) {
            return of_numbers(operator, *left, *right)
                .map(Value::Int)
                .ok_or_else(|| Error::at(place, "this is not a number that the description can hold"));
        }
        let is_shift = matches!(operator, ast::Binary::ShiftLeft | ast::Binary::ShiftRight);
        let (left, right) = if is_shift {
            let left = match left {
                Value::Int(_) => {
                    let width = expected.ok_or_else(|| Error::at(a.place, "it is not known how wide this is"))?;
                    self.sized(left, width, a.place)?
                }
                left => self.any_bits(left, a.place)?,
            };
            let right = match right {
                Value::Int(by) => self.sized(Value::Int(by), 8, b.place)?,
                right => self.any_bits(right, b.place)?,
            };
            (left, right)
        } else {
            match (left, right) {
                (Value::Bits(left), right) => (left, self.sized(right, self.builder.width(left), b.place)?),
                (left, Value::Bits(right)) => (self.sized(left, self.builder.width(right), a.place)?, right),
                _ => return Err(Error::at(place, "this is not for several values")),
            }
        };
        self.binary_of(operator, left, right, place).map(Value::Bits)
    }

    fn any_bits(&mut self, value: Value, place: Place) -> Result<Id> {
        match value {
            Value::Bits(id) => Ok(id),
            _ => Err(Error::at(place, "it is not known how wide this is")),
        }
    }

    fn known_condition(&self, value: &Value) -> Option<bool> {
        match value {
            Value::Int(number) => Some(*number != 0),
            Value::Bits(id) => self.builder.known(*id).map(|known| known != 0),
            Value::Tuple(_) => None,
        }
    }

    fn binary_of(&mut self, operator: ast::Binary, a: Id, b: Id, place: Place) -> Result<Id> {
        let width = self.builder.width(a);
        let simple = |operator| (operator, false, false);
        let (operator, is_swapped, is_inverted) = match operator {
            ast::Binary::Or | ast::Binary::And if width != 1 => {
                return Err(Error::at(place, "'&&' and '||' are for one bit; '&' and '|' are for all"));
            }
            ast::Binary::Or | ast::Binary::BitOr => simple(Binary::Or),
            ast::Binary::And | ast::Binary::BitAnd => simple(Binary::And),
            ast::Binary::BitXor => simple(Binary::Xor),
            ast::Binary::Add => simple(Binary::Add),
            ast::Binary::Subtract => simple(Binary::Subtract),
            ast::Binary::Multiply => simple(Binary::Multiply),
            ast::Binary::ShiftLeft => simple(Binary::ShiftLeft),
            ast::Binary::ShiftRight => simple(Binary::ShiftRight),
            ast::Binary::Equal => (Binary::Equal, false, false),
            ast::Binary::Unequal => (Binary::Equal, false, true),
            ast::Binary::Less => (Binary::Less, false, false),
            ast::Binary::Greater => (Binary::Less, true, false),
            ast::Binary::LessEqual => (Binary::Less, true, true),
            ast::Binary::GreaterEqual => (Binary::Less, false, true),
        };
        let (a, b) = if is_swapped { (b, a) } else { (a, b) };
        Ok(self.compare_or_compute(operator, a, b, is_inverted))
    }

    pub(super) fn compare_or_compute(&mut self, operator: Binary, a: Id, b: Id, is_inverted: bool) -> Id {
        let is_one_bit = matches!(operator, Binary::Equal | Binary::Less | Binary::SignedLess);
        let width = if is_one_bit { 1 } else { self.builder.width(a) };
        let id = self.builder.pure(Op::Binary(operator, a, b), width);
        if is_inverted { self.builder.pure(Op::Unary(Unary::Invert, id), width) } else { id }
    }
}

fn is_comparison(operator: ast::Binary) -> bool {
    use ast::Binary::{Equal, Greater, GreaterEqual, Less, LessEqual, Unequal};
    matches!(operator, Equal | Unequal | Less | LessEqual | Greater | GreaterEqual)
}

fn of_numbers(operator: ast::Binary, a: i128, b: i128) -> Option<i128> {
    Some(match operator {
        ast::Binary::Or => i128::from(a != 0 || b != 0),
        ast::Binary::And => i128::from(a != 0 && b != 0),
        ast::Binary::BitOr => a | b,
        ast::Binary::BitXor => a ^ b,
        ast::Binary::BitAnd => a & b,
        ast::Binary::Equal => (a == b).into(),
        ast::Binary::Unequal => (a != b).into(),
        ast::Binary::Less => (a < b).into(),
        ast::Binary::LessEqual => (a <= b).into(),
        ast::Binary::Greater => (a > b).into(),
        ast::Binary::GreaterEqual => (a >= b).into(),
        ast::Binary::ShiftLeft => a.checked_mul(1i128.checked_shl(b.try_into().ok()?)?)?,
        ast::Binary::ShiftRight => a.checked_shr(b.try_into().ok()?)?,
        ast::Binary::Add => a.checked_add(b)?,
        ast::Binary::Subtract => a.checked_sub(b)?,
        ast::Binary::Multiply => a.checked_mul(b)?,
    })
}

/// A mistake of arms has no place of its own.
pub(super) fn located(error: Error, place: Place) -> Error {
    if error.place == Place::default() { Error { place, ..error } } else { error }
}
