//! Two processors of a bare machine, each on a thread of its own: what one sees of what the other does.
//!
//! The programs are in `processors/`, a listing for each architecture. What they must never see is looked for in many
//! rounds; what shows that they could see it at all (a store buffer, an update that is lost) is looked for, and said if it
//! is not seen.
//!
//! `SKEP_LITMUS_ROUNDS` says how many rounds.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it did not see"
)]

mod said;

use std::time::Duration;

use dbt::Mode;
use machine::{Arch, Devices, End, Image, Machine, Outside, Serial, Start, isa};

use said::Said;

/// Where an image that asks for `OFFSET` is, and what is in it: bytes from its beginning.
const OFFSET: u64 = 0x20_0000;
const PROGRAM: u64 = 64;
const DATA: u64 = 0x4000;
const WHICH: u64 = DATA + 0x300;
const ROUNDS: u64 = DATA + 0x308;
/// Registers of the translation of addresses, and the bits of an entry.
const REGISTERS: u64 = DATA + 0x310;
const ENTRY_BITS: u64 = DATA + 0x320;
/// What the first writes, and what it comes back by.
const FUNCTION: u64 = 0x8000;
const PAGE: u64 = 0x9000;
const TABLES: [u64; 3] = [0xb000, 0xc000, 0xd000];
const SIZE: u64 = 0x1_0000;

/// The programs, by their numbers.
#[derive(Debug, Clone, Copy)]
enum Program {
    StoreBuffering,
    StoreBufferingFenced,
    StoreBufferingOrdered,
    MessagePassing,
    CountPlainly,
    CountByReservations,
    CountByAtomics,
    /// Of AArch64 alone.
    CountInPairs,
    WriteCode,
    ChangePages,
}

const BOTH: [Arch; 2] = [Arch::Arm64, Arch::Riscv64];
const MODES: [Mode; 4] = [Mode::Interpret, Mode::Translate, Mode::TranslateAll, Mode::TranslateRegions];

fn listing(arch: Arch) -> &'static str {
    match arch {
        Arch::Riscv64 => include_str!("processors/riscv64.lst"),
        Arch::Arm64 => include_str!("processors/aarch64.lst"),
        Arch::Amd64 => unreachable!("it has no description"),
    }
}

/// Words and what they say.
fn words(arch: Arch) -> Vec<(u32, &'static str)> {
    let lines = listing(arch).lines().filter(|line| !line.starts_with('#'));
    let word = |line: &'static str| {
        let (word, text) = line.split_once(' ').unwrap();
        (u32::from_str_radix(word, 16).unwrap(), text)
    };
    lines.map(word).collect()
}

#[test]
fn the_words_are_what_their_listing_says() {
    for arch in BOTH {
        let isa = isa(arch).unwrap();
        for (word, text) in words(arch) {
            assert_eq!(isa.disassemble(word).as_deref(), Some(text), "{arch:?} {word:08x}");
        }
    }
}

