//! Pages that a loop walks through: known without a look at the tables as long as it stays on them.
//!
//! An address that is made of registers which do not change in the loop, or by a small number at each turn, is mostly on the
//! page that it was on before. That page, and where it is in our memory, are two variables: a comparison says whether they
//! hold, and the access does not wait for a table. **A window does not outlive the region**, nor anything that is asked of
//! the processor: whoever wants pages to be somewhere else has it leave first.

use std::collections::BTreeSet;

use cranelift_codegen::ir::{InstBuilder as _, types};
use cranelift_frontend::{FunctionBuilder, Variable};
use isa::ops::Binary;
use rustc_hash::FxHashMap;

use super::super::super::ir::{Block, Ir, Val};
use super::super::form::Region;
use super::Lowerer;

/// More take registers that the loop needs.
const MOST: usize = 8;
/// By so many bytes a register moves at most at a turn.
const STEP: u64 = 256;
/// No page begins there.
const NOWHERE: i64 = 1;

/// A page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    /// Where it begins, or [`NOWHERE`].
    pub(super) page: Variable,
    /// What is added to an address on it to have ours.
    pub(super) addend: Variable,
}

/// Those of a region.
pub(super) struct Windows {
    /// Registers that move a little or not at all.
    slow: BTreeSet<u32>,
    all: [Window; MOST],
    /// Whose they are: registers that addresses are made of, and the table.
    known: FxHashMap<(Vec<u32>, i32), usize>,
}

impl Windows {
    /// Where a region is entered, none is known. `variables` are the registers that may be looked at.
    pub(super) fn of(b: &mut FunctionBuilder<'_>, region: &Region, variables: impl Iterator<Item = u32>) -> Windows {
        let is_slow = |offset: &u32| {
            region.blocks.iter().all(|block| {
                let mut states = block.code.iter().filter_map(Ir::state);
                states
                    .all(|at| block.dirty(at).iter().all(|it| it.offset != *offset || steps(block, it.value, *offset)))
            })
        };
        let nowhere = b.ins().iconst(types::I64, NOWHERE);
        let all = std::array::from_fn(|_| {
            let window = Window { page: b.declare_var(types::I64), addend: b.declare_var(types::I64) };
            b.def_var(window.page, nowhere);
            b.def_var(window.addend, nowhere);
            window
        });
        Windows { slow: variables.filter(is_slow).collect(), all, known: FxHashMap::default() }
    }

    /// That for an address, if it has one.
    fn find(&mut self, block: &Block, address: Val, table: i32) -> Option<Window> {
        let mut registers = BTreeSet::new();
        if !self.moves_slowly(block, address, &mut registers) || registers.is_empty() {
            return None;
        }
        let next = self.known.len();
        let number = *self.known.entry((registers.into_iter().collect(), table)).or_insert(next);
        self.all.get(number).copied()
    }

    /// Whether a value is a sum of slow registers and numbers; adds the registers.
    fn moves_slowly(&self, block: &Block, value: Val, registers: &mut BTreeSet<u32>) -> bool {
        let Val::Value(value) = value else { return true };
        match block.code[value as usize] {
            Ir::Read { offset } => {
                registers.insert(offset);
                self.slow.contains(&offset)
            }
            Ir::Binary(Binary::Add | Binary::Subtract, _, a, b) => {
                self.moves_slowly(block, a, registers) && self.moves_slowly(block, b, registers)
            }
            Ir::Binary(Binary::ShiftLeft, _, a, Val::Number(0..=5)) => self.moves_slowly(block, a, registers),
            Ir::Sext { of, from: 32, .. } | Ir::Slice { of, low: 0, width: 32 } => {
                self.moves_slowly(block, of, registers)
            }
            _ => false,
        }
    }
}

/// Whether a value is what a register was, and a small number.
fn steps(block: &Block, value: Val, register: u32) -> bool {
    let is_small =
        |number: u64| number <= STEP || number.wrapping_neg() <= STEP || (number as u32).wrapping_neg() <= STEP as u32;
    let Val::Value(value) = value else { return false };
    match block.code[value as usize] {
        Ir::Read { offset } => offset == register,
        Ir::Binary(Binary::Add | Binary::Subtract, _, of, Val::Number(by)) => {
            is_small(by) && steps(block, of, register)
        }
        Ir::Slice { of, low: 0, width: 32 } => steps(block, of, register),
        _ => false,
    }
}

impl Lowerer<'_, '_> {
    pub(super) fn window(&mut self, address: Val, table: i32, how: u8) -> Option<Window> {
        let block = self.block();
        if how != 0 { None } else { self.windows.find(block, address, table) }
    }

    /// None of them holds any more.
    pub(super) fn close_windows(&mut self) {
        let nowhere = self.b.ins().iconst(types::I64, NOWHERE);
        for window in self.windows.all {
            self.b.def_var(window.page, nowhere);
        }
    }
}
