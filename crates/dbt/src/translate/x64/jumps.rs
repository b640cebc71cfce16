//! Where code goes on, what it leaves on the stack, and what changes memory as one.

use super::{Code, Condition, Fixup, Mem, Reg, Size};

impl Code {
    pub(in super::super) fn push(&mut self, reg: Reg) {
        self.rex(Size::S32, 0, 0, reg as u8, false);
        self.byte(0x50 | reg as u8 & 7);
    }

    pub(in super::super) fn pop(&mut self, reg: Reg) {
        self.rex(Size::S32, 0, 0, reg as u8, false);
        self.byte(0x58 | reg as u8 & 7);
    }

    pub(in super::super) fn call(&mut self, mem: Mem) {
        self.rm(Size::S32, &[0xff], 2, mem, false);
    }

    /// Calls a place in this code.
    pub(in super::super) fn call_to(&mut self, at: usize) {
        let fixup = self.call_ahead();
        self.patch(fixup, at);
    }

    /// Calls what comes later.
    pub(in super::super) fn call_ahead(&mut self) -> Fixup {
        self.bytes.extend([0xe8, 0, 0, 0, 0]);
        Fixup(self.here() - 4)
    }

    pub(in super::super) fn jmp_reg(&mut self, to: Reg) {
        self.rr(Size::S32, &[0xff], 4, to);
    }

    pub(in super::super) fn jmp_mem(&mut self, to: Mem) {
        self.rm(Size::S32, &[0xff], 4, to, false);
    }

    pub(in super::super) fn jmp(&mut self) -> Fixup {
        self.byte(0xe9);
        self.word(0);
        Fixup(self.here() - 4)
    }

    pub(in super::super) fn jcc(&mut self, condition: Condition) -> Fixup {
        self.byte(0x0f);
        self.byte(0x80 | condition as u8);
        self.word(0);
        Fixup(self.here() - 4)
    }

    /// Swaps a register with memory as one, or adds it and leaves what was there.
    pub(in super::super) fn exchange(&mut self, width: u8, mem: Mem, reg: Reg, adds: bool) {
        if adds {
            self.byte(0xf0);
        }
        if width == 16 {
            self.byte(0x66);
        }
        let size = if width == 64 { Size::S64 } else { Size::S32 };
        match (adds, width) {
            (true, 8) => self.rm(size, &[0x0f, 0xc0], reg as u8, mem, true),
            (true, _) => self.rm(size, &[0x0f, 0xc1], reg as u8, mem, false),
            (false, 8) => self.rm(size, &[0x86], reg as u8, mem, true),
            (false, _) => self.rm(size, &[0x87], reg as u8, mem, false),
        }
    }

    /// Stores `new` as one if memory holds what rax does; or else loads rax.
    pub(in super::super) fn compare_exchange(&mut self, width: u8, mem: Mem, new: Reg) {
        self.byte(0xf0);
        if width == 16 {
            self.byte(0x66);
        }
        let size = if width == 64 { Size::S64 } else { Size::S32 };
        match width {
            8 => self.rm(size, &[0x0f, 0xb0], new as u8, mem, true),
            _ => self.rm(size, &[0x0f, 0xb1], new as u8, mem, false),
        }
    }

    /// The same of sixteen bytes: rdx and rax, and rcx and rbx for what is new, the lower ones behind.
    pub(in super::super) fn compare_exchange_wide(&mut self, mem: Mem) {
        self.byte(0xf0);
        self.rm(Size::S64, &[0x0f, 0xc7], 1, mem, false);
    }

    /// A jump to a place in this code.
    pub(in super::super) fn jmp_to(&mut self, at: usize) {
        let fixup = self.jmp();
        self.patch(fixup, at);
    }

    /// The jump goes there.
    pub(in super::super) fn land_at(&mut self, fixup: Fixup, at: usize) {
        self.patch(fixup, at);
    }

    /// The jump goes here.
    pub(in super::super) fn land(&mut self, fixup: Fixup) {
        let here = self.here();
        self.patch(fixup, here);
    }

    fn patch(&mut self, fixup: Fixup, at: usize) {
        let distance = at as i64 - (fixup.0 as i64 + 4);
        self.bytes[fixup.0..fixup.0 + 4].copy_from_slice(&(distance as i32).to_le_bytes());
    }

    pub(in super::super) fn ret(&mut self) {
        self.byte(0xc3);
    }
}
