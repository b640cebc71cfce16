//! Floating-point operations against two others that know them: the host's own numbers, and `rustc_apfloat`, which has all
//! rounding modes and flags.

#![expect(clippy::cast_precision_loss, reason = "the host's numbers are what is compared with")]

use isa::ops::Float;
use isa::ops::float::{flags, float, mode};
use rustc_apfloat::ieee::{Double, Half, Single};
use rustc_apfloat::{Float as _, FloatConvert as _, Round, Status, StatusAnd};

/// One NaN for all, so that what is compared is whether it is one.
const PLAIN: u8 = mode::DEFAULT_NAN;
const ROUNDS: [Round; 5] = [
    Round::NearestTiesToEven,
    Round::TowardZero,
    Round::TowardNegative,
    Round::TowardPositive,
    Round::NearestTiesToAway,
];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number of `lane` bits: of any kind, with few or many digits, of an exponent near the middle, an end, or anywhere.
    fn number(&mut self, lane: u8) -> u64 {
        let (fraction, middle) = match lane {
            16 => (10, 15),
            32 => (23, 127),
            _ => (52, 1023),
        };
        let most = 2 * middle + 1;
        let whole = (1u64 << fraction) - 1;
        let exponent = match self.next() >> 40 & 7 {
            0 => 0,
            1 => most,
            2 => self.next() % 4,
            3 => most - 1 - self.next() % 4,
            4 => self.next() % (most + 1),
            _ => middle - 4 + (self.next() >> 20) % 8,
        };
        let digits = match self.next() >> 40 & 3 {
            0 => 0,
            1 => whole - (self.next() & 3),
            2 => self.next() & whole & !(whole >> 6),
            _ => self.next() & whole,
        };
        (self.next() >> 63) << (lane - 1) | exponent << fraction | digits & whole
    }
}

fn ours(which: Float, lane: u8, mode: u8, of: [u64; 3]) -> (u64, u8) {
    let (value, flags) = float(which, lane, lane, mode, of.map(u128::from));
    (value as u64, flags)
}

const TURNS: usize = 50_000;

#[test]
fn the_host_rounds_to_nearest_as_we_do() {
    let mut random = Random(1);
    for _ in 0..TURNS {
        let [a, b, c] = [(); 3].map(|()| random.number(64));
        let [x, y, z] = [a, b, c].map(f64::from_bits);
        let same = |which, expected: f64| {
            let found = f64::from_bits(ours(which, 64, PLAIN, [a, b, c]).0);
            let is = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
            assert!(is, "{which:?} of {x:e}, {y:e}, {z:e}: {found:e}, not {expected:e}");
        };
        same(Float::Add, x + y);
        same(Float::Subtract, x - y);
        same(Float::Multiply, x * y);
        same(Float::Divide, x / y);
        same(Float::Root, x.sqrt());
        same(Float::MultiplyAdd, x.mul_add(y, z));
        same(Float::Integral, x.round_ties_even());
        assert_eq!(ours(Float::ToSigned, 64, mode::ARM | 1, [a, 0, 0]).0 as i64, x as i64, "{x:e}");
        assert_eq!(ours(Float::ToUnsigned, 64, mode::ARM | 1, [a, 0, 0]).0, x as u64, "{x:e}");
        assert_eq!(ours(Float::ToSignedHalf, 64, mode::ARM | 1, [a, 0, 0]).0 as i32, x as i32, "{x:e}");
        assert_eq!(ours(Float::OfSigned, 64, PLAIN, [a, 0, 0]).0, (a as i64 as f64).to_bits(), "{a:#x}");
        assert_eq!(ours(Float::OfUnsigned, 64, PLAIN, [a, 0, 0]).0, (a as f64).to_bits(), "{a:#x}");
        assert_eq!(ours(Float::OfSignedHalf, 64, PLAIN, [a, 0, 0]).0 as u32, (a as i64 as f32).to_bits(), "{a:#x}");
        let narrow = f32::from_bits(ours(Float::Narrow, 64, PLAIN, [a, 0, 0]).0 as u32);
        assert!(narrow.to_bits() == (x as f32).to_bits() || narrow.is_nan() && x.is_nan(), "{x:e}");
    }
}

