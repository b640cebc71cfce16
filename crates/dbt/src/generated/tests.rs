//! Functions against plans: each entry and each instruction of every description, on random registers, memory and tables
//! of pages, by the function that the build has made of it and by the interpreter, operation by operation. What both end
//! with has to be the same: value or entry and its arguments, registers, memory, and what they asked of their boards, in
//! order.

use std::path::Path;
use std::sync::Arc;

use isa::ops::mask;
use isa::{Isa, Source};

use super::{Arguments, Code};
use crate::board::{Board, Registers};
use crate::clock::Clock;
use crate::processor::{End, Mode, Processor};
use crate::ram::Ram;

const MEMORY: u64 = 0x10_0000;
const SIZE: u64 = 64 << 10;
const PAGE: u64 = 4096;

#[derive(Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }

    fn address(&mut self) -> u64 {
        MEMORY + self.below(SIZE)
    }

    /// A number as code has them: an address, a page's number, few ones, few zeros, or any.
    fn value(&mut self) -> u64 {
        match self.below(8) {
            0 | 1 => self.address(),
            2 => self.address() / PAGE,
            3 => self.below(64),
            4 => self.below(64).wrapping_neg(),
            5 => 1 << self.below(64),
            // Of double precision, not too great.
            6 => (self.below(2000) as f64 / 7.0 - 100.0).to_bits(),
            _ => self.next(),
        }
    }

    /// What a walk may find: the number of a page from bit `low` on, and bits below that mostly let it go on.
    fn entry(&mut self, low: u32) -> u64 {
        let below = self.next() & ((1 << low) - 1);
        let leads_on = if self.below(2) == 0 { 0x3f1 } else { 0xfff };
        let above = if self.below(16) == 0 { self.next() << 52 } else { 0 };
        (self.address() / PAGE) << low | below & leads_on | u64::from(self.below(16) > 0) | above
    }
}

/// It answers whatever is asked by what it was asked, and remembers all of it.
#[derive(Default, PartialEq, Debug)]
struct Witness(Vec<(usize, Vec<u64>)>);

const READ: usize = 1000;
const WRITTEN: usize = 1001;

impl Witness {
    fn says(&mut self, what: usize, asked: &[u64]) -> u64 {
        let answer = asked.iter().fold(what as u64, |sum, it| (sum ^ it).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        self.0.push((what, asked.to_vec()));
        answer
    }
}

impl Board for Witness {
    fn read(&mut self, address: u64, size: u8) -> Option<u64> {
        let value = self.says(READ, &[address, size.into()]);
        (address & 8 == 0).then_some(value & isa::ops::mask64(size * 8))
    }

    fn write(&mut self, address: u64, size: u8, value: u64) -> Option<()> {
        self.says(WRITTEN, &[address, size.into(), value]);
        (address & 8 == 0).then_some(())
    }

    fn answer(&mut self, question: usize, arguments: &[u64], _registers: &mut Registers<'_>) -> u64 {
        self.says(question, arguments)
    }

    fn clock(&self) -> Clock {
        Clock::by_hand(1_000_000)
    }

    fn attention(&self) -> bool {
        false
    }
}

/// A processor with all that belongs to it.
struct Side {
    cpu: Processor,
    ram: Ram,
    board: Witness,
}

impl Side {
    fn new(isa: &Arc<Isa>, mode: Mode) -> Side {
        let memory = vm::Memory::new(SIZE as usize).expect("memory");
        let ram = Ram::new(Arc::new(memory), MEMORY);
        let mut board = Witness::default();
        let cpu = Processor::new(Arc::clone(isa), mode, ram.clone(), &mut board, &[MEMORY]).expect("a processor");
        Side { cpu, ram, board }
    }

    fn memory(&self) -> Vec<u8> {
        let mut bytes = vec![0; SIZE as usize];
        self.ram.copy_out(MEMORY, &mut bytes).expect("memory");
        bytes
    }
}

/// The two, which are always given the same.
struct Pair {
    isa: Arc<Isa>,
    made: Side,
    evaluated: Side,
}

impl Pair {
    fn new(isa: &Arc<Isa>) -> Pair {
        let made = Side::new(isa, Mode::Interpret);
        assert_eq!(
            made.cpu.code.entries.len(),
            isa.entries.len(),
            "{}: the build has made this one's functions",
            isa.name
        );
        Pair { isa: Arc::clone(isa), made, evaluated: Side::new(isa, Mode::Evaluate) }
    }

    fn fill(&mut self, random: &mut Random, mut word: impl FnMut(&mut Random) -> u64) {
        let words: Vec<u8> = (0..SIZE / 8).flat_map(|_| word(random).to_le_bytes()).collect();
        for side in [&mut self.made, &mut self.evaluated] {
            side.ram.copy_in(MEMORY, &words).expect("memory");
        }
    }

    fn begin(&mut self, random: &mut Random) {
        let isa = Arc::clone(&self.isa);
        let pc = random.value() & !3;
        for register in &isa.registers {
            for index in 0..register.count {
                let low = if register.width < 8 { random.next() >> 32 } else { random.value() };
                let value = u128::from(low) | u128::from(random.value()) << 64;
                let value = value & mask(register.width);
                for side in [&mut self.made, &mut self.evaluated] {
                    side.cpu.state.set(register, index, value);
                }
            }
        }
        for side in [&mut self.made, &mut self.evaluated] {
            side.cpu.modes_changed();
            side.cpu.flush();
            side.cpu.pc = pc;
            (side.cpu.must_attend, side.cpu.is_waiting) = (false, false);
        }
    }

