//! Binary floating-point numbers taken apart, and put together again: IEEE 754's formats of 16, 32 and 64 bits.

use super::mode::{self, Rounding};
use super::{Context, flags};

/// How bits are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Format {
    pub(super) bits: u8,
    /// Bits of the fraction, without the one that is not written.
    pub(super) fraction: u8,
    /// No infinities and no NaNs: the greatest exponent is one like others.
    is_alternative: bool,
}

/// What a number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Zero,
    Finite,
    Infinite,
    Quiet,
    Signalling,
}

/// A number: `significand` · 2^`exponent` if it is finite.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number {
    pub(super) negative: bool,
    pub(super) kind: Kind,
    pub(super) significand: u64,
    pub(super) exponent: i32,
    /// As it was written, zero if it was flushed.
    pub(super) bits: u64,
}

impl Number {
    pub(super) fn is_nan(&self) -> bool {
        matches!(self.kind, Kind::Quiet | Kind::Signalling)
    }

    pub(super) fn negated(self, format: Format) -> Number {
        Number { negative: !self.negative, bits: self.bits ^ format.sign(true), ..self }
    }
}

impl Format {
    pub(super) fn of(lane: u8) -> Format {
        let fraction = match lane {
            16 => 10,
            32 => 23,
            _ => 52,
        };
        Format { bits: lane, fraction, is_alternative: false }
    }

    /// As it is converted to and from: a half may be of the alternative kind.
    pub(super) fn converted(lane: u8, mode: u8) -> Format {
        Format { is_alternative: lane == 16 && mode & mode::ALTERNATIVE_HALF != 0, ..Format::of(lane) }
    }

    pub(super) fn is_alternative(self) -> bool {
        self.is_alternative
    }

    pub(super) fn bias(self) -> i32 {
        (1 << (self.bits - self.fraction - 2)) - 1
    }

    /// The exponent's bits, all ones.
    pub(super) fn most(self) -> i32 {
        (1 << (self.bits - self.fraction - 1)) - 1
    }

    pub(super) fn sign(self, negative: bool) -> u64 {
        u64::from(negative) << (self.bits - 1)
    }

    pub(super) fn infinity(self, negative: bool) -> u64 {
        self.sign(negative) | (self.most() as u64) << self.fraction
    }

    /// The greatest finite number.
    pub(super) fn greatest(self, negative: bool) -> u64 {
        self.infinity(negative) - 1
    }

    pub(super) fn quiet_bit(self) -> u64 {
        1 << (self.fraction - 1)
    }

    pub(super) fn default_nan(self) -> u64 {
        self.infinity(false) | self.quiet_bit()
    }

    /// 2^`power`, or 1.5 times that.
    pub(super) fn power(self, negative: bool, power: i32, and_half: bool) -> u64 {
        let half = if and_half { self.quiet_bit() } else { 0 };
        self.sign(negative) | ((power + self.bias()) as u64) << self.fraction | half
    }

    pub(super) fn fraction_of(self, bits: u64) -> u64 {
        bits & ((1 << self.fraction) - 1)
    }

    pub(super) fn exponent_of(self, bits: u64) -> i32 {
        (bits >> self.fraction) as i32 & self.most()
    }

    pub(super) fn is_negative(self, bits: u64) -> bool {
        bits >> (self.bits - 1) & 1 != 0
    }
}

impl Context {
    pub(super) fn unpack(&mut self, format: Format, bits: u64) -> Number {
        let (exponent, fraction) = (format.exponent_of(bits), format.fraction_of(bits));
        let mut number = Number {
            negative: format.is_negative(bits),
            kind: Kind::Finite,
            significand: fraction,
            exponent: exponent.max(1) - format.bias() - i32::from(format.fraction),
            bits,
        };
        if exponent == format.most() && !format.is_alternative {
            number.kind = match fraction {
                0 => Kind::Infinite,
                _ if fraction & format.quiet_bit() != 0 => Kind::Quiet,
                _ => Kind::Signalling,
            };
        } else if exponent != 0 {
            number.significand |= 1 << format.fraction;
        } else if fraction == 0 {
            number.kind = Kind::Zero;
        } else if self.flushes(format) {
            self.raise(flags::INPUT_DENORMAL);
            number.kind = Kind::Zero;
            number.bits = format.sign(number.negative);
        }
        number
    }

