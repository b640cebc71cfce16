//! What a description asks while it is done: of the processor itself, of its board, of memory where it really is.

use std::sync::atomic::{Ordering, fence};

use isa::Isa;
use isa::ops::{self, Float, mask};
use isa::plan::ExternId;

use crate::board::{Board, Registers};
use crate::contract::Question;
use crate::peers::{Forget, Heard};
use crate::processor::Processor;
use crate::state::head;

impl Processor {
    /// Answers a question of the description.
    pub(crate) fn question(&mut self, isa: &Isa, board: &mut dyn Board, which: ExternId, arguments: &[u64]) -> u64 {
        let first = arguments.first().copied().unwrap_or(0);
        match self.questions[usize::from(which)] {
            Question::Flush => self.flush(),
            Question::FlushPage => self.flush_page(first),
            Question::FlushSpace => self.flush_space(first as u32),
            Question::FlushShared => {
                self.flush();
                self.have_others_forget(Forget::Everything);
            }
            Question::FlushPageShared => {
                self.flush_page(first);
                self.have_others_forget(Forget::Page(first));
            }
            Question::FlushSpaceShared => {
                self.flush_space(first as u32);
                self.have_others_forget(Forget::Space(first as u32));
            }
            Question::Settle => {
                fence(Ordering::SeqCst);
                if self.state.head(head::UNSETTLED) != 0 {
                    self.settle(Heard::Pages);
                }
            }
            Question::Fence => fence(Ordering::SeqCst),
            Question::Synchronise => self.hear(),
            Question::Relax => self.relax(),
            Question::Wait => self.is_waiting = true,
            Question::Attend => self.must_attend = true,
            Question::Clock if self.ram.peers().is_alone() => return self.clock.now(),
            Question::Clock => return self.clock.now_in_order(),
            Question::Board => {
                let mut registers = Registers::of(isa, &mut self.state, self.ram.peers());
                let answer = board.answer(which.into(), arguments, &mut registers);
                let must_settle = registers.must_settle;
                if isa.externs[usize::from(which)].is_sync {
                    self.update_key();
                    // It may have switched itself off.
                    self.must_attend |= !board.is_on();
                }
                if must_settle {
                    self.settle(Heard::Code);
                    // It may have told itself, too.
                    self.hear();
                }
                return answer;
            }
        }
        0
    }

    /// Memory at a physical address. A walk through tables that are nowhere finds nothing.
    #[inline]
    pub(crate) fn physical_load(&self, address: u64, width: u8) -> u128 {
        self.ram.read(address, width).unwrap_or(0)
    }

    /// Puts `new` there if `old` is there; gives what was there, and something else where nothing is.
    pub(crate) fn physical_swap(&self, address: u64, width: u8, old: u128, new: u128) -> u128 {
        self.ram.compare_and_swap(address, width, old, new).unwrap_or(!old & mask(width))
    }

    /// A floating-point operation on operands of `width` bits; its flags are noted.
    pub(crate) fn float(&mut self, which: Float, lane: u8, width: u8, mode: u8, of: [u128; 3]) -> u128 {
        let (value, flags) = ops::float::float(which, lane, width, mode, of);
        self.raise(flags);
        value
    }
}
