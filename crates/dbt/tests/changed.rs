//! Programs that change their own code, line by line, and data that lies beside it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod board;

use std::path::Path;
use std::sync::{Arc, OnceLock};

use dbt::{Mode, Processor, Ram};
use isa::{Isa, Source};
use proptest::prelude::*;

use board::Nothing;

const MEMORY: u64 = 0x10_0000;
const SIZE: usize = 64 << 10;
const CODE: u64 = MEMORY + 0x1000;
/// What is written where: an address and a word, eight bytes each.
const TABLE: u64 = MEMORY + 0x8000;
const MOST_WRITES: usize = 400;

type Does = fn(u64) -> u64;
/// What a function may do with the sum: `add x1, x1, #3`, `eor x1, x1, #0xff`, `add x1, x1, x1, lsl #1`.
const DOES: [(u32, Does); 3] = [
    (0x9100_0c21, |sum| sum.wrapping_add(3)),
    (0xd240_1c21, |sum| sum ^ 0xff),
    (0x8b01_0421, |sum| sum.wrapping_mul(3)),
];
const FUNCTIONS: usize = 5;
const LINE: u64 = 64;

/// What is written after a round.
#[derive(Debug, Clone, Copy)]
enum Write {
    /// What a function does.
    Function(usize, usize),
    /// Behind a function, in its line.
    Beside(usize),
    /// In a line of the page where no code is.
    Apart(u64),
}

/// Each function has a line.
fn function(number: usize) -> u64 {
    CODE + LINE * (number as u64 + 1)
}

impl Write {
    fn entry(self) -> [u64; 2] {
        match self {
            Write::Function(number, does) => [function(number), DOES[does].0.into()],
            Write::Beside(number) => [function(number) + 32, 7],
            Write::Apart(line) => [CODE + LINE * (FUNCTIONS as u64 + 2 + line), 7],
        }
    }
}

fn any_write() -> impl Strategy<Value = Write> {
    prop_oneof![
        (0..FUNCTIONS, 0..DOES.len()).prop_map(|(number, does)| Write::Function(number, does)),
        (0..FUNCTIONS).prop_map(Write::Beside),
        (0..8u64).prop_map(Write::Apart),
    ]
}

/// Calls all functions, then writes what is next; as often as there is something to write.
fn program(rounds: usize) -> Vec<u8> {
    let mut words = vec![0xd280_0000 | (rounds as u32) << 5, 0xd280_0001, 0xd290_0002, 0xf2a0_0202];
    let first = words.len();
    for number in 0..FUNCTIONS {
        let here = CODE + 4 * words.len() as u64;
        words.push(0x9400_0000 | ((function(number) - here) / 4) as u32);
    }
    // `ldp x3, x4, [x2], #16`, `str w4, [x3]`, `isb`, `subs x0, x0, #1`, `b.ne`; then it waits.
    words.extend([0xa8c1_1043, 0xb900_0064, 0xd503_3fdf, 0xf100_0400]);
    let back = first as i32 - words.len() as i32;
    words.extend([0x5400_0001 | (back as u32 & 0x7_ffff) << 5, 0xd503_207f]);
    for number in 0..FUNCTIONS {
        words.resize(((function(number) - CODE) / 4) as usize, 0);
        words.extend([DOES[0].0, 0xd65f_03c0]);
    }
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

fn computed(writes: &[Write]) -> u64 {
    let mut does = [0; FUNCTIONS];
    writes.iter().fold(0, |sum, write| {
        let sum = does.iter().fold(sum, |sum, it| DOES[*it].1(sum));
        if let Write::Function(number, other) = write {
            does[*number] = *other;
        }
        sum
    })
}

/// Gives what the program has computed, and how many blocks were translated.
fn run(writes: &[Write], mode: Mode) -> (u64, u64) {
    static ISA: OnceLock<Arc<Isa>> = OnceLock::new();
    let isa = ISA.get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../isa/aarch64");
        let isa = isa::compile(&Source::all_in(&folder).unwrap()).unwrap_or_else(|error| panic!("{error}"));
        Arc::new(isa)
    });
    let ram = Ram::new(Arc::new(vm::Memory::new(SIZE).unwrap()), MEMORY);
    ram.copy_in(CODE, &program(writes.len())).unwrap();
    let table: Vec<u8> = writes.iter().flat_map(|it| it.entry()).flat_map(u64::to_le_bytes).collect();
    ram.copy_in(TABLE, &table).unwrap();
    let mut processor = Processor::new(Arc::clone(isa), mode, ram, &mut Nothing, &[CODE]).unwrap();
    for _ in 0..4 * MOST_WRITES {
        processor.run_fast(&mut Nothing);
    }
    (processor.state().get(isa.register("X").unwrap(), 1) as u64, processor.blocks())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn what_is_done_is_what_stands_there(writes in prop::collection::vec(any_write(), 1..MOST_WRITES)) {
        for mode in [Mode::Translate, Mode::TranslateAll] {
            prop_assert_eq!(run(&writes, mode).0, computed(&writes), "{:?}", mode);
        }
    }
}

/// Who changes one function has that one translated again, and those that go through it.
#[test]
fn blocks_of_other_lines_hold_still() {
    const TIMES: u64 = 40;
    let changes: Vec<Write> = (0..TIMES).map(|it| Write::Function(FUNCTIONS - 1, it as usize % DOES.len())).collect();
    let none: Vec<Write> = (0..TIMES).map(|_| Write::Apart(0)).collect();
    let (sum, all) = run(&none, Mode::TranslateAll);
    assert_eq!(sum, computed(&none));
    let (sum, blocks) = run(&changes, Mode::TranslateAll);
    assert_eq!(sum, computed(&changes));
    assert!((TIMES / 2..2 * TIMES).contains(&(blocks - all)), "{all} blocks, with changes {blocks}");
}

/// A page that is written on and on, beside its code, is not looked after for ever.
#[test]
fn a_page_that_is_written_on_and_on_has_no_code() {
    let mut writes = vec![Write::Apart(1); MOST_WRITES];
    // Blocks are short as long as little effort is made: there are some that do not go through that function.
    writes[40] = Write::Function(FUNCTIONS - 1, 1);
    let (sum, blocks) = run(&writes, Mode::Translate);
    assert_eq!(sum, computed(&writes));
    let (_, few) = run(&writes[..80], Mode::Translate);
    assert!(blocks > few + 3, "{few} blocks, then {blocks}: all of it was dropped and made again");
}