#[test]
fn the_host_agrees_on_short_numbers() {
    let mut random = Random(2);
    for _ in 0..TURNS {
        let [a, b, c] = [(); 3].map(|()| random.number(32));
        let [x, y, z] = [a, b, c].map(|bits| f32::from_bits(bits as u32));
        let same = |which, expected: f32| {
            let found = f32::from_bits(ours(which, 32, PLAIN, [a, b, c]).0 as u32);
            let is = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
            assert!(is, "{which:?} of {x:e}, {y:e}, {z:e}: {found:e}, not {expected:e}");
        };
        same(Float::Add, x + y);
        same(Float::Subtract, x - y);
        same(Float::Multiply, x * y);
        same(Float::Divide, x / y);
        same(Float::Root, x.sqrt());
        same(Float::MultiplyAdd, x.mul_add(y, z));
        assert_eq!(ours(Float::ToUnsigned, 32, mode::ARM | 1, [a, 0, 0]).0 as u32, x as u32, "{x:e}");
    }
}

/// Whether value and flags are the same. Where a result is the least normal number, "too small" is asked of another
/// number by either, and is not compared; that a result is too great, the oracle says only where it becomes infinite.
fn agrees<T: rustc_apfloat::Float>(found: (u64, u8), expected: StatusAnd<T>, least: u64) -> bool {
    let is_nan = expected.value.is_nan();
    let bits = expected.value.to_bits() as u64;
    let mut status = expected.status;
    let mut flags = found.1;
    if bits & !(1 << (T::BITS - 1)) == least {
        status.remove(Status::UNDERFLOW);
        flags &= !flags::UNDERFLOW;
    }
    if !expected.value.is_infinite() {
        flags &= !flags::OVERFLOW;
    }
    (is_nan && T::from_bits(found.0.into()).is_nan() || bits == found.0) && status.bits() == flags
}

fn with_oracle<T: rustc_apfloat::Float + std::fmt::Debug>(lane: u8, least: u64, seed: u64) {
    let mut random = Random(seed);
    for turn in 0..TURNS {
        let number = turn % ROUNDS.len();
        let (round, how) = (ROUNDS[number], PLAIN | number as u8);
        let of = [(); 3].map(|()| random.number(lane));
        let [a, b, c] = of.map(|bits| T::from_bits(bits.into()));
        let same = |which, expected: StatusAnd<T>| {
            let found = ours(which, lane, how, of);
            let text = format!("{which:?} of {of:x?}, {round:?}: {found:x?}, not {expected:?}");
            assert!(agrees(found, expected, least), "{text}");
        };
        same(Float::Add, a.add_r(b, round));
        same(Float::Subtract, a.sub_r(b, round));
        same(Float::Multiply, a.mul_r(b, round));
        same(Float::Divide, a.div_r(b, round));
        // The oracle forgets that infinity times zero is invalid if what is added is no number.
        if !c.is_nan() {
            same(Float::MultiplyAdd, a.mul_add_r(b, c, round));
        }
        same(Float::IntegralExact, a.round_to_integral(round));
    }
}

#[test]
fn value_and_flags_are_exact_in_every_direction() {
    with_oracle::<Double>(64, 1 << 52, 3);
    with_oracle::<Single>(32, 1 << 23, 4);
    with_oracle::<Half>(16, 1 << 10, 5);
}

#[test]
fn formats_are_converted_exactly() {
    let mut random = Random(6);
    for turn in 0..TURNS {
        let number = turn % ROUNDS.len();
        let (round, how) = (ROUNDS[number], PLAIN | number as u8);
        let mut is_lost = false;
        let a = random.number(64);
        let double = Double::from_bits(a.into());
        let single: StatusAnd<Single> = double.convert_r(round, &mut is_lost);
        assert!(agrees(ours(Float::Narrow, 64, how, [a, 0, 0]), single, 1 << 23), "{a:#x} {round:?}: {single:?}");
        let half: StatusAnd<Half> = double.convert_r(round, &mut is_lost);
        assert!(agrees(ours(Float::NarrowTwice, 64, how, [a, 0, 0]), half, 1 << 10), "{a:#x} {round:?}: {half:?}");
        let b = random.number(16);
        let wide: StatusAnd<Single> = Half::from_bits(b.into()).convert_r(round, &mut is_lost);
        assert!(agrees(ours(Float::Widen, 16, how, [b, 0, 0]), wide, 1 << 23), "{b:#x}: {wide:?}");
        let integer = random.next() >> (random.next() % 64);
        let of = Single::from_u128_r(integer.into(), round);
        assert!(agrees(ours(Float::OfUnsignedHalf, 64, how, [integer, 0, 0]), of, 0), "{integer:#x} {round:?}: {of:?}");
        let mut is_exact = false;
        let to = double.to_i128_r(64, round, &mut is_exact);
        let (value, flags) = ours(Float::ToSigned, 64, how, [a, 0, 0]);
        assert_eq!(flags, to.status.bits(), "{a:#x} {round:?}");
        if to.status != Status::INVALID_OP {
            assert_eq!(value as i64, to.value as i64, "{a:#x} {round:?}");
        }
    }
}

