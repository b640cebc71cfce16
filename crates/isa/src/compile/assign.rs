//! Assignments: to variables, registers, registers of banks, and parts of them.

use super::elaborate::{Elaborator, Value};
use crate::ast::{Expr, ExprKind};
use crate::error::{Error, Place, Result};
use crate::plan::Op;

impl<'a> Elaborator<'_, 'a> {
    pub(super) fn assign(&mut self, target: &'a Expr, value: &'a Expr) -> Result<()> {
        match &target.kind {
            ExprKind::Name(name) => {
                if let Some(at) = self.variable(name, target.place)? {
                    let value = match self.bindings[at].value {
                        Value::Bits(old) => Value::Bits(self.bits(value, self.builder.width(old))?),
                        _ => self.value(value, None)?,
                    };
                    self.bindings[at].value = value;
                    return Ok(());
                }
                let (register, info) = self.symbols.register(name, target.place)?;
                let value = self.bits(value, info.width)?;
                self.builder.write(register, None, value, info.is_mode);
            }
            ExprKind::Index(base, index) if self.is_bank(base) => {
                let ExprKind::Name(name) = &base.kind else { return Ok(()) };
                let (register, info) = self.symbols.register(name, base.place)?;
                let index = self.bank_index(index, info.count)?;
                let value = self.bits(value, info.width)?;
                self.builder.write(register, Some(index), value, false);
            }
            ExprKind::Index(base, bit) => self.assign_part(base, bit, bit, value)?,
            ExprKind::Slice(base, high, low) => self.assign_part(base, high, low, value)?,
            ExprKind::Tuple(targets) => {
                let Value::Tuple(values) = self.value(value, None)? else {
                    return Err(Error::at(value.place, "this is not several values"));
                };
                if values.len() != targets.len() {
                    return Err(Error::at(value.place, format!("there are not {} values", targets.len())));
                }
                for (target, value) in targets.iter().zip(values) {
                    self.assign_value(target, value)?;
                }
            }
            _ => return Err(Error::at(target.place, "nothing can be assigned to this")),
        }
        Ok(())
    }

    fn assign_value(&mut self, target: &'a Expr, value: Value) -> Result<()> {
        let ExprKind::Name(name) = &target.kind else {
            return Err(Error::at(target.place, "of several values, each goes to a name"));
        };
        if let Some(at) = self.variable(name, target.place)? {
            self.bindings[at].value = value;
            return Ok(());
        }
        let (register, info) = self.symbols.register(name, target.place)?;
        let value = self.sized(value, info.width, target.place)?;
        self.builder.write(register, None, value, info.is_mode);
        Ok(())
    }

    /// `name[high:low] = value`: the rest of it stays.
    fn assign_part(&mut self, base: &'a Expr, high: &'a Expr, low: &'a Expr, value: &'a Expr) -> Result<()> {
        let old = self.value(base, None)?;
        let Value::Bits(old) = old else { return Err(Error::at(base.place, "this has no bits")) };
        let (high, low) = (self.int(high)?, self.int(low)?);
        let width = self.builder.width(old);
        if !(0 <= low && low <= high && high < width.into()) {
            return Err(Error::at(base.place, format!("bits {high} to {low} are not in {width} bits")));
        }
        let (high, low) = (high as u8, low as u8);
        let mut new = self.bits(value, high - low + 1)?;
        if low > 0 {
            let below = self.builder.pure(Op::Slice(old, 0), low);
            new = self.builder.pure(Op::Concat(new, below), high + 1);
        }
        if high + 1 < width {
            let above = self.builder.pure(Op::Slice(old, high + 1), width - high - 1);
            new = self.builder.pure(Op::Concat(above, new), width);
        }
        self.assign_value(base, Value::Bits(new))
    }

    fn variable(&self, name: &str, place: Place) -> Result<Option<usize>> {
        let found = self.bindings[self.frame..].iter().rposition(|binding| binding.name == name);
        let Some(at) = found.map(|at| at + self.frame) else { return Ok(None) };
        if self.bindings[at].is_variable {
            return Ok(Some(at));
        }
        Err(Error::at(place, format!("'{name}' does not vary: write 'var' where it is made")))
    }
}
