//! How long an instruction is, and where it jumps: as much of a decoder as it takes to walk through code that a compiler
//! wrote for 64-bit user mode (Intel SDM, volume 2, chapters 2 and appendix A).
//!
//! **It never guesses**: of what it does not know it gives nothing, and whoever walks stops there. A test compares it with a
//! decoder that knows everything, on all of the C library.

/// What is known of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) length: usize,
    /// How far behind its end a relative jump or call goes.
    pub(super) jump: Option<i64>,
    pub(super) kind: Kind,
}

/// What matters of it to somebody who wants it to be done elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It does the same anywhere.
    Movable,
    /// A system call.
    Call,
    /// A jump to where a register or memory says.
    Anywhere,
    /// It depends on where it is, or leads away from there.
    Bound,
}

/// No instruction is longer.
const LONGEST: usize = 15;

/// What follows an opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// So many bytes, and nothing else.
    Plain(usize),
    /// A ModRM byte with what it brings along, and so many bytes.
    Operands(usize),
    /// The distance of a jump, in so many bytes.
    Jump(usize),
}

use Shape::{Jump, Operands, Plain};

/// What stands before an opcode.
#[derive(Clone, Copy, Default)]
struct Prefixes {
    /// Operands have 16 bits.
    short: bool,
    /// Operands have 64 bits.
    long: bool,
    /// Addresses have 32 bits.
    narrow: bool,
}

impl Prefixes {
    /// How long a usual immediate operand is.
    fn immediate(self) -> usize {
        if self.short && !self.long { 2 } else { 4 }
    }
}

/// Reads the instruction at the beginning of those bytes.
pub(super) fn read(code: &[u8]) -> Option<Instruction> {
    let mut prefixes = Prefixes::default();
    let mut at = 0;
    loop {
        match code.get(at)? {
            0x66 => prefixes.short = true,
            0x67 => prefixes.narrow = true,
            0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0xf0 | 0xf2 | 0xf3 => {}
            _ => break,
        }
        at += 1;
        if at == LONGEST {
            return None;
        }
    }
    if let rex @ 0x40..=0x4f = *code.get(at)? {
        prefixes.long = rex & 8 != 0;
        at += 1;
    }
    let opcode = *code.get(at)?;
    at += 1;
    let mut kind = match opcode {
        0xff => match code.get(at)? >> 3 & 7 {
            2 | 3 => Kind::Bound,
            4 | 5 => Kind::Anywhere,
            _ => Kind::Movable,
        },
        0xc2 | 0xc3 | 0xca..=0xcf | 0xf1 | 0xf4 => Kind::Bound,
        _ => Kind::Movable,
    };
    let shape = match opcode {
        0x0f => {
            let second = *code.get(at)?;
            at += 1;
            match second {
                0x38 | 0x3a => at += 1,
                0x05 => kind = Kind::Call,
                0x0b => kind = Kind::Bound,
                _ => {}
            }
            match second {
                0x38 => Operands(0),
                0x3a => Operands(1),
                _ => second_map(second, prefixes)?,
            }
        }
        0xc5 => {
            at += 2;
            vector(1, *code.get(at - 1)?)?
        }
        0xc4 => {
            at += 3;
            vector(code.get(at - 3)? & 0x1f, *code.get(at - 1)?)?
        }
        0x62 => {
            at += 4;
            vector(code.get(at - 4)? & 0x07, *code.get(at - 1)?)?
        }
        _ => first_map(opcode, code.get(at).copied(), prefixes)?,
    };
    finish(code, at, shape, kind)
}

/// Puts together what is there: `at` is behind the opcode.
fn finish(code: &[u8], mut at: usize, shape: Shape, mut kind: Kind) -> Option<Instruction> {
    let mut jump = None;
    match shape {
        Plain(more) => at += more,
        Operands(more) => {
            const NEAR: u8 = 0b00_000_101;
            // Memory at a distance from the instruction.
            if code.get(at)? & 0b11_000_111 == NEAR && kind == Kind::Movable {
                kind = Kind::Bound;
            }
            at += operands(code.get(at..)?)? + more;
        }
        Jump(size) => {
            kind = Kind::Bound;
            let bytes = code.get(at..at + size)?;
            jump = match *bytes {
                [a] => Some(i64::from(a as i8)),
                [a, b, c, d] => Some(i64::from(i32::from_le_bytes([a, b, c, d]))),
                _ => return None,
            };
            at += size;
        }
    }
    (at <= LONGEST && at <= code.len()).then_some(Instruction { length: at, jump, kind })
}

