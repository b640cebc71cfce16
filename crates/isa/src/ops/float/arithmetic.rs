//! What is computed of numbers.

use super::format::{Format, Kind, Number};
use super::mode::{self, Rounding};
use super::{Context, flags};
use crate::ops::estimate;

/// Bits that a sum is computed with: two more would not fit.
const TOP: u32 = 125;

impl Context {
    /// No number: the default one.
    fn invalid(&mut self, format: Format) -> u64 {
        self.raise(flags::INVALID);
        format.default_nan()
    }

    /// What comes of a NaN among operands: the first that signals, or else the first. Nothing if there is none.
    pub(super) fn nan(&mut self, format: Format, of: &[Number]) -> Option<u64> {
        let signalling = of.iter().find(|number| number.kind == Kind::Signalling);
        let chosen = signalling.or_else(|| of.iter().find(|number| number.is_nan()))?;
        if signalling.is_some() {
            self.raise(flags::INVALID);
        }
        let is_default = self.mode & mode::DEFAULT_NAN != 0;
        Some(if is_default { format.default_nan() } else { chosen.bits | format.quiet_bit() })
    }

    /// Zero as the difference of what is equal.
    fn cancelled(&self, format: Format) -> u64 {
        format.sign(self.rounding() == Rounding::Down)
    }

    /// A sum of finite numbers, each a significand (not both zero) and its exponent, with a scale of 2^`scale`.
    fn sum(&mut self, format: Format, a: (bool, u128, i32), b: (bool, u128, i32), scale: i32) -> u64 {
        let raised = |(negative, significand, exponent): (bool, u128, i32)| {
            let by = significand.leading_zeros() as i32 - (127 - TOP as i32);
            if significand == 0 { (negative, 0, i32::MIN / 2) } else { (negative, significand << by, exponent - by) }
        };
        let (a, b) = (raised(a), raised(b));
        let (large, small) = if a.2 >= b.2 { (a, b) } else { (b, a) };
        let places = (large.2 - small.2).min(127) as u32;
        let lost = small.1 & ((1u128 << places) - 1) != 0;
        let aligned = small.1 >> places | u128::from(lost);
        if large.0 == small.0 {
            return self.round(format, large.0, large.1 + aligned, large.2 + scale);
        }
        match large.1.cmp(&aligned) {
            std::cmp::Ordering::Equal => self.cancelled(format),
            std::cmp::Ordering::Greater => self.round(format, large.0, large.1 - aligned, large.2 + scale),
            std::cmp::Ordering::Less => self.round(format, small.0, aligned - large.1, large.2 + scale),
        }
    }

    pub(super) fn add(&mut self, format: Format, a: Number, b: Number) -> u64 {
        if let Some(nan) = self.nan(format, &[a, b]) {
            return nan;
        }
        match (a.kind, b.kind) {
            (Kind::Infinite, Kind::Infinite) if a.negative != b.negative => self.invalid(format),
            (Kind::Infinite, _) => a.bits,
            (_, Kind::Infinite) => b.bits,
            (Kind::Zero, Kind::Zero) if a.negative == b.negative => a.bits,
            (Kind::Zero, Kind::Zero) => self.cancelled(format),
            _ => self.sum(format, parts(a), parts(b), 0),
        }
    }

    pub(super) fn multiply(&mut self, format: Format, a: Number, b: Number, is_extended: bool) -> u64 {
        if let Some(nan) = self.nan(format, &[a, b]) {
            return nan;
        }
        let negative = a.negative != b.negative;
        match (a.kind, b.kind) {
            (Kind::Infinite, Kind::Zero) | (Kind::Zero, Kind::Infinite) if is_extended => {
                format.power(negative, 1, false)
            }
            (Kind::Infinite, Kind::Zero) | (Kind::Zero, Kind::Infinite) => self.invalid(format),
            (Kind::Infinite, _) | (_, Kind::Infinite) => format.infinity(negative),
            (Kind::Zero, _) | (_, Kind::Zero) => format.sign(negative),
            _ => self.round(format, negative, product(a, b).1, a.exponent + b.exponent),
        }
    }

