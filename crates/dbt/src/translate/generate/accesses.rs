//! Loads and stores: a look into the tables of pages, and cold code for what is not there.

use std::ops::Range;

use isa::plan::{Atomic, access};

use super::super::ir::{Class, StateId, Table, Val, Value};
use super::super::sets;
use super::super::x64::{Alu, Condition, Fixup, Mem, Reg, Size, Xmm};
use super::errands::{self, Errand};
use super::vectors::{SCRATCH, VECTORS};
use super::{Cold, Generator, Open, Source, TooBig, VALUES, header, slot, wide_slot};
use crate::state::head;

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

/// A load or a store.
#[derive(Debug, Clone, Copy)]
pub(in crate::translate) struct Access {
    pub(in crate::translate) address: Val,
    pub(in crate::translate) offset: i32,
    pub(in crate::translate) window: Option<Value>,
    pub(in crate::translate) width: u8,
    pub(in crate::translate) how: u8,
    pub(in crate::translate) at: StateId,
}

/// The same, for the processor: where everything is where it is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) save: Saved,
    pub(super) address: Source,
    pub(super) offset: i32,
    /// What is stored, if something is.
    pub(super) value: Option<Source>,
    pub(super) meta: u32,
    pub(super) to: Loaded,
    /// It looks through a window, and has not looked for its page by itself.
    pub(super) is_windowed: bool,
    /// Windows that are closed then.
    pub(super) open: Open,
}

impl Table {
    /// Where it is in a set.
    pub(in crate::translate) fn offset(self) -> i32 {
        match self {
            Table::Read => sets::READ,
            Table::Write => sets::WRITE,
        }
    }
}

