//! What computes, and what goes elsewhere.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{self, InstBuilder as _, types};
use isa::ops::{Binary, Unary, mask64};

use super::super::super::generate::Access;
use super::super::super::ir::{Block, Class, Fence, Ir, Modes, Test, TestKind, Val, Value};
use super::{Later, Lowerer};

/// Whether all that a block does is known here.
pub(in super::super) fn is_known(block: &Block) -> bool {
    let is_narrow = |ir: &Ir| ir.state().is_none_or(|at| block.dirty(at).iter().all(|it| !it.is_wide));
    block.instructions > 0
        && block.code.iter().all(|ir| {
            is_narrow(ir)
                && match *ir {
                    Ir::Read { .. }
                    | Ir::Page { .. }
                    | Ir::Unary(..)
                    | Ir::Binary(..)
                    | Ir::Select(..)
                    | Ir::Slice { .. }
                    | Ir::Sext { .. }
                    | Ir::Flags { .. }
                    | Ir::Window { .. }
                    | Ir::Store { width: 8..=64, .. }
                    | Ir::Load { width: 8..=64, class: Class::General, .. }
                    | Ir::Fence(Fence::Memory)
                    | Ir::ExitIf { .. }
                    | Ir::Exit { modes: Modes::Same, .. } => true,
                    Ir::Load { .. }
                    | Ir::Store { .. }
                    | Ir::Clock
                    | Ir::FloatFlags { .. }
                    | Ir::SetFloatFlags { .. }
                    | Ir::Vector(_)
                    | Ir::Atomic { .. }
                    | Ir::CompareAndSwap { .. }
                    | Ir::Fence(Fence::Clock)
                    | Ir::Settle { .. }
                    | Ir::Synchronise { .. }
                    | Ir::Poll { .. }
                    | Ir::Interpret { .. }
                    | Ir::Exit { .. } => false,
                }
        })
}

fn type_of(width: u8) -> ir::Type {
    if width <= 32 { types::I32 } else { types::I64 }
}

impl Lowerer<'_, '_> {
    pub(super) fn operation(&mut self, own: Value, ir: Ir) -> Option<()> {
        let value = match ir {
            Ir::Read { offset } if self.flags == Some(offset) => self.read_flags()?,
            Ir::Read { offset } => self.b.use_var(*self.registers.get(&offset)?),
            Ir::Page { plus } => self.b.ins().iadd_imm_s(self.page, i64::from(plus as i32)),
            Ir::Unary(operator, width, a) => self.unary(operator, width, a)?,
            Ir::Binary(operator, width, a, b) => self.binary(operator, width, a, b)?,
            Ir::Select(_, test, yes, no) => {
                let (test, yes, no) = (self.test(test)?, self.value(yes)?, self.value(no)?);
                self.b.ins().select(test, yes, no)
            }
            Ir::Slice { of, low, width } => {
                let of = self.value(of)?;
                let of = if low > 0 { self.b.ins().ushr_imm_u(of, i64::from(low)) } else { of };
                if low + width < 64 { self.trim(of, width) } else { of }
            }
            Ir::Sext { of, from, to } => self.sext(of, from, to)?,
            // Made where they are used.
            Ir::Flags { .. } => return Some(()),
            Ir::Window { base, low, high, table, .. } if ir.is_open() => return self.open(own, base, low..high, table),
            Ir::Window { .. } => return Some(()),
            Ir::Load { address, offset, window, width, how, at, .. } => {
                self.load(Access { address, offset, window, width, how, at })?
            }
            Ir::Store { address, offset, window, value, width, how, at } => {
                return self.store(value, Access { address, offset, window, width, how, at });
            }
            Ir::Fence(_) => {
                self.b.ins().fence();
                return Some(());
            }
            Ir::ExitIf { test, to, at } => {
                let test = self.test(test)?;
                let (leaves, stays) = (self.b.create_block(), self.b.create_block());
                self.b.ins().brif(test, leaves, &[], stays, &[]);
                self.later.push(Later::Exit { begin: leaves, at, to });
                self.b.switch_to_block(stays);
                return Some(());
            }
            Ir::Exit { to, at, .. } => return self.exit(at, to),
            _ => return None,
        };
        self.values[own as usize] = Some(value);
        Some(())
    }

