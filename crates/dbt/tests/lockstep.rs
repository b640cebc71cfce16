//! Loops that have the same registers each time round, led and followed: what has changed is in memory alone, or in a
//! device, and who follows has to go round as often as who leads.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use dbt::{Board, Clock, Mode, Processor, Ram, Registers, Stretch};
use isa::{Isa, Source};

const MEMORY: u64 = 0x10_0000;
const SIZE: usize = 64 << 10;
const CODE: u64 = MEMORY + 0x1000;
const PAGE: u64 = MEMORY + 0x8000;
/// What is there is how often the device was read, whose address is not in memory.
const DEVICE: u64 = 0;
/// After so many reads, the device wants its processor to look.
const READS: u64 = 1000;
/// Enough for code to be made that is only made when it is worth it.
const STRETCHES: u32 = 128;
/// More instructions than it takes to go through all that a counter can be.
const MOST: u64 = 1 << 20;

/// A loop, and where it counts: in memory up to 4095, and then anew.
struct Case {
    name: &'static str,
    counter: u64,
    words: &'static [u32],
}

/// loop: ldr x1, [x2]; add x1, x1, #1; and x1, x1, #0xfff; str x1, [x2]; mov x1, #0; b loop
const STORE: &[u32] = &[0xf940_0041, 0x9100_0421, 0x9240_2c21, 0xf900_0041, 0xd280_0001, 0x17ff_fffb];

const CASES: [Case; 5] = [
    Case { name: "a store", counter: PAGE, words: STORE },
    Case { name: "a store to two pages", counter: PAGE + 0xffc, words: STORE },
    // The same, but for `swp x1, x1, [x2]`.
    Case {
        name: "an atomic change",
        counter: PAGE,
        words: &[0xf940_0041, 0x9100_0421, 0x9240_2c21, 0xf821_8041, 0xd280_0001, 0x17ff_fffb],
    },
    // The same, but for `ldxr x1, [x2]`, and `stxr w3, x1, [x2]`.
    Case {
        name: "an exclusive store",
        counter: PAGE,
        words: &[0xc85f_7c41, 0x9100_0421, 0x9240_2c21, 0xc803_7c41, 0xd280_0001, 0x17ff_fffb],
    },
    // loop: ldr w1, [x2]; mov x1, #0; b loop
    Case { name: "a device", counter: DEVICE, words: &[0xb940_0041, 0xd280_0001, 0x17ff_fffe] },
];

/// A board with a device that counts how often it was read.
#[derive(Clone, Default)]
struct Counting {
    reads: Arc<AtomicU64>,
    attention: Arc<AtomicU32>,
}

impl Board for Counting {
    fn read(&mut self, _address: u64, _size: u8) -> Option<u64> {
        let reads = self.reads.fetch_add(1, Ordering::SeqCst);
        if reads.is_multiple_of(READS) {
            self.attention.store(1, Ordering::SeqCst);
        }
        Some(reads)
    }

    fn write(&mut self, _address: u64, _size: u8, _value: u64) -> Option<()> {
        None
    }

    fn answer(&mut self, _question: usize, _arguments: &[u64], _registers: &mut Registers<'_>) -> u64 {
        0
    }

    fn clock(&self) -> Clock {
        Clock::by_hand(1_000_000)
    }

    fn attention(&self) -> bool {
        false
    }
}

/// One of both.
struct Side {
    processor: Processor,
    ram: Ram,
    board: Counting,
}

impl Side {
    fn new(isa: &Arc<Isa>, case: &Case, mode: Mode) -> Side {
        let ram = Ram::new(Arc::new(vm::Memory::new(SIZE).unwrap()), MEMORY);
        // movz x2, #…; movk x2, #…, lsl #16
        let half = |opcode: u32, value: u64| opcode | (value as u32 & 0xffff) << 5 | 2;
        let address = [half(0xd280_0000, case.counter), half(0xf2a0_0000, case.counter >> 16)];
        let words = address.iter().chain(case.words);
        ram.copy_in(CODE, &words.flat_map(|it| it.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
        let mut board = Counting { attention: ram.attention(0), ..Counting::default() };
        let mut processor = Processor::new(Arc::clone(isa), mode, ram.clone(), &mut board, &[CODE]).unwrap();
        // It has just begun, and wants to look first.
        processor.look(&mut board);
        Side { processor, ram, board }
    }

    fn counted(&self, case: &Case) -> u64 {
        counted(&self.ram, &self.board, case)
    }
}

fn counted(ram: &Ram, board: &Counting, case: &Case) -> u64 {
    if case.counter == DEVICE {
        return board.reads.load(Ordering::SeqCst);
    }
    ram.read(case.counter, 64).unwrap() as u64
}

/// Leads a stretch, which somebody ends when it has gone round, and follows it.
fn step(case: &Case, stretch: Stretch, leader: &mut Side, follower: &mut Side) -> u64 {
    let (ram, board, attention) = (leader.ram.clone(), leader.board.clone(), leader.processor.attention());
    let (before, is_back) = (leader.counted(case), AtomicBool::new(false));
    let led = thread::scope(|scope| {
        if stretch == Stretch::Wanted && case.counter != DEVICE {
            scope.spawn(|| {
                while counted(&ram, &board, case) == before && !is_back.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
                attention.store(1, Ordering::SeqCst);
            });
        }
        let led = leader.processor.lead(&mut leader.board, stretch);
        is_back.store(true, Ordering::SeqCst);
        led
    });
    let followed = follower.processor.follow(&mut follower.board, (&leader.processor, &led), MOST);
    followed.unwrap_or_else(|difference| panic!("{}, {stretch:?}: {difference:x?}", case.name)).instructions
}

fn check(stretch: Stretch) {
    static ISA: OnceLock<Arc<Isa>> = OnceLock::new();
    let isa = ISA.get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../isa/aarch64");
        let isa = isa::compile(&Source::all_in(&folder).unwrap()).unwrap_or_else(|error| panic!("{error}"));
        Arc::new(isa)
    });
    for case in &CASES {
        for mode in [Mode::Translate, Mode::TranslateAll, Mode::TranslateRegions] {
            let [mut leader, mut follower] = [mode, Mode::Interpret].map(|mode| Side::new(isa, case, mode));
            for number in 0..STRETCHES {
                let done = step(case, stretch, &mut leader, &mut follower);
                let (led, followed) = (leader.counted(case), follower.counted(case));
                assert_eq!(led, followed, "{}, {mode:?}: stretch {number}, after {done} instructions", case.name);
            }
            assert_ne!(leader.processor.blocks(), 0, "{}, {mode:?}: nothing was translated", case.name);
        }
    }
}

#[test]
fn who_is_disturbed_is_followed_as_far() {
    check(Stretch::Wanted);
}

#[test]
fn who_turns_is_followed_once_round() {
    check(Stretch::Turn);
}
