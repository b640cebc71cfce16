//! What operators compute. The one definition that constant folding and the interpreter share, and that generated code
//! is compared with.
//!
//! Every operator is total: each has a result for all operands. A value of `width` bits is held in the low bits of a
//! number, and the others are zero.

mod check;
mod crypto;
mod estimate;
pub mod float;
mod lanes;

use serde::{Deserialize, Serialize};

pub use float::{FLOATS, Float};
pub use lanes::{INTRINSICS, Intrinsic, Saturating, Shape, intrinsic};

/// Operators of one operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Unary {
    /// All bits the other way.
    Invert,
    /// Zero less it.
    Negate,
    /// How many zeros are above its highest one; its width if it is zero.
    LeadingZeros,
    /// How many zeros are below its lowest one; its width if it is zero.
    TrailingZeros,
    /// How many ones.
    Ones,
    /// The lowest bit first.
    ReverseBits,
    /// The lowest byte first. Of a width of whole bytes.
    ReverseBytes,
}

/// Operators of two operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Binary {
    /// Their sum, without what does not fit.
    Add,
    /// Their difference.
    Subtract,
    /// Their product.
    Multiply,
    /// The high half of their product, unsigned. Of at most 64 bits.
    MultiplyHigh,
    /// The high half of their product, signed. Of at most 64 bits.
    SignedMultiplyHigh,
    /// Their quotient, unsigned; 0 if the second is 0.
    Divide,
    /// Their quotient, signed, towards zero; 0 if the second is 0.
    SignedDivide,
    /// What is left, unsigned; the first if the second is 0.
    Remainder,
    /// What is left, signed, with the first's sign; the first if the second is 0.
    SignedRemainder,
    /// Of bits.
    And,
    /// Of bits.
    Or,
    /// Of bits.
    Xor,
    /// Left, by the second, which has any width; 0 if by the width or more.
    ShiftLeft,
    /// Right, with zeros.
    ShiftRight,
    /// Right, with the highest bit.
    SignedShiftRight,
    /// Right, in a circle, by the second modulo the width.
    RotateRight,
    /// 1 if they are equal.
    Equal,
    /// 1 if the first is less, unsigned.
    Less,
    /// 1 if the first is less, signed.
    SignedLess,
}

/// The bits that a value of this width may have.
#[inline]
pub const fn mask(width: u8) -> u128 {
    if width >= 128 { u128::MAX } else { (1 << width) - 1 }
}

/// As [`mask`], of at most 64.
#[inline]
pub const fn mask64(width: u8) -> u64 {
    if width >= 64 { u64::MAX } else { (1 << width) - 1 }
}

/// A value with its sign.
#[inline]
pub const fn signed(value: u128, width: u8) -> i128 {
    let up = 128 - width as u32;
    ((value << up) as i128) >> up
}

/// As [`signed`], of at most 64.
#[inline]
pub const fn signed64(value: u64, width: u8) -> i64 {
    let up = 64 - width as u32;
    ((value << up) as i64) >> up
}

/// An operator of one operand of `width` bits.
pub fn unary(operator: Unary, width: u8, a: u128) -> u128 {
    let up = 128 - u32::from(width);
    mask(width)
        & match operator {
            Unary::Invert => !a,
            Unary::Negate => a.wrapping_neg(),
            Unary::LeadingZeros => u128::from(a.leading_zeros() - up),
            Unary::TrailingZeros => u128::from(a.trailing_zeros().min(width.into())),
            Unary::Ones => u128::from(a.count_ones()),
            Unary::ReverseBits => a.reverse_bits() >> up,
            Unary::ReverseBytes => a.swap_bytes() >> up,
        }
}

/// An operator of two operands, the first of `width` bits.
pub fn binary(operator: Binary, width: u8, a: u128, b: u128) -> u128 {
    if width <= 64 {
        return binary64(operator, width, a as u64, b.min(u64::MAX.into()) as u64).into();
    }
    let by = |b: u128| u32::try_from(b).unwrap_or(u32::MAX);
    mask(width)
        & match operator {
            Binary::Add => a.wrapping_add(b),
            Binary::Subtract => a.wrapping_sub(b),
            Binary::Multiply => a.wrapping_mul(b),
            Binary::MultiplyHigh | Binary::SignedMultiplyHigh => 0,
            Binary::Divide => a.checked_div(b).unwrap_or(0),
            Binary::SignedDivide => match signed(b, width) {
                0 => 0,
                divisor => signed(a, width).wrapping_div(divisor) as u128,
            },
            Binary::Remainder => a.checked_rem(b).unwrap_or(a),
            Binary::SignedRemainder => match signed(b, width) {
                0 => a,
                divisor => signed(a, width).wrapping_rem(divisor) as u128,
            },
            Binary::And => a & b,
            Binary::Or => a | b,
            Binary::Xor => a ^ b,
            Binary::ShiftLeft => a.checked_shl(by(b)).unwrap_or(0),
            Binary::ShiftRight => a.checked_shr(by(b)).unwrap_or(0),
            Binary::SignedShiftRight => (signed(a, width) >> by(b).min(127)) as u128,
            Binary::RotateRight => match (b % u128::from(width)) as u32 {
                0 => a,
                by => (a >> by) | (a << (u32::from(width) - by)),
            },
            Binary::Equal => return u128::from(a == b),
            Binary::Less => return u128::from(a < b),
            Binary::SignedLess => return u128::from(signed(a, width) < signed(b, width)),
        }
}

