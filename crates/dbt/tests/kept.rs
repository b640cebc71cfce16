//! Translations that a file keeps: what the next processor takes of them, and what it does not.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod board;

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dbt::{Mode, Processor, Ram, Translations};
use isa::{Isa, Source};

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
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../isa/aarch64");
        let isa = isa::compile(&Source::all_in(&folder).unwrap()).unwrap_or_else(|error| panic!("{error}"));
        Place { isa: Arc::new(isa), folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("translations")
    }

    /// Runs a program, whose processor is described so; gives what it has computed, and how many blocks were translated.
    fn run(&self, program: &[u8], description: &[u8]) -> (u64, u64) {
        let ram = Ram::new(Arc::new(vm::Memory::new(SIZE).unwrap()), MEMORY);
        ram.copy_in(CODE, program).unwrap();
        let isa = Arc::clone(&self.isa);
        let mut processor = Processor::new(isa, Mode::Translate, ram, &mut Nothing, &[CODE]).unwrap();
        let file = File::options().read(true).write(true).create(true).truncate(false).open(self.path()).unwrap();
        processor.share(Arc::new(Translations::open(file, description)));
        // The time that it took to become worth all effort, and some more.
        for _ in 0..10 {
            processor.run_fast(&mut Nothing);
        }
        let register = self.isa.register("X").unwrap();
        (processor.state().get(register, 1) as u64, processor.blocks())
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
