//! A processor: fetches instructions, and has them done.

mod debug;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use isa::Isa;
use isa::plan::{EntryId, MOST_ARGUMENTS};

use crate::board::{Board, Registers};
use crate::clock::Clock;
use crate::contract::{Entries, Question};
use crate::error::Result;
use crate::generated::Code;
use crate::interpreter::Scratch;
use crate::lockstep::Written;
use crate::ram::Ram;
use crate::state::{State, head};
use crate::tlb::{Access, Tlb};
use crate::translate::{Translations, Translator};

pub use debug::Until;

/// Why a processor stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It did as many instructions as it should.
    Done,
    /// It waits for an interrupt.
    Waiting,
    /// It is switched off.
    Off,
}

/// What an instruction or an entry ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// What comes next in memory is next.
    Next,
    /// This is.
    Jump(u64),
    /// An entry is to be called.
    Throw(Thrown),
    /// A value.
    Give(u128),
}

/// An entry and its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Thrown {
    pub(crate) entry: EntryId,
    pub(crate) arguments: [u64; MOST_ARGUMENTS],
}

/// A processor.
pub struct Processor {
    /// Which of those that share its memory.
    pub(crate) number: usize,
    pub(crate) isa: Arc<Isa>,
    pub(crate) ram: Ram,
    pub(crate) state: State,
    pub(crate) pc: u64,
    pub(crate) tlb: Tlb,
    pub(crate) entries: Entries,
    pub(crate) questions: Vec<Question>,
    /// The modes, put together: what code is translated for.
    pub(crate) key: u32,
    /// Where the modes are, and their widths.
    modes: Vec<(u32, u8)>,
    /// Where the number of the address space is in the state.
    space: Option<u32>,
    /// Where flags of floating-point operations are.
    pub(crate) float_flags: Option<u32>,
    pub(crate) must_attend: bool,
    pub(crate) is_waiting: bool,
    pub(crate) scratch: Vec<Scratch>,
    /// What the build has made of the description.
    pub(crate) code: &'static Code,
    /// What bits were decoded before, and as what: its number, from one on.
    decoded: Box<[(u32, u32)]>,
    pub(crate) clock: Clock,
    /// Instructions done by the interpreter.
    count: u64,
    /// How often each instruction was, by its number.
    pub(crate) counts: Vec<u64>,
    pub(crate) translator: Option<Translator>,
    /// Not zero if somebody wants the processor to look at its board.
    pub(crate) attention: Arc<AtomicU32>,
    /// Code was dropped since it was last between blocks: some, or more than it was told of.
    pub(crate) has_dropped: bool,
    pub(crate) must_forget: bool,
    /// What it may have written since it began to lead another, if it does.
    pub(crate) written: Option<Written>,
}

/// What came of a single instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// What comes next in memory is next.
    Next,
    /// This is.
    Jumped(u64),
    /// It failed: what would be done about it was not.
    Failed,
    /// There is none of these bits.
    Undefined,
}

/// How a processor does instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One after the other, each operation of a plan by itself: the oracle.
    Evaluate,
    /// One after the other, by what the build has made of the description.
    Interpret,
    /// As code of the host, where the host can; code that runs seldom is interpreted, code that runs often is worth effort.
    Translate,
    /// The same, and loops that turn often are compiled as a whole, by a thread beside it.
    TranslateLoops,
    /// As code of the host with all effort, from the first time: for those who look for what is wrong with it.
    TranslateAll,
    /// The same, but for loops of any kind: whatever is reached is compiled as a whole where that can be.
    TranslateRegions,
}

/// After so many instructions, the board is asked whether there is an interrupt.
const PATIENCE: u64 = 64;
const DECODED: usize = 1 << 16;

impl Processor {
    /// A processor that is switched on, with these arguments of `reset`: the next of those that share the memory.
    pub fn new(isa: Arc<Isa>, mode: Mode, ram: Ram, board: &mut dyn Board, arguments: &[u64]) -> Result<Processor> {
        let mut processor = Processor::blank(isa, mode, ram, board)?;
        processor.reset(board, arguments);
        Ok(processor)
    }

