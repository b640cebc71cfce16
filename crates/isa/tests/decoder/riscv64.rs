//! RV64GC, against riscv-isa.

use std::collections::BTreeSet;
use std::mem::{Discriminant, discriminant};

use riscv_isa::{Compressed, Instruction, Target, Xlen};

use super::{Words, description, mnemonic, nothing_left, number, sorted};

/// What our machine says that it is.
fn target() -> Target {
    Target {
        xlen: Xlen::Rv64,
        privileged: true,
        supervisor_mode: true,
        m: true,
        a: true,
        f: true,
        d: true,
        c: true,
        zicsr: true,
        zifencei: true,
        ..Target::default()
    }
}

/// What one takes for an instruction and the other does not, or by another name.
struct Line {
    /// Ours, theirs; empty where it is none.
    names: &'static [(&'static str, &'static str)],
    words: fn(u32) -> bool,
    why: &'static str,
}

const LINES: &[Line] = &[
    Line {
        names: &[("", "f")],
        words: |word| (word & 0x7f == 0x53 || word & 0x73 == 0x43) && matches!(word >> 12 & 7, 5 | 6),
        why: "rounding modes 5 and 6 are reserved",
    },
    Line { names: &[("", "mret")], words: |word| word == 0x3020_0073, why: "there is no machine mode" },
    Line {
        names: &[("", "c.addi4spn"), ("", "c.addi16sp"), ("", "c.lui")],
        words: |word| word & 0xffe3 == 0 || word & 0xf07f == 0x6001,
        why: "an immediate of zero is reserved",
    },
    Line {
        names: &[("", "c.addiw"), ("", "c.lwsp"), ("", "c.ldsp"), ("", "c.jr")],
        words: |word| matches!(word & 0xe003, 0x2001 | 0x4002 | 0x6002 | 0x8002) && word & 0xf80 == 0,
        why: "register 0 is reserved",
    },
    Line {
        names: &[("", "c.and"), ("c.and", "")],
        words: |word| word & 0xec63 == 0x8c61,
        why: "the crate's mistake: it wants bit 12 of C.AND to be one",
    },
    Line {
        names: &[("c.slli", ""), ("c.srli", ""), ("c.srai", "")],
        words: |word| matches!(word & 0xf003, 0x1002) || word & 0xf803 == 0x9001,
        why: "the crate's mistake: 64 bits may be shifted by more than 31",
    },
    Line {
        names: &[("fence", "")],
        words: |word| word & 0x707f == 0x000f && word >> 28 != 0,
        why: "a fence of a kind that is not known has to be one of everything",
    },
    Line { names: &[("c.addi", "c.nop")], words: |word| word & 0xef83 == 0x0001, why: "with a name of its own" },
];

/// Whether some line says so, and which.
fn line(word: u32, ours: &str, theirs: &str) -> Option<usize> {
    let is_about = |line: &Line| {
        let is_name = |name: &str, given: &str| name == given || name == "f" && given.starts_with('f');
        line.names.iter().any(|name| is_name(name.0, ours) && is_name(name.1, theirs)) && (line.words)(word)
    };
    LINES.iter().position(is_about)
}

#[derive(PartialEq, Eq, Hash, Clone, Copy)]
enum Theirs {
    Nothing,
    Whole(Discriminant<Instruction>),
    Compressed(Discriminant<Compressed>),
}

fn theirs(target: &Target, word: u32) -> Theirs {
    if word & 3 == 3 {
        match riscv_isa::decode_full(word, target) {
            Instruction::UNIMP => Theirs::Nothing,
            instruction => Theirs::Whole(discriminant(&instruction)),
        }
    } else {
        match riscv_isa::decode_compressed(word as u16, target) {
            Compressed::UNIMP => Theirs::Nothing,
            instruction => Theirs::Compressed(discriminant(&instruction)),
        }
    }
}

/// What they call it; nothing if it is none.
fn name(target: &Target, word: u32) -> String {
    let text = match word & 3 {
        3 => format!("{:?}", riscv_isa::decode_full(word, target)),
        _ => format!("{:?}", riscv_isa::decode_compressed(word as u16, target)),
    };
    mnemonic(&text).to_lowercase().replace('_', ".").replace("unimp", "")
}

/// Theirs does not say how an access is ordered.
fn without_order(name: &str) -> &str {
    [".aqrl", ".aq", ".rl"].iter().find_map(|order| name.strip_suffix(order)).unwrap_or(name)
}

fn check(words: Words, must_be_used: impl Fn(usize) -> bool) {
    let (isa, target) = (description("riscv64"), target());
    let kinds = sorted(words, |word| {
        // What stands behind an instruction of 16 bits is another.
        if word & 3 != 3 && word > 0xffff {
            return None;
        }
        let ours = number(&isa, word);
        let theirs = theirs(&target, word);
        // The lines that may be why, of words about which there is no agreement.
        let is_alike = ours.is_some() != (theirs == Theirs::Nothing);
        let may_be = |at: &usize| !is_alike && (LINES[*at].words)(word);
        let lines = (0..LINES.len()).filter(may_be).fold(0, |lines, at| lines | 1u32 << at);
        (ours.is_some() || theirs != Theirs::Nothing).then_some((ours, theirs, lines))
    });
    let (mut left, mut used) = (Vec::new(), BTreeSet::new());
    for found in kinds.values() {
        for word in &found.words {
            let ours = isa.disassemble(*word).unwrap_or_default();
            let ours = without_order(mnemonic(&ours));
            let theirs = name(&target, *word);
            match line(*word, ours, &theirs) {
                _ if ours == theirs => {}
                Some(line) => {
                    used.insert(line);
                }
                None => left.push(format!("{ours} and {theirs}: {word:08x}, {} words", found.count)),
            }
        }
    }
    left.extend(
        (0..LINES.len()).filter(|at| must_be_used(*at) && !used.contains(at)).map(|at| LINES[at].why.to_owned()),
    );
    nothing_left(left);
}

#[test]
fn chosen_words_are_what_others_say() {
    check(Words::Chosen, |_| false);
}

#[test]
#[ignore = "asks about 2^32 words: cargo xtask decoder"]
fn all_words_are_what_others_say() {
    check(Words::All, |_| true);
}
