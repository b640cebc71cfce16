//! Operations on lanes: numbers of equal width that lie side by side in one value, the first lowest.
//!
//! Most are one or two instructions of a host that has vectors of its own. **Each is pure**: whether a saturating one
//! saturated is asked apart, by its twin with `_over`.

use serde::{Deserialize, Serialize};

use super::{check, crypto, mask, signed};

/// What is done with lanes. Each is a line of [`INTRINSICS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is what its name says, and INTRINSICS says the rest")]
pub enum Intrinsic {
    Add,
    Subtract,
    Multiply,
    Equal,
    Greater,
    Above,
    SignedMax,
    SignedMin,
    UnsignedMax,
    UnsignedMin,
    SignedAddSaturated,
    SignedSubtractSaturated,
    UnsignedAddSaturated,
    UnsignedSubtractSaturated,
    ShiftLeft,
    ShiftRight,
    SignedShiftRight,
    ZipLow,
    ZipHigh,
    Even,
    Odd,
    TransposeEven,
    TransposeOdd,
    LookUp,
    Get,
    Set,
    Splat,
    Ones,
    LeadingZeros,
    ReverseBits,
    ReverseBytes,
    SignExtend,
    ZeroExtend,
    Truncate,
    SignedSaturate,
    UnsignedSaturate,
    SignedToUnsignedSaturate,
    SignedMultiplyLong,
    UnsignedMultiplyLong,
    PolynomialMultiply,
    PolynomialMultiplyLong,
    SignedShift,
    UnsignedShift,
    RoundedSignedShift,
    RoundedUnsignedShift,
    SignedDot,
    UnsignedDot,
    ReciprocalEstimate,
    RootEstimate,
    AesEncrypt,
    AesDecrypt,
    AesMix,
    AesUnmix,
    Checksum,
    ChecksumCastagnoli,
    /// What is left of a result that may not fit.
    Saturate(Saturating),
    /// Whether any lane's result did not fit.
    Exceeds(Saturating),
}

/// What may not fit a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is what its name says, and INTRINSICS says the rest")]
pub enum Saturating {
    SignedShift,
    UnsignedShift,
    RoundedSignedShift,
    RoundedUnsignedShift,
    SignedToUnsignedShift,
    AddUnsignedToSigned,
    AddSignedToUnsigned,
    DoubleMultiplyHigh,
    RoundedDoubleMultiplyHigh,
    RoundedDoubleMultiplyAdd,
    RoundedDoubleMultiplySubtract,
}

/// How wide a result is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// As the first operand.
    Same,
    /// Lanes are twice as wide as the first operand's.
    Double,
    /// Half as wide.
    Half,
    /// A quarter as wide.
    Quarter,
    /// One lane.
    Lane,
    /// 128 bits.
    Full,
    /// These bits.
    Bits(u8),
}

impl Shape {
    /// Bits of the result, of lanes of `lane` bits in `width`. Nothing if that is no width.
    pub(crate) fn width(self, lane: u8, width: u8) -> Option<u8> {
        let width = match self {
            Shape::Same => width,
            Shape::Double => width.checked_mul(2)?,
            Shape::Half => width / 2,
            Shape::Quarter => width / 4,
            Shape::Lane => lane,
            Shape::Full => 128,
            Shape::Bits(width) => width,
        };
        (1..=128).contains(&width).then_some(width)
    }
}

use Shape::{Bits, Double, Full, Half, Lane, Same};