fn image(arch: Arch, program: Program, rounds: u64) -> Vec<u8> {
    let mut image = vec![0; SIZE as usize];
    for (number, (word, _)) in words(arch).into_iter().enumerate() {
        let at = PROGRAM as usize + 4 * number;
        image[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
    let mut put = |at: u64, word: u64| image[at as usize..at as usize + 8].copy_from_slice(&word.to_le_bytes());
    put(8, OFFSET);
    put(16, SIZE);
    put(WHICH, program as u64);
    put(ROUNDS, rounds);
    let [root, middle, last] = TABLES;
    match arch {
        Arch::Arm64 => {
            let base = 0x4000_0000 + OFFSET;
            put(0, 0x1400_0010);
            // 39 bits of address, in tables from level 1 on.
            put(FUNCTION + 4, 0xd65f_03c0);
            put(REGISTERS, 0xff);
            put(REGISTERS + 8, 2 << 32 | 1 << 23 | 25);
            put(ENTRY_BITS, 0x403);
            put(root, 0x401);
            put(root + 8, 0x4000_0401);
            put(root + 16, base + middle + 3);
            put(middle, base + last + 3);
            put(last, base + PAGE + 0x403);
        }
        Arch::Riscv64 => {
            let base = 0x8000_0000 + OFFSET;
            put(0, 0x0400_006f);
            put(FUNCTION + 4, 0x0000_8067);
            put(REGISTERS, 8 << 60 | (base + root) >> 12);
            put(ENTRY_BITS, 0xc7);
            put(root + 16, 0x8000_0000 >> 2 | 0xcf);
            put(root + 24, (base + middle) >> 2 | 1);
            put(middle, (base + last) >> 2 | 1);
            put(last, (base + PAGE) >> 2 | 0xc7);
        }
        Arch::Amd64 => unreachable!("it has no description"),
    }
    let magic: &[u8; 4] = match arch {
        Arch::Arm64 => b"ARM\x64",
        Arch::Riscv64 => b"RSC\x05",
        Arch::Amd64 => unreachable!("it has no description"),
    };
    image[56..60].copy_from_slice(magic);
    image
}

const LONG: Duration = Duration::from_secs(3600);

/// What a program has counted.
fn count(arch: Arch, mode: Mode, program: Program, rounds: u64) -> u64 {
    let said = Said::default();
    let start = Start {
        kernel: Image::Bytes(&image(arch, program, rounds)),
        initrd: &[],
        command_line: "",
        memory: 16 << 20,
        processors: 2,
        mode,
        serial: Serial { output: Box::new(said.clone()), input: None },
        devices: Devices::default(),
        outside: Outside::Host,
    };
    let mut machine = Machine::new(isa(arch).unwrap(), start).unwrap();
    assert_eq!(machine.run_for(LONG), Some(End::PowerOff));
    let said = said.0.lock().unwrap();
    assert_eq!(said.len(), 16, "{arch:?} {mode:?} {program:?}: {said:?}");
    said.iter().fold(0, |count, letter| count << 4 | u64::from(letter - b'a'))
}

fn rounds(mode: Mode) -> u64 {
    let told = std::env::var("SKEP_LITMUS_ROUNDS").ok().and_then(|it| it.parse().ok());
    match mode {
        Mode::Evaluate | Mode::Interpret => told.unwrap_or(20_000) / 20,
        _ => told.unwrap_or(20_000),
    }
}

#[track_caller]
fn check(program: Program, expected: impl Fn(u64) -> u64) {
    for arch in BOTH {
        for mode in MODES {
            let rounds = rounds(mode);
            assert_eq!(count(arch, mode, program, rounds), expected(rounds), "{arch:?} {mode:?} {program:?}");
        }
    }
}

/// Looks for what two processors may see of each other and one alone never would. A host that gives both threads one
/// core shows it seldom or never, so that this decides nothing; it says what the rounds that follow are worth.
fn look_for(what: &str, mut is_so: impl FnMut() -> bool) {
    if !(0..10).any(|_| is_so()) {
        eprintln!("not seen on this host: {what}");
    }
}

#[test]
fn a_store_is_seen_by_the_other_processor_late_unless_there_is_a_fence() {
    for arch in BOTH {
        look_for(&format!("{arch:?}: both read what was before both stores"), || {
            count(arch, Mode::Translate, Program::StoreBuffering, 100_000) > 0
        });
    }
    check(Program::StoreBufferingFenced, |_| 0);
    check(Program::StoreBufferingOrdered, |_| 0);
}

#[test]
fn what_is_written_before_a_flag_is_seen_behind_it() {
    check(Program::MessagePassing, |_| 0);
}

#[test]
fn nothing_is_lost_of_what_two_processors_count() {
    for arch in BOTH {
        look_for(&format!("{arch:?}: an update without care is lost"), || {
            count(arch, Mode::Translate, Program::CountPlainly, 200_000) < 400_000
        });
    }
    check(Program::CountByReservations, |rounds| 2 * rounds);
    check(Program::CountByAtomics, |rounds| 2 * rounds);
}

#[test]
fn sixteen_bytes_change_as_one() {
    for mode in MODES {
        let rounds = rounds(mode);
        assert_eq!(count(Arch::Arm64, mode, Program::CountInPairs, rounds), 4 * rounds, "{mode:?}");
    }
}

#[test]
fn code_that_the_other_processor_wrote_is_what_runs() {
    // As many as fit the instruction that gives the number.
    for arch in BOTH {
        for mode in MODES {
            let rounds = rounds(mode).min(2000);
            assert_eq!(count(arch, mode, Program::WriteCode, rounds), 0, "{arch:?} {mode:?}");
        }
    }
}

#[test]
fn a_page_that_is_elsewhere_is_read_by_nobody_when_its_processor_has_waited_for_that() {
    for arch in BOTH {
        for mode in MODES {
            let rounds = rounds(mode).min(2000);
            assert_eq!(count(arch, mode, Program::ChangePages, rounds), 0, "{arch:?} {mode:?}");
        }
    }
}