    /// Halves are never flushed.
    fn flushes(&self, format: Format) -> bool {
        self.mode & mode::FLUSH != 0 && format.bits > 16
    }

    /// The number nearest to `significand` · 2^`exponent` in the direction of the mode. The significand is not zero; its
    /// lowest bit may stand for all that is below.
    pub(super) fn round(&mut self, format: Format, negative: bool, significand: u128, exponent: i32) -> u64 {
        let top = exponent + 127 - significand.leading_zeros() as i32;
        let fraction = i32::from(format.fraction);
        let least = 1 - format.bias();
        let is_tiny = top < least;
        if is_tiny && self.flushes(format) {
            self.raise(flags::UNDERFLOW);
            return format.sign(negative);
        }
        // The exponent of the last place.
        let mut last = top.max(least) - fraction;
        let (mut whole, is_inexact) = self.rounded(negative, significand, last - exponent);
        if whole >> (fraction + 1) != 0 {
            whole >>= 1;
            last += 1;
        }
        let is_normal = whole >> fraction != 0;
        let biased = if is_normal { last + fraction + format.bias() } else { 0 };
        let most = format.most() + i32::from(format.is_alternative);
        if biased >= most {
            return self.overflow(format, negative);
        }
        if is_inexact {
            self.raise(flags::INEXACT);
            if is_tiny && self.stays_tiny(format, negative, significand, exponent, top) {
                self.raise(flags::UNDERFLOW);
            }
        }
        format.sign(negative) | (biased as u64) << format.fraction | format.fraction_of(whole as u64)
    }

    /// Whether a number below the normal ones still is when it is rounded as if exponents had no end.
    fn stays_tiny(&mut self, format: Format, negative: bool, significand: u128, exponent: i32, top: i32) -> bool {
        if self.mode & mode::ARM != 0 {
            // Asked before rounding.
            return true;
        }
        let fraction = i32::from(format.fraction);
        let (whole, _) = self.rounded(negative, significand, top - fraction - exponent);
        top < -format.bias() || whole >> (fraction + 1) == 0
    }

    fn overflow(&mut self, format: Format, negative: bool) -> u64 {
        if format.is_alternative {
            self.raise(flags::INVALID);
            return format.infinity(negative) | format.fraction_of(u64::MAX);
        }
        self.raise(flags::OVERFLOW | flags::INEXACT);
        if self.overflows_to_infinity(negative) { format.infinity(negative) } else { format.greatest(negative) }
    }

    pub(super) fn overflows_to_infinity(&self, negative: bool) -> bool {
        match self.rounding() {
            Rounding::Even | Rounding::Away => true,
            Rounding::Zero | Rounding::Odd => false,
            Rounding::Down => negative,
            Rounding::Up => !negative,
        }
    }

    /// Without so many of its lowest bits (more, if that is negative), rounded; and whether that is not the same.
    pub(super) fn rounded(&self, negative: bool, significand: u128, places: i32) -> (u128, bool) {
        if places <= 0 {
            return (significand << -places, false);
        }
        // What lies below so far is less than half, and not nothing.
        let (significand, places) = if places > 126 { (1, 2) } else { (significand, places) };
        let whole = significand >> places;
        let (rest, half) = (significand & ((1 << places) - 1), 1u128 << (places - 1));
        let is_inexact = rest != 0;
        let up = match self.rounding() {
            Rounding::Even => rest > half || rest == half && whole & 1 != 0,
            Rounding::Away => rest >= half,
            Rounding::Zero => false,
            Rounding::Down => negative && is_inexact,
            Rounding::Up => !negative && is_inexact,
            Rounding::Odd => return (whole | u128::from(is_inexact), is_inexact),
        };
        (whole + u128::from(up), is_inexact)
    }
}