/// The name of each in a description, how many operands it has behind the lane's width, and its result.
///
/// Amounts of shifts, and numbers of lanes, are operands of any width. `lanes_lookup(8, which, table)`: bytes of the table
/// by number, 0 where there is none. `…shift(lane, a, by)`: each by its own amount, a signed byte, to the right if it is
/// negative. `lanes_even` and `_odd` count through the first operand and then the second.
pub const INTRINSICS: &[(&str, Intrinsic, usize, Shape)] = &[
    ("lanes_add", Intrinsic::Add, 2, Same),
    ("lanes_sub", Intrinsic::Subtract, 2, Same),
    ("lanes_mul", Intrinsic::Multiply, 2, Same),
    // All ones where it is so, or else zero.
    ("lanes_eq", Intrinsic::Equal, 2, Same),
    ("lanes_gt", Intrinsic::Greater, 2, Same),
    ("lanes_hi", Intrinsic::Above, 2, Same),
    ("lanes_smax", Intrinsic::SignedMax, 2, Same),
    ("lanes_smin", Intrinsic::SignedMin, 2, Same),
    ("lanes_umax", Intrinsic::UnsignedMax, 2, Same),
    ("lanes_umin", Intrinsic::UnsignedMin, 2, Same),
    ("lanes_sqadd", Intrinsic::SignedAddSaturated, 2, Same),
    ("lanes_sqsub", Intrinsic::SignedSubtractSaturated, 2, Same),
    ("lanes_uqadd", Intrinsic::UnsignedAddSaturated, 2, Same),
    ("lanes_uqsub", Intrinsic::UnsignedSubtractSaturated, 2, Same),
    // All lanes by one amount.
    ("lanes_shl", Intrinsic::ShiftLeft, 2, Same),
    ("lanes_shr", Intrinsic::ShiftRight, 2, Same),
    ("lanes_asr", Intrinsic::SignedShiftRight, 2, Same),
    // One of the first, one of the second, and so on, of the lower or the upper half.
    ("lanes_zip_low", Intrinsic::ZipLow, 2, Same),
    ("lanes_zip_high", Intrinsic::ZipHigh, 2, Same),
    ("lanes_even", Intrinsic::Even, 2, Same),
    ("lanes_odd", Intrinsic::Odd, 2, Same),
    ("lanes_trn_even", Intrinsic::TransposeEven, 2, Same),
    ("lanes_trn_odd", Intrinsic::TransposeOdd, 2, Same),
    ("lanes_lookup", Intrinsic::LookUp, 2, Same),
    ("lanes_get", Intrinsic::Get, 2, Lane),
    ("lanes_set", Intrinsic::Set, 3, Same),
    ("lanes_splat", Intrinsic::Splat, 1, Full),
    ("lanes_popcount", Intrinsic::Ones, 1, Same),
    ("lanes_clz", Intrinsic::LeadingZeros, 1, Same),
    ("lanes_bitrev", Intrinsic::ReverseBits, 1, Same),
    ("lanes_byterev", Intrinsic::ReverseBytes, 1, Same),
    ("lanes_sext", Intrinsic::SignExtend, 1, Double),
    ("lanes_zext", Intrinsic::ZeroExtend, 1, Double),
    ("lanes_trunc", Intrinsic::Truncate, 1, Half),
    ("lanes_sqxtn", Intrinsic::SignedSaturate, 1, Half),
    ("lanes_uqxtn", Intrinsic::UnsignedSaturate, 1, Half),
    ("lanes_sqxtun", Intrinsic::SignedToUnsignedSaturate, 1, Half),
    ("lanes_smull", Intrinsic::SignedMultiplyLong, 2, Double),
    ("lanes_umull", Intrinsic::UnsignedMultiplyLong, 2, Double),
    // Without carries.
    ("lanes_pmul", Intrinsic::PolynomialMultiply, 2, Same),
    ("lanes_pmull", Intrinsic::PolynomialMultiplyLong, 2, Double),
    ("lanes_sshift", Intrinsic::SignedShift, 2, Same),
    ("lanes_ushift", Intrinsic::UnsignedShift, 2, Same),
    ("lanes_srshift", Intrinsic::RoundedSignedShift, 2, Same),
    ("lanes_urshift", Intrinsic::RoundedUnsignedShift, 2, Same),
    // To the first operand's lanes, the products of four times as many.
    ("lanes_sdot", Intrinsic::SignedDot, 3, Same),
    ("lanes_udot", Intrinsic::UnsignedDot, 3, Same),
    // Of fractions of 32 bits: to nine bits, 1/a and 1/sqrt(a), as DDI 0487's RecipEstimate and RecipSqrtEstimate.
    ("lanes_recip_estimate", Intrinsic::ReciprocalEstimate, 1, Same),
    ("lanes_root_estimate", Intrinsic::RootEstimate, 1, Same),
    ("aes_encrypt", Intrinsic::AesEncrypt, 1, Same),
    ("aes_decrypt", Intrinsic::AesDecrypt, 1, Same),
    ("aes_mix", Intrinsic::AesMix, 1, Same),
    ("aes_unmix", Intrinsic::AesUnmix, 1, Same),
    // What a sum of 32 bits, the second operand, becomes with the first: its polynomial is ISO 3309's or Castagnoli's.
    ("crc32", Intrinsic::Checksum, 2, Bits(32)),
    ("crc32c", Intrinsic::ChecksumCastagnoli, 2, Bits(32)),
    ("lanes_sqshift", Intrinsic::Saturate(Saturating::SignedShift), 2, Same),
    ("lanes_sqshift_over", Intrinsic::Exceeds(Saturating::SignedShift), 2, Bits(1)),
    ("lanes_uqshift", Intrinsic::Saturate(Saturating::UnsignedShift), 2, Same),
    ("lanes_uqshift_over", Intrinsic::Exceeds(Saturating::UnsignedShift), 2, Bits(1)),
    ("lanes_sqrshift", Intrinsic::Saturate(Saturating::RoundedSignedShift), 2, Same),
    ("lanes_sqrshift_over", Intrinsic::Exceeds(Saturating::RoundedSignedShift), 2, Bits(1)),
    ("lanes_uqrshift", Intrinsic::Saturate(Saturating::RoundedUnsignedShift), 2, Same),
    ("lanes_uqrshift_over", Intrinsic::Exceeds(Saturating::RoundedUnsignedShift), 2, Bits(1)),
    ("lanes_sqshiftu", Intrinsic::Saturate(Saturating::SignedToUnsignedShift), 2, Same),
    ("lanes_sqshiftu_over", Intrinsic::Exceeds(Saturating::SignedToUnsignedShift), 2, Bits(1)),
    // To the first, which is signed, the second, which is not.
    ("lanes_suqadd", Intrinsic::Saturate(Saturating::AddUnsignedToSigned), 2, Same),
    ("lanes_suqadd_over", Intrinsic::Exceeds(Saturating::AddUnsignedToSigned), 2, Bits(1)),
    ("lanes_usqadd", Intrinsic::Saturate(Saturating::AddSignedToUnsigned), 2, Same),
    ("lanes_usqadd_over", Intrinsic::Exceeds(Saturating::AddSignedToUnsigned), 2, Bits(1)),
    ("lanes_sqdmulh", Intrinsic::Saturate(Saturating::DoubleMultiplyHigh), 2, Same),
    ("lanes_sqdmulh_over", Intrinsic::Exceeds(Saturating::DoubleMultiplyHigh), 2, Bits(1)),
    ("lanes_sqrdmulh", Intrinsic::Saturate(Saturating::RoundedDoubleMultiplyHigh), 2, Same),
    ("lanes_sqrdmulh_over", Intrinsic::Exceeds(Saturating::RoundedDoubleMultiplyHigh), 2, Bits(1)),
    // The first operand is what is added to.
    ("lanes_sqrdmlah", Intrinsic::Saturate(Saturating::RoundedDoubleMultiplyAdd), 3, Same),
    ("lanes_sqrdmlah_over", Intrinsic::Exceeds(Saturating::RoundedDoubleMultiplyAdd), 3, Bits(1)),
    ("lanes_sqrdmlsh", Intrinsic::Saturate(Saturating::RoundedDoubleMultiplySubtract), 3, Same),
    ("lanes_sqrdmlsh_over", Intrinsic::Exceeds(Saturating::RoundedDoubleMultiplySubtract), 3, Bits(1)),
];

