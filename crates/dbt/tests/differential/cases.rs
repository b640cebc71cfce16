//! Cases: made, done by the interpreter, done by somebody else, compared.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use dbt::{Mode, Outcome, Processor, Ram};
use isa::plan::Op;
use isa::{Instruction, Isa, Source};

use crate::board::Nothing;
use crate::program::{self, Case, DATA, DATA_SIZE, Engine};
use crate::target::{BLOCK, END, GENERAL, JUMP, JUMPED, Target, set_word, word};
use crate::values::Random;

/// What was found.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) agreed: usize,
    pub(crate) instructions: usize,
    /// Instructions that no case was found of.
    pub(crate) untried: Vec<String>,
    pub(crate) disagreements: Vec<String>,
}

/// Says which instructions, by a part of their names.
pub(crate) const ONLY: &str = "SKEP_DIFFERENTIAL_ONLY";
/// Cases of one program.
const BATCH: usize = 20_000;
/// Where in memory most accesses are.
const MIDDLE: u64 = DATA + (40 << 10);
/// What is tried before an instruction is given up.
const PATIENCE: usize = 60;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

pub(crate) fn description(name: &str) -> Isa {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../isa").join(name);
    isa::compile(&Source::all_in(&folder).unwrap()).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn run(engine: Engine, target: &dyn Target) -> Report {
    let isa = Arc::new(description(target.name()));
    let only = std::env::var(ONLY).unwrap_or_default();
    let chosen: Vec<usize> = (0..isa.instructions.len())
        .filter(|at| isa.instructions[*at].name.contains(&only) && is_tried(&isa, &isa.instructions[*at], target))
        .collect();
    let each = number("SKEP_DIFFERENTIAL_CASES", 12) as usize;
    let random = Random::new(number("SKEP_DIFFERENTIAL_SEED", 1));
    let mut work = Work::new(engine, target, isa, random);
    let mut report = Report { instructions: chosen.len(), ..Report::default() };
    let mut cases = Vec::new();
    let mut data = work.data();
    for number in chosen {
        let begin = cases.len();
        for _ in 0..each {
            let places = work.place(cases.len());
            cases.extend(work.case(number, places));
        }
        if cases.len() == begin {
            report.untried.push(work.describe(number));
        }
        if cases.len() + each > BATCH {
            work.compare(&mut cases, &data, &mut report);
            data = work.data();
        }
    }
    work.compare(&mut cases, &data, &mut report);
    report
}

/// Whether all that it does can be seen: it neither asks, nor touches what is not compared.
fn is_tried(isa: &Isa, instruction: &Instruction, target: &dyn Target) -> bool {
    instruction.plan.nodes.iter().all(|node| match node.op {
        Op::Call { .. } => false,
        Op::Write { register, .. } => target.registers().contains(&isa.registers[usize::from(register)].name.as_str()),
        Op::Read { register, .. } => !isa.registers[usize::from(register)].name.starts_with("exclusive"),
        _ => true,
    })
}

fn accesses_memory(instruction: &Instruction) -> bool {
    let accesses =
        |op: &Op| matches!(op, Op::Load { .. } | Op::Store { .. } | Op::CompareAndSwap { .. } | Op::Atomic { .. });
    instruction.plan.nodes.iter().any(|node| accesses(&node.op))
}

fn field(instruction: &Instruction, name: &str, word: u32) -> Option<u64> {
    instruction.fields.iter().find(|field| field.name == name).map(|field| field.of(word))
}

struct Work<'t> {
    engine: Engine,
    target: &'t dyn Target,
    isa: Arc<Isa>,
    processor: Processor,
    ram: Ram,
    random: Random,
    places: Vec<u64>,
}

