//! Loads and stores: a look into the tables of pages, and cold code for what is not there.

use super::super::ir::{StateId, Val, Value};
use super::super::sets;
use super::super::x64::{Alu, Condition, Fixup, Mem, Reg, Shift, Size};
use super::{Cold, Generator, LOST, Source, TooBig, header};
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
        save.iter().for_each(|reg| self.code.push(*reg));
        let is_odd = save.len() % 2 == 1;
        if is_odd {
            self.code.push(Reg::Rax);
        }
        self.code.mov(Size::S64, Reg::Rdi, Reg::Rbp);
        self.code.mov(Size::S64, Reg::Rsi, Reg::Rax);
        self.code.mov_imm(Reg::Rdx, meta);
        self.code.call(header(if value.is_some() { head::STORE } else { head::LOAD }));
        if is_odd {
            self.code.pop(Reg::Rcx);
        }
        save.iter().rev().for_each(|reg| self.code.pop(*reg));
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