    pub(super) fn divide(&mut self, format: Format, a: Number, b: Number) -> u64 {
        if let Some(nan) = self.nan(format, &[a, b]) {
            return nan;
        }
        let negative = a.negative != b.negative;
        match (a.kind, b.kind) {
            (Kind::Infinite, Kind::Infinite) | (Kind::Zero, Kind::Zero) => self.invalid(format),
            (Kind::Infinite, _) => format.infinity(negative),
            (Kind::Finite, Kind::Zero) => {
                self.raise(flags::DIVIDED_BY_ZERO);
                format.infinity(negative)
            }
            (Kind::Zero, _) | (_, Kind::Infinite) => format.sign(negative),
            _ => {
                let up = a.significand.leading_zeros() + 63;
                let (dividend, divisor) = (u128::from(a.significand) << up, u128::from(b.significand));
                let quotient = dividend / divisor;
                let rest = u128::from(!dividend.is_multiple_of(divisor));
                self.round(format, negative, quotient | rest, a.exponent - up as i32 - b.exponent)
            }
        }
    }

    pub(super) fn root(&mut self, format: Format, a: Number) -> u64 {
        if let Some(nan) = self.nan(format, &[a]) {
            return nan;
        }
        match a.kind {
            Kind::Zero => a.bits,
            _ if a.negative => self.invalid(format),
            Kind::Infinite => a.bits,
            _ => {
                let mut up = a.significand.leading_zeros() as i32 + 62;
                // Half of the exponent is whole.
                up += (a.exponent - up) & 1;
                let square = u128::from(a.significand) << up;
                let root = square.isqrt();
                self.round(format, false, root | u128::from(root * root != square), (a.exponent - up) / 2)
            }
        }
    }

    /// a · b + c.
    pub(super) fn multiply_add(&mut self, format: Format, a: Number, b: Number, c: Number) -> u64 {
        let is_invalid = matches!((a.kind, b.kind), (Kind::Infinite, Kind::Zero) | (Kind::Zero, Kind::Infinite));
        let nan = self.nan(format, &[c, a, b]);
        if is_invalid && c.kind != Kind::Signalling {
            return self.invalid(format);
        }
        if let Some(nan) = nan {
            return nan;
        }
        let negative = a.negative != b.negative;
        let is_infinite = a.kind == Kind::Infinite || b.kind == Kind::Infinite;
        let is_zero = a.kind == Kind::Zero || b.kind == Kind::Zero;
        match c.kind {
            Kind::Infinite if is_infinite && negative != c.negative => self.invalid(format),
            Kind::Infinite => c.bits,
            _ if is_infinite => format.infinity(negative),
            Kind::Zero if is_zero && negative == c.negative => c.bits,
            Kind::Zero if is_zero => self.cancelled(format),
            _ => self.sum(format, product(a, b), parts(c), 0),
        }
    }

    /// A step towards a reciprocal, 2 - a·b, or towards that of a root, (3 - a·b)/2.
    pub(super) fn step(&mut self, format: Format, a: Number, b: Number, of_root: bool) -> u64 {
        let a = a.negated(format);
        if let Some(nan) = self.nan(format, &[a, b]) {
            return nan;
        }
        match (a.kind, b.kind) {
            (Kind::Infinite, Kind::Zero) | (Kind::Zero, Kind::Infinite) if of_root => format.power(false, 0, true),
            (Kind::Infinite, Kind::Zero) | (Kind::Zero, Kind::Infinite) => format.power(false, 1, false),
            (Kind::Infinite, _) | (_, Kind::Infinite) => format.infinity(a.negative != b.negative),
            _ if of_root => self.sum(format, product(a, b), (false, 3, 0), -1),
            _ => self.sum(format, product(a, b), (false, 2, 0), 0),
        }
    }

    /// The greater, or the lesser.
    pub(super) fn extreme(&mut self, format: Format, a: Number, b: Number, is_max: bool) -> u64 {
        if let Some(nan) = self.nan(format, &[a, b]) {
            return nan;
        }
        let (a_key, b_key) = (key(format, a), key(format, b));
        if (a_key > b_key) == is_max { a.bits } else { b.bits }
    }

    /// The same, where a number is rather taken than a quiet NaN.
    pub(super) fn extreme_number(&mut self, format: Format, a: Number, b: Number, is_max: bool) -> u64 {
        if self.mode & mode::ARM == 0 {
            // A NaN that signals says so, and counts as the other does.
            if a.kind == Kind::Signalling || b.kind == Kind::Signalling {
                self.raise(flags::INVALID);
            }
            return match (a.is_nan(), b.is_nan()) {
                (true, true) => format.default_nan(),
                (true, false) => b.bits,
                (false, true) => a.bits,
                (false, false) => self.extreme(format, a, b, is_max),
            };
        }
        let least = Number { negative: is_max, kind: Kind::Infinite, bits: format.infinity(is_max), ..a };
        match (a.kind, b.kind) {
            (Kind::Quiet, Kind::Quiet) => self.extreme(format, a, b, is_max),
            (Kind::Quiet, _) => self.extreme(format, least, b, is_max),
            (_, Kind::Quiet) => self.extreme(format, a, least, is_max),
            _ => self.extreme(format, a, b, is_max),
        }
    }