    /// The low bits of a value, as many as it is computed in.
    pub(super) fn sized(&mut self, value: Val, width: u8) -> Option<ir::Value> {
        if let Val::Number(number) = value {
            let number = if width <= 32 { i64::from(number as u32 as i32) } else { number as i64 };
            return Some(match type_of(width) {
                types::I32 => self.b.ins().iconst(types::I32, i64::from(number as u32)),
                _ => self.b.ins().iconst(types::I64, number),
            });
        }
        let value = self.value(value)?;
        Some(if width <= 32 { self.b.ins().ireduce(types::I32, value) } else { value })
    }

    /// Zeros above.
    fn whole(&mut self, value: ir::Value) -> ir::Value {
        if self.b.func.dfg.value_type(value) == types::I64 { value } else { self.b.ins().uextend(types::I64, value) }
    }

    /// So many low bits of a value of 64.
    fn trim(&mut self, value: ir::Value, width: u8) -> ir::Value {
        match width {
            64 => value,
            8 | 16 | 32 => {
                let narrow = self.b.ins().ireduce(ir::Type::int(width.into()).unwrap_or(types::I32), value);
                self.b.ins().uextend(types::I64, narrow)
            }
            _ => self.b.ins().band_imm_s(value, mask64(width) as i64),
        }
    }

    /// A result that was computed in 32 or 64 bits, of which so many count.
    fn result(&mut self, value: ir::Value, width: u8) -> ir::Value {
        let value = self.whole(value);
        if matches!(width, 32 | 64) { value } else { self.trim(value, width) }
    }

    fn unary(&mut self, operator: Unary, width: u8, a: Val) -> Option<ir::Value> {
        let a = self.sized(a, width)?;
        let more = if width <= 32 { 32 - width } else { 64 - width };
        let value = match operator {
            Unary::Invert => self.b.ins().bnot(a),
            Unary::Negate => self.b.ins().ineg(a),
            Unary::LeadingZeros => self.b.ins().clz(a),
            Unary::TrailingZeros => self.b.ins().ctz(a),
            Unary::Ones => self.b.ins().popcnt(a),
            Unary::ReverseBytes => self.b.ins().bswap(a),
            Unary::ReverseBits => {
                let reversed = self.b.ins().bitrev(a);
                self.b.ins().ushr_imm_u(reversed, i64::from(more))
            }
        };
        Some(self.result(value, width))
    }

    fn binary(&mut self, operator: Binary, width: u8, a: Val, b: Val) -> Option<ir::Value> {
        if let (Binary::ShiftLeft | Binary::ShiftRight | Binary::SignedShiftRight, Val::Number(by)) = (operator, b) {
            return self.shift(operator, width, a, by);
        }
        let (a, b) = (self.sized(a, width)?, self.sized(b, width)?);
        let value = match operator {
            Binary::Add => self.b.ins().iadd(a, b),
            Binary::Subtract => self.b.ins().isub(a, b),
            Binary::Multiply => self.b.ins().imul(a, b),
            Binary::MultiplyHigh => self.b.ins().umulhi(a, b),
            Binary::SignedMultiplyHigh => self.b.ins().smulhi(a, b),
            Binary::Divide | Binary::SignedDivide | Binary::Remainder | Binary::SignedRemainder => {
                self.divide(operator, a, b)
            }
            Binary::And => self.b.ins().band(a, b),
            Binary::Or => self.b.ins().bor(a, b),
            Binary::Xor => self.b.ins().bxor(a, b),
            Binary::ShiftLeft => self.b.ins().ishl(a, b),
            Binary::ShiftRight => self.b.ins().ushr(a, b),
            Binary::SignedShiftRight => self.b.ins().sshr(a, b),
            Binary::RotateRight => self.b.ins().rotr(a, b),
            Binary::Equal => return Some(self.compared(IntCC::Equal, a, b)),
            Binary::Less => return Some(self.compared(IntCC::UnsignedLessThan, a, b)),
            Binary::SignedLess => return Some(self.compared(IntCC::SignedLessThan, a, b)),
        };
        Some(self.result(value, width))
    }

