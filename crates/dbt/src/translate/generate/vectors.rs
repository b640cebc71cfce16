//! Vector registers: where values are in them, and what is done there.

use isa::ops::{Binary, Intrinsic};

use super::super::ir::{StateId, Val, Value, Vector};
use super::super::x64::{Map, Mem, Prefix, Reg, Size, Vex, Xmm};
use super::places::free;
use super::{Generator, Place, Source, TooBig, WIDE_PLACES, header, state, wide_slot};
use crate::state::head;

/// Those that values have; the other two hold nothing for longer than an operation.
pub(super) const VECTORS: u8 = 14;
pub(super) const SCRATCH: Xmm = Xmm(14);
pub(super) const OTHER: Xmm = Xmm(15);

const fn p66(opcode: u8) -> Vex {
    Vex::new(Prefix::P66, Map::M0F, opcode)
}

pub(super) const fn p66_38(opcode: u8) -> Vex {
    Vex::new(Prefix::P66, Map::M0F38, opcode)
}

pub(super) const fn p66_3a(opcode: u8) -> Vex {
    Vex::new(Prefix::P66, Map::M0F3A, opcode)
}

pub(super) const AND: Vex = p66(0xdb);
pub(super) const OR: Vex = p66(0xeb);
pub(super) const XOR: Vex = p66(0xef);
const EQUAL_8: Vex = p66(0x74);
const UNPACK_HALVES: Vex = p66(0x6c);
const UNPACK_HIGH_HALVES: Vex = p66(0x6d);
const INSERT_64: Vex = p66_3a(0x22).wide();
const SHUFFLE_32: Vex = Vex::new(Prefix::None, Map::M0F, 0xc6);
const PACK_8: Vex = p66(0x67);
const PACK_16: Vex = p66_38(0x2b);

/// Instructions by the width of lanes: 8, 16, 32 and 64 bits.
fn by_lane(lane: u8, of: [Option<Vex>; 4]) -> Option<Vex> {
    of[(lane.trailing_zeros() as usize).checked_sub(3)?]
}

/// What one instruction does with two operands.
fn simple(which: Intrinsic, lane: u8) -> Option<Vex> {
    use Intrinsic as I;
    let m = |opcode| Some(p66(opcode));
    let n = |opcode| Some(p66_38(opcode));
    by_lane(
        lane,
        match which {
            I::Add => [m(0xfc), m(0xfd), m(0xfe), m(0xd4)],
            I::Subtract => [m(0xf8), m(0xf9), m(0xfa), m(0xfb)],
            I::Multiply => [None, m(0xd5), n(0x40), None],
            I::Equal => [m(0x74), m(0x75), m(0x76), n(0x29)],
            I::Greater => [m(0x64), m(0x65), m(0x66), n(0x37)],
            I::SignedMax => [n(0x3c), m(0xee), n(0x3d), None],
            I::SignedMin => [n(0x38), m(0xea), n(0x39), None],
            I::UnsignedMax => [m(0xde), n(0x3e), n(0x3f), None],
            I::UnsignedMin => [m(0xda), n(0x3a), n(0x3b), None],
            I::SignedAddSaturated => [m(0xec), m(0xed), None, None],
            I::SignedSubtractSaturated => [m(0xe8), m(0xe9), None, None],
            I::UnsignedAddSaturated => [m(0xdc), m(0xdd), None, None],
            I::UnsignedSubtractSaturated => [m(0xd8), m(0xd9), None, None],
            I::ZipLow => [m(0x60), m(0x61), m(0x62), m(0x6c)],
            I::ZipHigh => [m(0x68), m(0x69), m(0x6a), m(0x6d)],
            _ => return None,
        },
    )
}

