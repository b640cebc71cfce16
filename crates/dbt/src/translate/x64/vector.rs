//! Instructions on vectors: AVX and AVX2, with three operands. Of a result of less than 128 bits, zeros are above.

use super::{Code, Mem, Reg};

/// A vector register of the host, of which the lower 128 bits are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Xmm(pub(in super::super) u8);

/// The prefix that an encoding implies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(in super::super) enum Prefix {
    None = 0,
    P66 = 1,
    F3 = 2,
    F2 = 3,
}

/// Which table of instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(in super::super) enum Map {
    M0F = 1,
    M0F38 = 2,
    M0F3A = 3,
}

/// An instruction: its prefix, table, number, and the bit W.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Vex {
    pub(in super::super) prefix: Prefix,
    pub(in super::super) map: Map,
    pub(in super::super) opcode: u8,
    pub(in super::super) wide: bool,
}

impl Vex {
    pub(in super::super) const fn new(prefix: Prefix, map: Map, opcode: u8) -> Vex {
        Vex { prefix, map, opcode, wide: false }
    }

    pub(in super::super) const fn wide(self) -> Vex {
        Vex { wide: true, ..self }
    }
}

impl Code {
    fn vex_prefix(&mut self, vex: Vex, reg: u8, vvvv: u8, index: u8, base: u8) {
        self.byte(0xc4);
        self.byte((!reg >> 3 & 1) << 7 | (!index >> 3 & 1) << 6 | (!base >> 3 & 1) << 5 | vex.map as u8);
        self.byte(u8::from(vex.wide) << 7 | (!vvvv & 15) << 3 | vex.prefix as u8);
        self.byte(vex.opcode);
    }

    /// Three registers by their numbers, of which each may be of either kind, as the instruction has it.
    fn vex_registers(&mut self, vex: Vex, reg: u8, vvvv: u8, rm: u8) {
        self.vex_prefix(vex, reg, vvvv, 0, rm);
        self.byte(0xc0 | (reg & 7) << 3 | rm & 7);
    }

    /// `to = a operation b`.
    pub(in super::super) fn vector(&mut self, vex: Vex, to: Xmm, a: Xmm, b: Xmm) {
        self.vex_registers(vex, to.0, a.0, b.0);
    }

    /// `to = operation b`.
    pub(in super::super) fn vector_one(&mut self, vex: Vex, to: Xmm, b: Xmm) {
        self.vex_registers(vex, to.0, 0, b.0);
    }

    /// `to = a operation b`, with a number.
    pub(in super::super) fn vector_imm(&mut self, vex: Vex, to: Xmm, a: Xmm, b: Xmm, imm: u8) {
        self.vector(vex, to, a, b);
        self.byte(imm);
    }

    /// `to = operation b`, with a number.
    pub(in super::super) fn vector_one_imm(&mut self, vex: Vex, to: Xmm, b: Xmm, imm: u8) {
        self.vector_one(vex, to, b);
        self.byte(imm);
    }

    /// `to = from shifted by a number`: `extension` says how.
    pub(in super::super) fn vector_shift(&mut self, opcode: u8, extension: u8, to: Xmm, from: Xmm, by: u8) {
        self.vex_registers(Vex::new(Prefix::P66, Map::M0F, opcode), extension, to.0, from.0);
        self.byte(by);
    }

    /// A general register becomes a vector with zeros above.
    pub(in super::super) fn vector_of(&mut self, to: Xmm, from: Reg) {
        self.vex_registers(Vex::new(Prefix::P66, Map::M0F, 0x6e).wide(), to.0, 0, from as u8);
    }

    /// The lower 64 bits of a vector.
    pub(in super::super) fn of_vector(&mut self, to: Reg, from: Xmm) {
        self.vex_registers(Vex::new(Prefix::P66, Map::M0F, 0x7e).wide(), from.0, 0, to as u8);
    }

    /// An instruction whose first operand is a general register, like a conversion.
    pub(in super::super) fn vector_to_general(&mut self, vex: Vex, to: Reg, from: Xmm) {
        self.vex_registers(vex, to as u8, 0, from.0);
    }

    /// `to = a` with something of a general register.
    pub(in super::super) fn vector_with_general(&mut self, vex: Vex, to: Xmm, a: Xmm, from: Reg) {
        self.vex_registers(vex, to.0, a.0, from as u8);
    }

    /// The same, with a number.
    pub(in super::super) fn vector_with_general_imm(&mut self, vex: Vex, to: Xmm, a: Xmm, from: Reg, imm: u8) {
        self.vector_with_general(vex, to, a, from);
        self.byte(imm);
    }

    /// Loads 32, 64 or 128 bits, with zeros above.
    pub(in super::super) fn vector_load(&mut self, width: u8, to: Xmm, from: Mem) {
        let vex = match width {
            32 => Vex::new(Prefix::P66, Map::M0F, 0x6e),
            64 => Vex::new(Prefix::F3, Map::M0F, 0x7e),
            _ => Vex::new(Prefix::F3, Map::M0F, 0x6f),
        };
        self.vector_memory(vex, to, from);
    }

    /// Stores 32, 64 or 128 bits.
    pub(in super::super) fn vector_store(&mut self, width: u8, to: Mem, from: Xmm) {
        let vex = match width {
            32 => Vex::new(Prefix::P66, Map::M0F, 0x7e),
            64 => Vex::new(Prefix::P66, Map::M0F, 0xd6),
            _ => Vex::new(Prefix::F3, Map::M0F, 0x7f),
        };
        self.vector_memory(vex, from, to);
    }

    fn vector_memory(&mut self, vex: Vex, reg: Xmm, mem: Mem) {
        self.vex_prefix(vex, reg.0, 0, mem.index.map_or(0, |index| index as u8), mem.base as u8);
        self.address(reg.0, mem);
    }

    /// The control word of floating-point operations, from memory or to it.
    pub(in super::super) fn float_control(&mut self, mem: Mem, stores: bool) {
        let extension = if stores { 3 } else { 2 };
        self.vex_prefix(Vex::new(Prefix::None, Map::M0F, 0xae), 0, 0, 0, mem.base as u8);
        self.address(extension, mem);
    }
}
