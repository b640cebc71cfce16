//! Evaluates plans that depend on nothing but an instruction's bits: conditions of the decoder, operands of assembly.

use crate::ops::{self, mask, signed};
use crate::plan::{Id, Op, Plan};
use crate::tables::Field;

/// What such a plan gives for this instruction.
pub(crate) fn evaluate(plan: &Plan, fields: &[Field], word: u32) -> u128 {
    let mut values = vec![0u128; plan.nodes.len()];
    let mut slots = vec![0u128; plan.slots.into()];
    let mut at = 0;
    while let Some(node) = plan.nodes.get(at) {
        let of = |id: Id| values[id as usize];
        let width = |id: Id| plan.nodes[id as usize].width;
        let own = at;
        at += 1;
        let value = match node.op {
            Op::Const(value) => value.into(),
            Op::Wide(number) => plan.wide[number as usize],
            Op::Field(number) => fields[usize::from(number)].of(word).into(),
            Op::Unary(operator, a) => ops::unary(operator, width(a), of(a)),
            Op::Binary(operator, a, b) => ops::binary(operator, width(a), of(a), of(b)),
            Op::Select(condition, yes, no) => of(if of(condition) != 0 { yes } else { no }),
            Op::Slice(a, low) => of(a) >> low & mask(node.width),
            Op::Concat(a, b) => of(a) << width(b) | of(b),
            Op::Zext(a) => of(a),
            Op::Sext(a) => signed(of(a), width(a)) as u128 & mask(node.width),
            Op::SumFlags(a, b, c) => ops::sum_flags(width(a), of(a) as u64, of(b) as u64, of(c) as u64).into(),
            Op::Intrinsic { which, lane, of: [a, b, c] } => ops::intrinsic(which, lane, width(a), of(a), of(b), of(c)),
            Op::Get(slot) => slots[usize::from(slot)],
            Op::Put(slot, a) => {
                slots[usize::from(slot)] = of(a);
                0
            }
            Op::If(condition, other) => {
                if of(condition) == 0 {
                    at = other as usize + 1;
                }
                0
            }
            Op::Else(end) | Op::Leave(end) => {
                at = end as usize;
                0
            }
            Op::Switch(value, table) => {
                at = plan.tables[table as usize].target(of(value) as u64) as usize;
                0
            }
            Op::Give(a) => return of(a),
            // The compiler lets nothing else into such plans.
            _ => 0,
        };
        values[own] = value;
    }
    0
}