/// What it gives. Lanes have `lane` bits; the first operand has `width`.
pub fn intrinsic(which: Intrinsic, lane: u8, width: u8, a: u128, b: u128, c: u128) -> u128 {
    let lanes = Lanes { lane, width };
    lanes.pairwise(which, a, b).or_else(|| lanes.shuffled(which, a, b, c)).unwrap_or_else(|| lanes.rest(which, a, b, c))
}

#[derive(Clone, Copy)]
struct Lanes {
    lane: u8,
    width: u8,
}

impl Lanes {
    fn count(self) -> u8 {
        self.width / self.lane
    }

    /// One lane.
    fn of(self, value: u128, at: u8) -> u128 {
        value.checked_shr(u32::from(at) * u32::from(self.lane)).unwrap_or(0) & mask(self.lane)
    }

    fn signed(self, value: u128, at: u8) -> i128 {
        signed(self.of(value, at), self.lane)
    }

    /// The lower half's lanes.
    fn halved(self) -> Lanes {
        Lanes { lane: self.lane / 2, ..self }
    }

    /// As many lanes of `lane` bits, side by side.
    fn made(self, lane: u8, f: impl Fn(u8) -> u128) -> u128 {
        (0..self.count()).fold(0, |whole, at| whole | (f(at) & mask(lane)) << (u32::from(at) * u32::from(lane)))
    }

