//! Loads and stores: a look into the tables of pages, and cold code for what is not there.

use isa::plan::{Atomic, access};

use super::super::ir::{Class, StateId, Val, Value};
use super::super::sets;
use super::super::x64::{Alu, Condition, Fixup, Mem, Reg, Shift, Size, Xmm};
use super::vectors::{SCRATCH, VECTORS};
use super::{Cold, Generator, LOST, Source, Target, TooBig, header, wide_slot};
use crate::state::head;

/// Registers that are kept while something is called.
#[derive(Debug, Default)]
pub(super) struct Saved {
    registers: Vec<Reg>,
    vectors: Vec<Xmm>,
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
        self.code.shift_imm(Shift::Shr, Size::S64, Reg::Rcx, 8);
        self.code.alu_imm(Alu::And, Size::S32, Reg::Rcx, ((sets::ENTRIES - 1) << 4) as i32);
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
        let to = match (self.last[own as usize] > 0, class) {
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
    fn place(&mut self, (address, width, at): (Val, u8, StateId), but: Reg) {
        let again = self.code.here();
        let from = self.operand(address, Reg::Rax);
        let source = self.source(address);
        let jumps = self.look_up(from, width / 8, sets::WRITE, 0);
        self.code.alu(Alu::Add, Size::S64, Reg::Rcx, from);
        // What this operation uses is needed when it is tried again.
        let registers = LOST.into_iter().filter(|reg| self.hosts[*reg as usize].is_some() && *reg != but);
        let vectors = (0..VECTORS).filter(|number| self.vectors[usize::from(*number)].is_some()).map(Xmm);
        let save = Saved { registers: registers.collect(), vectors: vectors.collect() };
        let flush = self.flush_of(at);
        let meta = self.meta(width, 0, at);
        let pc = self.block.states[at as usize].pc;
        self.cold.push(Cold::Touch { jumps, again, flush, save, address: source, meta, pc });
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
        self.place(access, to);
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
        self.place(access, to);
        self.into(old, Reg::Rax);
        self.into(new, Reg::Rdx);
        self.code.compare_exchange(access.1, Mem::at(Reg::Rcx, 0), Reg::Rdx);
        self.code.mov(Size::of(access.1), to, Reg::Rax);
        Ok(())
    }

    /// Looks for the page that is to be written; goes to the interpreter if it can't be written straight.
    pub(super) fn touch(&mut self, save: &Saved, address: Source, meta: u64, pc: u32) {
        self.move_to(Reg::Rax, address);
        self.call_saving(save, head::TOUCH, meta);
        self.code.test(Size::S32, Reg::Rax, Reg::Rax);
        let done = self.code.jcc(Condition::Equal);
        self.leave(Target::Interpreter(pc));
        self.code.land(done);
    }

    /// Calls with the address that is in rax.
    fn call_saving(&mut self, save: &Saved, what: u32, meta: u64) {
        let Saved { registers: save, vectors } = save;
        let room = vectors.len() as i32 * 16;
        if room > 0 {
            self.code.alu_imm(Alu::Sub, Size::S64, Reg::Rsp, room);
            for (number, xmm) in vectors.iter().enumerate() {
                self.code.vector_store(128, Mem::at(Reg::Rsp, number as i32 * 16), *xmm);
            }
        }
        save.iter().for_each(|reg| self.code.push(*reg));
        let is_odd = save.len() % 2 == 1;
        if is_odd {
            self.code.push(Reg::Rax);
        }
        self.code.mov(Size::S64, Reg::Rdi, Reg::Rbp);
        self.code.mov(Size::S64, Reg::Rsi, Reg::Rax);
        self.code.mov_imm(Reg::Rdx, meta);
        self.code.call(header(what));
        if is_odd {
            self.code.pop(Reg::Rcx);
        }
        save.iter().rev().for_each(|reg| self.code.pop(*reg));
        if room > 0 {
            for (number, xmm) in vectors.iter().enumerate() {
                self.code.vector_load(128, *xmm, Mem::at(Reg::Rsp, number as i32 * 16));
            }
            self.code.lea(Reg::Rsp, Mem::at(Reg::Rsp, room));
        }
    }

    pub(super) fn meta(&self, width: u8, how: u8, at: StateId) -> u64 {
        u64::from(width) | u64::from(how) << 8 | u64::from(self.block.states[at as usize].pc) << 16
    }

    /// Registers that a call would lose and that hold something that is used later.
    fn saved(&self, but: Loaded) -> Saved {
        let is_later = |value: &Option<Value>| value.is_some_and(|value| self.last[value as usize] > self.at);
        let general = |reg: &Reg| but != Loaded::General(*reg) && is_later(&self.hosts[*reg as usize]);
        let vector = |xmm: &Xmm| but != Loaded::Vector(*xmm) && is_later(&self.vectors[usize::from(xmm.0)]);
        Saved {
            registers: LOST.into_iter().filter(general).collect(),
            vectors: (0..VECTORS).map(Xmm).filter(vector).collect(),
        }
    }

    /// An access by the processor.
    pub(super) fn access(&mut self, save: &Saved, address: Source, value: Option<Source>, meta: u64, to: Loaded) {
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
        self.call_saving(save, if value.is_some() { head::STORE } else { head::LOAD }, meta);
        self.code.test(Size::S32, Reg::Rdx, Reg::Rdx);
        let done = self.code.jcc(Condition::Equal);
        self.code.mov_imm(Reg::Rax, 0);
        self.code.jmp_mem(header(head::LEAVE));
        self.code.land(done);
        match to {
            Loaded::General(to) => self.code.mov(Size::S64, to, Reg::Rax),
            Loaded::Vector(to) if width == 128 => self.code.vector_load(128, to, header(head::WIDE)),
            Loaded::Vector(to) => self.code.vector_of(to, Reg::Rax),
            Loaded::Nowhere => {}
        }
    }
}
