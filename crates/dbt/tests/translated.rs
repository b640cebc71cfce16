//! Translated code against the interpreter: short programs of random instructions, on random registers and memory.
//!
//! The interpreter is compared with qemu elsewhere; here, everything that a block does to instructions is: values that are
//! kept, flags that are not computed, registers that are written late, accesses that throw in the midst of it.
//!
//! `SKEP_TRANSLATED_PROGRAMS` says how many programs, `SKEP_TRANSLATED_SEED` with which numbers.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod board;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dbt::{Mode, Processor, Ram, Stop};
use isa::plan::Op;
use isa::{Instruction, Isa, Source};

use board::Nothing;

/// Where memory begins: both architectures' programs run at the highest privilege, without translation of addresses.
const MEMORY: u64 = 0x10_0000;
const SIZE: usize = 256 << 10;
/// Where programs are, where exceptions go, and where data is.
const CODE: u64 = MEMORY + 0x1000;
const VECTORS: u64 = MEMORY + 0x4000;
const DATA: u64 = MEMORY + 0x1_0000;
const LONGEST: u64 = 24;

/// What differs between architectures.
struct Target {
    name: &'static str,
    /// Waits for an interrupt: what an exception comes to.
    wait: u32,
    /// Is no instruction: how a program ends.
    end: u32,
    /// The register that says where exceptions go.
    vector: &'static str,
    /// Floating point is on.
    float: (&'static str, u128),
    /// Counts register 9 down, and jumps so many bytes back from there if it is not zero.
    turn: fn(u32) -> [u32; 2],
}

const COUNTER: u32 = 9;

fn turn_aarch64(back: u32) -> [u32; 2] {
    // sub x9, x9, #1; cbnz x9, back
    [0xd100_0529, 0xb500_0009 | (((back + 4).wrapping_neg() / 4) & 0x7_ffff) << 5]
}

fn turn_riscv64(back: u32) -> [u32; 2] {
    // addi x9, x9, -1; bnez x9, back
    let by = (back + 4).wrapping_neg();
    let (high, low) = ((by >> 12 & 1) << 6 | by >> 5 & 0x3f, (by >> 1 & 0xf) << 1 | by >> 11 & 1);
    [0xfff4_8493, high << 25 | 9 << 15 | 1 << 12 | low << 7 | 0x63]
}

const TARGETS: [Target; 2] = [
    Target { name: "aarch64", wait: 0xd503_207f, end: 0, vector: "VBAR_EL1", float: ("fpen", 3), turn: turn_aarch64 },
    Target { name: "riscv64", wait: 0x1050_0073, end: 0, vector: "stvec", float: ("fs", 3), turn: turn_riscv64 },
];

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

    /// An address of data, a small number, one with few ones, or any.
    fn value(&mut self) -> u64 {
        match self.below(8) {
            0..3 => DATA + self.below(0x1_0000) / 16 * 16,
            3 => self.below(64),
            4 => self.below(64).wrapping_neg(),
            5 => 1 << self.below(64),
            // Numbers of single and double precision, not too great.
            6 => (self.below(2000) as f64 / 7.0 - 100.0).to_bits(),
            _ => self.next(),
        }
    }
}

fn description(name: &str) -> Isa {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../isa").join(name);
    isa::compile(&Source::all_in(&folder).unwrap()).unwrap_or_else(|error| panic!("{error}"))
}

/// Whether it does nothing that depends on more than registers and memory. Fences do not.
fn is_tried(isa: &Isa, instruction: &Instruction) -> bool {
    instruction.plan.nodes.iter().all(|node| match node.op {
        Op::Call { which, .. } => {
            matches!(&*isa.externs[usize::from(which)].name, "memory_fence" | "settle" | "synchronise" | "relax")
        }
        _ => true,
    })
}

#[derive(Default)]
struct Program {
    code: Vec<u8>,
    text: Vec<String>,
    registers: Vec<(usize, u32, u128)>,
    data: Vec<u8>,
}