    /// What is computed of the lanes at the same place.
    fn pairwise(self, which: Intrinsic, a: u128, b: u128) -> Option<u128> {
        let lane = self.lane;
        let ones = |is: bool| if is { u128::MAX } else { 0 };
        let s = |value: u128| signed(value, lane);
        let each = |f: &dyn Fn(u128, u128) -> u128| Some(self.made(lane, |at| f(self.of(a, at), self.of(b, at))));
        match which {
            Intrinsic::Add => each(&|a, b| a.wrapping_add(b)),
            Intrinsic::Subtract => each(&|a, b| a.wrapping_sub(b)),
            Intrinsic::Multiply => each(&|a, b| a.wrapping_mul(b)),
            Intrinsic::Equal => each(&|a, b| ones(a == b)),
            Intrinsic::Greater => each(&|a, b| ones(s(a) > s(b))),
            Intrinsic::Above => each(&|a, b| ones(a > b)),
            Intrinsic::SignedMax => each(&|a, b| s(a).max(s(b)) as u128),
            Intrinsic::SignedMin => each(&|a, b| s(a).min(s(b)) as u128),
            Intrinsic::UnsignedMax => each(&|a, b| a.max(b)),
            Intrinsic::UnsignedMin => each(&|a, b| a.min(b)),
            Intrinsic::SignedAddSaturated => each(&|a, b| clamped(lane, s(a) + s(b))),
            Intrinsic::SignedSubtractSaturated => each(&|a, b| clamped(lane, s(a) - s(b))),
            Intrinsic::UnsignedAddSaturated => each(&|a, b| (a + b).min(mask(lane))),
            Intrinsic::UnsignedSubtractSaturated => each(&|a, b| a.saturating_sub(b)),
            Intrinsic::SignedShift => each(&|a, b| shifted(s(a), b as u8 as i8, Rounding::Down).0 as u128),
            Intrinsic::UnsignedShift => each(&|a, b| shifted(a as i128, b as u8 as i8, Rounding::Down).0 as u128),
            Intrinsic::RoundedSignedShift => each(&|a, b| shifted(s(a), b as u8 as i8, Rounding::Nearest).0 as u128),
            Intrinsic::RoundedUnsignedShift => {
                each(&|a, b| shifted(a as i128, b as u8 as i8, Rounding::Nearest).0 as u128)
            }
            Intrinsic::PolynomialMultiply => each(&|a, b| carryless(a, b)),
            _ => None,
        }
    }

