//! Accesses that are near each other look for their page once.
//!
//! Fields of a structure, what a function saves on its stack, and a few turns of a loop through an array are numbers added to
//! one address. The first of such accesses finds the page for all of them, which is what stands before it (`Ir::Window`); one
//! that is alone looks by itself. Nothing that is asked of the processor in between leaves a window open: it may be
//! that pages are somewhere else then.

use isa::ops::Binary;
use isa::plan::access;

use super::super::ir::{Ir, Table, Val, Value};
use super::Maker;

/// More bytes are too seldom on one page.
const WIDEST: i32 = 512;
/// Nobody adds more to an address, but for parts of the address itself.
const FARTHEST: i64 = 1 << 20;

/// So many operations of an address are looked at, one behind the other.
const DEEPEST: u8 = 24;

impl Maker<'_> {
    /// How an access is done: the address that it is near, how far from there, and through which window.
    pub(super) fn window(&mut self, address: Val, width: u8, how: u8, table: Table) -> (Val, i32, Option<Value>) {
        let (base, offset) = self.base(address);
        if how & access::UNPRIVILEGED != 0 || !matches!(base, Val::Value(_)) {
            return (address, 0, None);
        }
        let (low, high) = (offset, offset + i32::from(width / 8));
        if let Some(known) = self.windows.get(&base).copied()
            && let Ir::Window { low: first, high: last, uses, table: for_all, .. } =
                &mut self.block.code[known as usize]
            && (*last).max(high) - (*first).min(low) <= WIDEST
        {
            (*first, *last) = ((*first).min(low), (*last).max(high));
            // Who may write may read.
            if table == Table::Write {
                *for_all = Table::Write;
            }
            *uses += 1;
            return (base, offset, Some(known));
        }
        let Val::Value(window) = self.effect(Ir::Window { base, low, high, table, uses: 1 }) else {
            return (base, offset, None);
        };
        self.windows.insert(base, window);
        (base, offset, Some(window))
    }

    /// An address as another one and a number.
    fn base(&mut self, address: Val) -> (Val, i32) {
        match self.split(address, DEEPEST) {
            (base, offset) if (-FARTHEST..FARTHEST).contains(&offset) => (base, offset as i32),
            _ => (address, 0),
        }
    }

    /// A sum, in which a number may be anywhere, as what is left without it, and the number.
    fn split(&mut self, sum: Val, depth: u8) -> (Val, i64) {
        let Some(Ir::Binary(operator, 64, a, b)) = self.of(sum).filter(|_| depth > 0) else { return (sum, 0) };
        match (operator, b) {
            (Binary::Add | Binary::Subtract, Val::Number(by)) => {
                let by = if operator == Binary::Add { by as i64 } else { (by as i64).wrapping_neg() };
                let (a, more) = self.split(a, depth - 1);
                (a, by.wrapping_add(more))
            }
            (Binary::Add, b) => {
                let ((a, one), (b, other)) = (self.split(a, depth - 1), self.split(b, depth - 1));
                match one.wrapping_add(other) {
                    0 => (sum, 0),
                    by => (self.binary(Binary::Add, 64, a, b), by),
                }
            }
            (Binary::ShiftLeft, Val::Number(by @ 1..=5)) => match self.split(a, depth - 1) {
                (_, 0) => (sum, 0),
                (a, more) => (self.binary(Binary::ShiftLeft, 64, a, Val::Number(by)), more.wrapping_shl(by as u32)),
            },
            _ => (sum, 0),
        }
    }
}
