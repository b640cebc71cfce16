//! What computes.

use isa::ops::{Binary, Unary, mask64};

use super::super::ir::{Ir, Test, Val, Value};
use super::super::x64::{Alu, Condition, Group, Mem, Reg, Shift, Size};
use super::{Access, FlagsOf, Generator, Loaded, Source, TooBig, imm, slot};

impl Generator<'_> {
    /// Leaves so many low bits.
    pub(super) fn trim(&mut self, reg: Reg, width: u8) {
        match width {
            8 => self.code.movzx8(reg, reg),
            16 => self.code.movzx16(reg, reg),
            32 => self.code.mov(Size::S32, reg, reg),
            64 => {}
            1..=31 => self.code.alu_imm(Alu::And, Size::S32, reg, mask64(width) as i32),
            _ => {
                self.code.shift_imm(Shift::Shl, Size::S64, reg, 64 - width);
                self.code.shift_imm(Shift::Shr, Size::S64, reg, 64 - width);
            }
        }
    }

    pub(super) fn trim_result(&mut self, reg: Reg, width: u8) {
        if !matches!(width, 32 | 64) {
            self.trim(reg, width);
        }
    }

    pub(super) fn unary(&mut self, own: Value, operator: Unary, width: u8, a: Val) -> Result<(), TooBig> {
        let size = Size::of(width);
        let to = self.destination_from(own, a)?;
        match operator {
            Unary::Invert if width == 1 => self.code.alu_imm(Alu::Xor, Size::S32, to, 1),
            Unary::Invert => {
                self.code.group(Group::Not, size, to);
                self.trim_result(to, width);
            }
            Unary::Negate => {
                self.code.group(Group::Neg, size, to);
                self.trim_result(to, width);
            }
            Unary::LeadingZeros => self.code.count(0xbd, size, to, to),
            Unary::TrailingZeros => self.code.count(0xbc, size, to, to),
            Unary::Ones => self.code.count(0xb8, size, to, to),
            Unary::ReverseBytes => self.code.bswap(size, to),
            Unary::ReverseBits => self.reverse_bits(to, width),
        }
        Ok(())
    }

    /// Bytes change places, then halves of bytes, pairs, and bits.
    fn reverse_bits(&mut self, to: Reg, width: u8) {
        let size = Size::of(width);
        self.code.bswap(size, to);
        for (by, low) in [(4, 0x0f0f_0f0f_0f0f_0f0f), (2, 0x3333_3333_3333_3333), (1, 0x5555_5555_5555_5555_u64)] {
            self.code.mov_imm(Reg::Rcx, low & mask64(if size == Size::S32 { 32 } else { 64 }));
            self.code.mov(size, Reg::Rax, to);
            self.code.shift_imm(Shift::Shr, size, Reg::Rax, by);
            self.code.alu(Alu::And, size, Reg::Rax, Reg::Rcx);
            self.code.alu(Alu::And, size, to, Reg::Rcx);
            self.code.shift_imm(Shift::Shl, size, to, by);
            self.code.alu(Alu::Or, size, to, Reg::Rax);
        }
        let more = if size == Size::S32 { 32 } else { 64 } - width;
        if more > 0 {
            self.code.shift_imm(Shift::Shr, size, to, more);
        }
    }

    pub(super) fn binary(&mut self, own: Value, ir: Ir) -> Result<(), TooBig> {
        let Ir::Binary(operator, width, a, b) = ir else { return Ok(()) };
        let size = Size::of(width);
        match operator {
            Binary::Add | Binary::Subtract | Binary::And | Binary::Or | Binary::Xor => {
                let operation = match operator {
                    Binary::Add => Alu::Add,
                    Binary::Subtract => Alu::Sub,
                    Binary::And => Alu::And,
                    Binary::Or => Alu::Or,
                    _ => Alu::Xor,
                };
                if operator == Binary::And && b == Val::Number(u32::MAX.into()) {
                    let a = self.operand(a, Reg::Rax);
                    let to = self.destination(own)?;
                    self.code.mov(Size::S32, to, a);
                    return Ok(());
                }
                let is_whole = matches!(width, 32 | 64);
                if is_whole && (self.sum_of_shifted(own, ir, size)? || self.sum(own, ir, size)?) {
                    return Ok(());
                }
                let (a, b) = if operator == Binary::Subtract { (a, b) } else { self.ending_first(a, b) };
                let to = self.destination_beside(own, a, b)?;
                self.apply(operation, size, to, b);
                if matches!(operator, Binary::Add | Binary::Subtract) {
                    self.trim_result(to, width);
                }
            }
            Binary::Multiply => {
                let (a, b) = self.ending_first(a, b);
                let to = self.destination_beside(own, a, b)?;
                if let Source::Stack(place) = self.source(b) {
                    self.code.imul_mem(size, to, slot(place));
                } else {
                    let b = self.operand(b, Reg::Rcx);
                    self.code.imul(size, to, b);
                }
                self.trim_result(to, width);
            }
            Binary::MultiplyHigh | Binary::SignedMultiplyHigh => {
                self.into(a, Reg::Rax);
                let b = self.operand(b, Reg::Rcx);
                let group = if operator == Binary::MultiplyHigh { Group::Mul } else { Group::Imul };
                self.code.group(group, size, b);
                let to = self.destination(own)?;
                self.code.mov(size, to, Reg::Rdx);
            }
            Binary::Divide | Binary::SignedDivide | Binary::Remainder | Binary::SignedRemainder => {
                self.divide(operator, size, a, b);
                let is_quotient = matches!(operator, Binary::Divide | Binary::SignedDivide);
                let to = self.destination(own)?;
                self.code.mov(size, to, if is_quotient { Reg::Rax } else { Reg::Rdx });
            }
            Binary::ShiftLeft => self.shift(own, Shift::Shl, width, a, b)?,
            Binary::ShiftRight => self.shift(own, Shift::Shr, width, a, b)?,
            Binary::SignedShiftRight => self.shift(own, Shift::Sar, width, a, b)?,
            Binary::RotateRight => {
                self.into(b, Reg::Rcx);
                let to = self.destination_beside(own, a, b)?;
                self.code.shift_cl(Shift::Ror, size, to);
            }
            Binary::Equal | Binary::Less | Binary::SignedLess => {
                let condition = match operator {
                    Binary::Equal => Condition::Equal,
                    Binary::Less => Condition::Below,
                    _ => Condition::Less,
                };
                self.compare(size, a, b);
                self.code.setcc(condition, Reg::Rax);
                let to = self.destination(own)?;
                self.code.movzx8(to, Reg::Rax);
            }
        }
        Ok(())
    }

    /// Whether a value is used here for the last time, and is in a register, which then can be the result's.
    fn ends_here(&self, value: Val) -> bool {
        let is_last = |it: Value| self.uses.last[it as usize] <= self.at;
        matches!(value, Val::Value(it) if is_last(it)) && matches!(self.source(value), Source::Host(_))
    }

    /// Two operands whose order does not matter: one that ends here, if there is one, is the first.
    fn ending_first(&self, a: Val, b: Val) -> (Val, Val) {
        if !self.ends_here(a) && self.ends_here(b) { (b, a) } else { (a, b) }
    }

    /// The sum of what both stays where it is, in one operation. Says whether it could be.
    fn sum(&mut self, own: Value, ir: Ir, size: Size) -> Result<bool, TooBig> {
        let Ir::Binary(operator @ (Binary::Add | Binary::Subtract), _, a, b) = ir else { return Ok(false) };
        let Source::Host(base) = self.source(a) else { return Ok(false) };
        if self.ends_here(a) || self.ends_here(b) {
            return Ok(false);
        }
        let number = match operator {
            Binary::Add => imm(b, size),
            _ => imm(b, size).and_then(i32::checked_neg),
        };
        let sum = match (number, self.source(b)) {
            (Some(disp), _) => Mem::at(base, disp),
            (None, Source::Host(index)) if operator == Binary::Add => Mem::sum(base, index, 0),
            _ => return Ok(false),
        };
        let to = self.destination(own)?;
        self.code.lea(size, to, sum);
        Ok(true)
    }

    /// The same of something that is shifted as a part of it.
    fn sum_of_shifted(&mut self, own: Value, ir: Ir, size: Size) -> Result<bool, TooBig> {
        let Ir::Binary(Binary::Add, _, a, b) = ir else { return Ok(false) };
        let shifted = |operand: Val| match self.part(operand) {
            Some(Ir::Binary(Binary::ShiftLeft, _, of, Val::Number(by))) => Some((of, by as u8)),
            _ => None,
        };
        let Some((base, (of, scale))) = shifted(b).map(|it| (a, it)).or_else(|| shifted(a).map(|it| (b, it))) else {
            return Ok(false);
        };
        let ending = [base, of].into_iter().find(|value| self.ends_here(*value));
        let (base, index) = (self.operand(base, Reg::Rax), self.operand(of, Reg::Rcx));
        // It is read before it is written.
        let to = match ending {
            Some(ending) => self.destination_from(own, ending)?,
            None => self.destination(own)?,
        };
        self.code.lea(size, to, Mem { scale, ..Mem::sum(base, index, 0) });
        Ok(true)
    }

    pub(super) fn apply(&mut self, operation: Alu, size: Size, to: Reg, b: Val) {
        if let Some(number) = imm(b, size) {
            self.code.alu_imm(operation, size, to, number);
            return;
        }
        match self.source(b) {
            Source::Host(reg) => self.code.alu(operation, size, to, reg),
            Source::Stack(place) => self.code.alu_mem(operation, size, to, slot(place)),
            other => {
                self.move_to(Reg::Rcx, other);
                self.code.alu(operation, size, to, Reg::Rcx);
            }
        }
    }

    pub(super) fn compare(&mut self, size: Size, a: Val, b: Val) {
        let a = self.operand(a, Reg::Rax);
        if b == Val::Number(0) {
            self.code.test(size, a, a);
        } else {
            self.apply(Alu::Cmp, size, a, b);
        }
    }

    pub(super) fn shift(&mut self, own: Value, operation: Shift, width: u8, a: Val, b: Val) -> Result<(), TooBig> {
        let size = Size::of(width);
        match b {
            Val::Number(by) => {
                let to = self.destination_from(own, a)?;
                let most = if size == Size::S32 { 31 } else { 63 };
                if by >= u64::from(width) && operation != Shift::Sar {
                    self.code.mov_imm(to, 0);
                } else {
                    self.code.shift_imm(operation, size, to, by.min(most) as u8);
                }
                if operation == Shift::Shl {
                    self.trim_result(to, width);
                }
            }
            b => {
                let by = self.operand(b, Reg::Rcx);
                let a = self.operand(a, Reg::Rax);
                let to = self.destination(own)?;
                self.code.shift_by(operation, size, to, a, by);
                if operation == Shift::Shl {
                    self.trim_result(to, width);
                }
            }
        }
        Ok(())
    }

    /// The quotient in rax, the remainder in rdx. By zero: nothing, and the dividend.
    pub(super) fn divide(&mut self, operator: Binary, size: Size, a: Val, b: Val) {
        let is_signed = matches!(operator, Binary::SignedDivide | Binary::SignedRemainder);
        self.into(b, Reg::Rcx);
        self.into(a, Reg::Rax);
        self.code.test(size, Reg::Rcx, Reg::Rcx);
        let zero = self.code.jcc(Condition::Equal);
        let mut ends = Vec::new();
        if is_signed {
            // The least number by -1 would fault; by -1, the quotient is the negative.
            self.code.alu_imm(Alu::Cmp, size, Reg::Rcx, -1);
            let plain = self.code.jcc(Condition::NotEqual);
            self.code.group(Group::Neg, size, Reg::Rax);
            self.code.mov_imm(Reg::Rdx, 0);
            ends.push(self.code.jmp());
            self.code.land(plain);
            self.code.cqo(size);
            self.code.group(Group::Idiv, size, Reg::Rcx);
        } else {
            self.code.mov_imm(Reg::Rdx, 0);
            self.code.group(Group::Div, size, Reg::Rcx);
        }
        ends.push(self.code.jmp());
        self.code.land(zero);
        self.code.mov(size, Reg::Rdx, Reg::Rax);
        self.code.mov_imm(Reg::Rax, 0);
        ends.into_iter().for_each(|end| self.code.land(end));
    }

    pub(super) fn sext(&mut self, own: Value, of: Val, from: u8, width: u8) -> Result<(), TooBig> {
        let size = Size::of(width);
        if let Some(place) = self.register_in(of) {
            let to = self.destination(own)?;
            self.code.load_signed(from, size, to, place);
            self.trim_result(to, width);
            return Ok(());
        }
        if let Some(access) = self.loaded_in(of) {
            let to = self.destination(own)?;
            return self.load(Loaded::Signed(to, width), access);
        }
        if matches!(from, 8 | 16 | 32) {
            let of = self.operand(of, Reg::Rax);
            let to = self.destination(own)?;
            self.code.movsx(from, size, to, of);
            self.trim_result(to, width);
            return Ok(());
        }
        let to = self.destination_from(own, of)?;
        let by = if size == Size::S32 { 32 - from } else { 64 - from };
        self.code.shift_imm(Shift::Shl, size, to, by);
        self.code.shift_imm(Shift::Sar, size, to, by);
        self.trim_result(to, width);
        Ok(())
    }

    /// What is loaded as a part of what is done now.
    fn loaded_in(&self, operand: Val) -> Option<Access> {
        match self.part(operand) {
            Some(Ir::Load { address, offset, window, width, how, at, .. }) => {
                Some(Access { address, offset, window, width, how, at })
            }
            _ => None,
        }
    }

    /// One of two values.
    pub(super) fn select(&mut self, own: Value, test: Test, yes: Val, no: Val) -> Result<(), TooBig> {
        let condition = self.test(test);
        // A move touches no flag, but a number zero would.
        let yes = match self.source(yes) {
            Source::Host(reg) => reg,
            other => {
                self.move_keeping_flags(Reg::Rcx, other);
                Reg::Rcx
            }
        };
        let to = match self.source(no) {
            number @ Source::Number(_) => {
                let to = self.destination(own)?;
                self.move_keeping_flags(to, number);
                to
            }
            _ => self.destination_from(own, no)?,
        };
        self.code.cmov(condition, Size::S64, to, yes);
        Ok(())
    }

    /// N, Z, C and V: the host's flags, put together.
    pub(super) fn flags(&mut self, own: Value, ir: Ir) -> Result<(), TooBig> {
        let Some(of) = FlagsOf::of(self.block, ir) else { return Ok(()) };
        let operands = [of.a, of.b, of.carry].map(|operand| self.source(operand));
        self.flags_into(Reg::Rdx, of, operands);
        let to = self.destination(own)?;
        self.code.mov(Size::S64, to, Reg::Rdx);
        Ok(())
    }

    /// The same, wherever its operands are now. Of those that hold nothing, rax and rcx are used, too.
    pub(super) fn flags_into(&mut self, to: Reg, of: FlagsOf, [a, b, carry]: [Source; 3]) {
        let size = Size::of(of.width);
        self.move_to(Reg::Rax, a);
        let number = imm(of.b, size).filter(|_| of.is_difference);
        if number.is_none() {
            self.move_to(Reg::Rcx, b);
        }
        if of.is_difference {
            match number {
                Some(number) => self.code.alu_imm(Alu::Sub, size, Reg::Rax, number),
                None => self.code.alu(Alu::Sub, size, Reg::Rax, Reg::Rcx),
            }
            // What is borrowed here is what is not carried there.
            self.code.complement_carry();
        } else if of.carry == Val::Number(0) {
            self.code.alu(Alu::Add, size, Reg::Rax, Reg::Rcx);
        } else {
            self.move_to(Reg::Rdx, carry);
            // One and all ones: a carry.
            self.code.alu_imm(Alu::Add, Size::S32, Reg::Rdx, -1);
            self.code.alu(Alu::Adc, size, Reg::Rax, Reg::Rcx);
        }
        self.code.lahf();
        self.code.setcc(Condition::Overflow, Reg::Rax);
        self.code.mov_imm32(Reg::Rcx, 0xc101);
        self.code.pext(Size::S32, to, Reg::Rax, Reg::Rcx);
    }
}
