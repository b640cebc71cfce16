//! Loads and stores: a look into the tables of pages, and cold code for what is not there.

use isa::plan::Atomic;

use super::super::ir::{StateId, Val, Value};
use super::super::sets;
use super::super::x64::{Alu, Condition, Fixup, Mem, Reg, Shift, Size};
use super::{Cold, Generator, LOST, Source, Target, TooBig, header};
use crate::state::head;

impl Generator<'_> {
    /// Leaves rcx with what is added to the address, or goes to cold code.
    pub(super) fn look_up(&mut self, address: Reg, bytes: u8, table: i32) -> Fixup {
        self.code.mov(Size::S64, Reg::Rcx, address);
        self.code.shift_imm(Shift::Shr, Size::S64, Reg::Rcx, 8);
        self.code.alu_imm(Alu::And, Size::S32, Reg::Rcx, ((sets::ENTRIES - 1) << 4) as i32);
        // An access that reaches into the next page has that page's tag.
        self.code.lea(Reg::Rdx, Mem::at(address, i32::from(bytes) - 1));
        self.code.alu_imm(Alu::And, Size::S64, Reg::Rdx, -4096);
        let entry = Mem { base: Reg::R14, index: Some(Reg::Rcx), disp: table };
        self.code.alu_mem(Alu::Cmp, Size::S64, Reg::Rdx, entry);
        let cold = self.code.jcc(Condition::NotEqual);
        self.code.load(64, Reg::Rcx, Mem { disp: table + 8, ..entry });
        cold
    }

    pub(super) fn load(&mut self, own: Value, address: Val, width: u8, how: u8, at: StateId) -> Result<(), TooBig> {
        // First of all, because making room for it is not done again in the cold code.
        let to = if self.last[own as usize] > 0 { self.destination(own)? } else { Reg::Rdx };
        let from = self.operand(address, Reg::Rax);
        let source = self.source(address);
        let flush = self.flush_of(at);
        let jumps = self.look_up(from, width / 8, sets::READ);
        self.code.load(width, to, Mem { base: Reg::Rcx, index: Some(from), disp: 0 });
        let save = self.saved(Some(to));
        let meta = self.meta(width, how, at);
        let back = self.code.here();
        let to = Some(to);
        self.cold.push(Cold::Access { jumps, back, flush, save, address: source, value: None, meta, to });
        Ok(())
    }

    pub(super) fn store(&mut self, address: Val, value: Val, width: u8, how: u8, at: StateId) {
        let to = self.operand(address, Reg::Rax);
        let (address, source) = (self.source(address), self.source(value));
        let flush = self.flush_of(at);
        let jumps = self.look_up(to, width / 8, sets::WRITE);
        let from = self.operand(value, Reg::Rdx);
        self.code.store(width, Mem { base: Reg::Rcx, index: Some(to), disp: 0 }, from);
        let save = self.saved(None);
        let meta = self.meta(width, how, at);
        let back = self.code.here();
        self.cold.push(Cold::Access { jumps, back, flush, save, address, value: Some(source), meta, to: None });
    }

    /// Leaves rcx with where an address is in our memory. What goes wrong is tried again.
    fn place(&mut self, (address, width, at): (Val, u8, StateId), but: Reg) {
        let again = self.code.here();
        let from = self.operand(address, Reg::Rax);
        let source = self.source(address);
        let jumps = self.look_up(from, width / 8, sets::WRITE);
        self.code.alu(Alu::Add, Size::S64, Reg::Rcx, from);
        // What this operation uses is needed when it is tried again.
        let used = |generator: &Self, reg: &Reg| generator.hosts[*reg as usize].is_some() && *reg != but;
        let save = LOST.into_iter().filter(|reg| used(self, reg)).collect();
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
    pub(super) fn touch(&mut self, save: &[Reg], address: Source, meta: u64, pc: u32) {
        self.move_to(Reg::Rax, address);
        self.call_saving(save, head::TOUCH, meta);
        self.code.test(Size::S32, Reg::Rax, Reg::Rax);
        let done = self.code.jcc(Condition::Equal);
        self.leave(Target::Interpreter(pc));
        self.code.land(done);
    }

    /// Calls with the address that is in rax.
    fn call_saving(&mut self, save: &[Reg], what: u32, meta: u64) {
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
    }

    pub(super) fn meta(&self, width: u8, how: u8, at: StateId) -> u64 {
        u64::from(width) | u64::from(how) << 8 | u64::from(self.block.states[at as usize].pc) << 16
    }

    /// Registers that a call would lose and that hold something that is used later.
    pub(super) fn saved(&self, but: Option<Reg>) -> Vec<Reg> {
        let is_live = |reg: &Reg| {
            Some(*reg) != but && self.hosts[*reg as usize].is_some_and(|value| self.last[value as usize] > self.at)
        };
        LOST.into_iter().filter(is_live).collect()
    }

    /// An access by the processor.
    pub(super) fn access(&mut self, save: &[Reg], address: Source, value: Option<Source>, meta: u64, to: Option<Reg>) {
        self.move_to(Reg::Rax, address);
        if let Some(value) = value {
            self.move_to(Reg::Rcx, value);
        }
        self.call_saving(save, if value.is_some() { head::STORE } else { head::LOAD }, meta);
        self.code.test(Size::S32, Reg::Rdx, Reg::Rdx);
        let done = self.code.jcc(Condition::Equal);
        self.code.mov_imm(Reg::Rax, 0);
        self.code.jmp_mem(header(head::LEAVE));
        self.code.land(done);
        if let Some(to) = to {
            self.code.mov(Size::S64, to, Reg::Rax);
        }
    }
}
