//! Encodings that the manual (DDI 0487, C4.1) reserves, of instructions that there are.
//!
//! disarm64 decides by the bits that binutils' table gives for an instruction, not by what its operands may be, so it has
//! these for instructions.

/// A part of the encodings, and which of it are none.
pub(crate) struct Rule {
    mask: u32,
    value: u32,
    is_none: fn(u32) -> bool,
}

/// The rule by which this is none.
pub(crate) fn find(word: u32) -> Option<usize> {
    RULES.iter().position(|rule| word & rule.mask == rule.value && (rule.is_none)(word))
}

fn bits(word: u32, high: u32, low: u32) -> u32 {
    word >> low & ((1 << (high - low + 1)) - 1)
}

/// Whether general registers are of 32 bits.
fn is_short(word: u32) -> bool {
    bits(word, 31, 31) == 0
}

/// Lanes of 64 bits in a vector of 64.
fn is_half(word: u32) -> bool {
    bits(word, 30, 30) == 0
}

fn size(word: u32) -> u32 {
    bits(word, 23, 22)
}

/// `_why` is for who reads it.
const fn rule(mask: u32, value: u32, is_none: fn(u32) -> bool, _why: &str) -> Rule {
    Rule { mask, value, is_none }
}

pub(crate) const RULES: &[Rule] = &[
    // General registers.
    rule(0x1f80_0000, 0x1180_0000, |_| true, "addition with tags, minimum and maximum: other extensions"),
    rule(0x1f20_0000, 0x0b00_0000, |w| size(w) == 3 || is_short(w) && bits(w, 15, 15) == 1, "a shift by 32 or more"),
    rule(0x1f20_0000, 0x0b20_0000, |w| size(w) != 0 || bits(w, 12, 10) > 4, "an extended register by more than 4"),
    rule(0x1f80_0000, 0x1200_0000, |w| !is_mask(w), "no run of ones"),
    rule(0x1f00_0000, 0x0a00_0000, |w| is_short(w) && bits(w, 15, 15) == 1, "a shift by 32 or more"),
    rule(0x1f80_0000, 0x1280_0000, |w| is_short(w) && bits(w, 22, 22) == 1, "a half that 32 bits have not"),
    rule(0x1f80_0000, 0x1300_0000, is_no_field, "a field that the register has not"),
    rule(0x1f80_0000, 0x1380_0000, is_no_field, "a field that the register has not"),
    // Memory.
    rule(0x3a00_0000, 0x3800_0000, is_no_access, "no such access"),
    rule(0x3f00_0000, 0x1c00_0000, |w| bits(w, 31, 30) == 3, "nothing has such a size"),
    rule(0xbfa0_7c00, 0x0820_7c00, |w| (w | w >> 16) & 1 == 1, "a pair that begins with an odd register"),
    // System.
    rule(0xffd8_0000, 0xd500_0000, |_| true, "no hint, barrier or part of PSTATE that there is"),
    rule(0xfff8_0000, 0xd528_0000, |_| true, "an operation with a result: other extensions"),
    rule(0xfff8_0000, 0xd508_0000, |w| !matches!(bits(w, 15, 12), 7 | 8), "an operation of other extensions"),
    rule(0xff00_0000, 0xd400_0000, is_no_exception, "EL3 and a debugger outside: not there"),
    rule(0xffff_ffff, 0xd6bf_03e0, |_| true, "a debugger outside: not there"),
    rule(0xffff_0000, 0x0000_0000, |_| true, "undefined for ever"),
    // Floating point.
    rule(0x5f20_0000, 0x1e20_0000, is_no_float, "no such format, or one that no register has"),
    rule(
        0x5f20_0000,
        0x1e00_0000,
        |w| size(w) == 2 || is_short(w) && bits(w, 15, 15) == 0,
        "a point before the number",
    ),
    rule(0xff00_0000, 0x1f00_0000, |w| size(w) == 2, "no such format"),
    // Vectors: memory.
    rule(0xbf20_0000, 0x0c00_0000, is_no_structure, "no such structure"),
    rule(0xbf00_0000, 0x0d00_0000, is_no_lane, "no such lane"),
    // Vectors: three of a kind, and twice as wide.
    rule(0x9f20_0400, 0x0e20_0400, is_no_three, "no such lanes"),
    rule(0xdf20_0400, 0x5e20_0400, is_no_scalar_three, "no such number"),
    rule(0x9f20_0c00, 0x0e20_0000, |w| size(w) == 3 || is_doubling(w) && size(w) == 0, "nothing is twice as wide"),
    rule(0xdf20_0c00, 0x5e20_0000, |w| matches!(size(w), 0 | 3), "nothing is twice as wide"),
    rule(0x9f20_8400, 0x0e00_8400, is_no_extra, "no such lanes"),
    rule(0xdf20_8400, 0x5e00_8400, is_no_extra, "no such number"),
    // Vectors: two of a kind.
    rule(0x9f3e_0c00, 0x0e20_0800, is_no_two, "no such lanes"),
    rule(0xdf3e_0c00, 0x5e20_0800, is_no_scalar_two, "no such number"),
    rule(0x9f3e_0c00, 0x0e30_0800, is_no_across, "no such lanes"),
    rule(0xdf3e_0c00, 0x5e30_0800, |w| size(w) != 3, "no such number"),
    // Vectors: parts.
    rule(0x9fe0_8400, 0x0e00_0400, is_no_copy, "no such lane"),
    rule(0xdfe0_8400, 0x5e00_0400, |w| bits(w, 19, 16) == 0, "no such lane"),
    rule(0xbf20_8c00, 0x0e00_0800, |w| size(w) == 3 && is_half(w), "one lane"),
    rule(0xbfe0_8400, 0x2e00_0000, |w| is_half(w) && bits(w, 14, 14) == 1, "behind the vector"),
    // Vectors: by an immediate, by a lane.
    rule(0x9f80_0400, 0x0f00_0400, is_no_shift, "no such lanes"),
    rule(0xdf80_0400, 0x5f00_0400, is_no_scalar_shift, "no such number"),
    rule(0x9f00_0400, 0x0f00_0000, is_no_by_lane, "no such lanes"),
    rule(0xdf00_0400, 0x5f00_0000, is_no_by_lane, "no such number"),
];

