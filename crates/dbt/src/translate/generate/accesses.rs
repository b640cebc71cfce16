//! Loads and stores: a look into the tables of pages, and cold code for what is not there.

use isa::plan::{Atomic, access};

use super::super::ir::{Ir, StateId, Table, Val, Value};
use super::super::sets;
use super::super::x64::{Alu, Condition, Fixup, Mem, Reg, Size, Xmm};
use super::errands::{self, Errand};
use super::vectors::{SCRATCH, VECTORS};
use super::{Cold, Generator, Open, Place, Source, TooBig, VALUES, header, slot, wide_slot};
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
    /// With its sign, up to so many bits.
    Signed(Reg, u8),
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
    pub(super) look: Look,
    /// Windows that are closed then.
    pub(super) open: Open,
}

/// How an access has looked for its page.
#[derive(Debug, Clone, Copy)]
pub(super) enum Look {
    ByItself,
    /// Through a window, which is closed.
    Through,
    /// It should have opened a window for others, too.
    Opening(Reg),
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
    /// Leaves a register, which may be rcx, with what is added to the address, or goes to cold code.
    fn look_up(&mut self, to: Reg, address: Reg, bytes: i32, table: Table, how: u8) -> Fixup {
        let entry = errands::entry(&mut self.code, address, table);
        if bytes > 1 {
            // An access that reaches into the next page has that page's tag.
            self.code.lea(Size::S64, Reg::Rdx, Mem::at(address, bytes - 1));
        } else {
            self.code.mov(Size::S64, Reg::Rdx, address);
        }
        self.code.alu_imm(Alu::And, Size::S64, Reg::Rdx, -4096);
        if how & access::UNPRIVILEGED != 0 {
            self.code.alu_imm(Alu::Or, Size::S64, Reg::Rdx, sets::UNPRIVILEGED as i32);
        }
        self.code.alu_mem(Alu::Cmp, Size::S64, Reg::Rdx, entry);
        let cold = self.code.jcc(Condition::NotEqual);
        self.code.load(64, to, Mem { disp: entry.disp + 8, ..entry });
        cold
    }

    /// Where an access is in our memory, and where it goes to cold code.
    fn reach(&mut self, access: Access, table: Table) -> Result<(Mem, Fixup, Look), TooBig> {
        let window = access.window.filter(|at| self.block.code[*at as usize].is_open());
        if let Some(window) = window {
            return match self.places[window as usize] {
                Place::Nowhere => self.open(window, access),
                _ => Ok(self.through(window, access)),
            };
        }
        let base = self.operand(access.address, Reg::Rax);
        let mut from = base;
        if access.offset != 0 {
            self.code.lea(Size::S64, Reg::Rax, Mem::at(base, access.offset));
            from = Reg::Rax;
        }
        let jumps = self.look_up(Reg::Rcx, from, i32::from(access.width / 8), table, access.how);
        Ok((Mem::sum(Reg::Rcx, from, 0), jumps, Look::ByItself))
    }

    /// The first access of several looks for the page of all.
    fn open(&mut self, window: Value, access: Access) -> Result<(Mem, Fixup, Look), TooBig> {
        let Ir::Window { low, high, table, .. } = self.block.code[window as usize] else { return Err(TooBig) };
        self.last_window = self.last_window.max(self.uses.last[window as usize]);
        let to = self.destination(window)?;
        let base = self.operand(access.address, Reg::Rax);
        let (mut from, mut offset) = (base, access.offset);
        if low != 0 {
            self.code.lea(Size::S64, Reg::Rax, Mem::at(base, low));
            (from, offset) = (Reg::Rax, offset - low);
        }
        let jumps = self.look_up(to, from, high - low, table, 0);
        Ok((Mem::sum(to, from, offset), jumps, Look::Opening(to)))
    }

    /// The others find it there. Zero says that each has to look by itself.
    fn through(&mut self, window: Value, access: Access) -> (Mem, Fixup, Look) {
        let base = self.operand(access.address, Reg::Rax);
        let window = self.operand(Val::Value(window), Reg::Rcx);
        self.code.test(Size::S64, window, window);
        let jumps = self.code.jcc(Condition::Equal);
        (Mem::sum(window, base, access.offset), jumps, Look::Through)
    }

    pub(super) fn load(&mut self, to: Loaded, access: Access) -> Result<(), TooBig> {
        let (memory, jumps, look) = self.reach(access, Table::Read)?;
        // Whatever had to make room has done so.
        let flush = self.flush_of(access.at);
        let address = self.source(access.address);
        self.load_from(memory, access.width, to);
        let asked = self.asked(access, (address, None), to, look);
        let back = self.code.here();
        self.cold.push(Cold::Access { jumps, back, flush, asked });
        Ok(())
    }

    fn load_from(&mut self, memory: Mem, width: u8, to: Loaded) {
        match to {
            Loaded::General(to) => self.code.load(width, to, memory),
            Loaded::Signed(to, until) => {
                self.code.load_signed(width, Size::of(until), to, memory);
                self.trim_result(to, until);
            }
            Loaded::Vector(to) => self.code.vector_load(width.max(32), to, memory),
            Loaded::Nowhere => {}
        }
    }

    pub(super) fn store(&mut self, value: Val, access: Access) -> Result<(), TooBig> {
        let (memory, jumps, look) = self.reach(access, Table::Write)?;
        let flush = self.flush_of(access.at);
        let (address, source) = (self.source(access.address), self.source(value));
        self.store_to(memory, access.width, source);
        let asked = self.asked(access, (address, Some(source)), Loaded::Nowhere, look);
        let back = self.code.here();
        self.cold.push(Cold::Access { jumps, back, flush, asked });
        Ok(())
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
    fn asked(&mut self, access: Access, (address, value): (Source, Option<Source>), to: Loaded, look: Look) -> Asked {
        let save = self.saved(to);
        let meta = self.meta(access.width, access.how, access.at);
        let open = self.open_windows();
        Asked { save, address, offset: access.offset, value, meta, to, look, open }
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
        if let Look::Opening(window) = asked.look {
            self.code.mov_imm(window, 0);
        }
        let width = asked.meta as u8;
        let table = if asked.value.is_some() { Table::Write } else { Table::Read };
        self.address_of(asked);
        self.code.mov_imm32(Reg::Rdx, u32::from(width / 8) - 1);
        self.code.call(header(errands::look(table)));
        let jumps = self.code.jcc(Condition::NotEqual);
        let memory = Mem::sum(Reg::Rcx, Reg::Rax, 0);
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
            self.code.lea(Size::S64, Reg::Rax, Mem::at(Reg::Rax, asked.offset));
        }
    }

    /// Leaves rcx with where an address is in our memory. What goes wrong is tried again.
    pub(super) fn place(&mut self, (address, width, at): (Val, u8, StateId)) {
        let again = self.code.here();
        let from = self.operand(address, Reg::Rax);
        let source = self.source(address);
        let jumps = self.look_up(Reg::Rcx, from, i32::from(width / 8), Table::Write, 0);
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
        if access.1 == 128 {
            return self.compare_and_swap_wide(own, access, old, new);
        }
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
            Loaded::Signed(to, until) => {
                self.code.movsx(width, Size::of(until), to, Reg::Rax);
                self.trim_result(to, until);
            }
            Loaded::Vector(to) if width == 128 => self.code.vector_load(128, to, header(head::WIDE)),
            Loaded::Vector(to) => self.code.vector_of(to, Reg::Rax),
            Loaded::Nowhere => {}
        }
    }
}
