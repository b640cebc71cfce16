//! Translations that a file keeps: what the next processor takes of them, and what it does not.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod board;

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use dbt::{Mode, Processor, Ram, Translations};
use isa::{Isa, Source};
use proptest::prelude::*;

use board::Nothing;

const MEMORY: u64 = 0x10_0000;
const SIZE: usize = 64 << 10;
const CODE: u64 = MEMORY + 0x1000;

/// `movz x0, #6000`; then in a loop `add x1, x1, x0` or another, `subs x0, x0, #1`, `b.ne`; then it waits for interrupts.
fn program(inside: u32) -> Vec<u8> {
    let words = [0xd282_ee00, inside, 0xf100_0400, 0x54ff_ffc1, 0xd503_207f];
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

const ADD: u32 = 0x8b00_0021;
const SUBTRACT: u32 = 0xcb00_0021;
const SUM: u64 = 6000 * 6001 / 2;

struct Place {
    isa: Arc<Isa>,
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        static ISA: OnceLock<Arc<Isa>> = OnceLock::new();
        let isa = ISA.get_or_init(|| {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../isa/aarch64");
            let isa = isa::compile(&Source::all_in(&folder).unwrap()).unwrap_or_else(|error| panic!("{error}"));
            Arc::new(isa)
        });
        Place { isa: Arc::clone(isa), folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("translations")
    }

    /// A processor that is described so, which is going to run a program, and its memory.
    fn processor(&self, program: &[u8], description: &[u8]) -> (Processor, Ram) {
        let ram = Ram::new(Arc::new(vm::Memory::new(SIZE).unwrap()), MEMORY);
        ram.copy_in(CODE, program).unwrap();
        let isa = Arc::clone(&self.isa);
        let mut processor = Processor::new(isa, Mode::Translate, ram.clone(), &mut Nothing, &[CODE]).unwrap();
        let file = File::options().read(true).write(true).create(true).truncate(false).open(self.path()).unwrap();
        processor.share(Arc::new(Translations::open(file, description)));
        (processor, ram)
    }

    /// Has it run its program; gives what it has computed.
    fn sum(&self, processor: &mut Processor) -> u64 {
        // The time that it took to become worth all effort, and some more.
        for _ in 0..10 {
            processor.run_fast(&mut Nothing);
        }
        processor.state().get(self.isa.register("X").unwrap(), 1) as u64
    }

    /// Runs a program, whose processor is described so; gives what it has computed, and how many blocks were translated.
    fn run(&self, program: &[u8], description: &[u8]) -> (u64, u64) {
        let (mut processor, _) = self.processor(program, description);
        (self.sum(&mut processor), processor.blocks())
    }

    /// Runs a program to whose sum nothing that is kept may do anything.
    #[track_caller]
    fn check(&self, expected: u64) -> u64 {
        let (sum, blocks) = self.run(&program(ADD), b"a");
        assert_eq!(sum, expected);
        blocks
    }
}

#[test]
fn who_comes_later_translates_nothing() {
    let place = Place::new();
    assert!(place.check(SUM) > 0);
    let length = fs::metadata(place.path()).unwrap().len();
    assert_eq!(place.check(SUM), 0, "all of it is kept");
    assert_eq!(fs::metadata(place.path()).unwrap().len(), length, "nothing is added twice");
}

#[test]
fn other_code_is_translated() {
    let place = Place::new();
    place.check(SUM);
    let (sum, blocks) = place.run(&program(SUBTRACT), b"a");
    assert_eq!((sum, blocks > 0), (SUM.wrapping_neg(), true));
    assert_eq!(place.check(SUM), 0, "both are kept");
    assert_eq!(place.run(&program(SUBTRACT), b"a"), (SUM.wrapping_neg(), 0));
}

#[test]
fn what_another_has_made_is_left_alone() {
    let place = Place::new();
    place.check(SUM);
    let before = fs::read(place.path()).unwrap();
    let (sum, blocks) = place.run(&program(ADD), b"another description");
    assert_eq!((sum, blocks > 0), (SUM, true));
    assert!(fs::read(place.path()).unwrap() == before);
}

#[test]
fn what_was_lost_is_translated_again() {
    let place = Place::new();
    place.check(SUM);
    let whole = fs::read(place.path()).unwrap();
    for length in (0..whole.len()).step_by(5) {
        fs::write(place.path(), &whole[..length]).unwrap();
        place.check(SUM);
    }
    for at in (0..whole.len()).step_by(7) {
        let mut broken = whole.clone();
        broken[at] ^= 1 << (at % 8);
        fs::write(place.path(), &broken).unwrap();
        place.check(SUM);
    }
    // A host that fell may have kept the file's length and not its bytes.
    for at in (0..whole.len()).step_by(24) {
        let mut file = File::create(place.path()).unwrap();
        file.write_all(&whole).unwrap();
        file.seek(std::io::SeekFrom::Start(at as u64)).unwrap();
        file.write_all(&vec![0; (whole.len() - at).min(64)]).unwrap();
        place.check(SUM);
    }
}

#[test]
fn two_add_to_one_file() {
    let place = &Place::new();
    std::thread::scope(|scope| {
        for word in [ADD, SUBTRACT] {
            scope.spawn(move || {
                for _ in 0..20 {
                    place.run(&program(word), b"a");
                }
            });
        }
    });
    assert_eq!((place.check(SUM), place.run(&program(SUBTRACT), b"a").1), (0, 0));
}

type Does = fn(u64, u64) -> u64;
/// What each of some functions does with the sum and how many rounds are left.
const DOES: [(u32, Does); 4] = [
    (ADD, u64::wrapping_add),
    (SUBTRACT, u64::wrapping_sub),
    (0xca00_0021, |sum, left| sum ^ left),
    // `add x1, x1, x1, lsl #1`
    (0x8b01_0421, |sum, _| sum.wrapping_mul(3)),
];
const FUNCTIONS: usize = 6;
const ROUNDS: u64 = 50;
type Mix = [usize; FUNCTIONS];

/// Calls six functions of its page in each of some rounds.
fn calls(mix: &Mix) -> Vec<u8> {
    const FIRST: usize = 12;
    let function = |number: usize| FIRST + 2 * number;
    let mut words = vec![0xd280_0000 | (ROUNDS as u32) << 5, 0xd280_0001];
    words.extend((0..FUNCTIONS).map(|number| 0x9400_0000 | (function(number) - 2 - number) as u32));
    // `subs x0, x0, #1`, `b.ne` to the first call, and it waits.
    words.extend([0xf100_0400, 0x5400_0001 | ((-7i32 as u32) & 0x7_ffff) << 5, 0xd503_207f]);
    words.resize(FIRST, 0);
    mix.iter().for_each(|does| words.extend([DOES[*does].0, 0xd65f_03c0]));
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

fn computed(mix: &Mix) -> u64 {
    let round = |sum, left| mix.iter().fold(sum, |sum, does| DOES[*does].1(sum, left));
    (1..=ROUNDS).rev().fold(0, round)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever is changed in a page, between two machines or while one has it, nothing is used of what was there before.
    #[test]
    fn what_is_not_there_any_more_is_not_used(mixes in prop::collection::vec(prop::array::uniform6(0..DOES.len()), 1..8)) {
        let place = Place::new();
        for mix in &mixes {
            prop_assert_eq!(place.run(&calls(mix), b"a").0, computed(mix));
        }
        let (mut processor, ram) = place.processor(&calls(&mixes[0]), b"a");
        for mix in mixes.iter().chain(&mixes) {
            ram.deliver(CODE, &calls(mix)).unwrap();
            processor.restart(&mut Nothing, &[CODE]);
            prop_assert_eq!(place.sum(&mut processor), computed(mix));
        }
    }
}

#[test]
fn blocks_of_a_page_come_together() {
    let place = Place::new();
    let mix = [0, 1, 2, 3, 0, 1];
    let (_, first) = place.run(&calls(&mix), b"a");
    // Of a page of which one function is another, all blocks are taken that do not go through it.
    let other = [0, 1, 2, 3, 0, 2];
    let (mut processor, _) = place.processor(&calls(&other), b"a");
    assert_eq!(place.sum(&mut processor), computed(&other));
    assert!((1..first * 2 / 3).contains(&processor.blocks()), "{first} blocks, then {}", processor.blocks());
}
