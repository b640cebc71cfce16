//! What becomes of values: where each is last used, and which are made where they are used.
//!
//! The host has instructions that do two operations at once: a load with its sign, a part of a register that is in memory, a
//! sum with something shifted. An operation that the next one can do with is a *part* of it: it is not done where it stands,
//! and **its operands are there as long as that one's.**

use isa::ops::{Binary, Unary, mask64};

use super::super::ir::{Block, Class, Ir, Val, Value};

#[derive(Default)]
pub(super) struct Uses {
    /// Where each is last used; 0 if it is not.
    pub(super) last: Vec<u32>,
    /// Flags that nobody uses but who looks at the state: they are computed there, which mostly is cold code.
    pub(super) is_late: Vec<bool>,
    /// Whether it is a part of the next one.
    pub(super) is_part: Vec<bool>,
    /// Whether it is used by an operation.
    is_operand: Vec<bool>,
}

impl Uses {
    pub(super) fn find(&mut self, block: &Block) {
        let Uses { last, is_late, is_part, is_operand } = self;
        last.clear();
        last.resize(block.code.len(), 0);
        for list in [&mut *is_late, &mut *is_part, &mut *is_operand] {
            list.clear();
            list.resize(block.code.len(), false);
        }
        let mut next = None;
        for (at, ir) in block.code.iter().enumerate().rev() {
            if ir.is_pure() && last[at] == 0 {
                continue;
            }
            is_late[at] = matches!(ir, Ir::Flags { .. }) && !is_operand[at];
            let user = next.filter(|user| last[at] == *user && has_part(block, *user, at as Value));
            is_part[at] = user.is_some();
            let until = if is_late[at] { last[at] } else { user.unwrap_or(at as u32) };
            if !is_late[at] {
                next = Some(until);
            }
            let mut used = |value: Val| {
                if let Val::Value(value) = value {
                    let last = &mut last[value as usize];
                    *last = (*last).max(until);
                    is_operand[value as usize] = true;
                }
            };
            match FlagsOf::of(block, *ir) {
                Some(FlagsOf { a, b, carry, .. }) => [a, b, carry].into_iter().for_each(&mut used),
                None => ir.each(&mut used),
            }
            if let Some(state) = ir.state() {
                for dirty in block.dirty(state) {
                    if let Val::Value(value) = dirty.value {
                        let last = &mut last[value as usize];
                        *last = (*last).max(until);
                    }
                }
            }
        }
    }

    /// Calls with each value that an operation uses, or a part of it.
    pub(super) fn each(&self, block: &Block, at: Value, f: &mut impl FnMut(Value)) {
        block.code[at as usize].each(|value| {
            if let Val::Value(value) = value {
                f(value);
                if self.is_part[value as usize] {
                    block.code[value as usize].each(|value| {
                        if let Val::Value(value) = value {
                            f(value);
                        }
                    });
                }
            }
        });
    }
}

/// Whether an operation can be done with another, which nobody else uses.
fn has_part(block: &Block, user: Value, part: Value) -> bool {
    let is_part = |value: Val| value == Val::Value(part);
    match (block.code[user as usize], block.code[part as usize]) {
        (Ir::Slice { of, low: 0, width: 8 | 16 | 32 }, Ir::Read { .. })
        | (Ir::Sext { of, from: 8 | 16 | 32, .. }, Ir::Read { .. }) => is_part(of),
        (Ir::Sext { of, from, .. }, Ir::Load { width: width @ (8 | 16 | 32), class: Class::General, .. }) => {
            is_part(of) && from == width
        }
        (Ir::Binary(Binary::Add, width, a, b), Ir::Binary(Binary::ShiftLeft, w, Val::Value(_), Val::Number(1..=3))) => {
            let is_sum = |part: Val, other: Val| is_part(part) && !is_part(other) && matches!(other, Val::Value(_));
            matches!(width, 32 | 64) && width == w && (is_sum(a, b) || is_sum(b, a))
        }
        _ => false,
    }
}

/// What flags are computed of: a sum with a carry, or a difference.
#[derive(Debug, Clone, Copy)]
pub(super) struct FlagsOf {
    pub(super) width: u8,
    pub(super) a: Val,
    pub(super) b: Val,
    pub(super) carry: Val,
    pub(super) is_difference: bool,
}

impl FlagsOf {
    /// A sum of the inverse and one is a difference, and then the inverse is not needed.
    pub(super) fn of(block: &Block, ir: Ir) -> Option<FlagsOf> {
        let Ir::Flags { width, a, b, carry } = ir else { return None };
        let subtrahend = match (carry, b) {
            (Val::Number(1), Val::Number(b)) => Some(Val::Number(!b & mask64(width))),
            (Val::Number(1), Val::Value(b)) => match block.code[b as usize] {
                Ir::Unary(Unary::Invert, w, inner) if w == width => Some(inner),
                _ => None,
            },
            _ => None,
        };
        Some(FlagsOf { width, a, b: subtrahend.unwrap_or(b), carry, is_difference: subtrahend.is_some() })
    }
}
