//! Glue of AArch64. Register 28 has the block's address.

use dbt::Registers;

use crate::target::{BLOCK, CODE, GENERAL, JUMPED, SPECIAL, Target, set_word, word};
use crate::values::Random;

pub(crate) struct Aarch64;

const BASE: u32 = 28;
const NZCV: usize = SPECIAL;
const FPCR: usize = SPECIAL + 8;
const FPSR: usize = SPECIAL + 16;
const SP: usize = GENERAL + 31 * 8;

fn ldr(t: u32, at: usize) -> u32 {
    0xf940_0000 | (at as u32 / 8) << 10 | BASE << 5 | t
}

fn str(t: u32, at: usize) -> u32 {
    0xf900_0000 | (at as u32 / 8) << 10 | BASE << 5 | t
}

fn constant(t: u32, value: u64) -> Vec<u32> {
    (0..4).map(|part| 0xf280_0000 | part << 21 | ((value >> (16 * part)) as u32 & 0xffff) << 5 | t).collect()
}

fn jump(from: u64, to: u64) -> u32 {
    0x1400_0000 | ((to.wrapping_sub(from) >> 2) as u32 & 0x3ff_ffff)
}

fn bytes(words: Vec<u32>) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

impl Target for Aarch64 {
    fn name(&self) -> &'static str {
        "aarch64"
    }

    fn qemu(&self) -> &'static str {
        "qemu-aarch64"
    }

    fn machine(&self) -> u16 {
        183
    }

    fn base(&self) -> u64 {
        BASE.into()
    }

    fn address_field(&self) -> (&'static str, &'static str) {
        ("rn", "rm")
    }

    fn stack(&self) -> usize {
        31
    }

    fn registers(&self) -> &'static [&'static str] {
        &["X", "V", "nzcv", "float_flags", "saturated", "sp_el0", "sp_el1"]
    }

    fn special(&self, random: &mut Random, block: &mut [u8]) {
        set_word(block, NZCV, random.below(16) << 28);
        let rounding = if random.below(3) == 0 { random.below(4) } else { 0 };
        let modes = if random.below(3) == 0 { random.below(8) } else { 0 };
        set_word(block, FPCR, rounding << 22 | modes << 24);
        let flags = if random.below(8) == 0 { random.next() & 0x0800_009f } else { 0 };
        set_word(block, FPSR, flags);
    }

    fn aimed(&self, instruction: &isa::Instruction, word: u32, by: u64) -> u32 {
        let field = instruction.fields.iter().find(|field| field.name == "imm" && field.width >= 14);
        field.map_or(word, |field| {
            let mask = ((1 << field.width) - 1) << field.low;
            word & !mask | ((by / 4) as u32) << field.low & mask
        })
    }

    fn without_float(&self, registers: &mut Registers<'_>) -> &'static str {
        registers.set("fpen", 0, 1);
        "V"
    }

    fn put(&self, registers: &mut Registers<'_>, block: &[u8]) {
        for number in 0..32 {
            let at = 16 * number;
            registers.set("V", number as u32, u128::from_le_bytes(block[at..at + 16].try_into().unwrap()));
        }
        for number in 0..31 {
            registers.set("X", number as u32, word(block, GENERAL + 8 * number).into());
        }
        registers.set("sp_el0", 0, word(block, SP).into());
        registers.set("nzcv", 0, (word(block, NZCV) >> 28).into());
        registers.set("fpcr", 0, (word(block, FPCR) >> 22).into());
        let status = word(block, FPSR);
        registers.set("saturated", 0, (status >> 27 & 1).into());
        registers.set("float_flags", 0, (status >> 2 & 0x20 | status & 0x1f).into());
        registers.set("level", 0, 0);
        registers.set("sp_sel", 0, 0);
        registers.set("fpen", 0, 3);
    }

    fn take(&self, registers: &mut Registers<'_>, block: &mut [u8]) {
        for number in 0..32 {
            block[16 * number..16 * number + 16].copy_from_slice(&registers.get("V", number as u32).to_le_bytes());
        }
        for number in 0..31 {
            set_word(block, GENERAL + 8 * number, registers.get("X", number as u32) as u64);
        }
        set_word(block, SP, registers.get("sp_el0", 0) as u64);
        set_word(block, NZCV, (registers.get("nzcv", 0) as u64) << 28);
        let flags = registers.get("float_flags", 0) as u64;
        let saturated = registers.get("saturated", 0) as u64;
        set_word(block, FPSR, saturated << 27 | (flags & 0x20) << 2 | flags & 0x1f);
    }

    fn load(&self, first: u64) -> Vec<u8> {
        let mut code = constant(BASE, first);
        code.extend((0..32).map(|t| 0x3dc0_0000 | t << 10 | BASE << 5 | t));
        code.extend([ldr(0, NZCV), 0xd51b_4200, ldr(0, FPCR), 0xd51b_4400, ldr(0, FPSR), 0xd51b_4420]);
        code.extend([ldr(0, SP), 0x9100_001f]);
        code.extend((0..30).filter(|t| *t != BASE).map(|t| ldr(t, GENERAL + 8 * t as usize)));
        code.extend([ldr(30, CODE), 0xd61f_0000 | 30 << 5]);
        bytes(code)
    }

    fn save(&self, load_length: usize, first_length: usize) -> Vec<u8> {
        let mut code: Vec<u32> = (0..31).filter(|t| *t != BASE).map(|t| str(t, GENERAL + 8 * t as usize)).collect();
        code.extend((0..32).map(|t| 0x3d80_0000 | t << 10 | BASE << 5 | t));
        code.extend([0x9100_03e0, str(0, SP), 0xd53b_4200, str(0, NZCV), 0xd53b_4420, str(0, FPSR)]);
        code.push(0x9100_0000 | (BLOCK as u32) << 10 | BASE << 5 | BASE);
        let here = (load_length + code.len() * 4) as u64;
        code.push(jump(here, first_length as u64));
        bytes(code)
    }

    fn case(&self, at: u64, save: u64, word: u32, _size: u8) -> (Vec<u8>, u64) {
        let code = vec![ldr(30, GENERAL + 30 * 8), word, jump(at + 8, save), str(31, JUMPED), jump(at + 16, save)];
        (bytes(code), at + 4)
    }

    fn begin(&self, at: u64, to: u64) -> Vec<u8> {
        let mut code = constant(0, 3 << 20);
        // CPACR_EL1 and SPSel.
        code.extend([0xd518_1040, 0xd500_40bf]);
        code.push(jump(at + 4 * code.len() as u64, to));
        bytes(code)
    }

    fn halt(&self) -> Vec<u8> {
        bytes(vec![0xd503_207f])
    }

    fn exit(&self, parts: &[(u64, u64)]) -> Vec<u8> {
        let mut code = Vec::new();
        for (from, length) in parts {
            code.extend(constant(0, 1));
            code.extend(constant(1, *from));
            code.extend(constant(2, *length));
            code.extend(constant(8, 64));
            code.push(0xd400_0001);
        }
        code.extend(constant(0, 0));
        code.extend(constant(8, 93));
        code.push(0xd400_0001);
        bytes(code)
    }
}