/// A run of ones shorter than its element, which is not longer than the register.
fn is_mask(word: u32) -> bool {
    let (n, imms) = (bits(word, 22, 22), bits(word, 15, 10));
    let length = 31 - (n << 6 | !imms & 0x3f).leading_zeros().min(31);
    let levels = (1 << length) - 1;
    length > 0 && imms & levels != levels && !(is_short(word) && n == 1)
}

fn is_no_field(word: u32) -> bool {
    let is_short = is_short(word);
    (bits(word, 22, 22) == 0) != is_short
        || is_short && (bits(word, 15, 15) == 1 || bits(word, 21, 21) == 1 && bits(word, 23, 23) == 0)
}

/// Registers of 128 bits have one size; an index is extended from 32 or 64 bits.
fn is_no_access(word: u32) -> bool {
    let is_vector = bits(word, 26, 26) == 1;
    let is_indexed = bits(word, 24, 24) == 0 && bits(word, 21, 21) == 1 && bits(word, 11, 10) == 2;
    is_vector && bits(word, 31, 30) != 0 && bits(word, 23, 23) == 1 || is_indexed && bits(word, 14, 14) == 0
}

fn is_no_exception(word: u32) -> bool {
    let (which, level) = (bits(word, 23, 21), bits(word, 4, 0));
    which == 0 && level == 3 || which == 2 && level == 0 || which == 5
}

/// Formats: 2 is none. FCVT is between different ones, a register of 32 bits has no number of 64 bits.
fn is_no_float(word: u32) -> bool {
    let format = size(word);
    let is_convert = bits(word, 31, 29) == 0 && bits(word, 21, 17) == 0b10001 && bits(word, 14, 10) == 0b10000;
    let is_move = bits(word, 20, 17) == 0b0011 && bits(word, 15, 10) == 0;
    let is_whole = bits(word, 15, 10) == 0 && is_move && (format == 1) == is_short(word);
    format == 2 || is_convert && (bits(word, 16, 15) == format || bits(word, 16, 15) == 2) || is_whole
}

fn is_no_structure(word: u32) -> bool {
    let kind = bits(word, 15, 12);
    let is_known = matches!(kind, 0 | 2 | 4 | 6 | 7 | 8 | 10);
    let is_one_of_each = matches!(kind, 0 | 4 | 8);
    !is_known || is_one_of_each && bits(word, 11, 10) == 3 && is_half(word)
}

fn is_no_lane(word: u32) -> bool {
    let (scale, below, within) = (bits(word, 15, 14), bits(word, 12, 12), bits(word, 11, 10));
    match scale {
        0 => false,
        1 => within & 1 == 1,
        2 => within & 2 == 2 || within == 1 && below == 1,
        // To all lanes: only loads, and without a part of a lane.
        _ => bits(word, 22, 22) == 0 || below == 1,
    }
}

/// The operation of three of a kind, and whether it is the one without a sign.
fn three(word: u32) -> (u32, u32) {
    (bits(word, 15, 11), bits(word, 29, 29))
}

fn is_no_three(word: u32) -> bool {
    match three(word) {
        // Halving, the greater and the lesser, differences, with a product: no lanes of 64 bits.
        (0 | 2 | 4 | 12..=15 | 18 | 20 | 21, _) | (19, 0) => size(word) == 3,
        // Polynomials have lanes of 8.
        (19, _) => size(word) != 0,
        (22, _) => matches!(size(word), 0 | 3),
        // By which bits are taken from where: no lanes.
        (3, _) => false,
        (24.., _) => bits(word, 22, 22) == 1 && is_half(word),
        _ => size(word) == 3 && is_half(word),
    }
}

