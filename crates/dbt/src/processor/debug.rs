//! What a debugger does with a processor: single steps, places to stop at, registers and memory from outside.
//!
//! Steps are the interpreter's, as is all that runs while there are places to stop at: it looks after each instruction where it is,
//! in whichever address space, and the translator need not know of any of it. **All of this is for one thread that has all the
//! processors, while none of them works**: others are there between two instructions, and hear what they are told before they go on.

use std::collections::BTreeSet;
use std::sync::Arc;

use isa::Isa;
use isa::plan::MOST_ARGUMENTS;

use super::{End, PATIENCE, Processor};
use crate::board::Board;
use crate::tlb::{Access, PAGE_BITS};

/// Why [`Processor::run_until`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// It is at one of the places.
    Reached,
    /// It did as many instructions as it should.
    Done,
    /// It waits for an interrupt.
    Waiting,
    /// It is switched off.
    Off,
}

impl Processor {
    /// What it is.
    pub fn isa(&self) -> &Arc<Isa> {
        &self.isa
    }

    /// Has it go on elsewhere.
    pub fn set_pc(&mut self, pc: u64) {
        self.pc = pc;
    }

    /// Does one instruction, if it is on. One that waits for an interrupt has waited.
    pub fn step_once(&mut self, board: &mut dyn Board) {
        if !board.is_on() {
            self.be_absent();
            return;
        }
        self.come();
        self.step_inside(board);
        self.go();
    }

    fn step_inside(&mut self, board: &mut dyn Board) {
        let isa = Arc::clone(&self.isa);
        self.is_waiting = false;
        if self.must_attend || board.attention() {
            self.attend(&isa, board);
        }
        self.step(&isa, board);
        self.is_waiting = false;
    }

    /// Does instructions until it is at one of these places, so many at most. Where it begins it does not stop.
    pub fn run_until(&mut self, board: &mut dyn Board, instructions: u64, places: &BTreeSet<u64>) -> Until {
        if !board.is_on() {
            self.be_absent();
            return Until::Off;
        }
        self.come();
        let until = self.run_until_inside(board, instructions, places);
        self.go();
        until
    }

    fn run_until_inside(&mut self, board: &mut dyn Board, instructions: u64, places: &BTreeSet<u64>) -> Until {
        let isa = Arc::clone(&self.isa);
        for _ in 0..instructions {
            if self.must_attend && !board.is_on() {
                return Until::Done;
            }
            if self.must_attend || (self.count.is_multiple_of(PATIENCE) && board.attention()) {
                let before = self.pc;
                self.attend(&isa, board);
                if self.pc != before && places.contains(&self.pc) {
                    return Until::Reached;
                }
            }
            if self.is_waiting {
                if !board.attention() {
                    return Until::Waiting;
                }
                self.is_waiting = false;
            }
            self.step(&isa, board);
            if places.contains(&self.pc) {
                return Until::Reached;
            }
        }
        Until::Done
    }

    /// What an entry of the description gives; nothing if there is none of this name, or it gives nothing.
    pub fn ask(&mut self, board: &mut dyn Board, entry: &str, argument: u64) -> Option<u128> {
        let isa = Arc::clone(&self.isa);
        let entry = isa.entry(entry)?;
        let mut arguments = [0; MOST_ARGUMENTS];
        arguments[0] = argument;
        self.come();
        let end = self.consult(&isa, board, entry, &arguments);
        self.go();
        match end {
            End::Give(value) => Some(value),
            _ => None,
        }
    }

    /// Memory as the processor sees it where it is now; gives how much of it there is. Devices are left alone.
    pub fn peek(&mut self, board: &mut dyn Board, address: u64, into: &mut [u8]) -> usize {
        for (number, byte) in into.iter_mut().enumerate() {
            let physical = self.behind(board, address.wrapping_add(number as u64));
            let Some(value) = physical.and_then(|at| self.ram.read(at, 8)) else { return number };
            *byte = value as u8;
        }
        into.len()
    }

    /// Writes memory that it can read, whether or not it may write it. Says whether all of it was there.
    pub fn poke(&mut self, board: &mut dyn Board, address: u64, from: &[u8]) -> bool {
        let place = |number: usize| address.wrapping_add(number as u64);
        let places: Option<Vec<u64>> =
            (0..from.len()).map(|number| self.behind(board, place(number)).filter(|at| self.ram.holds(*at))).collect();
        let Some(places) = places else { return false };
        for (physical, byte) in places.into_iter().zip(from) {
            let _ = self.ram.write(physical, 8, (*byte).into());
            self.wrote(physical, 1);
        }
        true
    }

    /// The physical address behind one, if there is one.
    fn behind(&mut self, board: &mut dyn Board, address: u64) -> Option<u64> {
        let isa = Arc::clone(&self.isa);
        let page = address >> PAGE_BITS << PAGE_BITS;
        self.come();
        let found = self.translate(&isa, board, Access::Read, page, 0);
        self.go();
        Some(found.ok()? | address & ((1 << PAGE_BITS) - 1))
    }
}