    /// One that nothing was done to yet.
    pub(crate) fn blank(isa: Arc<Isa>, mode: Mode, ram: Ram, board: &mut dyn Board) -> Result<Processor> {
        let entries = Entries::of(&isa)?;
        let modes = isa.registers.iter().filter(|register| register.is_mode);
        let number = ram.peers().join();
        Ok(Processor {
            number,
            state: State::new(isa.state_size()),
            questions: isa.externs.iter().map(|question| Question::of(&question.name)).collect(),
            space: isa.register("address_space").map(|register| register.offset),
            float_flags: isa.register("float_flags").map(|register| register.offset),
            pc: 0,
            tlb: Tlb::default(),
            entries,
            key: 0,
            modes: modes.map(|mode| (mode.offset, mode.width)).collect(),
            must_attend: true,
            is_waiting: false,
            scratch: Vec::new(),
            code: match mode {
                Mode::Evaluate => Code::none(),
                _ => Code::of(&isa),
            },
            decoded: vec![(0, 0); DECODED].into(),
            clock: board.clock(),
            count: 0,
            counts: vec![0; isa.instructions.len()],
            translator: match mode {
                Mode::Evaluate | Mode::Interpret => None,
                Mode::Translate => Translator::patient(isa.unit.into()),
                Mode::TranslateLoops => Translator::looping(isa.unit.into()),
                Mode::TranslateAll => Translator::eager(isa.unit.into()),
                Mode::TranslateRegions => Translator::thorough(isa.unit.into()),
            },
            attention: ram.attention(number),
            has_dropped: false,
            must_forget: false,
            written: None,
            isa,
            ram,
        })
    }

    /// Switches it on anew: it knows nothing, and begins with these arguments of `reset`.
    pub fn restart(&mut self, board: &mut dyn Board, arguments: &[u64]) {
        self.come();
        self.state.clear();
        (self.is_waiting, self.must_attend) = (false, true);
        self.flush();
        if let Some(translator) = &mut self.translator {
            translator.forget_all();
        }
        self.reset(board, arguments);
        self.go();
    }

    fn reset(&mut self, board: &mut dyn Board, arguments: &[u64]) {
        let isa = Arc::clone(&self.isa);
        self.update_key();
        let mut thrown = Thrown { entry: self.entries.reset, arguments: [0; MOST_ARGUMENTS] };
        thrown.arguments.iter_mut().zip(arguments).for_each(|(to, from)| *to = *from);
        self.enter(&isa, board, thrown);
    }

    /// Where it is.
    pub fn pc(&self) -> u64 {
        self.pc
    }

    /// How many instructions it has done.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// All its registers.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Has to be called when modes were changed from outside.
    pub fn modes_changed(&mut self) {
        self.update_key();
    }

