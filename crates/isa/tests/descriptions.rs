//! The descriptions themselves: they compile, every instruction can be written, and they stay short.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;

use isa::{Isa, Source};

fn sources(name: &str) -> Vec<Source> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../isa").join(name);
    Source::all_in(&folder).unwrap()
}

fn compiled(name: &str) -> Isa {
    isa::compile(&sources(name)).unwrap_or_else(|error| panic!("{error}"))
}

/// SPECIFICATION.md's limits.
#[test]
fn descriptions_are_short() {
    for (name, most) in [("aarch64", 12_000), ("riscv64", 4_000)] {
        let lines: usize = sources(name).iter().map(|source| source.text.lines().count()).sum();
        assert!(lines <= most, "{name}: {lines} lines, which may be {most}");
    }
}

/// Whatever is in its fields, an instruction is written by names that there are.
#[test]
fn every_instruction_has_its_assembly() {
    for name in ["aarch64", "riscv64"] {
        let isa = compiled(name);
        let mut state = 1u32;
        for instruction in &isa.instructions {
            for _ in 0..64 {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                let word = instruction.value | state & !instruction.mask;
                if !isa.decode(word).is_some_and(|found| std::ptr::eq(found, instruction)) {
                    continue;
                }
                let text = isa.disassemble(word).unwrap_or_else(|| panic!("{}: {word:08x}", instruction.name));
                let is_named = !text.starts_with(' ') && !text.contains('?');
                assert!(is_named && !text.contains("{}"), "{}: {word:08x} {text}", instruction.name);
            }
        }
    }
}

#[test]
fn every_operation_is_in_the_reference() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/isa.md");
    let text = std::fs::read_to_string(file).unwrap();
    let names = isa::ops::INTRINSICS.iter().map(|line| line.0).chain(isa::ops::FLOATS.iter().map(|line| line.0));
    let missing: Vec<&str> =
        names.filter(|name| !text.contains(&format!("`{name}`")) && !text.contains(&format!("`{name}("))).collect();
    assert!(missing.is_empty(), "docs/reference/isa.md has nothing on {missing:?}");
}
