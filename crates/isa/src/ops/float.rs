//! Operations on floating-point numbers, lane by lane: exact to the last bit of value and flags, in integers alone.
//!
//! Each takes its mode as an operand, and gives flags besides its value, which an engine adds to the register
//! `float_flags` of a description. **Two rules differ between architectures, and the mode says which holds**: what becomes
//! of NaNs, and whether a result is too small before it is rounded or afterwards.

use serde::{Deserialize, Serialize};

mod arithmetic;
mod convert;
mod format;

use format::{Format, Number};

use super::Shape::{self, Double, Half, Quarter, Same};
use super::{mask, signed};

/// Bits of a mode.
pub mod mode {
    /// How results are rounded: a [`Rounding`].
    pub const ROUNDING: u8 = 7;
    /// Numbers below the normal ones are zero, as operands and as results, but for those of 16 bits.
    pub const FLUSH: u8 = 8;
    /// Whatever is no number is one and the same.
    pub const DEFAULT_NAN: u8 = 16;
    /// Results are too small, or not, before they are rounded; NaNs are handed on unless by default; as an integer, one is
    /// 0. Without it, as RISC-V: after they are rounded; and the greatest integer.
    pub const ARM: u8 = 32;
    /// A format of 16 bits without infinities and NaNs.
    pub const ALTERNATIVE_HALF: u8 = 64;
    /// Comparing any NaN is invalid.
    pub const SIGNALLING: u8 = 128;

    /// Which of the two neighbours a result is.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Rounding {
        /// The nearest; of two, the even one.
        Even = 0,
        /// Towards zero.
        Zero = 1,
        /// Down.
        Down = 2,
        /// Up.
        Up = 3,
        /// The nearest; of two, the one that is farther from zero.
        Away = 4,
        /// The odd one.
        Odd = 5,
    }
}

/// Bits of flags.
pub mod flags {
    /// It is no number.
    pub const INVALID: u8 = 1;
    /// Something else than zero was divided by zero.
    pub const DIVIDED_BY_ZERO: u8 = 2;
    /// It is too great.
    pub const OVERFLOW: u8 = 4;
    /// It is too small, and inexact or flushed.
    pub const UNDERFLOW: u8 = 8;
    /// It was rounded.
    pub const INEXACT: u8 = 16;
    /// An operand was flushed.
    pub const INPUT_DENORMAL: u8 = 32;
}

/// What is done. Each is a line of [`FLOATS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is what its name says, and FLOATS says the rest")]
pub enum Float {
    Add,
    Subtract,
    Multiply,
    MultiplyExtended,
    Divide,
    Root,
    MultiplyAdd,
    Minimum,
    Maximum,
    MinimumNumber,
    MaximumNumber,
    ReciprocalStep,
    RootStep,
    Equal,
    Greater,
    GreaterEqual,
    Order,
    Integral,
    IntegralExact,
    ToSigned,
    ToUnsigned,
    ToSignedHalf,
    ToUnsignedHalf,
    OfSigned,
    OfUnsigned,
    OfSignedHalf,
    OfUnsignedHalf,
    Widen,
    Narrow,
    NarrowTwice,
    ReciprocalEstimate,
    RootEstimate,
    ReciprocalExponent,
}

