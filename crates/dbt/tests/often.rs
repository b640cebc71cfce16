//! What programs do often is code of the host: nothing of it is left to the interpreter.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod board;

use std::path::Path;
use std::sync::Arc;

use dbt::{Mode, Processor, Ram, Stop};
use isa::Source;

use board::Nothing;

const MEMORY: u64 = 0x10_0000;
const SIZE: usize = 64 << 10;
const CODE: u64 = MEMORY + 0x1000;
const DATA: u64 = MEMORY + 0x8000;
/// `wfi`
const WAIT: u32 = 0xd503_207f;
const BYTES: [u8; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

/// `movz`, and `movk` three times.
fn load(index: u32, value: u64) -> [u32; 4] {
    [0, 1, 2, 3].map(|part| {
        let kind = if part == 0 { 0xd280_0000 } else { 0xf280_0000 };
        kind | part << 21 | ((value >> (16 * part)) as u32 & 0xffff) << 5 | index
    })
}

/// Does these words, then waits, with `x0` where data is; compares with the interpreter what `x1` to `x5` and the data are, and
/// finds nothing interpreted but the waiting.
fn check(words: &[u32], registers: &[(u32, u64)]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../isa/aarch64");
    let isa = isa::compile(&Source::all_in(&folder).unwrap()).unwrap_or_else(|error| panic!("{error}"));
    let isa = Arc::new(isa);
    let loads = registers.iter().chain(&[(0, DATA)]).flat_map(|(index, value)| load(*index, *value));
    let code: Vec<u8> = loads.chain(words.iter().copied()).chain([WAIT]).flat_map(u32::to_le_bytes).collect();
    let run = |mode| {
        let ram = Ram::new(Arc::new(vm::Memory::new(SIZE).unwrap()), MEMORY);
        ram.copy_in(CODE, &code).unwrap();
        ram.copy_in(DATA, &BYTES).unwrap();
        let mut processor = Processor::new(Arc::clone(&isa), mode, ram.clone(), &mut Nothing, &[CODE]).unwrap();
        while processor.run_fast(&mut Nothing) != Stop::Waiting {}
        let mut data = [0; BYTES.len()];
        ram.copy_out(DATA, &mut data).unwrap();
        let x = isa.register("X").unwrap();
        let registers: Vec<_> = (1..6).map(|index| processor.state().get(x, index)).collect();
        let interpreted: Vec<String> = processor.interpreted().into_iter().map(|(name, _)| name.into()).collect();
        (registers, data, interpreted)
    };
    let (plain, translated) = (run(Mode::Interpret), run(Mode::TranslateAll));
    assert_eq!((&translated.0, translated.1), (&plain.0, plain.1), "{words:x?}");
    assert_eq!(translated.2, ["hint"], "{words:x?}");
}

#[test]
fn bytes_are_reversed() {
    // rev16 w1, w1; rev16 x2, x2; rev32 x3, x3; ldrh w4, [x0]; rev16 w4, w4
    let words = [0x5ac0_0421, 0xdac0_0442, 0xdac0_0863, 0x7940_0004, 0x5ac0_0484];
    check(&words, &[(1, 0x1122_3344_5566_7788), (2, 0x1122_3344_5566_7788), (3, 0x1122_3344_5566_7788)]);
}

#[test]
fn pairs_of_words_are_swapped() {
    // casp x2, x3, x4, x5, [x0]: what is there, and something else.
    let word = |at: usize| BYTES[at..at + 8].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    let (low, high) = (word(0), word(8));
    for old in [(low, high), (low, high ^ 1), (low ^ 1, high)] {
        check(&[0x4822_7c04], &[(2, old.0), (3, old.1), (4, u64::MAX), (5, 7)]);
    }
    // Halves of words, 32 bits each: casp w2, w3, w4, w5, [x0].
    check(&[0x0822_7c04], &[(2, low), (3, low >> 32), (4, 5), (5, 7)]);
    // A zero for one that is new: casp x2, x3, x4, x5 with x5 made zero before, in the same block.
    check(&[0xd280_0005, 0x4822_7c04], &[(2, low), (3, high), (4, 9)]);
}

#[test]
fn what_a_sum_carries_is_added() {
    // adds x1, x1, x2; adc x3, x3, x4; adds w5, w5, #1; cinc w5, w5, hs
    let words = [0xab02_0021, 0x9a04_0063, 0x3100_04a5, 0x1a85_34a5];
    for (a, b) in [(1, 2), (u64::MAX, 1), (u64::MAX, u64::MAX), (1 << 63, 1 << 63), (0, 0)] {
        check(&words, &[(1, a), (2, b), (3, 5), (4, 6), (5, a)]);
    }
}
