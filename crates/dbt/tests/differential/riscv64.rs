//! Glue of RISC-V. Register 31 has the block's address.

use dbt::Registers;

use crate::target::{BLOCK, CODE, GENERAL, JUMPED, SPECIAL, Target, set_word, word};
use crate::values::Random;

pub(crate) struct Riscv64;

const BASE: u32 = 31;
const FCSR: usize = SPECIAL;

fn load_word(major: u32, t: u32, at: usize) -> u32 {
    (at as u32) << 20 | BASE << 15 | 3 << 12 | t << 7 | major
}

fn store_word(major: u32, t: u32, at: usize) -> u32 {
    let at = at as u32;
    at >> 5 << 25 | t << 20 | BASE << 15 | 3 << 12 | (at & 31) << 7 | major
}

/// A number of at most 31 bits.
fn constant(t: u32, value: u64) -> Vec<u32> {
    let low = (value as u32 & 0xfff) << 20;
    let high = (value as u32).wrapping_add(0x800) & 0xffff_f000;
    vec![high | t << 7 | 0x37, low | t << 15 | t << 7 | 0x1b]
}

fn jump(from: u64, to: u64) -> u32 {
    let by = to.wrapping_sub(from) as u32;
    (by >> 20 & 1) << 31 | (by >> 1 & 0x3ff) << 21 | (by >> 11 & 1) << 20 | (by >> 12 & 0xff) << 12 | 0x6f
}

fn bytes(words: Vec<u32>) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

impl Target for Riscv64 {
    fn name(&self) -> &'static str {
        "riscv64"
    }

    fn qemu(&self) -> &'static str {
        "qemu-riscv64"
    }

    fn machine(&self) -> u16 {
        243
    }

    fn base(&self) -> u64 {
        BASE.into()
    }

    fn address_field(&self) -> (&'static str, &'static str) {
        ("rs1", "")
    }

    fn stack(&self) -> usize {
        2
    }

    fn registers(&self) -> &'static [&'static str] {
        &["X", "F", "float_flags", "fs"]
    }

    fn special(&self, random: &mut Random, block: &mut [u8]) {
        // A narrower number mostly has ones above it.
        for number in 0..32 {
            let at = 8 * number;
            // What the vectors had: every second one as a number of 32 bits.
            let value = word(block, 16 * number);
            let is_narrow = random.below(20) < 9;
            set_word(block, at, if is_narrow { 0xffff_ffff_0000_0000 | value & 0xffff_ffff } else { value });
        }
        let rounding = if random.below(2) == 0 { random.below(5) } else { 0 };
        let flags = if random.below(8) == 0 { random.below(32) } else { 0 };
        set_word(block, FCSR, rounding << 5 | flags);
    }

    fn aimed(&self, instruction: &isa::Instruction, word: u32, by: u64) -> u32 {
        // Fields are named by their highest bit, or, in short instructions, by their lowest.
        instruction.fields.iter().fold(word, |word, field| {
            let Some(named) = field.name.strip_prefix('i').and_then(|bit| bit.parse::<u8>().ok()) else { return word };
            let low = if instruction.size == 4 { named + 1 - field.width } else { named };
            let mask = (1 << field.width) - 1;
            word & !(mask << field.low) | ((by >> low) as u32 & mask) << field.low
        })
    }

    fn without_float(&self, registers: &mut Registers<'_>) -> &'static str {
        registers.set("fs", 0, 0);
        "F"
    }

    fn put(&self, registers: &mut Registers<'_>, block: &[u8]) {
        for number in 0..32 {
            registers.set("F", number as u32, word(block, 8 * number).into());
            registers.set("X", number as u32, word(block, GENERAL + 8 * number).into());
        }
        let status = word(block, FCSR) as u32;
        registers.set("frm", 0, (status >> 5 & 7).into());
        registers.set("float_flags", 0, (status << 27).reverse_bits().into());
        registers.set("fs", 0, 1);
        registers.set("level", 0, 0);
    }

    fn take(&self, registers: &mut Registers<'_>, block: &mut [u8]) {
        for number in 0..32 {
            set_word(block, 8 * number, registers.get("F", number as u32) as u64);
            set_word(block, GENERAL + 8 * number, registers.get("X", number as u32) as u64);
        }
        let flags = (registers.get("float_flags", 0) as u32).reverse_bits() >> 27;
        set_word(block, FCSR, (registers.get("frm", 0) as u64) << 5 | u64::from(flags));
    }

    fn load(&self, first: u64) -> Vec<u8> {
        let mut code = constant(BASE, first);
        code.extend((0..32).map(|t| load_word(0x07, t, 8 * t as usize)));
        // csrw fcsr, x1
        code.extend([load_word(0x03, 1, FCSR), 0x0030_9073]);
        code.extend((1..30).map(|t| load_word(0x03, t, GENERAL + 8 * t as usize)));
        code.extend([load_word(0x03, 30, CODE), 30 << 15 | 0x67]);
        bytes(code)
    }

    fn save(&self, load_length: usize, first_length: usize) -> Vec<u8> {
        let mut code: Vec<u32> = (1..31).map(|t| store_word(0x23, t, GENERAL + 8 * t as usize)).collect();
        code.extend((0..32).map(|t| store_word(0x27, t, 8 * t as usize)));
        // csrr x1, fcsr
        code.extend([0x0030_20f3, store_word(0x23, 1, FCSR)]);
        code.push((BLOCK as u32) << 20 | BASE << 15 | BASE << 7 | 0x13);
        let here = (load_length + code.len() * 4) as u64;
        code.push(jump(here, first_length as u64));
        bytes(code)
    }

    fn case(&self, at: u64, save: u64, word: u32, size: u8) -> (Vec<u8>, u64) {
        let mut code = load_word(0x03, 30, GENERAL + 30 * 8).to_le_bytes().to_vec();
        code.extend(&word.to_le_bytes()[..size.into()]);
        code.extend(jump(at + code.len() as u64, save).to_le_bytes());
        code.extend(store_word(0x23, 0, JUMPED).to_le_bytes());
        code.extend(jump(at + code.len() as u64, save).to_le_bytes());
        code.resize(code.len().next_multiple_of(4), 0);
        (code, at + 4)
    }

    fn begin(&self, at: u64, to: u64) -> Vec<u8> {
        let mut code = constant(5, 0x2000);
        // csrs sstatus, x5
        code.push(0x1002_a073);
        code.push(jump(at + 4 * code.len() as u64, to));
        bytes(code)
    }

    fn halt(&self) -> Vec<u8> {
        bytes(vec![0x1050_0073])
    }

    fn exit(&self, parts: &[(u64, u64)]) -> Vec<u8> {
        let mut code = Vec::new();
        for (from, length) in parts {
            code.extend(constant(10, 1));
            code.extend(constant(11, *from));
            code.extend(constant(12, *length));
            code.extend(constant(17, 64));
            code.push(0x73);
        }
        code.extend(constant(10, 0));
        code.extend(constant(17, 93));
        code.push(0x73);
        bytes(code)
    }
}
