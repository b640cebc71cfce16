//! What an operation is worth when something is known of its operands.

use super::builder::Builder;
use crate::ops::{self, Binary, mask};
use crate::plan::{Id, Op};

/// A simpler operation with the same value.
pub(super) fn simplify(builder: &mut Builder, op: Op, width: u8) -> Option<Id> {
    if let Some(value) = fold(builder, op, width) {
        return Some(builder.constant(value, width));
    }
    match op {
        Op::Binary(operator, a, b) => of_binary(builder, operator, a, b),
        Op::Select(condition, yes, no) => match builder.known(condition) {
            Some(0) => Some(no),
            Some(_) => Some(yes),
            None => (yes == no).then_some(yes),
        },
        Op::Slice(a, low) => of_slice(builder, a, low, width),
        Op::Zext(a) | Op::Sext(a) => (builder.width(a) == width).then_some(a),
        _ => None,
    }
}

/// The value if all operands are numbers.
fn fold(builder: &Builder, op: Op, width: u8) -> Option<u128> {
    let known = |id: Id| builder.known(id);
    Some(match op {
        Op::Unary(operator, a) => ops::unary(operator, builder.width(a), known(a)?),
        Op::Binary(operator, a, b) => ops::binary(operator, builder.width(a), known(a)?, known(b)?),
        Op::Slice(a, low) => known(a)? >> low & mask(width),
        Op::Concat(a, b) => known(a)? << builder.width(b) | known(b)?,
        Op::Zext(a) => known(a)?,
        Op::Sext(a) => ops::signed(known(a)?, builder.width(a)) as u128 & mask(width),
        Op::Intrinsic { which, lane, of: [a, b, c] } => {
            ops::intrinsic(which, lane, builder.width(a), known(a)?, known(b)?, known(c)?)
        }
        Op::SumFlags(a, b, c) => {
            let of = |id: Id| known(id).map(|value| value as u64);
            ops::sum_flags(builder.width(a), of(a)?, of(b)?, of(c)?).into()
        }
        _ => return None,
    })
}

fn of_binary(builder: &mut Builder, operator: Binary, a: Id, b: Id) -> Option<Id> {
    let width = builder.width(a);
    let (left, right) = (builder.known(a), builder.known(b));
    match operator {
        Binary::Add | Binary::Or | Binary::Xor if left == Some(0) => Some(b),
        Binary::Add | Binary::Subtract | Binary::Or | Binary::Xor if right == Some(0) => Some(a),
        Binary::ShiftLeft | Binary::ShiftRight | Binary::SignedShiftRight if right == Some(0) => Some(a),
        Binary::And if left == Some(0) => Some(a),
        Binary::And if right == Some(0) => Some(b),
        Binary::And if left == Some(mask(width)) => Some(b),
        Binary::And if right == Some(mask(width)) => Some(a),
        Binary::And | Binary::Or if a == b => Some(a),
        Binary::Xor | Binary::Subtract if a == b => Some(builder.constant(0, width)),
        Binary::Equal if a == b => Some(builder.constant(1, 1)),
        Binary::Equal if width == 1 && right == Some(1) => Some(a),
        _ => None,
    }
}

fn of_slice(builder: &mut Builder, a: Id, low: u8, width: u8) -> Option<Id> {
    if low == 0 && builder.width(a) == width {
        return Some(a);
    }
    match builder.op(a) {
        Op::Slice(inner, inner_low) => Some(builder.pure(Op::Slice(inner, inner_low + low), width)),
        Op::Concat(_, below) if low + width <= builder.width(below) => Some(builder.pure(Op::Slice(below, low), width)),
        Op::Concat(above, below) if low >= builder.width(below) => {
            let low = low - builder.width(below);
            Some(builder.pure(Op::Slice(above, low), width))
        }
        Op::Zext(inner) | Op::Sext(inner) if low + width <= builder.width(inner) => {
            Some(builder.pure(Op::Slice(inner, low), width))
        }
        Op::Zext(inner) if low >= builder.width(inner) => Some(builder.constant(0, width)),
        _ => None,
    }
}
