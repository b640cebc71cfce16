//! Instructions of the host, as bytes.
//!
//! Only what the translator needs, in the forms that it needs ("Intel 64 and IA-32 Architectures Software Developer's
//! Manual", volume 2). Operands are of 32 or 64 bits; one of 32 leaves zeros above.

mod jumps;
mod vector;

pub(super) use vector::{Map, Prefix, Vex, Xmm};

/// A register of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Reg {
    Rax,
    Rcx,
    Rdx,
    Rbx,
    Rsp,
    Rbp,
    Rsi,
    Rdi,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
}

/// The width of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    S32,
    S64,
}

impl Size {
    /// The size in which a value of so many bits is computed.
    pub(super) fn of(width: u8) -> Size {
        if width <= 32 { Size::S32 } else { Size::S64 }
    }
}

/// Arithmetic and logic, by the number that their encodings share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Alu {
    Add = 0,
    Or = 1,
    Adc = 2,
    And = 4,
    Sub = 5,
    Xor = 6,
    Cmp = 7,
}

/// Shifts, by the number that their encodings share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Shift {
    Ror = 1,
    Shl = 4,
    Shr = 5,
    Sar = 7,
}

/// One-operand instructions of the group F7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Group {
    Not = 2,
    Neg = 3,
    Mul = 4,
    Imul = 5,
    Div = 6,
    Idiv = 7,
}

/// Conditions, by their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Condition {
    Overflow = 0,
    Below = 2,
    AboveEqual = 3,
    Equal = 4,
    NotEqual = 5,
    Sign = 8,
    Parity = 10,
    Less = 12,
    GreaterEqual = 13,
}

/// A place in memory: a register and a number of bytes, and perhaps another register.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mem {
    pub(super) base: Reg,
    pub(super) index: Option<Reg>,
    /// How far the index is shifted to the left: at most 3.
    pub(super) scale: u8,
    pub(super) disp: i32,
}

impl Mem {
    pub(super) fn at(base: Reg, disp: i32) -> Mem {
        Mem { base, index: None, scale: 0, disp }
    }

    pub(super) fn sum(base: Reg, index: Reg, disp: i32) -> Mem {
        Mem { base, index: Some(index), scale: 0, disp }
    }
}

/// Code that grows.
#[derive(Debug, Default)]
pub(super) struct Code {
    pub(super) bytes: Vec<u8>,
}

/// A jump whose target is not known yet: where its four bytes are.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub(super) struct Fixup(pub(super) usize);

impl Code {
    pub(super) fn here(&self) -> usize {
        self.bytes.len()
    }

    fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    fn word(&mut self, value: i32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// The prefix that has the registers' high bits. Left out if it would say nothing, unless a byte register needs it.
    fn rex(&mut self, size: Size, reg: u8, index: u8, base: u8, is_byte: bool) {
        let rex = 0x40 | u8::from(size == Size::S64) << 3 | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3;
        if rex != 0x40 || is_byte {
            self.byte(rex);
        }
    }

    /// An operation on two registers.
    fn rr(&mut self, size: Size, opcode: &[u8], reg: u8, rm: Reg) {
        self.rex(size, reg, 0, rm as u8, false);
        self.bytes.extend_from_slice(opcode);
        self.byte(0xc0 | (reg & 7) << 3 | rm as u8 & 7);
    }

    /// The same where the second is a byte register.
    fn rr_byte(&mut self, size: Size, opcode: &[u8], reg: u8, rm: Reg) {
        self.rex(size, reg, 0, rm as u8, rm as u8 >= 4);
        self.bytes.extend_from_slice(opcode);
        self.byte(0xc0 | (reg & 7) << 3 | rm as u8 & 7);
    }

    /// An operation on a register and memory.
    fn rm(&mut self, size: Size, opcode: &[u8], reg: u8, mem: Mem, is_byte: bool) {
        let base = mem.base as u8;
        let index = mem.index.map_or(0, |index| index as u8);
        self.rex(size, reg, index, base, is_byte && reg >= 4);
        self.bytes.extend_from_slice(opcode);
        self.address(reg, mem);
    }

    /// What is behind an opcode: a register's number and a place in memory.
    fn address(&mut self, reg: u8, mem: Mem) {
        let base = mem.base as u8;
        let index = mem.index.map_or(0, |index| index as u8);
        let short = i8::try_from(mem.disp).ok();
        // A base of rbp or r13 has no form without a displacement.
        let mode = match short {
            Some(0) if base & 7 != 5 => 0,
            Some(_) => 0x40,
            None => 0x80,
        };
        if mem.index.is_some() || base & 7 == 4 {
            self.byte(mode | (reg & 7) << 3 | 4);
            let index = if mem.index.is_some() { index & 7 } else { 4 };
            self.byte(mem.scale << 6 | index << 3 | base & 7);
        } else {
            self.byte(mode | (reg & 7) << 3 | base & 7);
        }
        match (mode, short) {
            (0, _) => {}
            (0x40, Some(disp)) => self.byte(disp as u8),
            _ => self.word(mem.disp),
        }
    }

    pub(super) fn mov(&mut self, size: Size, to: Reg, from: Reg) {
        if to != from || size == Size::S32 {
            self.rr(size, &[0x8b], to as u8, from);
        }
    }

    pub(super) fn mov_imm(&mut self, to: Reg, value: u64) {
        if value == 0 {
            self.rr(Size::S32, &[0x33], to as u8, to);
        } else if let Ok(value) = u32::try_from(value) {
            self.rex(Size::S32, 0, 0, to as u8, false);
            self.byte(0xb8 | to as u8 & 7);
            self.word(value as i32);
        } else if let Ok(value) = i32::try_from(value as i64) {
            self.rr(Size::S64, &[0xc7], 0, to);
            self.word(value);
        } else {
            self.rex(Size::S64, 0, 0, to as u8, false);
            self.byte(0xb8 | to as u8 & 7);
            self.bytes.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// The form that touches no flag.
    pub(super) fn mov_imm32(&mut self, to: Reg, value: u32) {
        self.rex(Size::S32, 0, 0, to as u8, false);
        self.byte(0xb8 | to as u8 & 7);
        self.word(value as i32);
    }

    /// Loads so many bits, with zeros above.
    pub(super) fn load(&mut self, width: u8, to: Reg, from: Mem) {
        match width {
            8 => self.rm(Size::S32, &[0x0f, 0xb6], to as u8, from, false),
            16 => self.rm(Size::S32, &[0x0f, 0xb7], to as u8, from, false),
            32 => self.rm(Size::S32, &[0x8b], to as u8, from, false),
            _ => self.rm(Size::S64, &[0x8b], to as u8, from, false),
        }
    }

    /// Loads 8, 16 or 32 bits, with their sign above.
    pub(super) fn load_signed(&mut self, width: u8, size: Size, to: Reg, from: Mem) {
        match width {
            8 => self.rm(size, &[0x0f, 0xbe], to as u8, from, false),
            16 => self.rm(size, &[0x0f, 0xbf], to as u8, from, false),
            _ if size == Size::S32 => self.load(32, to, from),
            _ => self.rm(Size::S64, &[0x63], to as u8, from, false),
        }
    }

    /// Stores so many bits.
    pub(super) fn store(&mut self, width: u8, to: Mem, from: Reg) {
        match width {
            8 => self.rm(Size::S32, &[0x88], from as u8, to, true),
            16 => {
                self.byte(0x66);
                self.rm(Size::S32, &[0x89], from as u8, to, false);
            }
            32 => self.rm(Size::S32, &[0x89], from as u8, to, false),
            _ => self.rm(Size::S64, &[0x89], from as u8, to, false),
        }
    }

    /// Stores a number of at most 32 bits with its sign, 64 bits wide.
    pub(super) fn store_imm(&mut self, to: Mem, value: i32) {
        self.rm(Size::S64, &[0xc7], 0, to, false);
        self.word(value);
    }

    pub(super) fn lea(&mut self, size: Size, to: Reg, from: Mem) {
        self.rm(size, &[0x8d], to as u8, from, false);
    }

    /// The address of what comes later.
    pub(super) fn lea_ahead(&mut self, to: Reg) -> Fixup {
        self.bytes.extend([0x48 | (to as u8 >> 3) << 2, 0x8d, (to as u8 & 7) << 3 | 5, 0, 0, 0, 0]);
        Fixup(self.here() - 4)
    }

    pub(super) fn alu(&mut self, operation: Alu, size: Size, to: Reg, from: Reg) {
        self.rr(size, &[(operation as u8) << 3 | 3], to as u8, from);
    }

    pub(super) fn alu_imm(&mut self, operation: Alu, size: Size, to: Reg, value: i32) {
        if let Ok(value) = i8::try_from(value) {
            self.rr(size, &[0x83], operation as u8, to);
            self.byte(value as u8);
        } else {
            self.rr(size, &[0x81], operation as u8, to);
            self.word(value);
        }
    }

    pub(super) fn alu_mem(&mut self, operation: Alu, size: Size, to: Reg, from: Mem) {
        self.rm(size, &[(operation as u8) << 3 | 3], to as u8, from, false);
    }

    /// Compares a word of memory with a number.
    pub(super) fn cmp_mem_imm(&mut self, mem: Mem, value: i8) {
        self.rm(Size::S32, &[0x83], Alu::Cmp as u8, mem, false);
        self.byte(value as u8);
    }

    /// Takes one away from a word of memory.
    pub(super) fn decrement(&mut self, mem: Mem) {
        self.rm(Size::S32, &[0xff], 1, mem, false);
    }

    pub(super) fn test(&mut self, size: Size, a: Reg, b: Reg) {
        self.rr(size, &[0x85], b as u8, a);
    }

    pub(super) fn imul(&mut self, size: Size, to: Reg, from: Reg) {
        self.rr(size, &[0x0f, 0xaf], to as u8, from);
    }

    pub(super) fn imul_mem(&mut self, size: Size, to: Reg, from: Mem) {
        self.rm(size, &[0x0f, 0xaf], to as u8, from, false);
    }

    pub(super) fn group(&mut self, operation: Group, size: Size, operand: Reg) {
        self.rr(size, &[0xf7], operation as u8, operand);
    }

    pub(super) fn shift_imm(&mut self, operation: Shift, size: Size, to: Reg, by: u8) {
        self.rr(size, &[0xc1], operation as u8, to);
        self.byte(by);
    }

    /// By what is in cl.
    pub(super) fn shift_cl(&mut self, operation: Shift, size: Size, to: Reg) {
        self.rr(size, &[0xd3], operation as u8, to);
    }

    /// An instruction of the group BMI2 with three registers: `prefix` is 1 (66), 2 (F3) or 3 (F2).
    fn vex(&mut self, size: Size, prefix: u8, opcode: u8, reg: Reg, vvvv: Reg, rm: Reg) {
        self.byte(0xc4);
        self.byte((!(reg as u8) >> 3 & 1) << 7 | 1 << 6 | (!(rm as u8) >> 3 & 1) << 5 | 2);
        self.byte(u8::from(size == Size::S64) << 7 | (!(vvvv as u8) & 15) << 3 | prefix);
        self.byte(opcode);
        self.byte(0xc0 | (reg as u8 & 7) << 3 | rm as u8 & 7);
    }

    /// `to = from shifted by`, of which only the low bits count, and no flag is touched. Not for rotations.
    pub(super) fn shift_by(&mut self, operation: Shift, size: Size, to: Reg, from: Reg, by: Reg) {
        let prefix = match operation {
            Shift::Shl => 1,
            Shift::Sar => 2,
            Shift::Shr | Shift::Ror => 3,
        };
        self.vex(size, prefix, 0xf7, to, by, from);
    }

    /// `to = from` rotated to the right by so many bits; no flag is touched.
    pub(super) fn rotated(&mut self, to: Reg, from: Reg, by: u8) {
        self.byte(0xc4);
        self.byte((!(to as u8) >> 3 & 1) << 7 | 1 << 6 | (!(from as u8) >> 3 & 1) << 5 | 3);
        self.byte(0xfb);
        self.byte(0xf0);
        self.byte(0xc0 | (to as u8 & 7) << 3 | from as u8 & 7);
        self.byte(by);
    }

    /// Puts the bits of `from` that `mask` names next to each other.
    pub(super) fn pext(&mut self, size: Size, to: Reg, from: Reg, mask: Reg) {
        self.vex(size, 2, 0xf5, to, from, mask);
    }

    /// The carry becomes what it was not.
    pub(super) fn complement_carry(&mut self) {
        self.byte(0xf5);
    }

    /// Flags to ah.
    pub(super) fn lahf(&mut self) {
        self.byte(0x9f);
    }

    pub(super) fn setcc(&mut self, condition: Condition, to: Reg) {
        self.rr_byte(Size::S32, &[0x0f, 0x90 | condition as u8], 0, to);
    }

    pub(super) fn cmov(&mut self, condition: Condition, size: Size, to: Reg, from: Reg) {
        self.rr(size, &[0x0f, 0x40 | condition as u8], to as u8, from);
    }

    /// The low byte, with zeros above.
    pub(super) fn movzx8(&mut self, to: Reg, from: Reg) {
        self.rr_byte(Size::S32, &[0x0f, 0xb6], to as u8, from);
    }

    pub(super) fn movzx16(&mut self, to: Reg, from: Reg) {
        self.rr(Size::S32, &[0x0f, 0xb7], to as u8, from);
    }

    /// So many low bits, with their sign above.
    pub(super) fn movsx(&mut self, width: u8, size: Size, to: Reg, from: Reg) {
        match width {
            8 => self.rr_byte(size, &[0x0f, 0xbe], to as u8, from),
            16 => self.rr(size, &[0x0f, 0xbf], to as u8, from),
            _ => self.rr(Size::S64, &[0x63], to as u8, from),
        }
    }

    pub(super) fn bswap(&mut self, size: Size, reg: Reg) {
        self.rex(size, 0, 0, reg as u8, false);
        self.byte(0x0f);
        self.byte(0xc8 | reg as u8 & 7);
    }

    /// How many zeros are above (`lzcnt`) or below (`tzcnt`), or how many ones (`popcnt`).
    pub(super) fn count(&mut self, opcode: u8, size: Size, to: Reg, from: Reg) {
        self.byte(0xf3);
        self.rr(size, &[0x0f, opcode], to as u8, from);
    }

    /// The time stamp counter, in edx and eax.
    pub(super) fn rdtsc(&mut self) {
        self.byte(0x0f);
        self.byte(0x31);
    }

    /// `lock or dword [rsp], 0`: all that a fence of memory does, in half its time.
    pub(super) fn fence(&mut self) {
        self.bytes.extend([0xf0, 0x83, 0x0c, 0x24, 0]);
    }

    /// `lfence`.
    pub(super) fn load_fence(&mut self) {
        self.bytes.extend([0x0f, 0xae, 0xe8]);
    }

    pub(super) fn cqo(&mut self, size: Size) {
        self.rex(size, 0, 0, 0, false);
        self.byte(0x99);
    }
}