impl Generator<'_> {
    /// A vector register for the value that is being made.
    pub(super) fn vector_destination(&mut self, own: Value) -> Result<Xmm, TooBig> {
        let free = (0..VECTORS).find(|number| self.vectors[usize::from(*number)].is_none());
        let number = match free {
            Some(number) => number,
            None => self.evict_vector()?,
        };
        self.vectors[usize::from(number)] = Some(own);
        self.places[own as usize] = Place::Vector(Xmm(number));
        Ok(Xmm(number))
    }

    fn evict_vector(&mut self) -> Result<u8, TooBig> {
        let mut used = Vec::new();
        self.block.code[self.at as usize].each(|value| used.push(value));
        let candidates = (0..VECTORS).filter_map(|number| Some((number, self.vectors[usize::from(number)]?)));
        let (number, value) = candidates
            .filter(|(_, value)| !used.contains(&Val::Value(*value)))
            .max_by_key(|(_, value)| self.uses.last[*value as usize])
            .ok_or(TooBig)?;
        let place = free(&mut self.wide_stack, WIDE_PLACES)?;
        self.code.vector_store(128, wide_slot(place), Xmm(number));
        self.wide_stack[place] = Some(value);
        self.places[value as usize] = Place::Wide(place);
        self.vectors[usize::from(number)] = None;
        Ok(number)
    }

    /// The vector register of an operand: its own, or `scratch`, where it then is.
    pub(super) fn vector_operand(&mut self, value: Val, scratch: Xmm) -> Xmm {
        match self.source(value) {
            Source::Vector(xmm) => return xmm,
            Source::Wide(place) => self.code.vector_load(128, scratch, wide_slot(place)),
            Source::Host(reg) => self.code.vector_of(scratch, reg),
            Source::Number(0) => self.code.vector(XOR, scratch, scratch, scratch),
            other => {
                self.move_to(Reg::Rdx, other);
                self.code.vector_of(scratch, Reg::Rdx);
            }
        }
        scratch
    }

    /// Sixteen bytes of memory are changed as one. What the host's instruction needs beside what holds nothing is in memory
    /// meanwhile.
    pub(super) fn compare_and_swap_wide(
        &mut self,
        own: Value,
        access: (Val, u8, StateId),
        old: Val,
        new: Val,
    ) -> Result<(), TooBig> {
        const AT: Reg = Reg::Rsi;
        let to = self.vector_destination(own)?;
        self.place(access);
        let (old, new) = (self.vector_operand(old, SCRATCH), self.vector_operand(new, OTHER));
        let lent = [(Reg::Rbx, header(head::WIDE)), (AT, header(head::WIDE + 1))];
        lent.iter().for_each(|(reg, place)| self.code.store(64, *place, *reg));
        self.code.mov(Size::S64, AT, Reg::Rcx);
        for (from, low, high, scratch) in [(old, Reg::Rax, Reg::Rdx, SCRATCH), (new, Reg::Rbx, Reg::Rcx, OTHER)] {
            self.code.of_vector(low, from);
            self.code.vector_shift(0x73, 3, scratch, from, 8);
            self.code.of_vector(high, scratch);
        }
        self.code.compare_exchange_wide(Mem::at(AT, 0));
        self.code.vector_of(to, Reg::Rax);
        self.code.vector_with_general_imm(INSERT_64, to, to, Reg::Rdx, 1);
        lent.iter().for_each(|(reg, place)| self.code.load(64, *reg, *place));
        Ok(())
    }

    pub(super) fn vector_operation(&mut self, own: Value, vector: Vector) -> Result<(), TooBig> {
        match vector {
            Vector::Read { offset } => {
                let to = self.vector_destination(own)?;
                self.code.vector_load(128, to, state(offset));
            }
            Vector::Const { low, high } => {
                let to = self.vector_destination(own)?;
                self.constant(to, low, high);
            }
            Vector::Logic(operator, a, b) => {
                let vex = match operator {
                    Binary::And => AND,
                    Binary::Or => OR,
                    _ => XOR,
                };
                self.two(own, vex, a, b)?;
            }
            Vector::Join { high, low } => {
                let to = self.vector_destination(own)?;
                let low = self.vector_operand(low, SCRATCH);
                if let Source::Host(high) = self.source(high) {
                    self.code.vector_with_general_imm(INSERT_64, to, low, high, 1);
                } else {
                    let high = self.vector_operand(high, OTHER);
                    self.code.vector(UNPACK_HALVES, to, low, high);
                }
            }
            Vector::Part { of, low, width } => {
                let to = self.vector_destination(own)?;
                let of = self.vector_operand(of, SCRATCH);
                match (low, width) {
                    (0, 64) => self.code.vector_one(Vex::new(Prefix::F3, Map::M0F, 0x7e), to, of),
                    // The lowest lane stays, the others become zero.
                    (0, _) => self.code.vector_imm(p66_3a(0x21), to, of, of, 0x0e),
                    _ => self.code.vector_shift(0x73, 3, to, of, 8),
                }
            }
            Vector::Shift { of, bytes } => {
                let to = self.vector_destination(own)?;
                let of = self.vector_operand(of, SCRATCH);
                let extension = if bytes > 0 { 7 } else { 3 };
                self.code.vector_shift(0x73, extension, to, of, bytes.unsigned_abs());
            }
            Vector::Lanes { which, lane, of } => self.lanes(own, which, lane, of)?,
            Vector::Float { which, lane, width, rounding, of, at } => {
                self.float(own, which, (lane, width), rounding, of, at)?;
            }
        }
        Ok(())
    }

    fn constant(&mut self, to: Xmm, low: u64, high: u64) {
        if (low, high) == (u64::MAX, u64::MAX) {
            self.code.vector(EQUAL_8, to, to, to);
            return;
        }
        self.code.mov_imm(Reg::Rdx, low);
        self.code.vector_of(to, Reg::Rdx);
        if high == low {
            self.code.vector(UNPACK_HALVES, to, to, to);
        } else if high != 0 {
            self.code.mov_imm(Reg::Rdx, high);
            self.code.vector_with_general_imm(INSERT_64, to, to, Reg::Rdx, 1);
        }
    }

    fn two(&mut self, own: Value, vex: Vex, a: Val, b: Val) -> Result<(), TooBig> {
        let to = self.vector_destination(own)?;
        let a = self.vector_operand(a, SCRATCH);
        let b = self.vector_operand(b, OTHER);
        self.code.vector(vex, to, a, b);
        Ok(())
    }

    fn lanes(&mut self, own: Value, which: Intrinsic, lane: u8, of: [Val; 3]) -> Result<(), TooBig> {
        use Intrinsic as I;
        let [a, b, c] = of;
        if let Some(vex) = simple(which, lane) {
            return self.two(own, vex, a, b);
        }
        let to = self.vector_destination(own)?;
        let number = |value: Val| match value {
            Val::Number(number) => number,
            Val::Value(_) => 0,
        };
        match which {
            I::Above => {
                // Not where the second is the greater or the same.
                let (a, b) = (self.vector_operand(a, SCRATCH), self.vector_operand(b, OTHER));
                if let (Some(max), Some(equal)) = (simple(I::UnsignedMax, lane), simple(I::Equal, lane)) {
                    self.code.vector(max, SCRATCH, a, b);
                    self.code.vector(equal, SCRATCH, SCRATCH, b);
                    self.code.vector(EQUAL_8, OTHER, OTHER, OTHER);
                    self.code.vector(XOR, to, SCRATCH, OTHER);
                }
            }
            I::ShiftLeft | I::ShiftRight | I::SignedShiftRight => self.lanes_shift(to, which, lane, a, number(b)),
            I::Even | I::Odd => self.lanes_alternate(to, which == I::Odd, lane, a, b),
            I::LookUp => {
                let (numbers, table) = (self.vector_operand(a, SCRATCH), self.vector_operand(b, OTHER));
                let table = if table == OTHER {
                    self.code.vector(OR, to, OTHER, OTHER);
                    to
                } else {
                    table
                };
                // What is 16 or more gets its highest bit, by which a shuffle gives zero.
                self.constant(OTHER, 0x7070_7070_7070_7070, 0x7070_7070_7070_7070);
                self.code.vector(p66(0xdc), SCRATCH, numbers, OTHER);
                self.code.vector(p66_38(0x00), to, table, SCRATCH);
            }
            I::Splat => {
                let from = self.vector_operand(a, SCRATCH);
                let opcode = match lane {
                    8 => 0x78,
                    16 => 0x79,
                    32 => 0x58,
                    _ => 0x59,
                };
                self.code.vector_one(p66_38(opcode), to, from);
            }
            I::Set => {
                let at = number(b) as u8;
                let (whole, value) = (self.vector_operand(a, SCRATCH), self.operand(c, Reg::Rax));
                let vex = match lane {
                    8 => p66_3a(0x20),
                    16 => p66(0xc4),
                    32 => p66_3a(0x22),
                    _ => INSERT_64,
                };
                self.code.vector_with_general_imm(vex, to, whole, value, at);
            }
            I::SignExtend | I::ZeroExtend => {
                let from = self.vector_operand(a, SCRATCH);
                let first = if which == I::SignExtend { 0x20 } else { 0x30 };
                let opcode = match lane {
                    8 => first,
                    16 => first + 3,
                    _ => first + 5,
                };
                self.code.vector_one(p66_38(opcode), to, from);
            }
            // The last that whoever specialises lets through.
            _ => {
                let from = self.vector_operand(a, SCRATCH);
                self.code.vector(XOR, OTHER, OTHER, OTHER);
                self.lanes_cut(SCRATCH, from, lane);
                match lane {
                    16 => self.code.vector(PACK_8, to, SCRATCH, OTHER),
                    32 => self.code.vector(PACK_16, to, SCRATCH, OTHER),
                    _ => self.code.vector_imm(SHUFFLE_32, to, from, OTHER, 0x88),
                }
            }
        }
        Ok(())
    }

    /// The lower halves of lanes, as lanes as wide as before.
    fn lanes_cut(&mut self, to: Xmm, from: Xmm, lane: u8) {
        let opcode = match lane {
            16 => 0x71,
            32 => 0x72,
            _ => return,
        };
        self.code.vector_shift(opcode, 6, to, from, lane / 2);
        self.code.vector_shift(opcode, 2, to, to, lane / 2);
    }

    fn lanes_shift(&mut self, to: Xmm, which: Intrinsic, lane: u8, a: Val, by: u64) {
        let from = self.vector_operand(a, SCRATCH);
        let extension = match which {
            Intrinsic::ShiftLeft => 6,
            Intrinsic::ShiftRight => 2,
            _ => 4,
        };
        let by = by.min(255) as u8;
        match lane {
            16 => self.code.vector_shift(0x71, extension, to, from, by),
            32 => self.code.vector_shift(0x72, extension, to, from, by),
            64 => self.code.vector_shift(0x73, extension, to, from, by),
            // Of bytes: as lanes of 16 bits, without what came from the neighbour.
            _ => {
                let left = extension == 6;
                let kept = if by >= 8 {
                    0
                } else if left {
                    0xff << by & 0xff
                } else {
                    0xff >> by
                };
                self.constant(OTHER, kept * 0x0101_0101_0101_0101, kept * 0x0101_0101_0101_0101);
                self.code.vector_shift(0x71, extension, to, from, by);
                self.code.vector(AND, to, to, OTHER);
            }
        }
    }

    /// Every other lane of both operands.
    fn lanes_alternate(&mut self, to: Xmm, odd: bool, lane: u8, a: Val, b: Val) {
        let (a, b) = (self.vector_operand(a, SCRATCH), self.vector_operand(b, OTHER));
        match lane {
            64 => self.code.vector(if odd { UNPACK_HIGH_HALVES } else { UNPACK_HALVES }, to, a, b),
            32 => self.code.vector_imm(SHUFFLE_32, to, a, b, if odd { 0xdd } else { 0x88 }),
            _ => {
                let (opcode, pack) = if lane == 8 { (0x71, PACK_8) } else { (0x72, PACK_16) };
                for (from, into) in [(a, SCRATCH), (b, OTHER)] {
                    if odd {
                        self.code.vector_shift(opcode, 2, into, from, lane);
                    } else {
                        self.lanes_cut(into, from, lane * 2);
                    }
                }
                self.code.vector(pack, to, SCRATCH, OTHER);
            }
        }
    }
}