    /// What moves lanes.
    fn shuffled(self, which: Intrinsic, a: u128, b: u128, c: u128) -> Option<u128> {
        let (lane, count) = (self.lane, self.count());
        let number = |value: u128| u8::try_from(value).unwrap_or(u8::MAX);
        // Of both operands as one.
        let both = |at: u8| if at < count { self.of(a, at) } else { self.of(b, at - count) };
        let alternating = |from: u8| self.made(lane, |at| self.of(if at % 2 == 0 { a } else { b }, from + at / 2));
        let transposed = |odd: u8| self.made(lane, |at| self.of(if at % 2 == 0 { a } else { b }, at / 2 * 2 + odd));
        Some(match which {
            Intrinsic::ZipLow => alternating(0),
            Intrinsic::ZipHigh => alternating(count / 2),
            Intrinsic::Even => self.made(lane, |at| both(2 * at)),
            Intrinsic::Odd => self.made(lane, |at| both(2 * at + 1)),
            Intrinsic::TransposeEven => transposed(0),
            Intrinsic::TransposeOdd => transposed(1),
            Intrinsic::LookUp => self.made(lane, |at| {
                let from = self.of(a, at);
                if from < 128 / u128::from(lane) { Lanes { width: 128, ..self }.of(b, from as u8) } else { 0 }
            }),
            Intrinsic::Get => {
                let at = number(b);
                if at < count { self.of(a, at) } else { 0 }
            }
            Intrinsic::Set => self.made(lane, |at| if at == number(b) { c } else { self.of(a, at) }),
            Intrinsic::Splat => Lanes { width: 128, ..self }.made(lane, |_| a),
            _ => return None,
        })
    }

    fn rest(self, which: Intrinsic, a: u128, b: u128, c: u128) -> u128 {
        let lane = self.lane;
        let by = u32::try_from(b).unwrap_or(u32::MAX);
        let up = 128 - u32::from(lane);
        let one = |f: &dyn Fn(u128) -> u128| self.made(lane, |at| f(self.of(a, at)));
        let half = lane / 2;
        match which {
            Intrinsic::ShiftLeft => one(&|a| a.checked_shl(by).unwrap_or(0)),
            Intrinsic::ShiftRight => one(&|a| a.checked_shr(by).unwrap_or(0)),
            Intrinsic::SignedShiftRight => one(&|a| (signed(a, lane) >> by.min(127)) as u128),
            Intrinsic::Ones => one(&|a| a.count_ones().into()),
            Intrinsic::LeadingZeros => one(&|a| (a.leading_zeros() - up).into()),
            Intrinsic::ReverseBits => one(&|a| a.reverse_bits() >> up),
            Intrinsic::ReverseBytes => one(&|a| a.swap_bytes() >> up),
            Intrinsic::ReciprocalEstimate => one(&|a| super::estimate::reciprocal(a as u32).into()),
            Intrinsic::RootEstimate => one(&|a| super::estimate::root(a as u32).into()),
            Intrinsic::SignExtend => self.made(lane * 2, |at| self.signed(a, at) as u128),
            Intrinsic::ZeroExtend => self.made(lane * 2, |at| self.of(a, at)),
            Intrinsic::Truncate => self.made(half, |at| self.of(a, at)),
            Intrinsic::SignedSaturate => self.made(half, |at| clamped(half, self.signed(a, at))),
            Intrinsic::UnsignedSaturate => self.made(half, |at| self.of(a, at).min(mask(half))),
            Intrinsic::SignedToUnsignedSaturate => {
                self.made(half, |at| self.signed(a, at).clamp(0, mask(half) as i128) as u128)
            }
            Intrinsic::SignedMultiplyLong => {
                self.made(lane * 2, |at| self.signed(a, at).wrapping_mul(self.signed(b, at)) as u128)
            }
            Intrinsic::UnsignedMultiplyLong => self.made(lane * 2, |at| self.of(a, at).wrapping_mul(self.of(b, at))),
            Intrinsic::PolynomialMultiplyLong => self.made(lane * 2, |at| carryless(self.of(a, at), self.of(b, at))),
            Intrinsic::SignedDot => {
                self.made(lane, |at| self.dot(at, a, |parts, at| parts.signed(b, at) * parts.signed(c, at)))
            }
            Intrinsic::UnsignedDot => {
                self.made(lane, |at| self.dot(at, a, |parts, at| (parts.of(b, at) * parts.of(c, at)) as i128))
            }
            Intrinsic::AesEncrypt => crypto::encrypt(a) & mask(self.width),
            Intrinsic::AesDecrypt => crypto::decrypt(a) & mask(self.width),
            Intrinsic::AesMix => crypto::mix(a) & mask(self.width),
            Intrinsic::AesUnmix => crypto::unmix(a) & mask(self.width),
            Intrinsic::Checksum => check::sum(&check::ISO, lane, a as u64, b as u32).into(),
            Intrinsic::ChecksumCastagnoli => check::sum(&check::CASTAGNOLI, lane, a as u64, b as u32).into(),
            Intrinsic::Saturate(what) => self.made(lane, |at| self.saturated(what, at, [a, b, c]).0),
            Intrinsic::Exceeds(what) => (0..self.count()).any(|at| self.saturated(what, at, [a, b, c]).1).into(),
            // The others are above.
            _ => 0,
        }
    }