    fn compared(&mut self, condition: IntCC, a: ir::Value, b: ir::Value) -> ir::Value {
        let is = self.b.ins().icmp(condition, a, b);
        self.b.ins().uextend(types::I64, is)
    }

    fn shift(&mut self, operator: Binary, width: u8, a: Val, by: u64) -> Option<ir::Value> {
        let most = if width <= 32 { 31 } else { 63 };
        if by >= u64::from(width) && operator != Binary::SignedShiftRight {
            return Some(self.number(0));
        }
        let (a, by) = (self.sized(a, width)?, by.min(most) as i64);
        let value = match operator {
            Binary::ShiftLeft => self.b.ins().ishl_imm_u(a, by),
            Binary::ShiftRight => self.b.ins().ushr_imm_u(a, by),
            _ => self.b.ins().sshr_imm_u(a, by),
        };
        Some(if operator == Binary::ShiftLeft { self.result(value, width) } else { self.whole(value) })
    }

    /// By zero: nothing, and the dividend. By -1: the negative, and nothing, for the least number has no other.
    fn divide(&mut self, operator: Binary, a: ir::Value, b: ir::Value) -> ir::Value {
        let type_of = self.b.func.dfg.value_type(a);
        let is_signed = matches!(operator, Binary::SignedDivide | Binary::SignedRemainder);
        let is_quotient = matches!(operator, Binary::Divide | Binary::SignedDivide);
        let (zero, one) = (self.b.ins().iconst(type_of, 0), self.b.ins().iconst(type_of, 1));
        let by_zero = self.b.ins().icmp(IntCC::Equal, b, zero);
        let mut divisor = self.b.ins().select(by_zero, one, b);
        let by_minus_one = self.b.ins().icmp_imm_s(IntCC::Equal, b, -1);
        if is_signed {
            divisor = self.b.ins().select(by_minus_one, one, divisor);
        }
        let value = match operator {
            Binary::Divide => self.b.ins().udiv(a, divisor),
            Binary::SignedDivide => self.b.ins().sdiv(a, divisor),
            Binary::Remainder => self.b.ins().urem(a, divisor),
            _ => self.b.ins().srem(a, divisor),
        };
        let value = match (is_signed, is_quotient) {
            (true, true) => {
                let negative = self.b.ins().ineg(a);
                self.b.ins().select(by_minus_one, negative, value)
            }
            // By one, which stands for it, nothing is left, too.
            (true, false) | (false, _) => value,
        };
        let otherwise = if is_quotient { zero } else { a };
        self.b.ins().select(by_zero, otherwise, value)
    }

    fn sext(&mut self, of: Val, from: u8, to: u8) -> Option<ir::Value> {
        let of = self.value(of)?;
        let value = match ir::Type::int(from.into()) {
            Some(narrow) if narrow.bits() < 64 => {
                let narrow = self.b.ins().ireduce(narrow, of);
                self.b.ins().sextend(types::I64, narrow)
            }
            _ => {
                let by = 64 - i64::from(from);
                let top = self.b.ins().ishl_imm_u(of, by);
                self.b.ins().sshr_imm_u(top, by)
            }
        };
        Some(self.trim(value, to))
    }

    fn test(&mut self, test: Test) -> Option<ir::Value> {
        let condition = match test.kind {
            TestKind::Equal => IntCC::Equal,
            TestKind::NotEqual => IntCC::NotEqual,
            TestKind::Below => IntCC::UnsignedLessThan,
            TestKind::NotBelow => IntCC::UnsignedGreaterThanOrEqual,
            TestKind::Less => IntCC::SignedLessThan,
            TestKind::NotLess => IntCC::SignedGreaterThanOrEqual,
        };
        let (a, b) = (self.sized(test.a, test.width)?, self.sized(test.b, test.width)?);
        Some(self.b.ins().icmp(condition, a, b))
    }
}
