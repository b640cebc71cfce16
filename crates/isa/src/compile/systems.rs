//! System registers: one `match` over their keys, with who may do what.

use super::elaborate::{Elaborator, Flow, Value};
use super::meet::Behind;
use crate::ast::{Expr, Name, System};
use crate::error::{Error, Place, Result};
use crate::ops::Binary;
use crate::plan::Id;

/// What a description has to say of a register that is not there or must not be touched: `fn sysreg_denied(key: u16)`,
/// which throws.
const DENIED: &str = "sysreg_denied";
const KEY: u8 = 16;
const LEVEL: u8 = 2;
const WIDTH: u8 = 64;

impl<'a> Elaborator<'_, 'a> {
    /// `sysreg_read(key, level)` and `sysreg_write(key, level, value)`.
    pub(super) fn system_register(&mut self, name: &'a Name, arguments: &'a [Expr]) -> Result<Flow> {
        let is_write = name.text == "sysreg_write";
        let (key, level, value) = match arguments {
            [key, level] if !is_write => (key, level, None),
            [key, level, value] if is_write => (key, level, Some(value)),
            _ => return Err(Error::at(name.place, "this takes a key, a level, and what is written")),
        };
        let key = self.bits(key, KEY)?;
        let level = self.bits(level, LEVEL)?;
        let value = value.map(|value| self.bits(value, WIDTH)).transpose()?;
        let symbols = self.symbols;
        let mut keys: Vec<Vec<i128>> = symbols.systems.iter().map(|(key, _)| vec![*key]).collect();
        keys.push(Vec::new());
        let expected = if is_write { None } else { Some(WIDTH) };
        self.arms(key, keys, expected, Behind::More, &mut |this, at| match symbols.systems.get(at) {
            None => this.denied(key, name.place),
            Some(&(_, system)) => {
                let least = if is_write { &system.writes } else { &system.reads };
                let Some(least) = least else { return this.denied(key, name.place) };
                let least = this.bits(least, LEVEL)?;
                let is_denied = this.compare_or_compute(Binary::Less, level, least, false);
                this.branch(Value::Bits(is_denied), expected, Behind::More, |this, is| match (is, value) {
                    (true, _) => this.denied(key, name.place),
                    (false, None) => this.read_system(system),
                    (false, Some(value)) => this.write_system(system, value),
                })
            }
        })
    }

    fn denied(&mut self, key: Id, place: Place) -> Result<Flow> {
        let function = self.symbols.functions.get(DENIED).copied();
        let function = function.ok_or_else(|| Error::at(place, format!("there has to be a function '{DENIED}'")))?;
        self.inline(function, vec![Value::Bits(key)], place)
    }

    fn read_system(&mut self, system: &'a System) -> Result<Flow> {
        let Some(body) = &system.read else {
            let (register, info) = self.symbols.register(&system.name.text, system.name.place)?;
            return Ok(Flow::Value(Value::Bits(self.builder.read(register, None, info.width, info.is_mode))));
        };
        let flow = self.in_own_frame(|this| this.block(body, Some(WIDTH)))?;
        Ok(match flow.value() {
            Some(value) => Flow::Value(Value::Bits(self.sized(value, WIDTH, system.name.place)?)),
            None => Flow::Diverged,
        })
    }

    fn write_system(&mut self, system: &'a System, value: Id) -> Result<Flow> {
        let Some((name, body)) = &system.write else {
            let (register, info) = self.symbols.register(&system.name.text, system.name.place)?;
            self.builder.write(register, None, value, info.is_mode);
            return Ok(Flow::Value(Value::nothing()));
        };
        self.in_own_frame(|this| {
            this.bind(&name.text, Value::Bits(value));
            Ok(match this.block(body, None)? {
                Flow::Diverged => Flow::Diverged,
                _ => Flow::Value(Value::nothing()),
            })
        })
    }
}
