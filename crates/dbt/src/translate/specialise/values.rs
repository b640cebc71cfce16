//! Operations on values, of which some are numbers: what can be simpler is.

use isa::ops::{self, Binary, Unary, mask64, signed64};

use super::super::ir::{Ir, Test, TestKind, Val};
use super::{Done, Maker, Unknown};

impl Maker<'_> {
    /// What the host has for all operands, or can be made of it.
    pub(super) fn checked(&mut self, operator: Binary, width: u8, by_width: u8, a: Val, b: Val) -> Done<Val> {
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
            Binary::ShiftLeft | Binary::ShiftRight | SignedShiftRight => {
                Ok(self.shift(operator, width, by_width, a, b))
            }
            _ => Ok(self.binary(operator, width, a, b)),
        }
    }

    /// The host shifts by the low bits of the amount; ours may be the width or more.
    pub(super) fn shift(&mut self, operator: Binary, width: u8, by_width: u8, a: Val, b: Val) -> Val {
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

    pub(super) fn unary(&mut self, operator: Unary, width: u8, a: Val) -> Val {
        match a {
            Val::Number(a) => Val::Number(ops::unary(operator, width, a.into()) as u64),
            // The zeros at the end, as an architecture counts them that counts those at the beginning.
            Val::Value(_)
                if let (Unary::LeadingZeros, Some(Ir::Unary(Unary::ReverseBits, w, of))) = (operator, self.of(a))
                    && w == width =>
            {
                self.pure(Ir::Unary(Unary::TrailingZeros, width, of))
            }
            // The host turns whole words around, and what was at the bottom is at the top.
            Val::Value(_) if operator == Unary::ReverseBytes && !matches!(width, 32 | 64) => {
                let whole = if width < 32 { 32 } else { 64 };
                let reversed = self.pure(Ir::Unary(operator, whole, a));
                self.binary(Binary::ShiftRight, whole, reversed, Val::Number(u64::from(whole - width)))
            }
            a => self.pure(Ir::Unary(operator, width, a)),
        }
    }

    pub(super) fn binary(&mut self, operator: Binary, width: u8, a: Val, b: Val) -> Val {
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
        // What is shifted to the top and back has its sign above it.
        if let (Binary::SignedShiftRight, Some(Ir::Binary(Binary::ShiftLeft, w, of, by))) = (operator, self.of(a))
            && let Val::Number(by @ 1..) = by
            && (w, Val::Number(by)) == (width, b)
            && matches!(u64::from(width).wrapping_sub(by), 8 | 16 | 32)
        {
            return self.sext(of, width - by as u8, width);
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
        if width == 1
            && let Some(simpler) = self.condition(operator, a, b)
        {
            return simpler;
        }
        self.pure(Ir::Binary(operator, width, a, b))
    }

    /// What conditions are put together of, as one comparison, or as one of two.
    fn condition(&mut self, operator: Binary, a: Val, b: Val) -> Option<Val> {
        match (operator, self.of(a), self.of(b)) {
            // Neither less nor equal.
            (
                Binary::And,
                Some(Ir::Binary(Binary::Xor, 1, not_less, Val::Number(1))),
                Some(Ir::Binary(Binary::Xor, 1, not_equal, Val::Number(1))),
            ) => {
                let Some(Ir::Binary(less @ (Binary::Less | Binary::SignedLess), width, a, b)) = self.of(not_less)
                else {
                    return None;
                };
                let Some(Ir::Binary(Binary::Equal, w, c, d)) = self.of(not_equal) else { return None };
                let is_same = width == w && ((a, b) == (c, d) || (a, b) == (d, c));
                is_same.then(|| self.pure(Ir::Binary(less, width, b, a)))
            }
            // The flags of whichever of two comparisons was made.
            (_, Some(Ir::Select(_, test, yes, no)), Some(Ir::Select(_, other, also_yes, also_no))) if test == other => {
                let (yes, no) = (self.binary(operator, 1, yes, also_yes), self.binary(operator, 1, no, also_no));
                Some(self.choice(test, yes, no))
            }
            (Binary::Xor | Binary::Equal, Some(Ir::Select(_, test, yes, no)), None) => {
                let (yes, no) = (self.binary(operator, 1, yes, b), self.binary(operator, 1, no, b));
                Some(self.choice(test, yes, no))
            }
            _ => None,
        }
    }

    /// One of two bits.
    fn choice(&mut self, test: Test, yes: Val, no: Val) -> Val {
        if yes == no { yes } else { self.pure(Ir::Select(1, test, yes, no)) }
    }

    /// A bit that is compared with a number is the bit, or the other way.
    pub(super) fn equal(&mut self, width: u8, a: Val, b: Val) -> Option<Val> {
        match (width, b) {
            (1, Val::Number(1)) => Some(a),
            (1, Val::Number(0)) => Some(self.binary(Binary::Xor, 1, a, Val::Number(1))),
            (1, b) => self.not_less(a, b).or_else(|| self.not_less(b, a)),
            _ => None,
        }
    }

    /// Whether a difference is not negative: its sign, as it is and as it would be without an overflow, are the same.
    fn not_less(&mut self, negative: Val, overflow: Val) -> Option<Val> {
        let Some(Ir::Slice { of, low: 0, width: 1 }) = self.of(overflow) else { return None };
        let Some(Ir::Flags { width, a, b, carry }) = self.of(of) else { return None };
        if self.flag(width, a, b, carry, 3)? != negative {
            return None;
        }
        let b = self.subtrahend(width, b, carry)?;
        let less = self.binary(Binary::SignedLess, width, a, b);
        Some(self.binary(Binary::Xor, 1, less, Val::Number(1)))
    }

    pub(super) fn select(&mut self, width: u8, condition: Val, yes: Val, no: Val) -> Val {
        match condition {
            Val::Number(0) => no,
            Val::Number(_) => yes,
            _ if yes == no => yes,
            _ if (yes, no) == (Val::Number(1), Val::Number(0)) => condition,
            _ => {
                let test = self.test(condition);
                self.pure(Ir::Select(width, test, yes, no))
            }
        }
    }

    pub(super) fn slice(&mut self, of: Val, from: u8, low: u8, width: u8) -> Val {
        if low == 0 && width == from {
            return of;
        }
        if let Val::Number(number) = of {
            return Val::Number(number >> low & mask64(width));
        }
        if low >= self.bits(of) {
            return Val::Number(0);
        }
        // Above its bits are zeros.
        if low == 0 && width >= self.bits(of) {
            return of;
        }
        if let Some(simpler) = self.narrowed(of, low, width, 0) {
            return simpler;
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
            Some(Ir::Binary(
                operator @ (Binary::And | Binary::Or | Binary::Xor | Binary::Add | Binary::Subtract),
                w,
                a,
                b,
            )) if low == 0 && width == 32 && w == 64 => {
                let (a, b) = (self.slice(a, 64, 0, 32), self.slice(b, 64, 0, 32));
                self.binary(operator, 32, a, b)
            }
            Some(Ir::Flags { width: w, a, b, carry }) if width == 1 => {
                self.flag(w, a, b, carry, low).unwrap_or_else(|| self.pure(Ir::Slice { of, low, width }))
            }
            Some(Ir::Select(_, test, yes @ Val::Value(flags), no @ Val::Number(_)))
                if width == 1 && matches!(self.block.code[flags as usize], Ir::Flags { .. }) =>
            {
                let (yes, no) = (self.slice(yes, from, low, 1), self.slice(no, from, low, 1));
                self.choice(test, yes, no)
            }
            _ => self.pure(Ir::Slice { of, low, width }),
        }
    }

    /// How many bits it may have.
    pub(super) fn bits(&self, value: Val) -> u8 {
        match value {
            Val::Number(number) => 64 - number.leading_zeros() as u8,
            Val::Value(value) => self.widths[value as usize],
        }
    }

    pub(super) fn width_of(&self, ir: &Ir) -> u8 {
        match *ir {
            Ir::Read { offset } => {
                let register = self.isa.registers.iter().rev().find(|register| register.offset <= offset);
                register.map_or(64, |register| register.width.min(64))
            }
            Ir::Unary(_, width, _) | Ir::Slice { width, .. } | Ir::Sext { to: width, .. } => width,
            Ir::Binary(Binary::Equal | Binary::Less | Binary::SignedLess, ..) => 1,
            Ir::Binary(Binary::And, width, a, b) => width.min(self.bits(a)).min(self.bits(b)),
            Ir::Binary(Binary::Or | Binary::Xor, width, a, b) => width.min(self.bits(a).max(self.bits(b))),
            Ir::Binary(Binary::ShiftRight, width, a, Val::Number(by)) => {
                width.min(self.bits(a)).saturating_sub(by.min(64) as u8)
            }
            Ir::Binary(Binary::ShiftLeft, width, a, Val::Number(by)) => {
                width.min(self.bits(a).saturating_add(by.min(64) as u8))
            }
            Ir::Binary(_, width, ..) => width,
            Ir::Select(width, _, yes, no) => width.min(self.bits(yes).max(self.bits(no))),
            Ir::Flags { .. } => 4,
            Ir::FloatFlags { .. } => 6,
            Ir::Vector(ref vector) => self.width_of_vector(vector),
            Ir::Load { width, .. } | Ir::Atomic { width, .. } | Ir::CompareAndSwap { width, .. } => width,
            _ => 64,
        }
    }

    /// Bits of a value that was put together, if they are those of one part, or known. It adds no operation but a slice.
    fn narrowed(&mut self, of: Val, low: u8, width: u8, depth: u8) -> Option<Val> {
        if let Val::Number(number) = of {
            return Some(Val::Number(number >> low & mask64(width)));
        }
        if low >= self.bits(of) {
            return Some(Val::Number(0));
        }
        // Words are put together of a few fields.
        if depth > 24 {
            return None;
        }
        let ones = Val::Number(mask64(width));
        match self.of(of)? {
            Ir::Binary(operator @ (Binary::And | Binary::Or | Binary::Xor), _, a, b) => {
                let a = self.narrowed(a, low, width, depth + 1)?;
                let b = self.narrowed(b, low, width, depth + 1)?;
                match (operator, a, b) {
                    (Binary::And, Val::Number(a), Val::Number(b)) => Some(Val::Number(a & b)),
                    (Binary::Or, Val::Number(a), Val::Number(b)) => Some(Val::Number(a | b)),
                    (Binary::Xor, Val::Number(a), Val::Number(b)) => Some(Val::Number(a ^ b)),
                    (Binary::And, _, Val::Number(0)) | (Binary::And, Val::Number(0), _) => Some(Val::Number(0)),
                    (Binary::And, a, b) if b == ones => Some(a),
                    (Binary::And, a, b) if a == ones => Some(b),
                    (Binary::Or | Binary::Xor, a, Val::Number(0)) => Some(a),
                    (Binary::Or | Binary::Xor, Val::Number(0), b) => Some(b),
                    (Binary::Or, _, b) if b == ones => Some(ones),
                    (Binary::Or, a, _) if a == ones => Some(ones),
                    _ => None,
                }
            }
            // What is shifted out of its width is not there any more.
            Ir::Binary(Binary::ShiftLeft, w, a, Val::Number(by)) if by < 64 && low + width <= w => {
                let by = by as u8;
                if low + width <= by {
                    Some(Val::Number(0))
                } else if low >= by {
                    self.narrowed(a, low - by, width, depth + 1)
                } else {
                    None
                }
            }
            Ir::Binary(Binary::ShiftRight, _, a, Val::Number(by)) if by < 64 && by as u8 + low + width <= 64 => {
                self.narrowed(a, low + by as u8, width, depth + 1)
            }
            Ir::Slice { of: inner, low: inner_low, width: inner_width } if low + width <= inner_width => {
                Some(self.pure(Ir::Slice { of: inner, low: inner_low + low, width }))
            }
            // All of a register, or of what was computed: a slice of it, or itself.
            Ir::Read { .. } if low == 0 && width >= self.bits(of) => Some(of),
            Ir::Read { .. } => Some(self.pure(Ir::Slice { of, low, width })),
            _ if low == 0 && width >= self.bits(of) => Some(of),
            _ => None,
        }
    }

    /// What is subtracted, if a sum with a carry is a difference.
    fn subtrahend(&self, width: u8, b: Val, carry: Val) -> Option<Val> {
        match (carry, b) {
            (Val::Number(1), Val::Number(b)) => Some(Val::Number(!b & mask64(width))),
            (Val::Number(1), b) => match self.of(b) {
                Some(Ir::Unary(Unary::Invert, _, inner)) => Some(inner),
                _ => None,
            },
            _ => None,
        }
    }

    /// A flag of a difference or a sum, as a comparison: bit 3 is N, 2 is Z, 1 is C.
    pub(super) fn flag(&mut self, width: u8, a: Val, b: Val, carry: Val, bit: u8) -> Option<Val> {
        match (bit, self.subtrahend(width, b, carry)) {
            (2, Some(b)) => Some(self.binary(Binary::Equal, width, a, b)),
            (1, Some(b)) => {
                let below = self.binary(Binary::Less, width, a, b);
                Some(self.binary(Binary::Xor, 1, below, Val::Number(1)))
            }
            (3, Some(b)) => {
                let difference = self.binary(Binary::Subtract, width, a, b);
                Some(self.slice(difference, width, width - 1, 1))
            }
            (1..=3, None) if carry == Val::Number(0) => {
                let sum = self.binary(Binary::Add, width, a, b);
                Some(match bit {
                    // What was carried is missing: it is less than either.
                    1 => self.binary(Binary::Less, width, sum, if matches!(b, Val::Number(_)) { b } else { a }),
                    2 => self.binary(Binary::Equal, width, sum, Val::Number(0)),
                    _ => self.slice(sum, width, width - 1, 1),
                })
            }
            _ => None,
        }
    }

    pub(super) fn sext(&mut self, of: Val, from: u8, to: u8) -> Val {
        if from == to {
            return of;
        }
        match of {
            Val::Number(number) => Val::Number(signed64(number, from) as u64 & mask64(to)),
            of => self.pure(Ir::Sext { of, from, to }),
        }
    }

    /// A condition as a comparison.
    pub(super) fn test(&self, condition: Val) -> Test {
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
                // A number is on the right: what is more than it is not less than the next.
                let most = if kind == TestKind::Less { mask64(width - 1) } else { mask64(width) };
                match a {
                    Val::Number(number) if kind != TestKind::Equal && number != most => Test {
                        kind: kind.inverted(),
                        width,
                        a: b,
                        b: Val::Number(number.wrapping_add(1) & mask64(width)),
                    },
                    _ => Test { kind, width, a, b },
                }
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
    matches!(operator, Binary::Add | Binary::Multiply | Binary::And | Binary::Or | Binary::Xor | Binary::Equal)
}
