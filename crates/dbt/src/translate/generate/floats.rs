//! Operations on floating-point numbers: the host's, rounded to the nearest, with its flags.
//!
//! Architectures differ in what becomes of a NaN and of what does not fit an integer. Where either comes of an operation, the
//! instruction is left to the interpreter, which knows; nothing was written yet.

use isa::ops::Float;

use super::super::ir::{StateId, Val, Value};
use super::super::x64::{Alu, Condition, Map, Mem, Prefix, Reg, Shift, Size, Vex, Xmm};
use super::vectors::{AND, OR, OTHER, SCRATCH, XOR, p66_3a, p66_38};
use super::{Generator, Target, TooBig, header, state};
use crate::state::head;

impl Generator<'_> {
    /// Those of the state, and those in the host's control word: there, that an operand was denormal is one of them.
    pub(super) fn float_flags(&mut self, own: Value, offset: u32) -> Result<(), TooBig> {
        let to = self.destination(own)?;
        self.code.float_control(header(head::FLOAT_LEFT), true);
        self.code.load(32, Reg::Rax, header(head::FLOAT_LEFT));
        self.code.mov(Size::S32, to, Reg::Rax);
        self.code.shift_imm(Shift::Shr, Size::S32, to, 1);
        self.code.alu_imm(Alu::And, Size::S32, to, 0x1e);
        self.code.alu_imm(Alu::And, Size::S32, Reg::Rax, 1);
        self.code.alu(Alu::Or, Size::S32, to, Reg::Rax);
        self.code.alu_mem(Alu::Or, Size::S64, to, state(offset));
        Ok(())
    }

    pub(super) fn set_float_flags(&mut self, offset: u32, value: Val) {
        let value = self.operand(value, Reg::Rax);
        self.code.store(64, state(offset), value);
        self.code.float_control(header(head::FLOAT_CONTROL), false);
    }

    /// Scalars have a prefix of their own.
    fn float_vex(lane: u8, width: u8, opcode: u8) -> Vex {
        let prefix = match (lane == width, lane) {
            (true, 64) => Prefix::F2,
            (true, _) => Prefix::F3,
            (false, 64) => Prefix::P66,
            (false, _) => Prefix::None,
        };
        Vex::new(prefix, Map::M0F, opcode)
    }

    pub(super) fn float(
        &mut self,
        own: Value,
        which: Float,
        (lane, width): (u8, u8),
        rounding: u8,
        of: [Val; 3],
        at: StateId,
    ) -> Result<(), TooBig> {
        use Float as F;
        let [a, b, c] = of;
        let arithmetic = match which {
            F::Add => Some(0x58),
            F::Multiply => Some(0x59),
            F::Subtract => Some(0x5c),
            F::Divide => Some(0x5e),
            _ => None,
        };
        if let Some(opcode) = arithmetic {
            let to = self.vector_destination(own)?;
            let (a, b) = (self.vector_operand(a, SCRATCH), self.vector_operand(b, OTHER));
            self.code.vector(Self::float_vex(lane, width, opcode), to, a, b);
            self.unless_number(to, lane, width, at);
            return Ok(());
        }
        match which {
            F::Root => {
                let to = self.vector_destination(own)?;
                let a = self.vector_operand(a, SCRATCH);
                let vex = Self::float_vex(lane, width, 0x51);
                // Of several lanes, there is no other operand.
                if lane == width {
                    self.code.vector(vex, to, a, a);
                } else {
                    self.code.vector_one(vex, to, a);
                }
                self.unless_number(to, lane, width, at);
            }
            F::MultiplyAdd => {
                let to = self.vector_destination(own)?;
                let c = self.vector_operand(c, SCRATCH);
                self.code.vector(OR, to, c, c);
                let (a, b) = (self.vector_operand(a, SCRATCH), self.vector_operand(b, OTHER));
                let vex = p66_38(if lane == width { 0xb9 } else { 0xb8 });
                self.code.vector(if lane == 64 { vex.wide() } else { vex }, to, a, b);
                self.unless_number(to, lane, width, at);
            }
            F::Minimum | F::MinimumNumber | F::Maximum | F::MaximumNumber => {
                let to = self.vector_destination(own)?;
                let (a, b) = (self.vector_operand(a, SCRATCH), self.vector_operand(b, OTHER));
                let is_least = matches!(which, F::Minimum | F::MinimumNumber);
                let vex = Self::float_vex(lane, width, if is_least { 0x5d } else { 0x5f });
                self.cold_if_unordered(a, b, (lane, width), at, to);
                // Either of two zeros may be given: both ways have both signs.
                self.code.vector(vex, to, a, b);
                self.code.vector(vex, SCRATCH, b, a);
                self.code.vector(if is_least { OR } else { AND }, to, to, SCRATCH);
            }
            F::Equal | F::Greater | F::GreaterEqual => {
                let to = self.vector_destination(own)?;
                let (a, b) = (self.vector_operand(a, SCRATCH), self.vector_operand(b, OTHER));
                let kind = match which {
                    F::Equal => 0,
                    F::Greater => 0x0e,
                    _ => 0x0d,
                };
                self.code.vector_imm(Self::float_vex(lane, width, 0xc2), to, a, b, kind);
                if lane < width && width == 64 {
                    // Zeros above are equal.
                    self.code.vector_one(Vex::new(Prefix::F3, Map::M0F, 0x7e), to, to);
                }
            }
            F::Order => self.order(own, lane, a, b, at)?,
            F::Integral | F::IntegralExact => self.integral(own, which, (lane, width), rounding, a, at)?,
            F::ToSigned | F::ToUnsigned | F::ToSignedHalf | F::ToUnsignedHalf => {
                self.as_integer(own, which, lane, rounding, a, at)?;
            }
            F::OfSigned | F::OfSignedHalf | F::OfUnsigned | F::OfUnsignedHalf => {
                let to = self.vector_destination(own)?;
                let from = self.operand(a, Reg::Rax);
                let is_single = lane == 32 || matches!(which, F::OfSignedHalf | F::OfUnsignedHalf);
                let vex = Vex::new(if is_single { Prefix::F3 } else { Prefix::F2 }, Map::M0F, 0x2a);
                self.code.vector(XOR, to, to, to);
                self.code.vector_with_general(if lane == 64 { vex.wide() } else { vex }, to, to, from);
            }
            // Widen and narrow: the last that whoever specialises lets through.
            _ => {
                let to = self.vector_destination(own)?;
                let a = self.vector_operand(a, SCRATCH);
                let prefix = if which == F::Widen { Prefix::F3 } else { Prefix::F2 };
                self.code.vector(XOR, OTHER, OTHER, OTHER);
                self.code.vector(Vex::new(prefix, Map::M0F, 0x5a), to, OTHER, a);
                let made = if which == F::Widen { 64 } else { 32 };
                self.unless_number(to, made, made, at);
            }
        }
        Ok(())
    }

    /// Which NaN comes of an operation, architectures say differently: the interpreter knows.
    fn unless_number(&mut self, made: Xmm, lane: u8, width: u8, at: StateId) {
        self.cold_if_unordered(made, made, (lane, width), at, OTHER);
    }

    fn cold_if_unordered(&mut self, a: Xmm, b: Xmm, (lane, width): (u8, u8), at: StateId, spare: Xmm) {
        let condition = if lane == width {
            let prefix = if lane == 64 { Prefix::P66 } else { Prefix::None };
            self.code.vector_one(Vex::new(prefix, Map::M0F, 0x2e), a, b);
            Condition::Parity
        } else {
            let prefix = if lane == 64 { Prefix::P66 } else { Prefix::None };
            self.code.vector_imm(Vex::new(prefix, Map::M0F, 0xc2), spare, a, b, 3);
            self.code.vector_to_general(Vex::new(prefix, Map::M0F, 0x50), Reg::Rdx, spare);
            self.code.test(Size::S32, Reg::Rdx, Reg::Rdx);
            Condition::NotEqual
        };
        self.interpreted_if(condition, at);
    }

    /// The instruction is interpreted if the condition holds.
    fn interpreted_if(&mut self, condition: Condition, at: StateId) {
        let to = Target::Interpreter(self.block.states[at as usize].pc);
        self.leave_if(condition, to, at);
    }

    /// The same, with the flags that were there before.
    fn undone_if(&mut self, condition: Condition, at: StateId) {
        let to = Target::InterpreterAsBefore(self.block.states[at as usize].pc);
        self.leave_if(condition, to, at);
    }

    /// Less (8), equal (4 and 2), greater (2).
    fn order(&mut self, own: Value, lane: u8, a: Val, b: Val, at: StateId) -> Result<(), TooBig> {
        let (a, b) = (self.vector_operand(a, SCRATCH), self.vector_operand(b, OTHER));
        let prefix = if lane == 64 { Prefix::P66 } else { Prefix::None };
        self.code.vector_one(Vex::new(prefix, Map::M0F, 0x2e), a, b);
        self.interpreted_if(Condition::Parity, at);
        self.code.setcc(Condition::Below, Reg::Rax);
        self.code.setcc(Condition::Equal, Reg::Rcx);
        let to = self.destination(own)?;
        self.code.movzx8(to, Reg::Rax);
        self.code.movzx8(Reg::Rcx, Reg::Rcx);
        // 2, and 6 if less, and 4 if equal.
        self.code.lea(Size::S64, Reg::Rax, Mem::sum(to, to, 1));
        self.code.alu(Alu::Add, Size::S32, to, Reg::Rax);
        self.code.lea(Size::S64, to, Mem::sum(to, Reg::Rcx, 0));
        self.code.alu(Alu::Add, Size::S32, to, to);
        self.code.lea(Size::S64, to, Mem::sum(to, Reg::Rcx, 0));
        self.code.lea(Size::S64, to, Mem::sum(to, Reg::Rcx, 0));
        Ok(())
    }

    fn integral(
        &mut self,
        own: Value,
        which: Float,
        (lane, width): (u8, u8),
        rounding: u8,
        a: Val,
        at: StateId,
    ) -> Result<(), TooBig> {
        let to = self.vector_destination(own)?;
        let a = self.vector_operand(a, SCRATCH);
        let how = host_rounding(rounding) | if which == Float::Integral { 8 } else { 0 };
        let opcode = match (lane == width, lane) {
            (true, 64) => 0x0b,
            (true, _) => 0x0a,
            (false, 64) => 0x09,
            (false, _) => 0x08,
        };
        if lane == width {
            self.code.vector(XOR, OTHER, OTHER, OTHER);
            self.code.vector_imm(p66_3a(opcode), to, OTHER, a, how);
        } else {
            self.code.vector_one_imm(p66_3a(opcode), to, a, how);
        }
        self.unless_number(to, lane, width, at);
        Ok(())
    }

    fn as_integer(
        &mut self,
        own: Value,
        which: Float,
        lane: u8,
        rounding: u8,
        a: Val,
        at: StateId,
    ) -> Result<(), TooBig> {
        let to = self.destination(own)?;
        let mut from = self.vector_operand(a, SCRATCH);
        let is_half = matches!(which, Float::ToSignedHalf | Float::ToUnsignedHalf);
        let is_unsigned = matches!(which, Float::ToUnsigned | Float::ToUnsignedHalf);
        // Nearest is how the host converts; other ways but towards zero round first.
        let opcode = if rounding == 0 { 0x2d } else { 0x2c };
        if is_unsigned || rounding > 1 {
            // The host may call inexact what does not fit at all.
            self.code.float_control(header(head::FLOAT_BEFORE), true);
        }
        if rounding > 1 {
            self.code.vector(XOR, OTHER, OTHER, OTHER);
            let round = if lane == 64 { 0x0b } else { 0x0a };
            self.code.vector_imm(p66_3a(round), SCRATCH, OTHER, from, host_rounding(rounding));
            from = SCRATCH;
        }
        let vex = Vex::new(if lane == 64 { Prefix::F2 } else { Prefix::F3 }, Map::M0F, opcode);
        let made = if is_half || lane == 32 { 32 } else { 64 };
        let is_wide = made == 64 || is_unsigned;
        self.code.vector_to_general(if is_wide { vex.wide() } else { vex }, to, from);
        if is_unsigned && made == 32 {
            // It fits if nothing is above.
            self.code.mov(Size::S32, Reg::Rdx, to);
            self.code.alu(Alu::Cmp, Size::S64, Reg::Rdx, to);
            self.undone_if(Condition::NotEqual, at);
        } else if is_unsigned {
            self.code.test(Size::S64, to, to);
            self.undone_if(Condition::Sign, at);
        } else {
            // The least number is what the host gives if it does not fit.
            self.code.mov_imm(Reg::Rdx, 1 << (made - 1));
            self.code.alu(Alu::Cmp, Size::of(made), to, Reg::Rdx);
            if rounding > 1 {
                self.undone_if(Condition::Equal, at);
            } else {
                self.interpreted_if(Condition::Equal, at);
            }
        }
        Ok(())
    }
}

/// A rounding as the host's instructions count them.
fn host_rounding(rounding: u8) -> u8 {
    match rounding {
        1 => 3,
        2 => 1,
        3 => 2,
        _ => 0,
    }
}