/// The name of each in a description, how many operands it has behind the lanes' width and the mode, and its result.
pub const FLOATS: &[(&str, Float, usize, Shape)] = &[
    ("float_add", Float::Add, 2, Same),
    ("float_sub", Float::Subtract, 2, Same),
    ("float_mul", Float::Multiply, 2, Same),
    // Infinity times zero is two.
    ("float_mulx", Float::MultiplyExtended, 2, Same),
    ("float_div", Float::Divide, 2, Same),
    ("float_sqrt", Float::Root, 1, Same),
    // The first times the second, and the third.
    ("float_fma", Float::MultiplyAdd, 3, Same),
    ("float_min", Float::Minimum, 2, Same),
    ("float_max", Float::Maximum, 2, Same),
    // Rather a number than a NaN.
    ("float_minnum", Float::MinimumNumber, 2, Same),
    ("float_maxnum", Float::MaximumNumber, 2, Same),
    ("float_recip_step", Float::ReciprocalStep, 2, Same),
    ("float_root_step", Float::RootStep, 2, Same),
    // Lanes of all ones where it is so; the latter two are always signalling.
    ("float_eq", Float::Equal, 2, Same),
    ("float_gt", Float::Greater, 2, Same),
    ("float_ge", Float::GreaterEqual, 2, Same),
    // Of one lane: less (8), equal (4), not less (2), not ordered (1).
    ("float_order", Float::Order, 2, Shape::Bits(4)),
    ("float_round", Float::Integral, 1, Same),
    // The same, which says whether it was one before.
    ("float_round_exact", Float::IntegralExact, 1, Same),
    // Integers as wide as the lane, or half as wide; the second operand says how many bits are behind the point.
    ("float_to_signed", Float::ToSigned, 2, Same),
    ("float_to_unsigned", Float::ToUnsigned, 2, Same),
    ("float_to_signed_half", Float::ToSignedHalf, 2, Half),
    ("float_to_unsigned_half", Float::ToUnsignedHalf, 2, Half),
    ("float_of_signed", Float::OfSigned, 2, Same),
    ("float_of_unsigned", Float::OfUnsigned, 2, Same),
    ("float_of_signed_half", Float::OfSignedHalf, 2, Half),
    ("float_of_unsigned_half", Float::OfUnsignedHalf, 2, Half),
    ("float_widen", Float::Widen, 1, Double),
    ("float_narrow", Float::Narrow, 1, Half),
    ("float_narrow_twice", Float::NarrowTwice, 1, Quarter),
    // To nine bits, as DDI 0487's FPRecipEstimate, FPRSqrtEstimate and FPRecpX.
    ("float_recip_estimate", Float::ReciprocalEstimate, 1, Same),
    ("float_root_estimate", Float::RootEstimate, 1, Same),
    ("float_recip_exponent", Float::ReciprocalExponent, 1, Same),
];

/// What one operation goes by, and what it has met.
struct Context {
    mode: u8,
    flags: u8,
}

impl Context {
    fn raise(&mut self, flags: u8) {
        self.flags |= flags;
    }

    fn rounding(&self) -> mode::Rounding {
        match self.mode & mode::ROUNDING {
            0 => mode::Rounding::Even,
            1 => mode::Rounding::Zero,
            2 => mode::Rounding::Down,
            3 => mode::Rounding::Up,
            4 => mode::Rounding::Away,
            _ => mode::Rounding::Odd,
        }
    }

    /// One lane of the result.
    fn lane(&mut self, which: Float, lane: u8, of: [u64; 3]) -> u64 {
        if let Some(result) = self.of_integers(which, lane, of[0], of[1]) {
            return result;
        }
        let is_conversion = matches!(which, Float::Widen | Float::Narrow | Float::NarrowTwice);
        let format = if is_conversion { Format::converted(lane, self.mode) } else { Format::of(lane) };
        let to = |this: &Context, lane| Format::converted(lane, this.mode);
        let a = self.unpack(format, of[0]);
        match which {
            Float::Root => self.root(format, a),
            Float::Integral => self.integral(format, a, false),
            Float::IntegralExact => self.integral(format, a, true),
            Float::ToSigned => self.integer(a, lane, true, of[1] as u8),
            Float::ToUnsigned => self.integer(a, lane, false, of[1] as u8),
            Float::ToSignedHalf => self.integer(a, lane / 2, true, of[1] as u8),
            Float::ToUnsignedHalf => self.integer(a, lane / 2, false, of[1] as u8),
            Float::Widen => self.convert(format, to(self, lane * 2), a),
            Float::Narrow => self.convert(format, to(self, lane / 2), a),
            Float::NarrowTwice => self.convert(format, to(self, lane / 4), a),
            Float::ReciprocalEstimate => self.reciprocal_estimate(format, a),
            Float::RootEstimate => self.root_estimate(format, a),
            Float::ReciprocalExponent => self.reciprocal_exponent(format, a),
            _ => {
                let b = self.unpack(format, of[1]);
                self.of_two(which, format, a, b, of[2])
            }
        }
    }