impl Generator<'_> {
    /// Leaves rcx with what is added to the address, or goes to cold code.
    fn look_up(&mut self, address: Reg, bytes: i32, table: Table, how: u8) -> Fixup {
        let entry = errands::entry(&mut self.code, address, table);
        // An access that reaches into the next page has that page's tag.
        self.code.lea(Reg::Rdx, Mem::at(address, bytes - 1));
        self.code.alu_imm(Alu::And, Size::S64, Reg::Rdx, -4096);
        if how & access::UNPRIVILEGED != 0 {
            self.code.alu_imm(Alu::Or, Size::S64, Reg::Rdx, sets::UNPRIVILEGED as i32);
        }
        self.code.alu_mem(Alu::Cmp, Size::S64, Reg::Rdx, entry);
        let cold = self.code.jcc(Condition::NotEqual);
        self.code.load(64, Reg::Rcx, Mem { disp: entry.disp + 8, ..entry });
        cold
    }

    /// Looks for the page of several accesses. Zero says that each has to look by itself.
    pub(super) fn window(&mut self, own: Value, base: Val, bytes: Range<i32>, table: Table) -> Result<(), TooBig> {
        self.last_window = self.last_window.max(self.uses.last[own as usize]);
        let to = self.destination(own)?;
        let base = self.operand(base, Reg::Rax);
        if bytes.start != 0 {
            self.code.lea(Reg::Rax, Mem::at(base, bytes.start));
        }
        let from = if bytes.start == 0 { base } else { Reg::Rax };
        let length = bytes.end - bytes.start;
        let jumps = self.look_up(from, length, table, 0);
        self.code.mov(Size::S64, to, Reg::Rcx);
        let back = self.code.here();
        self.cold.push(Cold::Closed { jumps, back, window: to });
        Ok(())
    }

    /// The register of the window that an access looks through, and cold code for when it is closed.
    fn through(&mut self, window: Option<Value>) -> Option<(Reg, Fixup)> {
        let window = window.filter(|at| self.block.code[*at as usize].is_open())?;
        let window = self.operand(Val::Value(window), Reg::Rcx);
        self.code.test(Size::S64, window, window);
        Some((window, self.code.jcc(Condition::Equal)))
    }

    /// Where an access is in our memory, and where it goes to cold code.
    fn reach(&mut self, access: Access, table: Table) -> (Mem, Fixup, bool) {
        let base = self.operand(access.address, Reg::Rax);
        if let Some((window, jumps)) = self.through(access.window) {
            return (Mem { base: window, index: Some(base), disp: access.offset }, jumps, true);
        }
        let mut from = base;
        if access.offset != 0 {
            self.code.lea(Reg::Rax, Mem::at(base, access.offset));
            from = Reg::Rax;
        }
        let jumps = self.look_up(from, i32::from(access.width / 8), table, access.how);
        (Mem { base: Reg::Rcx, index: Some(from), disp: 0 }, jumps, false)
    }

    pub(super) fn load(&mut self, own: Value, class: Class, access: Access) -> Result<(), TooBig> {
        // First of all, because making room for it is not done again in the cold code.
        let to = match (self.uses.last[own as usize] > 0, class) {
            (true, Class::General) => Loaded::General(self.destination(own)?),
            (true, Class::Vector) => Loaded::Vector(self.vector_destination(own)?),
            (false, _) => Loaded::Vector(SCRATCH),
        };
        let address = self.source(access.address);
        let flush = self.flush_of(access.at);
        let (memory, jumps, is_windowed) = self.reach(access, Table::Read);
        self.load_from(memory, access.width, to);
        let asked = self.asked(access, (address, None), to, is_windowed);
        let back = self.code.here();
        self.cold.push(Cold::Access { jumps, back, flush, asked });
        Ok(())
    }

    fn load_from(&mut self, memory: Mem, width: u8, to: Loaded) {
        match to {
            Loaded::General(to) => self.code.load(width, to, memory),
            Loaded::Vector(to) => self.code.vector_load(width.max(32), to, memory),
            Loaded::Nowhere => {}
        }
    }

    pub(super) fn store(&mut self, value: Val, access: Access) {
        let (address, source) = (self.source(access.address), self.source(value));
        let flush = self.flush_of(access.at);
        let (memory, jumps, is_windowed) = self.reach(access, Table::Write);
        self.store_to(memory, access.width, source);
        let asked = self.asked(access, (address, Some(source)), Loaded::Nowhere, is_windowed);
        let back = self.code.here();
        self.cold.push(Cold::Access { jumps, back, flush, asked });
    }

    /// `memory` may use rax and rcx.
    fn store_to(&mut self, memory: Mem, width: u8, value: Source) {
        match value {
            Source::Vector(xmm) if width >= 32 => self.code.vector_store(width, memory, xmm),
            Source::Wide(place) if width >= 32 => {
                self.code.vector_load(128, SCRATCH, wide_slot(place));
                self.code.vector_store(width, memory, SCRATCH);
            }
            value if width == 128 => {
                self.move_to(Reg::Rdx, value);
                self.code.vector_of(SCRATCH, Reg::Rdx);
                self.code.vector_store(width, memory, SCRATCH);
            }
            Source::Host(reg) => self.code.store(width, memory, reg),
            value => {
                self.move_to(Reg::Rdx, value);
                self.code.store(width, memory, Reg::Rdx);
            }
        }
    }

    /// What is asked of the processor if the page is not known.
    fn asked(
        &mut self,
        access: Access,
        (address, value): (Source, Option<Source>),
        to: Loaded,
        is_windowed: bool,
    ) -> Asked {
        let save = self.saved(to);
        let meta = self.meta(access.width, access.how, access.at);
        let open = self.open_windows();
        Asked { save, address, offset: access.offset, value, meta, to, is_windowed, open }
    }

    /// Windows that are looked through later.
    fn open_windows(&mut self) -> Open {
        let begin = self.open.len() as u32;
        // Mostly there are none.
        if self.last_window <= self.at {
            return Open(begin, begin);
        }
        let at = self.at;
        let block = self.block;
        let is_open = |value: Value, last: &[u32]| last[value as usize] > at && block.code[value as usize].is_open();
        for reg in VALUES {
            if self.hosts[reg as usize].is_some_and(|value| is_open(value, &self.uses.last)) {
                self.open.push(Source::Host(reg));
            }
        }
        for (place, value) in self.stack.iter().enumerate() {
            if value.is_some_and(|value| is_open(value, &self.uses.last)) {
                self.open.push(Source::Stack(place));
            }
        }
        Open(begin, self.open.len() as u32)
    }

    /// Pages may be somewhere else now.
    pub(super) fn close(&mut self, Open(begin, end): Open) {
        for at in begin..end {
            match self.open[at as usize] {
                Source::Host(reg) => self.code.mov_imm(reg, 0),
                Source::Stack(place) => self.code.store_imm(slot(place), 0),
                _ => {}
            }
        }
    }

    /// In cold code, an access through a window that is closed looks for its page; gives where it does not find it.
    pub(super) fn look_by_itself(&mut self, asked: Asked, back: usize) -> Fixup {
        let width = asked.meta as u8;
        let table = if asked.value.is_some() { Table::Write } else { Table::Read };
        self.address_of(asked);
        self.code.mov_imm32(Reg::Rdx, u32::from(width / 8) - 1);
        self.code.call(header(errands::look(table)));
        let jumps = self.code.jcc(Condition::NotEqual);
        let memory = Mem { base: Reg::Rcx, index: Some(Reg::Rax), disp: 0 };
        match asked.value {
            Some(value) => self.store_to(memory, width, value),
            None => self.load_from(memory, width, asked.to),
        }
        self.code.jmp_to(back);
        jumps
    }

    /// Leaves rax with the address.
    fn address_of(&mut self, asked: Asked) {
        self.move_to(Reg::Rax, asked.address);
        if asked.offset != 0 {
            self.code.lea(Reg::Rax, Mem::at(Reg::Rax, asked.offset));
        }
    }

    /// Leaves rcx with where an address is in our memory. What goes wrong is tried again.
    fn place(&mut self, (address, width, at): (Val, u8, StateId)) {
        let again = self.code.here();
        let from = self.operand(address, Reg::Rax);
        let source = self.source(address);
        let jumps = self.look_up(from, i32::from(width / 8), Table::Write, 0);
        self.code.alu(Alu::Add, Size::S64, Reg::Rcx, from);
        let save = self.saved(Loaded::Nowhere);
        let flush = self.flush_of(at);
        let meta = self.meta(width, 0, at);
        let open = self.open_windows();
        self.cold.push(Cold::Touch { jumps, again, flush, save, address: source, meta, open });
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
    pub(super) fn access(&mut self, asked: Asked) {
        let Asked { save, value, meta, to, .. } = asked;
        let width = meta as u8;
        self.address_of(asked);
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