fn program(isa: &Isa, chosen: &[usize], random: &mut Random) -> Program {
    let (mut code, mut text) = (Vec::new(), Vec::new());
    let length = 1 + random.below(LONGEST);
    while (text.len() as u64) < length {
        let number = chosen[random.below(chosen.len() as u64) as usize];
        let instruction = &isa.instructions[number];
        let word = random.next() as u32 & !instruction.mask | instruction.value;
        let word = if instruction.size == 2 { word & 0xffff } else { word };
        // Another one may be more special.
        if isa.decoder.decode(&isa.instructions, word) != Some(number) {
            continue;
        }
        code.extend_from_slice(&word.to_le_bytes()[..usize::from(instruction.size)]);
        text.push(format!("{word:08x} {} ({})", isa.disassemble(word).unwrap_or_default(), instruction.name));
    }
    let mut registers = Vec::new();
    for (at, register) in isa.registers.iter().enumerate() {
        if register.is_bank {
            for index in 0..register.count {
                let value =
                    u128::from(random.value()) | if register.width > 64 { u128::from(random.value()) << 64 } else { 0 };
                registers.push((at, index, value));
            }
        } else if matches!(&*register.name, "nzcv" | "sp_el1") {
            registers.push((at, 0, random.value().into()));
        }
    }
    let data = (0..0x1_0000 / 8).flat_map(|_| random.value().to_le_bytes()).collect();
    Program { code, text, registers, data }
}

/// Whether it computes with general registers alone.
fn is_general(isa: &Isa, instruction: &Instruction) -> bool {
    let is_narrow = |register: u16| isa.registers[usize::from(register)].width <= 64;
    instruction.plan.nodes.iter().all(|node| {
        node.width <= 64
            && match node.op {
                Op::Read { register, .. } | Op::Write { register, .. } => is_narrow(register),
                Op::Intrinsic { .. } | Op::Float { .. } | Op::Call { .. } => false,
                _ => true,
            }
    })
}

/// The same program, several times.
fn repeated(program: &Program, isa: &Isa, target: &Target, times: u64) -> Program {
    let turn = (target.turn)(program.code.len() as u32);
    let bank = isa.registers.iter().position(|register| register.is_bank).unwrap();
    let is_counter = |it: &(usize, u32, u128)| (it.0, it.1) == (bank, COUNTER);
    let registers =
        program.registers.iter().copied().map(|it| if is_counter(&it) { (it.0, it.1, times.into()) } else { it });
    Program {
        code: program.code.iter().copied().chain(turn.into_iter().flat_map(u32::to_le_bytes)).collect(),
        text: program.text.iter().cloned().chain(["again".into()]).collect(),
        registers: registers.collect(),
        data: program.data.clone(),
    }
}

/// A processor that is about to run a program: of every other one, as one of two that share the memory, so that fences are
/// code, too.
fn begin(isa: &Arc<Isa>, target: &Target, program: &Program, mode: Mode) -> (Processor, Ram, Nothing) {
    let processors = 1 + program.text.len() % 2;
    let ram = Ram::shared(Arc::new(vm::Memory::new(SIZE).unwrap()), MEMORY, processors);
    ram.copy_in(CODE, &program.code).unwrap();
    ram.copy_in(CODE + program.code.len() as u64, &target.end.to_le_bytes()).unwrap();
    for offset in (0..0x800).step_by(4) {
        ram.copy_in(VECTORS + offset, &target.wait.to_le_bytes()).unwrap();
    }
    ram.copy_in(DATA, &program.data).unwrap();
    let mut board = Nothing;
    let mut processor = Processor::new(Arc::clone(isa), mode, ram.clone(), &mut board, &[CODE]).unwrap();
    let mut registers = processor.registers();
    for (at, index, value) in &program.registers {
        registers.set(&isa.registers[*at].name, *index, *value);
    }
    registers.set(target.vector, 0, VECTORS.into());
    registers.set(target.float.0, 0, target.float.1);
    processor.modes_changed();
    (processor, ram, board)
}