/// As [`binary`], of at most 64 bits.
#[inline]
pub fn binary64(operator: Binary, width: u8, a: u64, b: u64) -> u64 {
    let by = |b: u64| u32::try_from(b).unwrap_or(u32::MAX);
    mask64(width)
        & match operator {
            Binary::Add => a.wrapping_add(b),
            Binary::Subtract => a.wrapping_sub(b),
            Binary::Multiply => a.wrapping_mul(b),
            Binary::MultiplyHigh => ((u128::from(a) * u128::from(b)) >> width) as u64,
            Binary::SignedMultiplyHigh => {
                ((i128::from(signed64(a, width)) * i128::from(signed64(b, width))) >> width) as u64
            }
            Binary::Divide => a.checked_div(b).unwrap_or(0),
            Binary::SignedDivide => match signed64(b, width) {
                0 => 0,
                divisor => signed64(a, width).wrapping_div(divisor) as u64,
            },
            Binary::Remainder => a.checked_rem(b).unwrap_or(a),
            Binary::SignedRemainder => match signed64(b, width) {
                0 => a,
                divisor => signed64(a, width).wrapping_rem(divisor) as u64,
            },
            Binary::And => a & b,
            Binary::Or => a | b,
            Binary::Xor => a ^ b,
            Binary::ShiftLeft => a.checked_shl(by(b)).unwrap_or(0),
            Binary::ShiftRight => a.checked_shr(by(b)).unwrap_or(0),
            Binary::SignedShiftRight => (signed64(a, width) >> by(b).min(63)) as u64,
            Binary::RotateRight => match (b % u64::from(width)) as u32 {
                0 => a,
                by => (a >> by) | (a << (u32::from(width) - by)),
            },
            Binary::Equal => return u64::from(a == b),
            Binary::Less => return u64::from(a < b),
            Binary::SignedLess => return u64::from(signed64(a, width) < signed64(b, width)),
        }
}

/// N, Z, C and V of `a + b + carry`, of `width` bits up to 64.
pub fn sum_flags(width: u8, a: u64, b: u64, carry: u64) -> u64 {
    let wide = u128::from(a) + u128::from(b) + u128::from(carry);
    let sum = wide as u64 & mask64(width);
    let high = |value: u64| value >> (width - 1) & 1;
    let overflow = (high(a) ^ high(sum)) & (high(b) ^ high(sum));
    high(sum) << 3 | u64::from(sum == 0) << 2 | u64::from(wide > mask(width)) << 1 | overflow
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_total_at_their_edges() {
        let min = 1u128 << 63;
        assert_eq!(binary(Binary::SignedDivide, 64, min, u64::MAX.into()), min);
        assert_eq!(binary(Binary::SignedRemainder, 64, min, u64::MAX.into()), 0);
        assert_eq!(binary(Binary::SignedDivide, 32, 1 << 31, u32::MAX.into()), 1 << 31);
        assert_eq!(binary(Binary::Divide, 32, 7, 0), 0);
        assert_eq!(binary(Binary::ShiftLeft, 64, 1, 64), 0);
        assert_eq!(binary(Binary::ShiftLeft, 128, 1, 1 << 64), 0);
        assert_eq!(binary(Binary::SignedShiftRight, 8, 0x80, 200), 0xff);
        assert_eq!(binary(Binary::RotateRight, 32, 1, 33), 1 << 31);
        assert_eq!(binary(Binary::MultiplyHigh, 64, u64::MAX.into(), u64::MAX.into()), u128::from(u64::MAX - 1));
        assert_eq!(binary(Binary::SignedMultiplyHigh, 64, u64::MAX.into(), u64::MAX.into()), 0);
        assert_eq!(unary(Unary::LeadingZeros, 32, 0), 32);
        assert_eq!(unary(Unary::TrailingZeros, 16, 0), 16);
        assert_eq!(unary(Unary::ReverseBits, 8, 0b0000_0001), 0b1000_0000);
        assert_eq!(unary(Unary::ReverseBytes, 32, 0x1234_5678), 0x7856_3412);
    }

    #[test]
    fn flags_are_those_of_a_sum_with_carry() {
        // 5 - 5: zero, no borrow.
        assert_eq!(sum_flags(64, 5, !5, 1), 0b0110);
        // 3 - 5: negative, a borrow.
        assert_eq!(sum_flags(32, 3, mask64(32) & !5, 1), 0b1000);
        // The greatest and one.
        assert_eq!(sum_flags(32, 0x7fff_ffff, 1, 0), 0b1001);
        assert_eq!(sum_flags(64, u64::MAX, 0, 1), 0b0110);
    }
}
