//! Code that goes across pages, which are one behind the other for the guest alone.

#![expect(clippy::panic, reason = "a test fails by panicking")]

mod board;

use std::path::Path;
use std::sync::Arc;

use dbt::{Mode, Processor, Ram, Stop};
use isa::Source;

use board::Nothing;

const MEMORY: u64 = 0x10_0000;
const SIZE: usize = 64 << 10;
const CODE: u64 = MEMORY + 0x1000;
const TABLES: [u64; 3] = [MEMORY + 0x2000, MEMORY + 0x3000, MEMORY + 0x4000];
/// Where the guest has two pages, where they are, and what is behind the first in memory.
const PAGES: u64 = 1 << 30;
const FIRST: u64 = MEMORY + 0x5000;
const BESIDE: u64 = FIRST + 0x1000;
const SECOND: u64 = FIRST + 0x3000;
/// Bits of an entry: valid, readable, writable, executable, accessed, dirty.
const LEAF: u64 = 0xcf;
const TABLE: u64 = 1;

fn entry(physical: u64, bits: u64) -> [u8; 8] {
    (physical >> 12 << 10 | bits).to_le_bytes()
}

#[test]
fn an_instruction_that_begins_on_one_page_is_followed_by_the_other() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../isa/riscv64");
    let isa = isa::compile(&Source::all_in(&folder).unwrap()).unwrap_or_else(|error| panic!("{error}"));
    let isa = Arc::new(isa);
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let begin = PAGES + 0xff6;
    let satp = 8 << 60 | TABLES[0] >> 12;
    // auipc x5, 0; ld x6, 64(x5); csrw satp, x6; sfence.vma; ld x7, 72(x5); jr x7
    let switch = words(&[0x297, 0x0402_b303, 0x1803_1073, 0x1200_0073, 0x0482_b383, 0x3_8067]);
    // li x10, 1; addi x10, x10, 2; addi x10, x10, 4; addi x10, x10, 8; wfi
    let code = words(&[0x0010_0513, 0x0025_0513, 0x0045_0513, 0x0085_0513, 0x1050_0073]);
    // The same, with 64 for 8.
    let other = words(&[0x0010_0513, 0x0025_0513, 0x0045_0513, 0x0405_0513, 0x1050_0073]);
    let parts: [(u64, &[u8]); 9] = [
        (CODE, &switch),
        (CODE + 64, &satp.to_le_bytes()),
        (CODE + 72, &begin.to_le_bytes()),
        (TABLES[0], &[entry(0, LEAF), entry(TABLES[1], TABLE)].concat()),
        (TABLES[1], &entry(TABLES[2], TABLE)),
        (TABLES[2], &[entry(FIRST, LEAF), entry(SECOND, LEAF)].concat()),
        (FIRST + 0xff6, &code[..10]),
        (SECOND, &code[10..]),
        (BESIDE, &other[10..]),
    ];
    for mode in [Mode::Evaluate, Mode::Interpret, Mode::Translate, Mode::TranslateAll, Mode::TranslateRegions] {
        let ram = Ram::new(Arc::new(vm::Memory::new(SIZE).unwrap()), MEMORY);
        parts.iter().for_each(|(at, bytes)| ram.copy_in(*at, bytes).unwrap());
        let mut processor = Processor::new(Arc::clone(&isa), mode, ram, &mut Nothing, &[CODE]).unwrap();
        while processor.run_fast(&mut Nothing) != Stop::Waiting {}
        assert_eq!(processor.state().get(isa.register("X").unwrap(), 10), 1 + 2 + 4 + 8, "{mode:?}");
    }
}