#[test]
fn every_operation_is_total_in_every_mode() {
    let mut random = Random(7);
    for (name, which, ..) in isa::ops::FLOATS {
        let lanes: &[u8] = match which {
            Float::Widen => &[16, 32],
            Float::NarrowTwice => &[64],
            Float::Narrow
            | Float::OfSignedHalf
            | Float::OfUnsignedHalf
            | Float::ToSignedHalf
            | Float::ToUnsignedHalf => &[32, 64],
            _ => &[16, 32, 64],
        };
        for (lane, how) in lanes.iter().flat_map(|lane| (0..=u8::MAX).map(move |how| (*lane, how))) {
            for _ in 0..20 {
                let of = [(); 3].map(|()| random.number(lane));
                let (value, flags) = ours(*which, lane, how, of);
                assert!(flags < 64, "{name} of {of:x?} by {how:#x}: {value:#x}, {flags:#x}");
            }
        }
    }
}

#[test]
fn what_architectures_differ_in_is_told_by_the_mode() {
    let (quiet, signalling, one) = (0x7fc0_1234, 0xff80_0001, 0x3f80_0000);
    let of = |which, mode, a: u64, b: u64| ours(which, 32, mode, [a, b, 0]);
    // A NaN is handed on, made quiet, or it is always the same one.
    assert_eq!(of(Float::Add, mode::ARM, quiet, signalling), (0xffc0_0001, flags::INVALID));
    assert_eq!(of(Float::Add, mode::ARM, quiet, one), (quiet, 0));
    assert_eq!(of(Float::Add, PLAIN, quiet, one), (0x7fc0_0000, 0));
    // The lesser of a number and a NaN that signals.
    assert_eq!(of(Float::MinimumNumber, mode::ARM, signalling, one), (0xffc0_0001, flags::INVALID));
    assert_eq!(of(Float::MinimumNumber, PLAIN, signalling, one), (one, flags::INVALID));
    assert_eq!(of(Float::MinimumNumber, mode::ARM, quiet, one), (one, 0));
    assert_eq!(of(Float::Minimum, mode::ARM, quiet, one), (quiet, 0));
    assert_eq!(of(Float::Maximum, mode::ARM, 0x8000_0000, 0), (0, 0));
    // As an integer.
    assert_eq!(of(Float::ToSigned, mode::ARM, quiet, 0), (0, flags::INVALID));
    assert_eq!(of(Float::ToSigned, PLAIN, quiet, 0), (0x7fff_ffff, flags::INVALID));
    // What is rounded to the least normal number: too small before, not afterwards.
    let (below, scale) = (0x3fff_ffff, 0x0040_0000);
    assert_eq!(of(Float::Multiply, mode::ARM, below, scale).0, 0x0080_0000);
    assert_eq!(of(Float::Multiply, mode::ARM, below, scale).1, flags::UNDERFLOW | flags::INEXACT);
    // Numbers below the normal ones count as zero.
    let flush = mode::ARM | mode::FLUSH;
    assert_eq!(of(Float::Add, flush, 1, one), (one, flags::INPUT_DENORMAL));
    assert_eq!(of(Float::Multiply, flush, 0x0080_0000, 0x3f00_0000), (0, flags::UNDERFLOW));
    // The odd neighbour.
    assert_eq!(ours(Float::Narrow, 64, mode::ARM | 5, [0x3ff0_0000_0000_0001, 0, 0]), (0x3f80_0001, flags::INEXACT));
}
