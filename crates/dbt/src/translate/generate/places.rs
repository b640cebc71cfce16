//! Where values are: in registers of the host, or on the stack.

use super::super::ir::{Val, Value};
use super::super::x64::{Reg, Size};
use super::{Generator, PLACES, Place, Source, TooBig, VALUES, slot, wide_slot};

/// A place on the stack that holds nothing.
pub(super) fn free(stack: &mut Vec<Option<Value>>, most: usize) -> Result<usize, TooBig> {
    if let Some(place) = stack.iter().position(Option::is_none) {
        return Ok(place);
    }
    if stack.len() == most {
        return Err(TooBig);
    }
    stack.push(None);
    Ok(stack.len() - 1)
}

impl Generator<'_> {
    /// Values that were last used by this operation leave their places.
    pub(super) fn release(&mut self) {
        let at = self.at;
        for host in &mut self.hosts {
            if let Some(value) = *host
                && self.uses.last[value as usize] <= at
            {
                self.places[value as usize] = Place::Nowhere;
                *host = None;
            }
        }
        for vector in &mut self.vectors {
            if let Some(value) = *vector
                && self.uses.last[value as usize] <= at
            {
                self.places[value as usize] = Place::Nowhere;
                *vector = None;
            }
        }
        for place in self.stack.iter_mut().chain(&mut self.wide_stack) {
            if place.is_some_and(|value| self.uses.last[value as usize] <= at) {
                *place = None;
            }
        }
    }

    pub(super) fn source(&self, value: Val) -> Source {
        match value {
            Val::Number(number) => Source::Number(number),
            Val::Value(value) => match self.places[value as usize] {
                Place::Host(reg) => Source::Host(reg),
                Place::Stack(place) => Source::Stack(place),
                Place::Vector(xmm) => Source::Vector(xmm),
                Place::Wide(place) => Source::Wide(place),
                // Only what nobody uses is nowhere.
                Place::Nowhere => Source::Number(0),
            },
        }
    }

    pub(super) fn move_to(&mut self, to: Reg, from: Source) {
        match from {
            Source::Number(number) => self.code.mov_imm(to, number),
            Source::Host(reg) => self.code.mov(Size::S64, to, reg),
            Source::Stack(place) => self.code.load(64, to, slot(place)),
            Source::Vector(xmm) => self.code.of_vector(to, xmm),
            Source::Wide(place) => self.code.load(64, to, wide_slot(place)),
        }
    }

    /// Moves an operand to one of the registers that hold nothing.
    pub(super) fn into(&mut self, value: Val, to: Reg) {
        let from = self.source(value);
        self.move_to(to, from);
    }

    /// The register of an operand: its own, or `scratch`, where it then is.
    pub(super) fn operand(&mut self, value: Val, scratch: Reg) -> Reg {
        if let Source::Host(reg) = self.source(value) {
            return reg;
        }
        self.into(value, scratch);
        scratch
    }

    /// A register for the value that is being made. What is used by this operation stays where it is.
    pub(super) fn destination(&mut self, value: Value) -> Result<Reg, TooBig> {
        let reg = match VALUES.into_iter().find(|reg| self.hosts[*reg as usize].is_none()) {
            Some(reg) => reg,
            None => self.evict()?,
        };
        self.hosts[reg as usize] = Some(value);
        self.places[value as usize] = Place::Host(reg);
        Ok(reg)
    }

    /// The same; the register of an operand that is not needed any more is taken over, with the operand in it.
    pub(super) fn destination_from(&mut self, value: Value, first: Val) -> Result<Reg, TooBig> {
        if let Val::Value(operand) = first
            && self.uses.last[operand as usize] <= self.at
            && let Place::Host(reg) = self.places[operand as usize]
        {
            self.hosts[reg as usize] = Some(value);
            self.places[value as usize] = Place::Host(reg);
            self.places[operand as usize] = Place::Nowhere;
            return Ok(reg);
        }
        // Operands of this operation are not moved by making room.
        let from = self.source(first);
        let reg = self.destination(value)?;
        self.move_to(reg, from);
        Ok(reg)
    }

    /// The value that is used last of all goes to the stack.
    pub(super) fn evict(&mut self) -> Result<Reg, TooBig> {
        // What was made for this operation stays, too.
        let mut used = vec![self.at];
        self.uses.each(self.block, self.at, &mut |value| used.push(value));
        let is_used = |value: Value| used.contains(&value);
        let candidates = VALUES.into_iter().filter_map(|reg| Some((reg, self.hosts[reg as usize]?)));
        let (reg, value) = candidates
            .filter(|(_, value)| !is_used(*value))
            .max_by_key(|(_, value)| self.uses.last[*value as usize])
            .ok_or(TooBig)?;
        let place = free(&mut self.stack, PLACES)?;
        self.code.store(64, slot(place), reg);
        self.stack[place] = Some(value);
        self.places[value as usize] = Place::Stack(place);
        self.hosts[reg as usize] = None;
        Ok(reg)
    }

    pub(super) fn move_keeping_flags(&mut self, to: Reg, from: Source) {
        match from {
            Source::Number(0) => {
                // The form of four bytes does not clear by itself.
                self.code.mov_imm32(to, 0);
            }
            other => self.move_to(to, other),
        }
    }

    /// As `destination_from`, when the right operand is used after: its register is not taken.
    pub(super) fn destination_beside(&mut self, own: Value, a: Val, b: Val) -> Result<Reg, TooBig> {
        if a == b {
            // Taking it over would leave the other operand nowhere.
            let from = self.source(a);
            let to = self.destination(own)?;
            self.move_to(to, from);
            return Ok(to);
        }
        self.destination_from(own, a)
    }
}