    fn of_two(&mut self, which: Float, format: Format, a: Number, b: Number, c: u64) -> u64 {
        let ones = |is: bool| if is { u64::MAX } else { 0 };
        match which {
            Float::Add => self.add(format, a, b),
            Float::Subtract if b.is_nan() => self.add(format, a, b),
            Float::Subtract => self.add(format, a, b.negated(format)),
            Float::Multiply => self.multiply(format, a, b, false),
            Float::MultiplyExtended => self.multiply(format, a, b, true),
            Float::Divide => self.divide(format, a, b),
            Float::Minimum => self.extreme(format, a, b, false),
            Float::Maximum => self.extreme(format, a, b, true),
            Float::MinimumNumber => self.extreme_number(format, a, b, false),
            Float::MaximumNumber => self.extreme_number(format, a, b, true),
            Float::ReciprocalStep => self.step(format, a, b, false),
            Float::RootStep => self.step(format, a, b, true),
            Float::Equal => ones(self.order(format, a, b, false) & 4 != 0),
            Float::Greater => ones(self.order(format, a, b, true) == 2),
            Float::GreaterEqual => ones(self.order(format, a, b, true) & 3 == 2),
            Float::Order => self.order(format, a, b, self.mode & mode::SIGNALLING != 0),
            _ => {
                let c = self.unpack(format, c);
                self.multiply_add(format, a, b, c)
            }
        }
    }

    /// Those that take an integer.
    fn of_integers(&mut self, which: Float, lane: u8, a: u64, fraction: u64) -> Option<u64> {
        let to = match which {
            Float::OfSigned | Float::OfUnsigned => Format::of(lane),
            Float::OfSignedHalf | Float::OfUnsignedHalf => Format::of(lane / 2),
            _ => return None,
        };
        let is_signed = matches!(which, Float::OfSigned | Float::OfSignedHalf);
        let value = if is_signed { signed(a.into(), lane) } else { a.into() };
        Some(self.of_integer(to, value < 0, value.unsigned_abs() as u64, fraction as u8))
    }
}

/// Whether the second operand is a number for all lanes.
fn has_fraction(which: Float) -> bool {
    use Float::{
        OfSigned, OfSignedHalf, OfUnsigned, OfUnsignedHalf, ToSigned, ToSignedHalf, ToUnsigned, ToUnsignedHalf,
    };
    matches!(
        which,
        ToSigned | ToUnsigned | ToSignedHalf | ToUnsignedHalf | OfSigned | OfUnsigned | OfSignedHalf | OfUnsignedHalf
    )
}

/// What it gives, and flags. Lanes have `lane` bits; the first operand has `width`.
pub fn float(which: Float, lane: u8, width: u8, mode: u8, of: [u128; 3]) -> (u128, u8) {
    let mut context = Context { mode, flags: 0 };
    let result = match which {
        Float::Widen => lane * 2,
        Float::ToSignedHalf | Float::ToUnsignedHalf | Float::OfSignedHalf | Float::OfUnsignedHalf | Float::Narrow => {
            lane / 2
        }
        Float::NarrowTwice => lane / 4,
        _ => lane,
    };
    let mut whole = 0;
    for number in 0..width / lane {
        let at = u32::from(number) * u32::from(lane);
        let mut parts = of.map(|value| (value >> at & mask(lane)) as u64);
        if has_fraction(which) {
            parts[1] = of[1] as u64;
        }
        let value = u128::from(context.lane(which, lane, parts)) & mask(result);
        whole |= value << (u32::from(number) * u32::from(result));
    }
    (whole, context.flags)
}