/// How long a ModRM byte is with what it brings along.
fn operands(code: &[u8]) -> Option<usize> {
    let modrm = *code.first()?;
    let (mode, base) = (modrm >> 6, modrm & 7);
    let has_index = mode != 3 && base == 4;
    let base = if has_index { code.get(1)? & 7 } else { base };
    let displacement = match mode {
        1 => 1,
        2 => 4,
        0 if base == 5 => 4,
        _ => 0,
    };
    Some(1 + usize::from(has_index) + displacement)
}

/// Instructions of one byte. `next` is what is behind it.
fn first_map(opcode: u8, next: Option<u8>, prefixes: Prefixes) -> Option<Shape> {
    let immediate = prefixes.immediate();
    let register = next.map_or(0, |it| it >> 3 & 7);
    Some(match opcode {
        // The arithmetic of eight operations, each in six forms.
        0x00..=0x3f => match opcode & 7 {
            0..=3 => Operands(0),
            4 => Plain(1),
            5 => Plain(immediate),
            _ => return None,
        },
        0x50..=0x5f | 0x90..=0x99 | 0x9b..=0x9f => Plain(0),
        0x63 | 0x84..=0x8e => Operands(0),
        0x68 | 0xa9 => Plain(immediate),
        0x6a | 0xa8 | 0xb0..=0xb7 | 0xcd | 0xe4..=0xe7 => Plain(1),
        0x69 | 0x81 | 0xc7 => Operands(immediate),
        0x6b | 0x80 | 0x83 | 0xc0 | 0xc1 | 0xc6 => Operands(1),
        0x6c..=0x6f | 0xa4..=0xa7 | 0xaa..=0xaf | 0xc3 | 0xc9 | 0xcb | 0xcc | 0xcf | 0xd7 => Plain(0),
        0x70..=0x7f | 0xe0..=0xe3 | 0xeb => Jump(1),
        0x8f if register == 0 => Operands(0),
        0xa0..=0xa3 => Plain(if prefixes.narrow { 4 } else { 8 }),
        0xb8..=0xbf => Plain(if prefixes.long { 8 } else { immediate }),
        0xc2 | 0xca => Plain(2),
        0xc8 => Plain(3),
        0xd0..=0xd3 | 0xd8..=0xdf | 0xfe | 0xff => Operands(0),
        // With that prefix processors differ.
        0xe8 | 0xe9 if immediate == 4 => Jump(4),
        0xec..=0xef | 0xf1 | 0xf4 | 0xf5 | 0xf8..=0xfd => Plain(0),
        0xf6 => Operands(usize::from(register < 2)),
        0xf7 => Operands(if register < 2 { immediate } else { 0 }),
        _ => return None,
    })
}

/// Instructions of two bytes, by the second.
fn second_map(opcode: u8, prefixes: Prefixes) -> Option<Shape> {
    Some(match opcode {
        0x05 | 0x0b | 0x31 | 0x77 | 0xa0..=0xa2 | 0xa8 | 0xa9 | 0xc8..=0xcf => Plain(0),
        0x00..=0x03 | 0x0d | 0x10..=0x1f | 0x28..=0x2f | 0x40..=0x6f | 0x74..=0x76 | 0x7c..=0x7f => Operands(0),
        0x70..=0x73 | 0xa4 | 0xac | 0xba | 0xc2 | 0xc4..=0xc6 => Operands(1),
        0x80..=0x8f if prefixes.immediate() == 4 => Jump(4),
        0x90..=0x9f | 0xa3 | 0xa5 | 0xab | 0xad..=0xaf | 0xb0..=0xb9 | 0xbb..=0xc1 | 0xc3 | 0xc7 | 0xd0..=0xfe => {
            Operands(0)
        }
        _ => return None,
    })
}

/// Instructions with a prefix that names one of several maps.
fn vector(map: u8, opcode: u8) -> Option<Shape> {
    match (map, opcode) {
        (1, 0x77) => Some(Plain(0)),
        (1, 0x70..=0x73 | 0xc2 | 0xc4..=0xc6) | (3, _) => Some(Operands(1)),
        (1 | 2 | 5 | 6, _) => Some(Operands(0)),
        _ => None,
    }
}
