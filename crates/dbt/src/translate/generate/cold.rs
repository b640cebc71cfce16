//! Code that is seldom reached: it stands behind a block, where it is in nobody's way.

use super::super::sets;
use super::super::x64::{Condition, Fixup, Mem, Reg};
use super::accesses::{Asked, Look, Saved};
use super::{Counting, Flushes, Generator, Open, Source, Target, Turns, header};
use crate::state::head;

/// Code that is seldom reached.
pub(super) enum Cold {
    Access {
        jumps: Fixup,
        back: usize,
        flush: Flushes,
        asked: Asked,
    },
    /// The page of an access is looked for, and then the access is tried again.
    Touch {
        jumps: Fixup,
        again: usize,
        flush: Flushes,
        save: Saved,
        address: Source,
        meta: u32,
        open: Open,
    },
    Exit {
        jumps: Fixup,
        flush: Flushes,
        to: Target,
    },
}

impl Generator<'_> {
    /// Counts that something runs which begins there in the page, and goes to cold code if it did so often enough.
    pub(super) fn count(&mut self, begin: u32) {
        self.code.decrement(Mem::at(Reg::R14, sets::counter(0)));
        let at = self.code.here() as u32 - 4;
        match self.site.counting {
            Counting::Turns => self.seams.turns.push(Turns { at, plus: begin }),
            Counting::Visits | Counting::Nothing => self.seams.counter = Some(at),
        }
        let jumps = self.code.jcc(Condition::Sign);
        self.cold.push(Cold::Exit { jumps, flush: Flushes::default(), to: Target::Hot(begin) });
    }

    /// Cold code. Gives where what leaves a stale block is.
    pub(super) fn finish(&mut self) -> usize {
        // Cold code may have some of its own.
        while !self.cold.is_empty() {
            let mut all = std::mem::take(&mut self.cold);
            all.drain(..).for_each(|cold| self.cold_code(cold));
            if self.cold.is_empty() {
                self.cold = all;
            }
        }
        let stale = self.code.here();
        self.set_pc(self.block.begin.into());
        self.code.mov_imm(Reg::Rax, head::STALE);
        self.code.jmp_mem(header(head::LEAVE));
        stale
    }

    fn cold_code(&mut self, cold: Cold) {
        match cold {
            Cold::Exit { jumps, flush, to } => {
                self.code.land(jumps);
                self.flush(flush);
                self.leave(to);
            }
            Cold::Touch { jumps, again, flush, save, address, meta, open } => {
                self.code.land(jumps);
                self.flush(flush);
                self.touch(save, address, meta);
                self.close(open);
                self.code.jmp_to(again);
            }
            Cold::Access { jumps, back, flush, asked } => {
                self.code.land(jumps);
                if !matches!(asked.look, Look::ByItself) {
                    let jumps = self.look_by_itself(asked, back);
                    self.code.land(jumps);
                }
                self.flush(flush);
                self.access(asked);
                self.close(asked.open);
                self.code.jmp_to(back);
            }
        }
    }
}
