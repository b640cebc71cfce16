//! Loads and stores: a look into the tables of pages, and cold code for what is not there.

use isa::plan::{Atomic, access};

use super::super::ir::{Class, StateId, Val, Value};
use super::super::sets;
use super::super::x64::{Alu, Condition, Fixup, Mem, Reg, Shift, Size, Xmm};
use super::errands::{self, Errand};
use super::vectors::{SCRATCH, VECTORS};
use super::{Cold, Generator, Source, TooBig, header, wide_slot};
use crate::state::head;
use crate::tlb::PAGE_BITS;

/// What is kept while something is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Saved {
    General,
    /// Vector registers, too.
    All,
}

/// Where a load goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loaded {
    Nowhere,
    General(Reg),
    Vector(Xmm),
}

impl Generator<'_> {
    /// Leaves rcx with what is added to the address, or goes to cold code.
    pub(super) fn look_up(&mut self, address: Reg, bytes: u8, table: i32, how: u8) -> Fixup {
        self.code.mov(Size::S64, Reg::Rcx, address);
        self.code.shift_imm(Shift::Shr, Size::S64, Reg::Rcx, PAGE_BITS as u8 - sets::ENTRY_BITS);
        self.code.alu_imm(Alu::And, Size::S32, Reg::Rcx, ((sets::ENTRIES - 1) << sets::ENTRY_BITS) as i32);
        // An access that reaches into the next page has that page's tag.
        self.code.lea(Reg::Rdx, Mem::at(address, i32::from(bytes) - 1));
        self.code.alu_imm(Alu::And, Size::S64, Reg::Rdx, -4096);
        if how & access::UNPRIVILEGED != 0 {
            self.code.alu_imm(Alu::Or, Size::S64, Reg::Rdx, sets::UNPRIVILEGED as i32);
        }
        let entry = Mem { base: Reg::R14, index: Some(Reg::Rcx), disp: table };
        self.code.alu_mem(Alu::Cmp, Size::S64, Reg::Rdx, entry);
        let cold = self.code.jcc(Condition::NotEqual);
        self.code.load(64, Reg::Rcx, Mem { disp: table + 8, ..entry });
        cold
    }

    pub(super) fn load(
        &mut self,
        own: Value,
        class: Class,
        (address, width, at): (Val, u8, StateId),
        how: u8,
    ) -> Result<(), TooBig> {
        // First of all, because making room for it is not done again in the cold code.
        let to = match (self.uses.last[own as usize] > 0, class) {
            (true, Class::General) => Loaded::General(self.destination(own)?),
            (true, Class::Vector) => Loaded::Vector(self.vector_destination(own)?),
            (false, _) => Loaded::Vector(SCRATCH),
        };
        let from = self.operand(address, Reg::Rax);
        let source = self.source(address);
        let flush = self.flush_of(at);
        let jumps = self.look_up(from, width / 8, sets::READ, how);
        let memory = Mem { base: Reg::Rcx, index: Some(from), disp: 0 };
        match to {
            Loaded::General(to) => self.code.load(width, to, memory),
            Loaded::Vector(to) => self.code.vector_load(width.max(32), to, memory),
            Loaded::Nowhere => {}
        }
        let save = self.saved(to);
        let meta = self.meta(width, how, at);
        let back = self.code.here();
        self.cold.push(Cold::Access { jumps, back, flush, save, address: source, value: None, meta, to });
        Ok(())
    }

    pub(super) fn store(&mut self, address: Val, value: Val, width: u8, how: u8, at: StateId) {
        let to = self.operand(address, Reg::Rax);
        let (address, source) = (self.source(address), self.source(value));
        let flush = self.flush_of(at);
        let jumps = self.look_up(to, width / 8, sets::WRITE, how);
        let memory = Mem { base: Reg::Rcx, index: Some(to), disp: 0 };
        if width == 128 || (width >= 32 && matches!(source, Source::Vector(_) | Source::Wide(_))) {
            let from = self.vector_operand(value, SCRATCH);
            self.code.vector_store(width, memory, from);
        } else {
            let from = self.operand(value, Reg::Rdx);
            self.code.store(width, memory, from);
        }
        let save = self.saved(Loaded::Nowhere);
        let meta = self.meta(width, how, at);
        let back = self.code.here();
        let to = Loaded::Nowhere;
        self.cold.push(Cold::Access { jumps, back, flush, save, address, value: Some(source), meta, to });
    }

    /// Leaves rcx with where an address is in our memory. What goes wrong is tried again.
    fn place(&mut self, (address, width, at): (Val, u8, StateId)) {
        let again = self.code.here();
        let from = self.operand(address, Reg::Rax);
        let source = self.source(address);
        let jumps = self.look_up(from, width / 8, sets::WRITE, 0);
        self.code.alu(Alu::Add, Size::S64, Reg::Rcx, from);
        let save = self.saved(Loaded::Nowhere);
        let flush = self.flush_of(at);
        let meta = self.meta(width, 0, at);
        self.cold.push(Cold::Touch { jumps, again, flush, save, address: source, meta });
    }

    pub(super) fn atomic(
        &mut self,
        own: Value,
        kind: Atomic,
        access: (Val, u8, StateId),
        value: Val,
    ) -> Result<(), TooBig> {
        let width = access.1;
        let size = Size::of(width);
        let to = self.destination(own)?;
        self.place(access);
        let at = Mem::at(Reg::Rcx, 0);
        match kind {
            Atomic::Add | Atomic::Swap => {
                self.into(value, to);
                self.code.exchange(width, at, to, kind == Atomic::Add);
                if width < 32 {
                    self.trim(to, width);
                }
                return Ok(());
            }
            _ => {}
        }
        self.code.load(width, Reg::Rax, at);
        let again = self.code.here();
        self.into(value, Reg::Rdx);
        match kind {
            Atomic::And => self.code.alu(Alu::And, size, Reg::Rdx, Reg::Rax),
            Atomic::Or => self.code.alu(Alu::Or, size, Reg::Rdx, Reg::Rax),
            Atomic::Xor => self.code.alu(Alu::Xor, size, Reg::Rdx, Reg::Rax),
            _ => self.greater_or_less(kind, width, to),
        }
        self.code.compare_exchange(width, at, Reg::Rdx);
        let fails = self.code.jcc(Condition::NotEqual);
        self.code.land_at(fails, again);
        self.code.mov(Size::S64, to, Reg::Rax);
        if width < 32 {
            self.trim(to, width);
        }
        Ok(())
    }

    /// Leaves in rdx the greater or the less of it and rax; `scratch` may be used.
    fn greater_or_less(&mut self, kind: Atomic, width: u8, scratch: Reg) {
        let is_signed = matches!(kind, Atomic::SignedMax | Atomic::SignedMin);
        let size = Size::of(width);
        self.code.mov(Size::S64, scratch, Reg::Rax);
        if is_signed && width < 32 {
            // Compared as they are with their signs; what is stored is cut again.
            self.code.movsx(width, size, scratch, scratch);
            self.code.movsx(width, size, Reg::Rdx, Reg::Rdx);
        }
        self.code.alu(Alu::Cmp, size, scratch, Reg::Rdx);
        let takes_old = match kind {
            Atomic::SignedMax => Condition::GreaterEqual,
            Atomic::SignedMin => Condition::Less,
            Atomic::UnsignedMax => Condition::AboveEqual,
            _ => Condition::Below,
        };
        self.code.cmov(takes_old, size, Reg::Rdx, scratch);
    }

    pub(super) fn compare_and_swap(
        &mut self,
        own: Value,
        access: (Val, u8, StateId),
        old: Val,
        new: Val,
    ) -> Result<(), TooBig> {
        let to = self.destination(own)?;
        self.place(access);
        self.into(old, Reg::Rax);
        self.into(new, Reg::Rdx);
        self.code.compare_exchange(access.1, Mem::at(Reg::Rcx, 0), Reg::Rdx);
        self.code.mov(Size::of(access.1), to, Reg::Rax);
        Ok(())
    }

    /// Looks for the page that is to be written; goes to the interpreter if it can't be written straight.
    pub(super) fn touch(&mut self, save: Saved, address: Source, meta: u32) {
        self.move_to(Reg::Rax, address);
        self.call_saving(save, Errand::Touch, meta);
    }

    /// Calls with the address that is in rax. It comes back only if nothing was thrown.
    fn call_saving(&mut self, save: Saved, errand: Errand, meta: u32) {
        self.code.mov_imm32(Reg::Rdx, meta);
        self.code.call(header(errands::word(errand, save)));
    }

    fn meta(&self, width: u8, how: u8, at: StateId) -> u32 {
        // A page has fewer than 2^16 bytes.
        u32::from(width) | u32::from(how) << 8 | self.block.states[at as usize].pc << 16
    }

    /// What a call must not lose: vectors only if one holds something that is used here or later.
    fn saved(&self, but: Loaded) -> Saved {
        let is_later = |value: Value| self.uses.last[value as usize] >= self.at;
        let is_kept = |xmm: Xmm| but != Loaded::Vector(xmm) && self.vectors[usize::from(xmm.0)].is_some_and(is_later);
        if (0..VECTORS).map(Xmm).any(is_kept) { Saved::All } else { Saved::General }
    }

    /// An access by the processor.
    pub(super) fn access(&mut self, save: Saved, address: Source, value: Option<Source>, meta: u32, to: Loaded) {
        let width = meta as u8;
        self.move_to(Reg::Rax, address);
        match value {
            // More than registers of a call hold goes through memory.
            Some(Source::Vector(xmm)) if width == 128 => self.code.vector_store(128, header(head::WIDE), xmm),
            Some(Source::Wide(place)) if width == 128 => {
                self.code.vector_load(128, SCRATCH, wide_slot(place));
                self.code.vector_store(128, header(head::WIDE), SCRATCH);
            }
            Some(value) => {
                self.move_to(Reg::Rcx, value);
                if width == 128 {
                    self.code.store(64, header(head::WIDE), Reg::Rcx);
                    self.code.store_imm(header(head::WIDE + 1), 0);
                }
            }
            None => {}
        }
        self.call_saving(save, if value.is_some() { Errand::Store } else { Errand::Load }, meta);
        match to {
            Loaded::General(to) => self.code.mov(Size::S64, to, Reg::Rax),
            Loaded::Vector(to) if width == 128 => self.code.vector_load(128, to, header(head::WIDE)),
            Loaded::Vector(to) => self.code.vector_of(to, Reg::Rax),
            Loaded::Nowhere => {}
        }
    }
}