    /// Less (8), equal (4), not less (2), not ordered (1).
    pub(super) fn order(&mut self, format: Format, a: Number, b: Number, is_signalling: bool) -> u64 {
        if a.is_nan() || b.is_nan() {
            if is_signalling || a.kind == Kind::Signalling || b.kind == Kind::Signalling {
                self.raise(flags::INVALID);
            }
            return 0b0011;
        }
        let is_zero = a.kind == Kind::Zero && b.kind == Kind::Zero;
        match key(format, a).cmp(&key(format, b)) {
            _ if is_zero => 0b0110,
            std::cmp::Ordering::Less => 0b1000,
            std::cmp::Ordering::Equal => 0b0110,
            std::cmp::Ordering::Greater => 0b0010,
        }
    }

    pub(super) fn reciprocal_estimate(&mut self, format: Format, a: Number) -> u64 {
        if let Some(nan) = self.nan(format, &[a]) {
            return nan;
        }
        match a.kind {
            Kind::Infinite => return format.sign(a.negative),
            Kind::Zero => {
                self.raise(flags::DIVIDED_BY_ZERO);
                return format.infinity(a.negative);
            }
            _ => {}
        }
        let (fraction, exponent) = normal(format, a);
        // Of what is so small, the reciprocal is too great.
        if exponent < -1 {
            self.raise(flags::OVERFLOW | flags::INEXACT);
            let is_infinite = self.overflows_to_infinity(a.negative);
            return if is_infinite { format.infinity(a.negative) } else { format.greatest(a.negative) };
        }
        let result = format.most() - 2 - exponent;
        if self.mode & mode::FLUSH != 0 && result <= 0 {
            self.raise(flags::UNDERFLOW);
            return format.sign(a.negative);
        }
        let up = format.fraction - 8;
        let estimate = u64::from(estimate::reciprocal_of(256 | (fraction >> up) as u32) & 0xff) << up;
        let implied = 1 << format.fraction;
        let written = match result {
            1.. => (result as u64) << format.fraction | estimate,
            0 => (implied | estimate) >> 1,
            _ => (implied | estimate) >> 2,
        };
        format.sign(a.negative) | written
    }

    pub(super) fn root_estimate(&mut self, format: Format, a: Number) -> u64 {
        if let Some(nan) = self.nan(format, &[a]) {
            return nan;
        }
        match a.kind {
            Kind::Zero => {
                self.raise(flags::DIVIDED_BY_ZERO);
                return format.infinity(a.negative);
            }
            _ if a.negative => return self.invalid(format),
            Kind::Infinite => return 0,
            _ => {}
        }
        let (fraction, exponent) = normal(format, a);
        let up = format.fraction - 8;
        let scaled = 256 | (fraction >> up) as u32;
        let estimate = estimate::root_of(if exponent & 1 == 0 { scaled } else { scaled >> 1 });
        let result = (3 * format.bias() - 1 - exponent) / 2;
        (result as u64) << format.fraction | u64::from(estimate & 0xff) << up
    }

    /// The exponent the other way.
    pub(super) fn reciprocal_exponent(&mut self, format: Format, a: Number) -> u64 {
        if let Some(nan) = self.nan(format, &[a]) {
            return nan;
        }
        let exponent = match format.exponent_of(a.bits) {
            0 => format.most() - 1,
            exponent => !exponent & format.most(),
        };
        format.sign(a.negative) | (exponent as u64) << format.fraction
    }
}

fn parts(a: Number) -> (bool, u128, i32) {
    (a.negative, if a.kind == Kind::Zero { 0 } else { a.significand.into() }, a.exponent)
}

fn product(a: Number, b: Number) -> (bool, u128, i32) {
    let (a, b) = (parts(a), parts(b));
    (a.0 != b.0, a.1 * b.1, a.2 + b.2)
}

/// What is ordered as numbers are, -0 before 0.
fn key(format: Format, a: Number) -> i64 {
    let magnitude = (a.bits & !format.sign(true)) as i64;
    if a.negative { !magnitude } else { magnitude }
}

/// A finite number's fraction and exponent, as they would be written if there were room for all exponents.
fn normal(format: Format, a: Number) -> (u64, i32) {
    let up = a.significand.leading_zeros() as i32 - (63 - i32::from(format.fraction));
    (format.fraction_of(a.significand << up), a.exponent - up + format.bias() + i32::from(format.fraction))
}
