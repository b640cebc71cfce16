//! Instructions as we write them against how binutils' `objdump` does, of random bits of every described instruction.
//!
//! What it does otherwise on purpose is made alike first: places that are jumped to are addresses there and distances here,
//! numbers may be hexadecimal, what is zero is left out.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, and says on its error stream what it skipped"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use isa::{Isa, Source};

const EACH: usize = 12;

struct Dialect {
    name: &'static str,
    objdump: &'static str,
    arguments: &'static [&'static str],
    /// System registers, hints and fractions have names there, and what is not rounded has no mode.
    skipped: &'static [&'static str],
}

const DIALECTS: [Dialect; 2] = [
    Dialect {
        name: "aarch64",
        objdump: "aarch64-linux-gnu-objdump",
        arguments: &["-m", "aarch64"],
        skipped: &["mrs", "msr", "sys", "hint", "fmov", "prfm", "prfum", "dsb", "clrex"],
    },
    Dialect {
        name: "riscv64",
        objdump: "riscv64-linux-gnu-objdump",
        arguments: &["-m", "riscv:rv64"],
        skipped: &[
            "csrrw",
            "csrrs",
            "csrrc",
            "csrrwi",
            "csrrsi",
            "csrrci",
            "fence",
            "fence.i",
            "c.lui",
            "lui",
            "auipc",
            "fcvt.d.w",
            "fcvt.d.wu",
            "c.slli64",
            "c.srli64",
            "c.srai64",
        ],
    },
];

#[test]
fn instructions_are_written_as_by_objdump() {
    for dialect in &DIALECTS {
        if Command::new(dialect.objdump).arg("--version").output().is_err() {
            eprintln!("skipped: needs {}", dialect.objdump);
            continue;
        }
        let isa = description(dialect.name);
        let words = words(&isa);
        let theirs = theirs(dialect, &words);
        let mut wrong = BTreeMap::new();
        let mut alike = 0;
        for (number, (word, _)) in words.iter().enumerate() {
            let Some(theirs) = theirs.get(&(number as u64 * 4)) else { continue };
            let ours = isa.disassemble(*word).unwrap();
            let first = theirs.split_whitespace().next().unwrap_or_default();
            // A list that goes on behind the last register, it writes out.
            let goes_round = theirs.contains("v31.") && theirs.contains(", v0.");
            // Bits that it takes for nothing, too.
            if goes_round || first.starts_with('.') || first.starts_with("0x") || dialect.skipped.contains(&first) {
                continue;
            }
            if plain(&ours, number as u64 * 4) == plain(theirs, 0) {
                alike += 1;
            } else {
                wrong.entry(first.to_owned()).or_insert_with(|| format!("{word:08x}: {ours}; there: {theirs}"));
            }
        }
        let text: Vec<String> = wrong.into_values().collect();
        assert!(text.is_empty(), "{}:\n{}", dialect.name, text.join("\n"));
        assert!(alike > 1000, "{}: only {alike} were compared", dialect.name);
    }
}

fn description(name: &str) -> Isa {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../isa").join(name);
    isa::compile(&Source::all_in(&folder).unwrap()).unwrap_or_else(|error| panic!("{error}"))
}

/// Words of every instruction, and their sizes.
fn words(isa: &Isa) -> Vec<(u32, u8)> {
    let mut state = 7u32;
    let mut words = Vec::new();
    for instruction in &isa.instructions {
        for _ in 0..EACH {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            let bits = if instruction.size == 2 { 0xffff } else { u32::MAX };
            let word = (instruction.value | state & !instruction.mask) & bits;
            if isa.decode(word).is_some_and(|found| std::ptr::eq(found, instruction)) {
                words.push((word, instruction.size));
            }
        }
    }
    words
}

/// What it says, by address. Each word has four bytes: behind a short one is another.
fn theirs(dialect: &Dialect, words: &[(u32, u8)]) -> BTreeMap<u64, String> {
    let bytes: Vec<u8> = words
        .iter()
        .flat_map(
            |(word, size)| if *size == 2 { (word & 0xffff | 0x0001_0000).to_le_bytes() } else { word.to_le_bytes() },
        )
        .collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let output = Command::new(dialect.objdump)
        .args(["-D", "-z", "-b", "binary", "-M", "no-aliases"])
        .args(dialect.arguments)
        .arg(file.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |line: &str| {
        let (address, rest) = line.split_once(":\t")?;
        let (_, text) = rest.split_once('\t')?;
        let address = u64::from_str_radix(address.trim(), 16).ok()?;
        Some((address, text.replace('\t', " ")))
    };
    text.lines().filter_map(line).collect()
}

/// Without what may differ. Of what jumps, or says where something is, the last number is added to `address`.
fn plain(text: &str, address: u64) -> String {
    let text = text.split("//").next().unwrap_or_default();
    let text = text.split(" <").next().unwrap_or_default();
    let text = text.split(" # ").next().unwrap_or_default().trim();
    let mnemonic = text.split(' ').next().unwrap_or_default();
    let mut words: Vec<String> = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let length = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len()).max(1);
        words.push(number(&rest[..length]));
        rest = &rest[length..];
    }
    let is_place = is_place(mnemonic, text);
    if is_place
        && address != 0
        && let Some(last) = words.pop()
    {
        let is_negative = words.last().is_some_and(|word| word == "-");
        if is_negative {
            words.pop();
        }
        let by: u64 = last.parse().unwrap_or(0);
        let base = if mnemonic == "adrp" { address & !0xfff } else { address };
        let to = if is_negative { base.wrapping_sub(by) } else { base.wrapping_add(by) };
        words.push(to.to_string());
    }
    let text: String = words.concat().chars().filter(|c| !c.is_whitespace()).collect();
    // An extension to the same width is a shift, if the stack pointer is there.
    let text = if text.contains("sp,") {
        let text = text.replace(",uxtx#", ",lsl#").replace(",uxtw#", ",lsl#");
        text.trim_end_matches(",uxtx").trim_end_matches(",uxtw").to_owned()
    } else {
        text
    };
    let text = if is_place { text.replace('#', "") } else { text };
    text.replace(",lsl#0", "")
        .replace(",#0]", "]")
        .replace(",#0.0", "")
        .replace(",zero", ",x0")
        .replace("(zero)", "(x0)")
}

/// A number in decimal.
fn number(word: &str) -> String {
    let hexadecimal = word.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
    hexadecimal.map_or_else(|| word.to_owned(), |number| number.to_string())
}

fn is_place(mnemonic: &str, text: &str) -> bool {
    let jumps = ["b", "bl", "cbz", "cbnz", "tbz", "tbnz", "adr", "adrp", "jal", "c.j", "c.beqz", "c.bnez"];
    let branches = ["beq", "bne", "blt", "bge", "bltu", "bgeu"];
    let is_literal = matches!(mnemonic, "ldr" | "ldrsw") && !text.contains('[');
    jumps.contains(&mnemonic) || branches.contains(&mnemonic) || mnemonic.starts_with("b.") || is_literal
}