fn is_no_scalar_three(word: u32) -> bool {
    match three(word).0 {
        // With saturation: every size. Else 64 bits.
        1 | 5 | 9 | 11 => false,
        22 => matches!(size(word), 0 | 3),
        24.. => false,
        _ => size(word) != 3,
    }
}

/// SQDMLAL, SQDMLSL, SQDMULL: not of bytes.
fn is_doubling(word: u32) -> bool {
    matches!(bits(word, 15, 12), 9 | 11 | 13) && bits(word, 29, 29) == 0
}

/// Dot products are of bytes; SQRDMLAH and SQRDMLSH of 16 and 32 bits.
fn is_no_extra(word: u32) -> bool {
    match bits(word, 14, 11) {
        0b0010 => size(word) != 2,
        0b0000 | 0b0001 => matches!(size(word), 0 | 3),
        _ => false,
    }
}

fn is_no_two(word: u32) -> bool {
    let (size, is_second) = (size(word), bits(word, 29, 29) == 1);
    match (bits(word, 16, 12), is_second) {
        // REV64, REV32 or REV16: parts are smaller than the whole.
        (0, false) => size == 3,
        (0, true) => size > 1,
        (1, false) => size > 0,
        // Sums of neighbours, zeros and signs, shorter and longer ones: not of 64 bits.
        (2 | 4 | 6 | 18 | 20, _) | (19, true) => size == 3,
        // CNT, NOT and RBIT.
        (5, false) => size != 0,
        (5, true) => size > 1,
        (22, true) => bits(word, 22, 22) == 0,
        // Estimates of integers have 32 bits.
        (28, _) if bits(word, 23, 23) == 1 => bits(word, 22, 22) == 1,
        (3 | 7 | 8..=11, _) => size == 3 && is_half(word),
        (12.., _) => bits(word, 22, 22) == 1 && is_half(word),
        _ => false,
    }
}

fn is_no_scalar_two(word: u32) -> bool {
    match (bits(word, 16, 12), bits(word, 29, 29)) {
        (3 | 7, _) => false,
        // Narrower: nothing has 64 bits.
        (18 | 20, _) => size(word) == 3,
        (22, _) => bits(word, 22, 22) == 0,
        (8..=11, _) => size(word) != 3,
        _ => false,
    }
}

fn is_no_across(word: u32) -> bool {
    match bits(word, 16, 12) {
        // Of floating-point numbers: four of 32 bits.
        12 | 15 if bits(word, 29, 29) == 1 => bits(word, 22, 22) == 1 || is_half(word),
        _ => size(word) == 3 || size(word) == 2 && is_half(word),
    }
}

/// The lowest one of imm5 is the size of a lane.
fn is_no_copy(word: u32) -> bool {
    let lane = bits(word, 19, 16).trailing_zeros();
    let lane = if bits(word, 19, 16) == 0 { 4 } else { lane };
    let is_insert = bits(word, 29, 29) == 1;
    match bits(word, 14, 11) {
        _ if lane == 4 => true,
        _ if is_insert => is_half(word),
        0 | 1 => lane == 3 && is_half(word),
        // SMOV: to more bits than there are.
        5 => lane == 3 || lane == 2 && is_half(word),
        // UMOV: 64 bits to 64.
        7 => (lane == 3) == is_half(word),
        _ => false,
    }
}

/// The highest one of immh is the size of a lane; without any it is a modified immediate.
fn shift_lane(word: u32) -> Option<u32> {
    (bits(word, 22, 19) != 0).then(|| bits(word, 22, 19).ilog2())
}

fn is_no_shift(word: u32) -> bool {
    let Some(lane) = shift_lane(word) else { return true };
    match bits(word, 15, 11) {
        // Narrower and wider.
        16..=20 => lane == 3,
        28 | 31 => lane < 2 || lane == 3 && is_half(word),
        _ => lane == 3 && is_half(word),
    }
}

fn is_no_scalar_shift(word: u32) -> bool {
    let Some(lane) = shift_lane(word) else { return true };
    match bits(word, 15, 11) {
        12 | 14 => false,
        16..=19 => lane == 3,
        28 | 31 => lane < 2,
        _ => lane != 3,
    }
}

fn is_no_by_lane(word: u32) -> bool {
    let (size, is_scalar) = (size(word), bits(word, 28, 28) == 1);
    match (bits(word, 15, 12), bits(word, 29, 29)) {
        // Of floating-point numbers: of 64 bits there are two.
        (1 | 5 | 9, _) if size >= 2 => {
            bits(word, 22, 22) == 1 && (bits(word, 21, 21) == 1 || is_half(word) && !is_scalar)
        }
        // Dot products.
        (14, _) => size != 2,
        _ => matches!(size, 0 | 3),
    }
}
