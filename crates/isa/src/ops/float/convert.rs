//! Between formats, and between floating-point numbers and integers.

use super::format::{Format, Kind, Number};
use super::mode;
use super::{Context, flags};
use crate::ops::mask;

impl Context {
    /// A number of another format.
    pub(super) fn convert(&mut self, from: Format, to: Format, a: Number) -> u64 {
        match a.kind {
            Kind::Quiet | Kind::Signalling => {
                if a.kind == Kind::Signalling || to.is_alternative() {
                    self.raise(flags::INVALID);
                }
                if to.is_alternative() {
                    return to.sign(a.negative);
                }
                if self.mode & mode::DEFAULT_NAN != 0 {
                    return to.default_nan();
                }
                // The highest bits of what it carries.
                let written = from.fraction_of(a.bits);
                let down = from.fraction.saturating_sub(to.fraction);
                let carried = written >> down << to.fraction.saturating_sub(from.fraction);
                to.infinity(a.negative) | to.quiet_bit() | carried
            }
            Kind::Infinite if to.is_alternative() => {
                self.raise(flags::INVALID);
                to.sign(a.negative) | (to.sign(true) - 1)
            }
            Kind::Infinite => to.infinity(a.negative),
            Kind::Zero => to.sign(a.negative),
            Kind::Finite => self.round(to, a.negative, a.significand.into(), a.exponent),
        }
    }

    /// The integer that a number is nearest to in the direction of the mode.
    pub(super) fn integral(&mut self, format: Format, a: Number, is_exact: bool) -> u64 {
        if let Some(nan) = self.nan(format, &[a]) {
            return nan;
        }
        if a.kind != Kind::Finite || a.exponent >= 0 {
            return a.bits;
        }
        let (whole, is_inexact) = self.rounded(a.negative, a.significand.into(), -a.exponent);
        if is_inexact && is_exact {
            self.raise(flags::INEXACT);
        }
        if whole == 0 { format.sign(a.negative) } else { self.round(format, a.negative, whole, 0) }
    }

    /// The integer of `width` bits nearest to a number times 2^`fraction`; the nearest end if it does not fit.
    pub(super) fn integer(&mut self, a: Number, width: u8, signed: bool, fraction: u8) -> u64 {
        let greatest = if signed { mask(width) >> 1 } else { mask(width) };
        let least = if signed { greatest + 1 } else { 0 };
        let (magnitude, is_inexact) = match a.kind {
            Kind::Zero => (0, false),
            Kind::Quiet | Kind::Signalling => {
                self.raise(flags::INVALID);
                return if self.mode & mode::ARM != 0 { 0 } else { greatest as u64 };
            }
            Kind::Infinite => (u128::MAX, false),
            Kind::Finite => {
                let exponent = a.exponent + i32::from(fraction);
                // More than any integer.
                if exponent > 64 {
                    (u128::MAX, false)
                } else {
                    self.rounded(a.negative, a.significand.into(), -exponent)
                }
            }
        };
        let most = if a.negative { least } else { greatest };
        if magnitude > most {
            self.raise(flags::INVALID);
            return most as u64;
        }
        if is_inexact {
            self.raise(flags::INEXACT);
        }
        (if a.negative { magnitude.wrapping_neg() } else { magnitude } & mask(width)) as u64
    }

    /// The number nearest to an integer over 2^`fraction`.
    pub(super) fn of_integer(&mut self, to: Format, negative: bool, magnitude: u64, fraction: u8) -> u64 {
        if magnitude == 0 { 0 } else { self.round(to, negative, magnitude.into(), -i32::from(fraction)) }
    }
}
