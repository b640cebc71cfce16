//! How a block is left, and what is written before: to another block, to an address, to the interpreter.

use super::super::ir::{Exit, StateId, Test, TestKind, Val};
use super::super::sets::Jumps;
use super::super::x64::{Alu, Condition, Fixup, Mem, Reg, Size};
use super::errands;
use super::vectors::SCRATCH;
use super::{
    Cold, Counting, FlagsOf, Flush, Flushes, Generator, Link, Origin, STATE_AT, Source, Target, header, slot, state,
    wide_slot,
};
use crate::state::head;

impl Generator<'_> {
    /// What has to be written if somebody looks there.
    pub(super) fn flush_of(&mut self, at: StateId) -> Flushes {
        let begin = self.flushes.len() as u32;
        let block = self.block;
        for dirty in block.dirty(at) {
            let from = match dirty.value {
                Val::Value(late) if self.uses.is_late[late as usize] => FlagsOf::of(block, block.code[late as usize])
                    .map(|it| Origin::Flags(it, [it.a, it.b, it.carry].map(|operand| self.source(operand)))),
                _ => None,
            };
            let from = from.unwrap_or_else(|| Origin::Place(self.source(dirty.value)));
            self.flushes.push(Flush { offset: dirty.offset, from, is_wide: dirty.is_wide });
        }
        Flushes(begin, self.flushes.len() as u32)
    }

    pub(super) fn flush(&mut self, Flushes(begin, end): Flushes) {
        for at in begin..end {
            let Flush { offset, from, is_wide } = self.flushes[at as usize];
            let to = state(offset);
            let from = match from {
                Origin::Place(from) => from,
                Origin::Flags(of, [a, b, carry]) => {
                    self.flags_into(Reg::Rdx, of, [a, b, carry]);
                    Source::Host(Reg::Rdx)
                }
            };
            match from {
                Source::Host(reg) => self.code.store(64, to, reg),
                Source::Number(number) => match i32::try_from(number as i64) {
                    Ok(number) => self.code.store_imm(to, number),
                    Err(_) => {
                        self.code.mov_imm(Reg::Rdx, number);
                        self.code.store(64, to, Reg::Rdx);
                    }
                },
                Source::Vector(xmm) => {
                    self.code.vector_store(if is_wide { 128 } else { 64 }, to, xmm);
                    continue;
                }
                Source::Wide(place) => {
                    self.code.vector_load(128, SCRATCH, wide_slot(place));
                    self.code.vector_store(if is_wide { 128 } else { 64 }, to, SCRATCH);
                    continue;
                }
                Source::Stack(place) => {
                    self.code.load(64, Reg::Rdx, slot(place));
                    self.code.store(64, to, Reg::Rdx);
                }
            }
            if is_wide {
                self.code.store_imm(state(offset + 8), 0);
            }
        }
    }

    pub(super) fn interpret(&mut self, instruction: u32, word: u32, at: StateId) {
        let flush = self.flush_of(at);
        self.flush(flush);
        self.code.lea(Size::S64, Reg::Rdi, Mem::at(Reg::Rbp, -STATE_AT));
        self.code.mov_imm(Reg::Rsi, instruction.into());
        self.code.mov_imm(Reg::Rdx, word.into());
        self.code.mov_imm(Reg::Rcx, self.block.states[at as usize].pc.into());
        self.code.call(header(head::INTERPRET));
        self.code.test(Size::S32, Reg::Rax, Reg::Rax);
        let stay = self.code.jcc(Condition::Equal);
        self.code.mov_imm(Reg::Rax, 0);
        self.code.jmp_mem(header(head::LEAVE));
        self.code.land(stay);
    }

    pub(super) fn target(&self, to: Exit, at: StateId) -> Target {
        match to {
            Exit::Direct { plus } => Target::Direct(plus),
            Exit::Indirect(value) => Target::Indirect(self.source(value)),
            Exit::Interpreter => Target::Interpreter(self.block.states[at as usize].pc),
        }
    }

    pub(super) fn exit_if(&mut self, test: Test, to: Exit, at: StateId) {
        let condition = self.test(test);
        let to = self.target(to, at);
        self.leave_if(condition, to, at);
    }

    /// Leaves the host's flags so that a condition says whether the test holds.
    pub(super) fn test(&mut self, test: Test) -> Condition {
        self.compare(Size::of(test.width), test.a, test.b);
        match test.kind {
            TestKind::Equal => Condition::Equal,
            TestKind::NotEqual => Condition::NotEqual,
            TestKind::Below => Condition::Below,
            TestKind::NotBelow => Condition::AboveEqual,
            TestKind::Less => Condition::Less,
            TestKind::NotLess => Condition::GreaterEqual,
        }
    }

    /// Leaves by cold code if the condition holds.
    pub(super) fn leave_if(&mut self, condition: Condition, to: Target, at: StateId) {
        let jumps = self.code.jcc(condition);
        let flush = self.flush_of(at);
        self.cold.push(Cold::Exit { jumps, flush, to });
    }

    pub(super) fn leave(&mut self, to: Target) {
        match to {
            // At the last two bytes of a page, an instruction may begin that is not all of this page.
            Target::Direct(plus) if (0..4093).contains(&plus) => self.link(plus),
            Target::Direct(plus) => {
                self.code.load(64, Reg::Rax, header(head::PAGE));
                self.code.alu_imm(Alu::Add, Size::S64, Reg::Rax, plus as i32);
                self.look_up_code();
            }
            Target::Indirect(source) => {
                self.move_to(Reg::Rax, source);
                self.look_up_code();
            }
            Target::Hot(begin) => {
                self.set_pc(begin.into());
                self.code.mov_imm(Reg::Rax, head::HOT);
                self.code.jmp_mem(header(head::LEAVE));
            }
            Target::Poll(pc) => {
                self.set_pc(pc.into());
                self.code.mov_imm(Reg::Rax, 0);
                self.code.jmp_mem(header(head::LEAVE));
            }
            Target::Interpreter(pc) | Target::InterpreterAsBefore(pc) => {
                if let Target::InterpreterAsBefore(_) = to {
                    self.code.float_control(header(head::FLOAT_BEFORE), false);
                }
                self.set_pc(pc.into());
                self.code.mov_imm(Reg::Rax, head::INTERPRET_NEXT);
                self.code.jmp_mem(header(head::LEAVE));
            }
        }
    }

    /// Goes to the code for the address in rax. Each place has a jump of its own, by which the host predicts where it goes.
    pub(super) fn look_up_code(&mut self) {
        errands::jump(&mut self.code, self.site.alignment, Jumps::First);
        self.code.jmp_mem(header(head::UNKNOWN));
    }

    /// Other code comes next: it is looked for anew.
    pub(super) fn leave_for_modes(&mut self, to: Target) {
        match to {
            Target::Direct(plus) => self.set_pc(plus),
            Target::Indirect(source) => {
                self.move_to(Reg::Rax, source);
                self.code.store(64, header(head::PC), Reg::Rax);
            }
            Target::Interpreter(pc) | Target::InterpreterAsBefore(pc) | Target::Poll(pc) => self.set_pc(pc.into()),
            Target::Hot(begin) => self.set_pc(begin.into()),
        }
        self.code.mov_imm(Reg::Rax, head::MODES_CHANGED);
        self.code.jmp_mem(header(head::LEAVE));
    }

    /// An interrupt that was masked may not be any more.
    pub(super) fn poll(&mut self, next: u32, at: StateId) {
        self.code.cmp_mem_imm(header(head::PENDING), 0);
        self.leave_if(Condition::NotEqual, Target::Poll(next), at);
    }

    /// Others may not have heard what they were told.
    pub(super) fn settle(&mut self, at: StateId) {
        self.code.cmp_mem_imm(header(head::UNSETTLED), 0);
        let pc = self.block.states[at as usize].pc;
        self.leave_if(Condition::NotEqual, Target::Interpreter(pc), at);
    }

    /// Somebody may have told of code that is another by now.
    pub(super) fn synchronise(&mut self, next: u32, at: StateId) {
        self.code.load(64, Reg::Rcx, header(head::ATTENTION));
        self.code.cmp_mem_imm(Mem::at(Reg::Rcx, 0), 0);
        self.leave_if(Condition::NotEqual, Target::Poll(next), at);
    }

    pub(super) fn set_pc(&mut self, plus: i64) {
        self.code.load(64, Reg::Rax, header(head::PAGE));
        self.code.alu_imm(Alu::Add, Size::S64, Reg::Rax, plus as i32);
        self.code.store(64, header(head::PC), Reg::Rax);
    }

    /// A jump within the page, which may once go straight to another block. Whoever turns back looks for interrupts.
    pub(super) fn link(&mut self, plus: i64) {
        let interrupted = (plus <= i64::from(self.block.begin)).then(|| {
            self.code.load(64, Reg::Rcx, header(head::ATTENTION));
            self.code.cmp_mem_imm(Mem::at(Reg::Rcx, 0), 0);
            self.code.jcc(Condition::NotEqual)
        });
        if interrupted.is_some() && self.site.counting == Counting::Turns {
            self.count(plus as u32);
        }
        let Fixup(jump) = self.code.jmp();
        self.code.land(Fixup(jump));
        if let Some(interrupted) = interrupted {
            self.code.land(interrupted);
        }
        // Whoever leaves by a link's number is where the link leads.
        self.code.mov_imm32(Reg::Rax, 0);
        let number = self.code.here() as u32 - 4;
        self.seams.links.push(Link { jump: jump as u32, number, plus: plus as i32 });
        self.code.jmp_mem(header(head::LEAVE));
    }
}