    fn dot(self, at: u8, sum: u128, product: impl Fn(Lanes, u8) -> i128) -> u128 {
        let parts = self.halved().halved();
        (0..4).fold(self.of(sum, at), |sum, part| sum.wrapping_add(product(parts, 4 * at + part) as u128))
    }

    /// What fits of a lane's result, and whether it did not.
    fn saturated(self, what: Saturating, at: u8, [a, b, c]: [u128; 3]) -> (u128, bool) {
        let lane = self.lane;
        let s = |value| self.signed(value, at);
        let by = self.of(b, at) as u8 as i8;
        let unsigned = self.of(a, at) as i128;
        let half = 1i128 << (lane - 1);
        let (low, high) = match what {
            Saturating::UnsignedShift
            | Saturating::RoundedUnsignedShift
            | Saturating::SignedToUnsignedShift
            | Saturating::AddSignedToUnsigned => (0, mask(lane) as i128),
            _ => (-half, half - 1),
        };
        let twice = |a: i128, b: i128| a.saturating_mul(b).saturating_mul(2);
        let accumulated = |product: i128| (s(a) << lane).saturating_add(product).saturating_add(half) >> lane;
        let (exact, is_lost) = match what {
            Saturating::SignedShift | Saturating::SignedToUnsignedShift => shifted(s(a), by, Rounding::Down),
            Saturating::UnsignedShift => shifted(unsigned, by, Rounding::Down),
            Saturating::RoundedSignedShift => shifted(s(a), by, Rounding::Nearest),
            Saturating::RoundedUnsignedShift => shifted(unsigned, by, Rounding::Nearest),
            Saturating::AddUnsignedToSigned => (s(a) + self.of(b, at) as i128, false),
            Saturating::AddSignedToUnsigned => (unsigned + s(b), false),
            Saturating::DoubleMultiplyHigh => (twice(s(a), s(b)) >> lane, false),
            Saturating::RoundedDoubleMultiplyHigh => (twice(s(a), s(b)).saturating_add(half) >> lane, false),
            Saturating::RoundedDoubleMultiplyAdd => (accumulated(twice(s(b), s(c))), false),
            Saturating::RoundedDoubleMultiplySubtract => (accumulated(twice(s(b), s(c)).saturating_neg()), false),
        };
        let within = exact.clamp(low, high);
        let kept = if !is_lost {
            within
        } else if s(a) < 0 && low < 0 || what == Saturating::SignedToUnsignedShift && s(a) < 0 {
            low
        } else {
            high
        };
        (kept as u128, is_lost || within != exact)
    }
}

