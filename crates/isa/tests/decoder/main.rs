//! What is an instruction: our decoders against disassemblers that others wrote.
//!
//! `cargo xtask decoder` asks about every word that there is. What runs with the other tests takes every value of the bits
//! that say which instruction it is, with two fillings of the rest. **Where somebody disagrees, a table says why; a
//! line of a table that is used for nothing is a mistake, too.**

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod aarch64;
mod reserved;
mod riscv64;

use std::collections::HashMap;
use std::hash::Hash;
use std::path::Path;

use isa::{Isa, Source};

/// The words that are asked about: all, or those of this number of which the lower ten bits are made up.
#[derive(Clone, Copy)]
enum Words {
    All,
    Chosen,
}

impl Words {
    /// A part of them: as many as there are processors make all.
    fn part(self, part: u64, parts: u64) -> impl Iterator<Item = u32> {
        let (count, each) = match self {
            Words::All => (1u64 << 32, 1),
            Words::Chosen => (1 << 22, 2),
        };
        (count * part / parts..count * (part + 1) / parts).flat_map(move |number| {
            let word = move |again| match self {
                Words::All => number as u32,
                Words::Chosen => (number as u32) << 10 | filling(number * 2 + again),
            };
            (0..each).map(word)
        })
    }
}

/// Ten bits.
fn filling(number: u64) -> u32 {
    (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as u32
}

/// What was found to be alike: how many words, and the first few.
#[derive(Debug, Default, Clone)]
struct Found {
    count: u64,
    words: Vec<u32>,
}

/// Of how many words of a kind more is asked than whether they are instructions.
const SHOWN: usize = 48;

/// Sorts words by what `kind` says of each, on all processors. What has no kind is left out.
fn sorted<Kind: Eq + Hash + Send>(words: Words, kind: impl Fn(u32) -> Option<Kind> + Sync) -> HashMap<Kind, Found> {
    let parts = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let one = |part| {
        let mut kinds: HashMap<Kind, Found> = HashMap::new();
        for word in words.part(part, parts) {
            let Some(kind) = kind(word) else { continue };
            let found = kinds.entry(kind).or_default();
            found.count += 1;
            // The first, and some that are further and further away.
            if found.words.len() < SHOWN && (found.count & (found.count - 1) == 0 || found.count < 24) {
                found.words.push(word);
            }
        }
        kinds
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..parts)
            .map(|part| {
                scope.spawn({
                    let one = &one;
                    move || one(part)
                })
            })
            .collect();
        let mut all: HashMap<Kind, Found> = HashMap::new();
        for thread in threads {
            for (kind, found) in thread.join().unwrap() {
                let whole = all.entry(kind).or_default();
                whole.count += found.count;
                whole.words.extend(found.words);
            }
        }
        all
    })
}

fn description(name: &str) -> Isa {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../isa").join(name);
    isa::compile(&Source::all_in(&folder).unwrap()).unwrap_or_else(|error| panic!("{error}"))
}

/// The number of the instruction that this is.
fn number(isa: &Isa, word: u32) -> Option<usize> {
    isa.decoder.decode(&isa.instructions, word)
}

/// What an instruction is called, as it is written.
fn mnemonic(text: &str) -> &str {
    text.split([' ', '\t']).next().unwrap_or_default()
}

/// Fails with what is not explained.
fn nothing_left(mut left: Vec<String>) {
    left.sort();
    left.dedup();
    assert!(left.is_empty(), "{} of this is not explained:\n{}", left.len(), left[..left.len().min(80)].join("\n"));
}