/// Runs a program to its end; gives all registers, and what is in memory. Nothing if it turns in a circle.
fn run(isa: &Arc<Isa>, target: &Target, program: &Program, mode: Mode) -> Option<Outcome> {
    let (mut processor, ram, mut board) = begin(isa, target, program, mode);
    let stop = match mode {
        Mode::Evaluate | Mode::Interpret => processor.run(&mut board, 20_000),
        _ => processor.run_fast(&mut board),
    };
    (stop == Stop::Waiting).then(|| outcome(&processor, &ram))
}

fn outcome(processor: &Processor, ram: &Ram) -> Outcome {
    let mut memory = vec![0; SIZE];
    ram.copy_out(MEMORY, &mut memory).unwrap();
    let mut state = processor.state().words().to_vec();
    state.push(processor.pc());
    (state, memory)
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn check(target: &Target) {
    let isa = Arc::new(description(target.name));
    let chosen: Vec<usize> = (0..isa.instructions.len()).filter(|at| is_tried(&isa, &isa.instructions[*at])).collect();
    let mut random = Random((number("SKEP_TRANSLATED_SEED", 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1);
    for _ in 0..number("SKEP_TRANSLATED_PROGRAMS", 1500) {
        let program = program(&isa, &chosen, &mut random);
        let Some(interpreted) = run(&isa, target, &program, Mode::Interpret) else { continue };
        for mode in [Mode::Translate, Mode::TranslateAll, Mode::TranslateRegions] {
            let translated = run(&isa, target, &program, mode).unwrap_or_default();
            assert!(interpreted == translated, "{}", differences(&isa, &program, &interpreted, &translated));
        }
    }
}

/// Runs a program that ends, in each mode; gives what is the same in all.
fn ends_alike(isa: &Arc<Isa>, target: &Target, program: &Program) -> Outcome {
    let interpreted = run(isa, target, program, Mode::Interpret).expect("an end");
    for mode in [Mode::Translate, Mode::TranslateAll, Mode::TranslateRegions] {
        let translated = run(isa, target, program, mode).expect("an end");
        assert!(interpreted == translated, "{mode:?}: {}", differences(isa, program, &interpreted, &translated));
    }
    interpreted
}

/// Instructions of four bytes, as memory has them.
fn code_of(words: &[u32]) -> Vec<u8> {
    words.iter().copied().flat_map(u32::to_le_bytes).collect()
}

/// Registers, and what is in memory.
type Outcome = (Vec<u64>, Vec<u8>);

fn differences(isa: &Isa, program: &Program, interpreted: &Outcome, translated: &Outcome) -> String {
    let mut text = format!("{}: {}", isa.name, program.text.join("\n"));
    for (at, (one, other)) in interpreted.0.iter().zip(&translated.0).enumerate() {
        if one != other {
            let offset = at as u32 * 8;
            let register = isa.registers.iter().rev().find(|register| register.offset <= offset);
            let name = register.map_or("pc".into(), |it| format!("{}[{}]", it.name, (offset - it.offset) / it.stride));
            text += &format!("\n{name}: {one:016x} interpreted, {other:016x} translated");
        }
    }
    if interpreted.1 != translated.1 {
        let at = interpreted.1.iter().zip(&translated.1).position(|(one, other)| one != other);
        text += &format!("\nmemory differs at {:x}", MEMORY + at.unwrap_or(0) as u64);
    }
    text
}

/// Code that is reached often is made three times: not at all, with some effort, and with all.
#[test]
fn a_loop_is_the_same_whatever_it_is_worth() {
    let target = &TARGETS[0];
    let isa = Arc::new(description(target.name));
    let loops: [(u64, &[u32]); 2] = [
        // movz x0, #6000; add x1, x1, x0; subs x0, x0, #1; b.ne -8
        (6000, &[0xd282_ee00, 0x8b00_0021, 0xf100_0400, 0x54ff_ffc1]),
        // Begun in its midst, and left to before it: movz x0, #4000; b +12; b +20; cbz x0, -4; add x1, x1, x0;
        // subs x0, x0, #1; b.hs -12
        (4000, &[0xd281_f400, 0x1400_0003, 0x1400_0005, 0xb4ff_ffe0, 0x8b00_0021, 0xf100_0400, 0x54ff_ffa2]),
    ];
    for (turns, words) in loops {
        let interpreted = ends_alike(&isa, target, &Program { code: code_of(words), ..Program::default() });
        assert!(interpreted.0.contains(&(turns * (turns + 1) / 2)), "it has added");
    }
}

/// A loop that turns for long is compiled beside it, and does the same from then on.
#[test]
fn a_loop_is_the_same_when_it_was_compiled_as_a_whole() {
    const FIRST: u64 = 64 << 16;
    let target = &TARGETS[0];
    let isa = Arc::new(description(target.name));
    // movz x0, #64, lsl #16; add x1, x1, x0; subs x0, x0, #1; b.ne -8; b to the beginning
    let words = [0xd2a0_0800_u32, 0x8b00_0021, 0xf100_0400, 0x54ff_ffc1, 0x17ff_fffc];
    let program = Program { code: code_of(&words), ..Program::default() };
    let (mut processor, _ram, mut board) = begin(&isa, target, &program, Mode::TranslateLoops);
    let x = isa.register("X").expect("registers");
    // What the register was that was added first, and all until one is left.
    let until = |last: u64| FIRST * (FIRST + 1) / 2 - last * (last + 1) / 2;
    // Again and again: who begins to run takes what it finds.
    let (attention, is_over) = (processor.attention(), Arc::new(AtomicBool::new(false)));
    let ends = Arc::clone(&is_over);
    let watch = std::thread::spawn(move || {
        while !ends.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
            attention.store(1, Ordering::Release);
        }
    });
    let mut for_a_while = || {
        processor.run_fast(&mut board);
        let (left, sum) = (processor.state().get(x, 0) as u64, processor.state().get(x, 1) as u64);
        // What is left may have been added already.
        let are_whole = |last: u64| sum.wrapping_sub(until(last)).is_multiple_of(until(0));
        assert!(are_whole(left) || are_whole(left.wrapping_sub(1)), "{left} are left, and {sum} was added");
        processor.regions()
    };
    // It is, sooner or later.
    let is_compiled = (0..20_000).any(|_| for_a_while() > 0);
    (0..20).for_each(|_| _ = for_a_while());
    is_over.store(true, Ordering::Release);
    watch.join().expect("a watch");
    assert!(is_compiled, "no loop was compiled");
}

/// A number on the left of a comparison becomes the next on the right: of the greatest, there is none.
#[test]
fn what_is_more_than_a_number_is() {
    let target = &TARGETS[1];
    let isa = Arc::new(description(target.name));
    // lui x6, 0x80000; addiw x6, x6, -1; then of x5 = -1, of x6, and of 0: slt x10, x5, x7; sltu x11, x5, x7; slt x12, x6, x7; slt x13, x0, x7;
    // blt x5, x7, 8; addi x10, x10, 16
    let words = [
        0x8000_0337_u32,
        0xfff3_031b,
        0xfff0_0293,
        0x0072_a533,
        0x0072_b5b3,
        0x0073_2633,
        0x0070_26b3,
        0x0072_c463,
        0x0105_0513,
    ];
    let at = isa.registers.iter().position(|it| it.is_bank).expect("registers");
    for value in [0, 1, u64::MAX, 1 << 63, i64::MAX as u64] {
        let registers = vec![(at, 7, u128::from(value))];
        let program = Program { code: code_of(&words), registers, ..Program::default() };
        ends_alike(&isa, target, &program);
    }
}

/// A field of one bit, of which a byte is stored: the bits beside it are not there. (A C library's flag for atomic
/// instructions was so; boots in lock-step found it.)
#[test]
fn what_is_stored_of_a_field_is_the_field() {
    let target = &TARGETS[0];
    let isa = Arc::new(description(target.name));
    // ubfx w0, w0, #8, #1; strb w0, [x1]; lsl w3, w3, #23; lsr w3, w3, #31; strh w3, [x1, #2]; ubfiz x4, x4, #60, #8; str w4, [x1, #4]
    let words = [0x5308_2000_u32, 0x3900_0020, 0x5309_2063, 0x531f_7c63, 0x7900_0423, 0xd344_1c84, 0xb900_0424];
    let at = isa.registers.iter().position(|it| it.name == "X").expect("registers");
    let registers = [(0, 0x1907), (1, DATA), (3, 0xff_1907), (4, 0xff)].map(|(index, value)| (at, index, value.into()));
    let program =
        Program { code: code_of(&words), registers: registers.into(), data: vec![0; 64], ..Program::default() };
    let interpreted = ends_alike(&isa, target, &program);
    assert_eq!(interpreted.1[(DATA - MEMORY) as usize..][..4], [1, 0, 1, 0]);
}

/// A page that one address space has is not to be seen from another, from the next instruction on.
#[test]
fn another_address_space_is_another_at_once() {
    const SEEN: u64 = 1 << 30;
    // A block of 1 GiB from address 0 on, which the kernel reads, writes and executes; of its address space alone.
    const BLOCK: u64 = 1 << 11 | 1 << 10 | 1;
    let target = &TARGETS[0];
    let isa = Arc::new(description(target.name));
    // ldr x1, [x2]; msr ttbr0_el1, x3; isb; ldr x4, [x2]
    let words = [0xf940_0041_u32, 0xd518_2003, 0xd503_3fdf, 0xf940_0044];
    let mut data = vec![0; 2 << 12];
    for (at, entry) in [(0, BLOCK), (8, BLOCK), (1 << 12, BLOCK)] {
        data[at..at + 8].copy_from_slice(&u64::to_le_bytes(entry));
    }
    let own = |space: u64, table: u64| space << 48 | (DATA + table);
    let register = |name: &str, index: u32, value: u64| {
        let at = isa.registers.iter().position(|it| it.name == name).expect("a register");
        (at, index, u128::from(value))
    };
    let registers = vec![
        register("X", 2, SEEN + DATA),
        register("X", 3, own(2, 1 << 12)),
        register("X", 4, 0),
        // Addresses of 39 bits.
        register("TCR_EL1", 0, 25),
        register("TTBR0_EL1", 0, own(1, 0)),
        register("address_space", 0, 1),
        register("mmu", 0, 1),
    ];
    let program = Program { code: code_of(&words), data, registers, ..Program::default() };
    let word = |outcome: &Outcome, name: &str, index: u32| {
        let register = isa.register(name).expect("a register");
        outcome.0[((register.offset + index * register.stride) / 8) as usize]
    };
    for mode in [Mode::Interpret, Mode::Translate, Mode::TranslateAll, Mode::TranslateRegions] {
        let outcome = run(&isa, target, &program, mode).expect("an end");
        assert_eq!(word(&outcome, "X", 1), BLOCK, "{mode:?}: the first sees it");
        assert_eq!(word(&outcome, "X", 4), 0, "{mode:?}: the other does not");
        assert_eq!(word(&outcome, "FAR_EL1", 0), SEEN + DATA, "{mode:?}");
    }
}

/// A processor that is switched on, kept.
fn begin_saved(isa: &Arc<Isa>) -> dbt::SavedProcessor {
    let ram = Ram::new(Arc::new(vm::Memory::new(SIZE).unwrap()), MEMORY);
    let mut board = Nothing;
    Processor::new(Arc::clone(isa), Mode::Interpret, ram, &mut board, &[CODE]).unwrap().save()
}

/// A processor that was kept in the midst of a program, and goes on over a copy of its memory: translated, and beside the
/// first, which goes on, too.
fn check_copies(target: &Target) {
    let isa = Arc::new(description(target.name));
    let chosen: Vec<usize> = (0..isa.instructions.len()).filter(|at| is_tried(&isa, &isa.instructions[*at])).collect();
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for _ in 0..200 {
        let program = program(&isa, &chosen, &mut random);
        let Some(whole) = run(&isa, target, &program, Mode::Interpret) else { continue };
        let (mut first, ram, mut board) = begin(&isa, target, &program, Mode::Interpret);
        first.run(&mut board, 1 + random.below(LONGEST));
        let saved = first.save();
        let memory = vm::Memory::thaw(&ram.freeze().unwrap()).unwrap();
        let copied = Ram::new(Arc::new(memory), MEMORY);
        let mut other = Nothing;
        let mut copy =
            Processor::resume(Arc::clone(&isa), Mode::Translate, copied.clone(), &mut other, &saved).unwrap();
        assert_eq!(copy.save(), saved);
        copy.run_fast(&mut other);
        assert!(outcome(&copy, &copied) == whole, "{}: {}", target.name, program.text.join("\n"));
        first.run(&mut board, 20_000);
        assert!(outcome(&first, &ram) == whole, "{}, the first: {}", target.name, program.text.join("\n"));
    }
    let mut wide = begin_saved(&isa);
    wide.registers.fill(u64::MAX);
    let ram = Ram::new(Arc::new(vm::Memory::new(SIZE).unwrap()), MEMORY);
    let mut board = Nothing;
    let narrowed = Processor::resume(Arc::clone(&isa), Mode::Interpret, ram, &mut board, &wide).unwrap().save();
    let narrow = isa.registers.iter().find(|it| it.width < 64).unwrap();
    assert_eq!(narrowed.registers[narrow.offset as usize / 8], (1 << narrow.width) - 1);
    let short = dbt::SavedProcessor { pc: 0, registers: vec![0; 3], is_waiting: false };
    let ram = Ram::new(Arc::new(vm::Memory::new(SIZE).unwrap()), MEMORY);
    let mut board = Nothing;
    assert!(Processor::resume(isa, Mode::Translate, ram, &mut board, &short).is_err());
}

#[test]
fn processors_go_on_as_copies() {
    TARGETS.iter().for_each(check_copies);
}

#[test]
fn aarch64_is_translated_as_it_is_interpreted() {
    check(&TARGETS[0]);
}

#[test]
fn riscv64_is_translated_as_it_is_interpreted() {
    check(&TARGETS[1]);
}

/// Loops of random instructions, whole: where nothing is a vector, all of it is a region.
fn check_loops(target: &Target) {
    let isa = Arc::new(description(target.name));
    let is_chosen = |at: &usize| is_tried(&isa, &isa.instructions[*at]) && is_general(&isa, &isa.instructions[*at]);
    let chosen: Vec<usize> = (0..isa.instructions.len()).filter(is_chosen).collect();
    assert!(chosen.len() > 50, "{}: hardly anything is tried", target.name);
    let mut random = Random((number("SKEP_TRANSLATED_SEED", 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1);
    let mut ended = 0;
    for _ in 0..number("SKEP_TRANSLATED_PROGRAMS", 1500) {
        let times = 1 + random.below(6);
        let program = repeated(&program(&isa, &chosen, &mut random), &isa, target, times);
        let Some(interpreted) = run(&isa, target, &program, Mode::Interpret) else { continue };
        ended += 1;
        for mode in [Mode::TranslateAll, Mode::TranslateRegions] {
            let translated = run(&isa, target, &program, mode).unwrap_or_default();
            assert!(interpreted == translated, "{}", differences(&isa, &program, &interpreted, &translated));
        }
    }
    assert!(ended > 100 || std::env::var_os("SKEP_TRANSLATED_PROGRAMS").is_some(), "hardly any of them ends");
}

#[test]
fn loops_of_aarch64_are_compiled_as_they_are_interpreted() {
    check_loops(&TARGETS[0]);
}

#[test]
fn loops_of_riscv64_are_compiled_as_they_are_interpreted() {
    check_loops(&TARGETS[1]);
}
