//! Condition flags, as what they are the flags of.
//!
//! They are no variable: a loop that compares at each turn stores what it compares, instead of putting four bits together
//! that mostly nobody looks at.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{self, InstBuilder as _, types};

use super::super::super::generate::Call;
use super::super::super::ir::{Ir, Val};
use super::super::flags;
use super::super::form::Region;
use super::{Lowerer, trusted};
use crate::state::head;

/// Where the register of flags is, if a region computes any. Nothing if there are several.
pub(super) fn register(region: &Region) -> Option<Option<u32>> {
    let mut found = None;
    for block in &region.blocks {
        for at in block.code.iter().filter_map(Ir::state) {
            for dirty in block.dirty(at) {
                let Val::Value(value) = dirty.value else { continue };
                let is_flags = matches!(block.code[value as usize], Ir::Flags { .. });
                if is_flags && *found.get_or_insert(dirty.offset) != dirty.offset {
                    return None;
                }
            }
        }
    }
    Some(found)
}

impl Lowerer<'_, '_> {
    /// Leaves in the head what flags are the flags of.
    pub(super) fn store_flags(&mut self, of: Val) -> Option<()> {
        let made = match of {
            Val::Value(value) => self.block().code[value as usize],
            Val::Number(_) => Ir::Clock,
        };
        let (words, kind) = match made {
            Ir::Flags { width, a, b, carry } => {
                let which = if width == 64 { flags::SUM64 } else { flags::SUM32 };
                match carry {
                    Val::Number(0) => ([Some(a), Some(b), None], which),
                    Val::Number(1) => ([Some(a), Some(b), None], which | flags::CARRY_IS_ONE),
                    carry => ([Some(a), Some(b), Some(carry)], which | flags::CARRY_IN_WORD),
                }
            }
            _ => ([Some(of), None, None], flags::NUMBER),
        };
        for (word, value) in (flags::FIRST..).zip(words) {
            if let Some(value) = value {
                let value = self.value(value)?;
                self.set_word(head::FLAGS + word, value);
            }
        }
        self.set_kind(u64::from(self.flags?) << flags::OFFSET_AT | u64::from(kind));
        Some(())
    }

    /// Flags are in the state.
    pub(super) fn flags_are_there(&mut self) {
        self.set_kind(0);
    }

    fn set_kind(&mut self, kind: u64) {
        let kind = self.number(kind);
        self.set_word(head::FLAGS + flags::KIND, kind);
    }

    /// Those that blocks before this one left.
    pub(super) fn read_flags(&mut self) -> Option<ir::Value> {
        let offset = self.flags?;
        self.call(Call::Flags, &[self.state]);
        Some(self.b.ins().load(types::I64, trusted(), self.state, (head::SIZE + offset) as i32))
    }

    /// N, Z, C and V of a sum: bits 3 to 0.
    pub(super) fn flags(&mut self, width: u8, a: Val, b: Val, carry: Val) -> Option<ir::Value> {
        let (a, b, carry) = (self.sized(a, width)?, self.sized(b, width)?, self.sized(carry, width)?);
        let type_of = self.b.func.dfg.value_type(a);
        let part = self.b.ins().iadd(a, b);
        let sum = self.b.ins().iadd(part, carry);
        let zero = self.b.ins().iconst(type_of, 0);
        let first = self.b.ins().icmp(IntCC::UnsignedLessThan, part, a);
        let second = self.b.ins().icmp(IntCC::UnsignedLessThan, sum, part);
        let c = self.b.ins().bor(first, second);
        let z = self.b.ins().icmp(IntCC::Equal, sum, zero);
        let n = self.b.ins().icmp(IntCC::SignedLessThan, sum, zero);
        let (from_a, from_b) = (self.b.ins().bxor(sum, a), self.b.ins().bxor(sum, b));
        let both = self.b.ins().band(from_a, from_b);
        let v = self.b.ins().icmp(IntCC::SignedLessThan, both, zero);
        let mut all = self.b.ins().uextend(types::I64, v);
        for (bit, by) in [(c, 1), (z, 2), (n, 3)] {
            let bit = self.b.ins().uextend(types::I64, bit);
            let bit = self.b.ins().ishl_imm_u(bit, by);
            all = self.b.ins().bor(all, bit);
        }
        Some(all)
    }
}