fn clamped(lane: u8, value: i128) -> u128 {
    let half = 1i128 << (lane - 1);
    value.clamp(-half, half - 1) as u128
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rounding {
    Down,
    Nearest,
}

/// A number of at most 64 bits to the left, or to the right if that is negative; and whether ones went beyond what can be
/// held here, which then is not the number.
fn shifted(value: i128, by: i8, rounding: Rounding) -> (i128, bool) {
    let places = u32::from(by.unsigned_abs());
    if by >= 0 {
        let moved = value.checked_shl(places).unwrap_or(0);
        return (moved, moved >> places.min(127) != value);
    }
    let half = if rounding == Rounding::Nearest { 1i128.checked_shl(places - 1).unwrap_or(0) } else { 0 };
    if places > 126 {
        // Half of so much is more than any number here.
        return (if rounding == Rounding::Down && value < 0 { -1 } else { 0 }, false);
    }
    ((value + half) >> places, false)
}

/// A product without carries.
fn carryless(a: u128, b: u128) -> u128 {
    (0..64).fold(0, |sum, at| if b >> at & 1 != 0 { sum ^ a << at } else { sum })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_keep_to_themselves() {
        let of = |which, lane, a, b| intrinsic(which, lane, 64, a, b, 0);
        assert_eq!(of(Intrinsic::Add, 8, 0xff01, 0x0101), 0x0002);
        assert_eq!(of(Intrinsic::Greater, 8, 0x0001, 0xff01), 0xffff_ff00 & 0xff00);
        assert_eq!(of(Intrinsic::UnsignedSubtractSaturated, 16, 5, 0x0001_0007), 0);
        assert_eq!(of(Intrinsic::ZipLow, 16, 0x4444_3333_2222_1111, 0x8888_7777_6666_5555), 0x6666_2222_5555_1111);
        assert_eq!(of(Intrinsic::Odd, 32, 0x2222_2222_1111_1111, 0x4444_4444_3333_3333), 0x4444_4444_2222_2222);
        assert_eq!(intrinsic(Intrinsic::Splat, 16, 16, 0xabcd, 0, 0) >> 112, 0xabcd);
        assert_eq!(intrinsic(Intrinsic::Truncate, 16, 64, 0x0144_0133_0122_0111, 0, 0), 0x4433_2211);
        assert_eq!(intrinsic(Intrinsic::SignExtend, 8, 32, 0x8001_7fff, 0, 0), 0xff80_0001_007f_ffff);
    }

    #[test]
    fn every_operation_is_total() {
        let edges = [0, 1, u128::MAX, 1 << 127, 0x7f << 120, 0x8000_0000_8000_8080_u128 << 64, 0x0123_4567_89ab_cdef];
        for (name, which, _, shape) in INTRINSICS {
            for (lane, width) in [8, 16, 32, 64].into_iter().flat_map(|lane| [(lane, lane), (lane, 64), (lane, 128)]) {
                let Some(result) = shape.width(lane, width) else { continue };
                for number in 0..edges.len().pow(3) {
                    let of = |at: u32| edges[number / edges.len().pow(at) % edges.len()];
                    let value = intrinsic(*which, lane, width, of(0) & mask(width), of(1), of(2));
                    assert!(value <= mask(result), "{name} of lanes of {lane} in {width}");
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let both = |what, lane, a, b| {
            let of = |which| intrinsic(which, lane, lane, a, b, 0);
            (of(Intrinsic::Saturate(what)), of(Intrinsic::Exceeds(what)))
        };
        assert_eq!(both(Saturating::SignedShift, 8, 0xc1, 7), (0x80, 1));
        assert_eq!(both(Saturating::SignedShift, 8, 0xff, 7), (0x80, 0));
        assert_eq!(both(Saturating::UnsignedShift, 64, 1, 64), (u64::MAX.into(), 1));
        assert_eq!(both(Saturating::UnsignedShift, 64, 1, 63), (1 << 63, 0));
        assert_eq!(both(Saturating::SignedShift, 64, u64::MAX.into(), 63), (1 << 63, 0));
        assert_eq!(both(Saturating::UnsignedShift, 64, 1, 127), (u64::MAX.into(), 1));
        assert_eq!(both(Saturating::SignedShift, 64, u64::MAX.into(), 100), (1 << 63, 1));
        assert_eq!(both(Saturating::RoundedSignedShift, 8, 0xff, 0xff), (0, 0));
        assert_eq!(both(Saturating::SignedToUnsignedShift, 8, 0xff, 1), (0, 1));
        assert_eq!(both(Saturating::DoubleMultiplyHigh, 16, 0x8000, 0x8000), (0x7fff, 1));
        assert_eq!(both(Saturating::AddSignedToUnsigned, 8, 1, 0xfe), (0, 1));
    }
}