    /// Its registers.
    pub fn registers(&mut self) -> Registers<'_> {
        Registers::of(&self.isa, &mut self.state, self.ram.peers())
    }

    /// The number of the address space that it is in.
    #[inline]
    pub(crate) fn space(&self) -> u32 {
        self.space.map_or(0, |offset| self.state.narrow(offset) as u32)
    }

    /// Adds flags of a floating-point operation to those that were met before.
    pub(crate) fn raise(&mut self, flags: u8) {
        if let Some(offset) = self.float_flags {
            let met = self.state.narrow(offset) | u64::from(flags);
            self.state.set_narrow(offset, met);
        }
    }

    /// Modes may have changed.
    pub(crate) fn update_key(&mut self) {
        let state = &self.state;
        self.key = self.modes.iter().fold(0, |key, (offset, width)| key << width | state.narrow(*offset) as u32);
    }

    /// Does so many instructions, or fewer if it then waits for an interrupt.
    pub fn run(&mut self, board: &mut dyn Board, instructions: u64) -> Stop {
        self.attention.swap(0, Ordering::AcqRel);
        if !board.is_on() {
            self.be_absent();
            return Stop::Off;
        }
        self.come();
        let stop = self.run_inside(board, instructions);
        self.go();
        stop
    }

    fn run_inside(&mut self, board: &mut dyn Board, instructions: u64) -> Stop {
        let isa = Arc::clone(&self.isa);
        let end = self.count + instructions;
        while self.count < end {
            let is_patient = !self.count.is_multiple_of(PATIENCE);
            if !is_patient {
                self.hear_between();
            }
            if self.must_attend || (!is_patient && board.attention()) {
                if !board.is_on() {
                    return Stop::Done;
                }
                self.attend(&isa, board);
            }
            if self.is_waiting {
                if !board.attention() {
                    return Stop::Waiting;
                }
                self.is_waiting = false;
            }
            self.step(&isa, board);
        }
        Stop::Done
    }

    /// Runs translated code until somebody wants the processor, or it waits for an interrupt.
    pub fn run_fast(&mut self, board: &mut dyn Board) -> Stop {
        if self.translator.is_none() {
            return self.run(board, 10_000);
        }
        if !board.is_on() {
            // Who switches it on tells it so afterwards.
            self.attention.store(0, Ordering::SeqCst);
            if !board.is_on() {
                self.be_absent();
                return Stop::Off;
            }
        }
        self.come();
        let stop = self.run_fast_inside(board);
        self.go();
        stop
    }

    fn run_fast_inside(&mut self, board: &mut dyn Board) -> Stop {
        let isa = Arc::clone(&self.isa);
        loop {
            let is_wanted = self.attention.swap(0, Ordering::AcqRel) != 0;
            self.hear_between();
            if (is_wanted || self.must_attend) && !board.is_on() {
                return Stop::Done;
            }
            let is_pending = self.state.head(head::PENDING) != 0;
            if self.must_attend || is_pending || (is_wanted && board.attention()) {
                self.attend(&isa, board);
            }
            if self.is_waiting {
                if !board.attention() {
                    return Stop::Waiting;
                }
                self.is_waiting = false;
                // What woke it may be masked still: it is noted, and taken as soon as it is not.
                self.attend(&isa, board);
            }
            if is_wanted {
                self.run_translated(&isa, board);
                return Stop::Done;
            }
            self.run_translated(&isa, board);
        }
    }

    /// Sets it to have the processor look at its board and into its mailbox.
    pub fn attention(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.attention)
    }

    /// What it translates from now on is looked for here first, and added to it.
    pub fn share(&mut self, translations: Arc<Translations>) {
        if let Some(translator) = &mut self.translator {
            translator.share(translations);
        }
    }

    /// There is time for what is not urgent: it is waiting.
    pub fn rest(&self) {
        if let Some(translator) = &self.translator {
            translator.rest();
        }
    }

    /// How many blocks were translated.
    pub fn blocks(&self) -> u64 {
        self.translator.as_ref().map_or(0, |translator| translator.made)
    }

    /// How many loops were compiled as a whole.
    pub fn regions(&self) -> u64 {
        self.translator.as_ref().map_or(0, |translator| translator.regions)
    }

    /// Instructions that were interpreted, the most often first: what a translator would do well to know.
    pub fn interpreted(&self) -> Vec<(&str, u64)> {
        let counts = self.isa.instructions.iter().zip(&self.counts).filter(|(_, count)| **count > 0);
        let mut list: Vec<(&str, u64)> = counts.map(|(instruction, count)| (&*instruction.name, *count)).collect();
        list.dedup();
        list.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        list
    }

    /// Looks for interrupts. What waits and is masked is noted.
    pub(crate) fn attend(&mut self, isa: &Isa, board: &mut dyn Board) {
        self.must_attend = false;
        match self.consult(isa, board, self.entries.poll, &[0; MOST_ARGUMENTS]) {
            End::Throw(thrown) => {
                self.enter(isa, board, thrown);
                self.is_waiting = false;
                // There may be another.
                self.state.set_head(head::PENDING, 1);
            }
            End::Give(pending) => self.state.set_head(head::PENDING, pending as u64),
            End::Next | End::Jump(_) => {}
        }
    }

    /// Does the instruction of these bits as if it were at an address, on the registers as they are: for tests.
    pub fn try_word(&mut self, board: &mut dyn Board, address: u64, word: u32) -> Outcome {
        let isa = Arc::clone(&self.isa);
        self.update_key();
        self.pc = address;
        let Some(number) = self.decode(&isa, word) else { return Outcome::Undefined };
        match self.interpret(&isa, board, number, word) {
            End::Next | End::Give(_) => Outcome::Next,
            End::Jump(to) => Outcome::Jumped(to),
            End::Throw(_) => Outcome::Failed,
        }
    }

    /// Does one instruction.
    pub(crate) fn step(&mut self, isa: &Isa, board: &mut dyn Board) {
        match self.fetch(isa, board) {
            Ok(fetched) => self.step_fetched(isa, board, fetched),
            Err(thrown) => {
                self.count += 1;
                self.enter(isa, board, thrown);
            }
        }
    }

    /// The same, where the instruction is known: its number, and its bits.
    pub(crate) fn step_fetched(&mut self, isa: &Isa, board: &mut dyn Board, (number, word): (usize, u32)) {
        self.count += 1;
        match self.interpret(isa, board, number, word) {
            End::Next | End::Give(_) => self.pc = self.pc.wrapping_add(isa.instructions[number].size.into()),
            End::Jump(to) => self.pc = to,
            End::Throw(thrown) => {
                self.enter(isa, board, thrown);
            }
        }
    }

    /// The instruction at hand, by its number, and its bits.
    fn fetch(&mut self, isa: &Isa, board: &mut dyn Board) -> std::result::Result<(usize, u32), Thrown> {
        let pc = self.pc;
        let mut word = 0;
        // A longer instruction may end on a page that is not there, which matters only if it is one.
        let (step, parts) = if isa.unit == 16 { (2, 2) } else { (4, 1) };
        for part in 0..parts {
            let address = pc.wrapping_add(step * part);
            let physical = self.translate(isa, board, Access::Fetch, address, 0)?;
            let bits = if step == 2 { 16 } else { 32 };
            let found = self.ram.read(physical, bits).ok_or_else(|| self.unreachable(address, Access::Fetch))?;
            word |= (found as u32) << (16 * part);
            if let Some(number) = self.decode(isa, word)
                && u64::from(isa.instructions[number].size) <= step * (part + 1)
            {
                return Ok((number, word));
            }
        }
        let mut thrown = Thrown { entry: self.entries.undefined, arguments: [0; MOST_ARGUMENTS] };
        thrown.arguments[0] = word.into();
        Err(thrown)
    }

    /// The number of the instruction that has these bits.
    pub(crate) fn decode(&mut self, isa: &Isa, word: u32) -> Option<usize> {
        let slot = (word ^ word >> DECODED.ilog2()) as usize & (DECODED - 1);
        if let (bits, known @ 1..) = self.decoded[slot]
            && bits == word
        {
            return Some(known as usize - 1);
        }
        let found = isa.decoder.decode(&isa.instructions, word)?;
        self.decoded[slot] = (word, found as u32 + 1);
        Some(found)
    }

    /// Calls an entry, and what it throws, and so on. Says whether anything jumped.
    pub(crate) fn enter(&mut self, isa: &Isa, board: &mut dyn Board, first: Thrown) -> bool {
        let mut thrown = first;
        // A description that throws without end stops nobody but its own guest.
        for _ in 0..16 {
            match self.consult(isa, board, thrown.entry, &thrown.arguments) {
                End::Throw(next) => thrown = next,
                End::Jump(to) => {
                    self.pc = to;
                    return true;
                }
                End::Next | End::Give(_) => return false,
            }
        }
        false
    }

    pub(crate) fn unreachable(&self, address: u64, access: Access) -> Thrown {
        let mut arguments = [0; MOST_ARGUMENTS];
        arguments[0] = address;
        arguments[1] = access as u64;
        Thrown { entry: self.entries.unreachable, arguments }
    }
}