    /// Whatever may say where tables are says so: as an address, or as a page's number.
    fn be_at_tables(&mut self, random: &mut Random) {
        let isa = Arc::clone(&self.isa);
        for register in isa.registers.iter().filter(|it| !it.is_bank && matches!(it.width, 32..=64)) {
            let page = random.address() / PAGE;
            let value = match random.below(2) {
                0 if register.width == 64 => page * PAGE,
                0 => page,
                // What else there is of so many bits, such as what is enabled, may be anything.
                _ => random.next(),
            };
            for side in [&mut self.made, &mut self.evaluated] {
                side.cpu.state.set(register, 0, value.into());
            }
        }
    }

    /// Has both do something, which may be asked for by name where it fails. Gives how it ended.
    fn try_both(&mut self, what: &str, run: impl Fn(&mut Side, &Isa) -> End) -> End {
        let before = self.evaluated.cpu.state.clone();
        let ends = [&mut self.made, &mut self.evaluated].map(|side| run(side, &self.isa));
        let Pair { made, evaluated, isa } = self;
        assert_eq!(ends[0], ends[1], "{}, {what}, in {:x?}", isa.name, before.words());
        assert_eq!(made.cpu.state, evaluated.cpu.state, "{}, {what}, in {:x?}", isa.name, before.words());
        assert_eq!(made.board, evaluated.board, "{}, {what}", isa.name);
        let rest = |side: &Side| (side.cpu.pc, side.cpu.key, side.cpu.must_attend, side.cpu.is_waiting);
        assert_eq!(rest(made), rest(evaluated), "{}, {what}", isa.name);
        made.board.0.clear();
        evaluated.board.0.clear();
        ends[0]
    }

    fn compare_memory(&self, what: &str) -> Vec<u8> {
        let memory = self.made.memory();
        assert!(memory == self.evaluated.memory(), "{}, {what}: memory differs", self.isa.name);
        memory
    }
}

fn descriptions() -> Vec<Arc<Isa>> {
    let folders = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../isa")).expect("descriptions");
    let compiled = |folder: &Path| {
        let sources = Source::all_in(folder).expect("descriptions");
        isa::compile(&sources).unwrap_or_else(|error| panic!("{error}"))
    };
    folders.map(|folder| Arc::new(compiled(&folder.expect("a folder").path()))).collect()
}

fn arguments(random: &mut Random) -> Arguments {
    std::array::from_fn(|_| random.value())
}

#[test]
fn entries_do_what_their_plans_say() {
    for isa in descriptions() {
        let mut pair = Pair::new(&isa);
        let mut random = Random(0x1234_5678_9abc_def1);
        for number in 0..isa.entries.len() {
            pair.fill(&mut random, Random::value);
            for _ in 0..200 {
                pair.begin(&mut random);
                let given = arguments(&mut random);
                let what = format!("{}({given:x?})", isa.entries[number].name);
                pair.try_both(&what, |side, isa| side.cpu.consult(isa, &mut side.board, number as u16, &given));
            }
            pair.compare_memory(&isa.entries[number].name);
        }
    }
}

/// Tables of pages that lead from one to the other, and to somewhere: what is found, what is refused, and what a walk
/// writes.
#[test]
fn walks_end_where_their_plans_say() {
    for isa in descriptions() {
        let mut pair = Pair::new(&isa);
        let mut random = Random(0x0fed_cba9_8765_4321);
        let translate = pair.made.cpu.entries.translate;
        let (mut found, mut refused, mut written) = (0, 0, 0);
        for round in 0..200 {
            let low = 10 + round % 2 * 2;
            pair.fill(&mut random, |random| random.entry(low));
            let mut before = pair.compare_memory("at first");
            for turn in 0..200 {
                pair.begin(&mut random);
                pair.be_at_tables(&mut random);
                let given: Arguments =
                    [(random.next() as i64 >> (16 + random.below(40))) as u64, random.below(8), 0, 0, 0, 0];
                let what = format!("translate({given:x?})");
                let run = |side: &mut Side, isa: &Isa| side.cpu.consult(isa, &mut side.board, translate, &given);
                match pair.try_both(&what, run) {
                    End::Give(_) => found += 1,
                    End::Throw(_) => refused += 1,
                    End::Next | End::Jump(_) => panic!("{}: {what} gives or throws", isa.name),
                }
                if turn % 10 == 9 {
                    let after = pair.compare_memory(&what);
                    written += usize::from(after != before);
                    before = after;
                }
            }
        }
        assert!(found > 300 && refused > 300 && written > 40, "{}: {found}, {refused}, {written}", isa.name);
    }
}

#[test]
fn instructions_do_what_their_plans_say() {
    for isa in descriptions() {
        let mut pair = Pair::new(&isa);
        let mut random = Random(0x5555_aaaa_1234_8765);
        let mut ended = [0; 3];
        for (number, instruction) in isa.instructions.iter().enumerate() {
            if number % 16 == 0 {
                pair.fill(&mut random, Random::value);
            }
            for _ in 0..24 {
                pair.begin(&mut random);
                let word = random.next() as u32 & !instruction.mask | instruction.value;
                let what = format!("{} {word:08x}", instruction.name);
                let end = pair.try_both(&what, |side, isa| side.cpu.interpret(isa, &mut side.board, number, word));
                let kind = match end {
                    End::Next => 0,
                    End::Jump(_) => 1,
                    End::Throw(_) | End::Give(_) => 2,
                };
                ended[kind] += 1;
            }
            pair.compare_memory(&instruction.name);
        }
        assert!(ended.iter().all(|it| *it > 100), "{}: {ended:?}", isa.name);
    }
}

#[test]
fn a_description_that_the_build_has_not_seen_is_interpreted() {
    let mut isa = Isa::clone(&descriptions()[0]);
    isa.digest ^= 1;
    assert!(Code::of(&isa).entries.is_empty());
}