impl<'t> Work<'t> {
    fn new(engine: Engine, target: &'t dyn Target, isa: Arc<Isa>, mut random: Random) -> Work<'t> {
        let memory = vm::Memory::new(DATA_SIZE).expect("memory");
        let ram = Ram::new(Arc::new(memory), DATA);
        let content: Vec<u8> = (0..DATA_SIZE / 16).flat_map(|_| random.vector().to_le_bytes()).collect();
        ram.copy_in(DATA, &content).expect("memory holds its content");
        let processor = Processor::new(Arc::clone(&isa), Mode::Interpret, ram.clone(), &mut Nothing, &[DATA]);
        let processor = processor.expect("a processor");
        Work { engine, target, isa, processor, ram, random, places: Vec::new() }
    }

    fn data(&self) -> Vec<u8> {
        let mut data = vec![0; DATA_SIZE];
        self.ram.copy_out(DATA, &mut data).expect("memory");
        data
    }

    fn place(&mut self, number: usize) -> u64 {
        if self.places.is_empty() {
            self.places = program::places(self.target, 2 * BATCH);
        }
        self.places[number]
    }

    /// A case of an instruction, or nothing if none was found.
    fn case(&mut self, number: usize, place: u64) -> Option<Case> {
        (0..PATIENCE).find_map(|_| {
            let instruction = &self.isa.instructions[number];
            let by = u64::from(instruction.size) + JUMP;
            let has = |is: fn(&Op) -> bool| instruction.plan.nodes.iter().any(|node| is(&node.op));
            let by = if has(|op| matches!(op, Op::Jump(_))) {
                Some(by)
            } else if has(|op| matches!(op, Op::Pc)) && accesses_memory(instruction) {
                Some((MIDDLE + self.random.below(1 << 10) / 4 * 4).wrapping_sub(place))
            } else {
                None
            };
            let word = self.word(number)?;
            let word = by.map_or(word, |by| self.target.aimed(&self.isa.instructions[number], word, by));
            self.done(number, word, place)
        })
    }

    /// Bits of an instruction that does not use our own register.
    fn word(&mut self, number: usize) -> Option<u32> {
        let instruction = &self.isa.instructions[number];
        let random = self.random.next() as u32;
        let mut word = instruction.value | random & !instruction.mask;
        if instruction.size == 2 {
            word &= 0xffff;
        }
        let is_ours = |field: &isa::Field| {
            field.width == 5 && field.of(word) == self.target.base() && field.of(instruction.mask) == 0
        };
        let is_it = self.isa.decode(word).is_some_and(|found| std::ptr::eq(found, instruction));
        let is_loaded_twice =
            field(instruction, "rt", word).is_some_and(|rt| field(instruction, "rt2", word) == Some(rt));
        // What an architecture leaves open, qemu does in its own way.
        let writes_base =
            accesses_memory(instruction) && field(instruction, "rt", word) == field(instruction, "rn", word);
        let is_open = is_loaded_twice || writes_base && field(instruction, "rt", word).is_some();
        (is_it && !is_open && !instruction.fields.iter().any(is_ours)).then_some(word)
    }

    fn tried(&mut self, before: &[u8], place: u64, word: u32) -> Outcome {
        self.target.put(&mut self.processor.registers(), before);
        self.processor.try_word(&mut Nothing, place, word)
    }

    fn done(&mut self, number: usize, bits: u32, place: u64) -> Option<Case> {
        let isa = Arc::clone(&self.isa);
        let instruction = &isa.instructions[number];
        let (base, offset) = self.target.address_field();
        let mut before = vec![0; BLOCK];
        let mut vectors: Vec<u128> = (0..32).map(|_| self.random.vector()).collect();
        if self.random.below(3) == 0 {
            // Operands that are close to each other.
            let first = vectors[0];
            vectors.iter_mut().for_each(|vector| *vector = self.random.beside(first));
        }
        for at in 0..32 {
            before[16 * at..16 * at + 16].copy_from_slice(&vectors[at].to_le_bytes());
            set_word(&mut before, GENERAL + 8 * at, self.random.general());
        }
        self.target.special(&mut self.random, &mut before);
        let is_memory = accesses_memory(instruction);
        if is_memory {
            let stack = MIDDLE + self.random.below(1 << 8) * 8;
            set_word(&mut before, GENERAL + 8 * self.target.stack(), stack);
            for field in &instruction.fields {
                let name = field.name.as_str();
                if name == base || name == offset {
                    let within = if name == base { MIDDLE } else { 0 };
                    let aligned = if self.random.below(4) == 0 { 1 } else { 16 };
                    let value = within + self.random.below(1 << 10) / aligned * aligned;
                    let which = if field.width == 3 { field.of(bits) + 8 } else { field.of(bits) };
                    set_word(&mut before, GENERAL + 8 * which as usize, value);
                }
            }
        }
        let size = instruction.size;
        let saved = is_memory.then(|| self.data());
        set_word(&mut before, JUMPED, 1);
        let target = place + u64::from(size) + JUMP;
        let mut outcome = self.tried(&before, place, bits);
        if let (Outcome::Jumped(to), Some(which)) = (outcome, field(&isa.instructions[number], base, bits)) {
            // An address in a register can be another one.
            let at = GENERAL + 8 * which as usize;
            let value = self::word(&before, at).wrapping_add(target.wrapping_sub(to));
            set_word(&mut before, at, value);
            outcome = self.tried(&before, place, bits);
        }
        if outcome != Outcome::Next && outcome != Outcome::Jumped(target) {
            if let Some(saved) = saved {
                self.ram.copy_in(DATA, &saved).expect("memory");
            }
            return None;
        }
        let mut expected = before.clone();
        set_word(&mut expected, JUMPED, u64::from(outcome == Outcome::Next));
        self.target.take(&mut self.processor.registers(), &mut expected);
        let stored = saved.and_then(|saved| {
            let data = self.data();
            let first = (0..DATA_SIZE).find(|at| saved[*at] != data[*at])?;
            Some((first, saved[first..(first + 128).min(DATA_SIZE)].to_vec()))
        });
        Some(Case { instruction: number, word: bits, size, before, expected, stored })
    }

    fn describe(&self, number: usize) -> String {
        let instruction = &self.isa.instructions[number];
        let example = self.isa.disassemble(instruction.value).unwrap_or_default();
        format!("{} {:08x}/{:08x} ({example})", instruction.name, instruction.value, instruction.mask)
    }

    /// Has the other do all cases, beginning with this memory.
    fn compare(&mut self, cases: &mut Vec<Case>, data: &[u8], report: &mut Report) {
        let mut cases = std::mem::take(cases);
        let mut wrong: BTreeMap<usize, (usize, String)> = BTreeMap::new();
        let (after, memory) = loop {
            match program::run(self.engine, self.target, &self.isa, &cases, data) {
                Ok(found) => break found,
                Err(error) => {
                    let culprit = self.culprit(&cases, data);
                    let case = &cases[culprit];
                    report.disagreements.push(format!("{}: {error}", self.title(case)));
                    let instruction = case.instruction;
                    cases.retain(|case| case.instruction != instruction);
                    // Addresses and memory are not what they were.
                    if report.disagreements.len() > 40 || accesses_memory(&self.isa.instructions[instruction]) {
                        return;
                    }
                }
            }
        };
        for (case, after) in cases.iter().zip(&after) {
            if after[..END] == case.expected[..END] {
                report.agreed += 1;
                continue;
            }
            let entry = wrong.entry(case.instruction).or_insert_with(|| (0, self.difference(case, after)));
            entry.0 += 1;
        }
        let mut expected = self.data();
        if let Some(at) = (0..DATA_SIZE).find(|at| memory[*at] != expected[*at]) {
            let last = cases.iter().rev().find(|case| {
                case.stored.as_ref().is_some_and(|(from, bytes)| (*from..from + bytes.len()).contains(&at))
            });
            let what = last.map_or("nobody".into(), |case| self.title(case));
            let text = format!(
                "memory at {at:#x}, stored to by {what}: {:02x?}, not {:02x?}",
                &expected[at..at + 16],
                &memory[at..at + 16]
            );
            report.disagreements.push(text);
            expected.copy_from_slice(&memory);
        }
        self.ram.copy_in(DATA, &memory).expect("memory");
        for (count, text) in wrong.into_values() {
            report.disagreements.push(format!("{count} times: {text}"));
        }
    }

    /// The first case that it does not do, found by halves.
    fn culprit(&self, cases: &[Case], data: &[u8]) -> usize {
        let (mut good, mut bad) = (0, cases.len());
        while bad - good > 1 {
            let middle = usize::midpoint(good, bad);
            match program::run(self.engine, self.target, &self.isa, &cases[..middle], data) {
                Ok(_) => good = middle,
                Err(_) => bad = middle,
            }
        }
        good
    }

    fn title(&self, case: &Case) -> String {
        let text = self.isa.disassemble(case.word).unwrap_or_default();
        format!("{} {:08x} {text}", self.isa.instructions[case.instruction].name, case.word)
    }

    fn difference(&self, case: &Case, after: &[u8]) -> String {
        let mut text = self.title(case);
        for at in (0..END).step_by(8) {
            let (ours, theirs) = (&case.expected[at..at + 8], &after[at..at + 8]);
            if ours != theirs {
                let hex = |bytes: &[u8]| format!("{:016x}", u64::from_le_bytes(bytes.try_into().unwrap()));
                let _ = write!(
                    text,
                    "\n  at {at}: {} not {} (was {})",
                    hex(ours),
                    hex(theirs),
                    hex(&case.before[at..at + 8])
                );
            }
        }
        for field in self.isa.instructions[case.instruction].fields.iter().filter(|field| field.width == 5) {
            let which = field.of(case.word) as usize;
            let vector = u128::from_le_bytes(case.before[16 * which..16 * which + 16].try_into().unwrap());
            let _ = write!(text, "\n  {} = {which}: vector {vector:032x}", field.name);
        }
        let _ = write!(text, "\n  special {:x?}", &case.before[768..800]);
        text
    }
}
