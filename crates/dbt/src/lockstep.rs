//! Two processors that do the same in two ways, each with a memory and a board of its own, compared as they go.
//!
//! One leads: it runs generated code for a *stretch*, to where that would look at its board. The other follows: it does one
//! instruction after the other until it is where the leader is, all registers included. Neither takes an interrupt within
//! a stretch, and who drives them moves their clocks between stretches only, so both see the same. **How many
//! instructions a stretch has nobody needs to know:** generated code does not count them.

use std::sync::atomic::Ordering;

use crate::board::Board;
use crate::processor::{Processor, Stop};
use crate::state::head;

/// How far a stretch goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stretch {
    /// To the first place where generated code looks whether somebody wants its processor: where it turns back, or goes to
    /// an address that it computed. The same in each run.
    Turn,
    /// Until somebody wants the processor ([`Processor::attention`]): from block to block as it does otherwise.
    Wanted,
}

/// What the two do not have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where the stretch began.
    pub began: u64,
    /// Where the leader is.
    pub led_to: u64,
    /// Registers by name, with the leader's value and the follower's, where the follower first came to that address.
    pub registers: Vec<(String, u64, u64)>,
    /// The first instructions of the stretch, as the follower did them: addresses and bits.
    pub path: Vec<(u64, u32)>,
}

/// Instructions of a stretch that are told of.
const TOLD: usize = 64;

impl Processor {
    /// Leads: runs translated code for a stretch.
    pub fn lead(&mut self, board: &mut dyn Board, stretch: Stretch) {
        let isa = std::sync::Arc::clone(&self.isa);
        self.attention.store((stretch == Stretch::Turn).into(), Ordering::SeqCst);
        self.state.set_head(head::CLOCK_OFFSET, self.clock.offset());
        self.come();
        self.run_translated(&isa, board);
        self.go();
    }

    /// Follows to where the other is, in so many instructions at most; gives how many they were. A place where both are the
    /// same is taken for the end of the stretch: what both do from there is the same.
    pub fn follow(&mut self, board: &mut dyn Board, leader: &Processor, most: u64) -> Result<u64, Difference> {
        let isa = std::sync::Arc::clone(&self.isa);
        let (began, mut registers, mut path) = (self.pc, None, Vec::new());
        self.come();
        for done in 0..=most {
            if self.pc == leader.pc {
                if self.is_where(leader) {
                    self.go();
                    return Ok(done);
                }
                registers.get_or_insert_with(|| self.differences(leader));
            }
            if path.len() < TOLD {
                path.push((self.pc, self.word_here()));
            }
            self.step(&isa, board);
        }
        self.go();
        let registers = registers.unwrap_or_else(|| self.differences(leader));
        Err(Difference { began, led_to: leader.pc, registers, path })
    }

    /// Whether it has something to look at its board for.
    pub fn is_wanted(&self, board: &dyn Board) -> bool {
        self.must_attend || self.is_waiting || self.state.head(head::PENDING) != 0 || board.attention()
    }

    /// Looks at its board, between two stretches.
    pub fn look(&mut self, board: &mut dyn Board) -> Stop {
        let isa = std::sync::Arc::clone(&self.isa);
        if !board.is_on() {
            return Stop::Off;
        }
        if self.is_waiting {
            if !board.attention() {
                return Stop::Waiting;
            }
            self.is_waiting = false;
        }
        self.come();
        self.attend(&isa, board);
        self.go();
        Stop::Done
    }

    fn is_where(&self, other: &Processor) -> bool {
        (self.pc, self.is_waiting) == (other.pc, other.is_waiting) && self.state.words() == other.state.words()
    }

    /// What the follower, which this is, has in other registers than the leader.
    fn differences(&self, leader: &Processor) -> Vec<(String, u64, u64)> {
        let pairs = leader.state.words().iter().zip(self.state.words()).enumerate();
        let name = |word: usize| {
            let offset = word as u32 * 8;
            let register = self.isa.registers.iter().rev().find(|it| it.offset <= offset);
            register.map_or_else(String::new, |it| format!("{}[{}]", it.name, (offset - it.offset) / it.stride.max(8)))
        };
        let differ = pairs.filter(|(_, (one, other))| one != other);
        differ.map(|(word, (one, other))| (name(word), *one, *other)).collect()
    }

    /// The bits where it is, if it has been there.
    fn word_here(&self) -> u32 {
        let physical = self.tlb.look(crate::tlb::Access::Fetch, self.pc, self.key, self.space());
        physical.and_then(|at| self.ram.read(at, 32)).unwrap_or(0) as u32
    }
}
