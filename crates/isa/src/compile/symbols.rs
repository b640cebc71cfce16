//! What the names of a description stand for.

use std::collections::HashMap;

use crate::ast::{Function, Name, RegisterKind, Signature, System};
use crate::error::{Error, Place, Result};
use crate::plan::{EntryId, ExternId, RegisterId};
use crate::tables::Register;

/// A register as its users need it.
pub(super) struct RegisterInfo {
    pub(super) width: u8,
    /// Of a bank, how many.
    pub(super) count: Option<u32>,
    pub(super) is_mode: bool,
}

/// Everything with a name, outside of functions.
#[derive(Default)]
pub(super) struct Symbols<'a> {
    pub(super) constants: HashMap<&'a str, i128>,
    pub(super) registers: Vec<Register>,
    register_ids: HashMap<String, RegisterId>,
    pub(super) functions: HashMap<&'a str, &'a Function>,
    pub(super) entries: Vec<&'a Function>,
    pub(super) externs: Vec<&'a Signature>,
    pub(super) names: HashMap<&'a str, &'a [String]>,
    pub(super) systems: Vec<(i128, &'a System)>,
    /// Where each name was made, so that it is made once.
    taken: HashMap<String, Place>,
}

impl<'a> Symbols<'a> {
    pub(super) fn take(&mut self, name: &Name) -> Result<()> {
        match self.taken.insert(name.text.clone(), name.place) {
            None => Ok(()),
            Some(_) => Err(Error::at(name.place, format!("there is a '{}' already", name.text))),
        }
    }

    /// Registers lie one behind the other, each at a multiple of its size, which is 8 or 16 bytes.
    pub(super) fn add_register(&mut self, name: &str, width: u8, count: Option<u32>, kind: RegisterKind) {
        let stride = if width > 64 { 16 } else { 8 };
        let end = self.registers.last().map_or(0, |last| last.offset + last.stride * last.count);
        let register = Register {
            name: name.into(),
            width,
            count: count.unwrap_or(1),
            is_bank: count.is_some(),
            is_mode: kind == RegisterKind::Mode,
            offset: end.next_multiple_of(stride),
            stride,
        };
        self.register_ids.insert(name.into(), self.registers.len() as RegisterId);
        self.registers.push(register);
    }

    pub(super) fn is_register(&self, name: &str) -> bool {
        self.register_ids.contains_key(name)
    }

    pub(super) fn register(&self, name: &str, place: Place) -> Result<(RegisterId, RegisterInfo)> {
        let id = *self
            .register_ids
            .get(name)
            .ok_or_else(|| Error::at(place, format!("there is no variable and no register '{name}'")))?;
        let register = &self.registers[usize::from(id)];
        let count = register.is_bank.then_some(register.count);
        Ok((id, RegisterInfo { width: register.width, count, is_mode: register.is_mode }))
    }

    pub(super) fn entry(&self, name: &str, place: Place) -> Result<(EntryId, &'a Function)> {
        let found = self.entries.iter().position(|function| function.signature.name.text == name);
        let at = found.ok_or_else(|| Error::at(place, format!("there is no entry '{name}'")))?;
        Ok((at as EntryId, self.entries[at]))
    }

    pub(super) fn extern_(&self, name: &str) -> Option<(ExternId, &'a Signature)> {
        let at = self.externs.iter().position(|signature| signature.name.text == name)?;
        Some((at as ExternId, self.externs[at]))
    }
}
