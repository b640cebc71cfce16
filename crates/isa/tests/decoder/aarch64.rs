//! AArch64, against two others: disarm64, which is binutils' table, and yaxpeax-arm, which was written by hand.

use std::collections::{BTreeSet, HashMap};

use disarm64::InsnOpcode as _;
use isa::Isa;
use yaxpeax_arch::{Decoder as _, U8Reader};
use yaxpeax_arm::armv8::a64::{InstDecoder, Opcode};

use super::{Found, Words, description, mnemonic, nothing_left, number, reserved, sorted};

/// disarm64's names for what is described.
const DESCRIBED: &[&str] = &["V8", "FP", "SIMD", "AES", "SHA2", "CRC", "LSE", "LOR", "RDMA", "DOTPROD"];

/// What is described, and stands there under the name of something else.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("hint", "CHK", "a hint, which does nothing"),
    ("sys", "GCS", "an operation on caches, of which there are none"),
    ("fixed_float", "SIMD_F16", "fixed point, all of which binutils has under its smallest format"),
];

/// Extensions that are not described. Our identification registers say that they are not there, so they are undefined.
const EXTENSIONS: &[(&str, &[&str])] = &[
    ("vectors of any length", &["SVE", "SVE2", "SVE2AES", "SVE2BITPERM", "SVE2P1", "SVE2P1_SME", "SVE2P1_SME2"]),
    ("vectors of any length", &["SVE2P1_SME2P1", "SVE2P2_SME2P2", "SVE2P3", "SVE2P3_SME2P3", "SVE2SHA3", "SVE2SM4"]),
    ("vectors of any length", &["SVE_AES2", "SVE_B16B16_SME2", "SVE_B16B16_SVE2", "SVE_B16MM", "SVE_BFSCALE"]),
    ("vectors of any length", &["SVE_BFSCALE_SME2", "SVE_F16F32MM", "SVE_SME2P2", "SVE_SSVE_FEXPA", "BFLOAT16_SVE"]),
    ("vectors of any length", &["CPA_SVE", "F32MM_SVE", "F64MM_SVE", "F8F16MM_SVE2", "F8F32MM_SVE2", "FAMINMAX_SVE2"]),
    ("vectors of any length", &["FP8DOT2_SVE", "FP8DOT4_SVE", "FP8FMA_SVE", "FP8_SVE2", "I8MM_SVE", "LUT_SVE2"]),
    (
        "matrices",
        &["SME", "SME2", "SME2P1", "SME2P2", "SME2P3", "SME2_F64F64", "SME2_I16I64", "SME_B16B16", "SME_F16F16"],
    ),
    ("matrices", &["SME_F16F16_F8F16", "SME_F64F64", "SME_F8F16", "SME_F8F32", "SME_I16I64", "SME_MOP4"]),
    ("matrices", &["SME_MOP4_B16B16", "SME_MOP4_F16F16", "SME_MOP4_F64F64", "SME_MOP4_F8F16", "SME_MOP4_F8F32"]),
    ("matrices", &["SME_MOP4_I16I64", "SME_TMOP", "SME_TMOP_B16B16", "SME_TMOP_F16F16", "SME_TMOP_F8F16"]),
    ("matrices", &["SME_TMOP_F8F32", "FAMINMAX_SME2", "FP8_SME2", "LUTV2_SME2", "LUTV2_SME2P1"]),
    ("matrices in vectors of 128 bits", &["F16F32DOT", "F16F32MM", "F16MM", "F8F16MM", "F8F32MM", "I8MM"]),
    (
        "arithmetic on 16 and 8 bits",
        &["FP_F16", "SIMD_F16", "FP_16_V8_2A", "BFLOAT16", "FP8", "FP8DOT2", "FP8DOT4", "FP8FMA"],
    ),
    ("more of floating point", &["COMPNUM", "FAMINMAX", "FPRCVT", "FRINTTS", "JSCVT"]),
    ("more of general registers", &["CSSC", "FLAGM", "FLAGMANIP"]),
    ("tables in vectors", &["LUT"]),
    ("more of hashes and ciphers", &["SHA3", "SM4"]),
    ("branches that compare, and that hint", &["CMPBR", "HBC"]),
    ("signed pointers, checked ones", &["PAUTH", "CPA", "GCS"]),
    ("tags of memory", &["MEMTAG", "MOPS_MEMTAG"]),
    ("memory copied at once", &["MOPS", "MOPS_GO"]),
    ("more of ordered and atomic accesses", &["RCPC", "RCPC2", "RCPC3", "LSE128", "LSFE", "LS64", "LSCP"]),
    ("accesses as level 0", &["LSUI", "LSUI_FP"]),
    ("registers and descriptors of 128 bits", &["D128", "D128_THE", "THE"]),
    ("transactions, traps, other worlds", &["TME", "TEV", "POE2"]),
    ("barriers and waiting with more words", &["SB", "WFXT", "XS"]),
];

/// What yaxpeax-arm alone takes for instructions, by its names.
const LOOSE: &[(&str, &[&str])] = &[
    (
        "fields that should be ones are not: what happens is not determined, ours is undefined",
        &[
            "ldar", "ldarb", "ldarh", "ldlar", "ldlarb", "ldlarh", "stlr", "stlrb", "stlrh", "stllr", "stllrb",
            "stllrh", "ldxr", "ldxrb", "ldxrh", "ldaxr", "ldaxrb", "ldaxrh", "ldxp", "ldaxp", "stxr", "stxrb", "stxrh",
            "stlxr", "stlxrb", "stlxrh", "ldapr", "ldaprb", "ldaprh", "smulh", "umulh",
        ],
    ),
    (
        "bits that the manual gives, and it does not look at",
        &[
            "adc", "adcs", "add", "asrv", "bic", "ccmn", "ccmp", "cls", "clz", "cmeq", "cmge", "cmgt", "cmhi", "cmhs",
            "cmtst", "crc32b", "crc32cb", "crc32ch", "crc32cw", "crc32cx", "crc32h", "crc32w", "crc32x", "csel",
            "csinc", "csinv", "csneg", "dup", "fabs", "faddp", "fcmeq", "fcmge", "fcmgt", "fcmle", "fcmlt", "fcmp",
            "fcmpe", "fcvtxn", "fcvtxn2", "fcvtzs", "fcvtzu", "fmaxnmp", "fmaxp", "fminnmp", "fminnmv", "fminp",
            "fminv", "fneg", "ins", "ld1", "ld1r", "ld2", "ld2r", "ld3", "ld3r", "ld4", "ld4r", "lslv", "lsrv", "movi",
            "mvni", "orr", "rbit", "rev", "rev16", "rev32", "rorv", "sbc", "sbcs", "scvtf", "sdiv", "smov", "sqrdmlsh",
            "srshl", "sshl", "st1", "st2", "st3", "st4", "sub", "ucvtf", "udf", "udiv", "umov", "urshl", "ushl",
        ],
    ),
    (
        "extensions that are not described",
        &[
            "autda",
            "autdb",
            "autdza",
            "autdzb",
            "autia",
            "autia171615",
            "autiasppc",
            "autiasppcr",
            "autib",
            "autib171615",
            "autibsppc",
            "autibsppcr",
            "autiza",
            "autizb",
            "bcax",
            "eor3",
            "fmlal",
            "fmlsl",
            "frint32x",
            "frint32z",
            "frint64x",
            "frint64z",
            "gmi",
            "irg",
            "pacda",
            "pacdb",
            "pacdza",
            "pacdzb",
            "pacga",
            "pacia",
            "pacia171615",
            "paciasppc",
            "pacib",
            "pacib171615",
            "pacibsppc",
            "paciza",
            "pacizb",
            "pacnbiasppc",
            "pacnbibsppc",
            "rax1",
            "retaasppc",
            "retaasppcr",
            "retabsppc",
            "retabsppcr",
            "rmif",
            "sha512h",
            "sha512h2",
            "sha512su0",
            "sha512su1",
            "sm3partw1",
            "sm3partw2",
            "sm3ss1",
            "sm4e",
            "sm4ekey",
            "subp",
            "subps",
            "xpacd",
            "xpaci",
        ],
    ),
];

/// Names of theirs for what we call otherwise; a star stands for all.
const WRITTEN: &[(&str, &str, &str)] = &[
    ("b.", "b.*", "some conditions have two names, and to disarm64 all are one"),
    ("hint", "*", "hints have names, of which most are of extensions"),
    ("nop", "hint", "hints have names"),
    ("yield", "hint", "hints have names"),
    ("wf", "hint", "hints have names"),
    ("sev", "hint", "hints have names"),
    ("dsb", "ssbb", "some barriers have names"),
    ("dsb", "pssbb", "some barriers have names"),
    ("ld", "ld4", "disarm64 has loads of all structures under one name"),
    ("st", "st4", "disarm64 has stores of all structures under one name"),
    ("prfm", "rprfm", "a range is a hint like others"),
    ("sys", "gcs*", "operations of an extension, which do nothing here"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Kind {
    /// Our instruction.
    ours: Option<usize>,
    /// disarm64's, by where its definition is.
    table: Option<usize>,
    hand: Option<std::mem::Discriminant<Opcode>>,
    /// The rule by which it is none, if it is not one.
    rule: Option<usize>,
}

fn by_hand(word: u32) -> Option<Opcode> {
    let decoded = InstDecoder::default().decode(&mut U8Reader::new(&word.to_le_bytes())).ok()?;
    // What it has no name for it says to be invalid, too.
    Some(decoded.opcode).filter(|opcode| *opcode != Opcode::Invalid)
}

fn kinds(isa: &Isa, words: Words) -> HashMap<Kind, Found> {
    sorted(words, |word| {
        let ours = number(isa, word);
        let table = disarm64::decoder::decode(word).map(|opcode| std::ptr::from_ref(opcode.definition()).addr());
        let hand = by_hand(word).map(|opcode| std::mem::discriminant(&opcode));
        let rule = if ours.is_none() && table.is_some() { reserved::find(word) } else { None };
        (ours.is_some() || table.is_some() || hand.is_some()).then_some(Kind { ours, table, hand, rule })
    })
}

/// Which lines of the tables above were used.
type Used = BTreeSet<(&'static str, String)>;

/// Whether the tables say why that is so.
fn is_explained(isa: &Isa, kind: &Kind, word: u32, used: &mut Used) -> bool {
    let table = disarm64::decoder::decode(word).filter(|_| kind.table.is_some());
    let hand = by_hand(word).map(|opcode| opcode.to_string());
    let extension = table.map(|opcode| format!("{:?}", opcode.definition().feature_set));
    match (kind.ours, extension, hand) {
        (Some(ours), Some(extension), Some(_)) => {
            let ours = &isa.instructions[ours].name;
            let elsewhere = ELSEWHERE.iter().find(|line| ours.starts_with(line.0) && extension == line.1);
            used.extend(elsewhere.map(|line| ("elsewhere", line.1.to_owned())));
            elsewhere.is_some() || DESCRIBED.contains(&extension.as_str())
        }
        (None, Some(extension), _) if DESCRIBED.contains(&extension.as_str()) => {
            used.extend(kind.rule.map(|rule| ("reserved", rule.to_string())));
            kind.rule.is_some()
        }
        (None, Some(extension), _) => {
            let is_named = EXTENSIONS.iter().any(|line| line.1.contains(&extension.as_str()));
            used.insert(("extension", extension));
            is_named
        }
        (None, None, Some(hand)) => {
            let is_named = LOOSE.iter().any(|line| line.1.contains(&hand.as_str()));
            used.insert(("loose", hand));
            is_named
        }
        _ => false,
    }
}

/// Whether both write what we write, or the table says how.
fn is_written_alike(isa: &Isa, word: u32, used: &mut Used) -> bool {
    let ours = isa.disassemble(word).unwrap_or_default();
    let table = disarm64::decoder::decode(word).map_or("", |opcode| opcode.definition().mnemonic);
    let hand = by_hand(word).map(|opcode| opcode.to_string()).unwrap_or_default();
    let mut is_alike = |theirs: &str| {
        let theirs = mnemonic(theirs);
        let is_theirs = |name: &str| match name.strip_suffix('*') {
            Some(start) => theirs.starts_with(start),
            None => name == theirs,
        };
        let line = || WRITTEN.iter().find(|line| mnemonic(&ours).starts_with(line.0) && is_theirs(line.1));
        mnemonic(&ours) == theirs || {
            let line = line();
            used.extend(line.map(|line| ("written", line.0.to_owned() + line.1)));
            line.is_some()
        }
    };
    is_alike(table) && is_alike(&hand)
}

fn check(words: Words) -> Used {
    let isa = description("aarch64");
    let (mut left, mut used) = (Vec::new(), Used::new());
    for (kind, found) in &kinds(&isa, words) {
        for word in &found.words {
            let is_fine = is_explained(&isa, kind, *word, &mut used)
                && (kind.ours.is_none() || is_written_alike(&isa, *word, &mut used));
            if !is_fine {
                let text = isa.disassemble(*word).unwrap_or_default();
                let table = disarm64::decoder::decode(*word).map(|opcode| opcode.to_string()).unwrap_or_default();
                left.push(format!("{word:08x}: {text} | {table} | {:?} ({} words)", by_hand(*word), found.count));
                break;
            }
        }
    }
    nothing_left(left);
    used
}

#[test]
fn chosen_words_are_what_others_say() {
    check(Words::Chosen);
}

#[test]
#[ignore = "asks about 2^32 words: cargo xtask decoder"]
fn all_words_are_what_others_say() {
    let used = check(Words::All);
    let elsewhere = ELSEWHERE.iter().map(|line| ("elsewhere", line.1.to_owned()));
    let names = |kind, lines: &'static [(&str, &[&str])]| {
        lines.iter().flat_map(move |line| line.1.iter().map(move |name| (kind, (*name).to_owned())))
    };
    let rules = (0..reserved::RULES.len()).map(|rule| ("reserved", rule.to_string()));
    let written = WRITTEN.iter().map(|line| ("written", line.0.to_owned() + line.1));
    let all = elsewhere.chain(names("extension", EXTENSIONS)).chain(names("loose", LOOSE)).chain(rules).chain(written);
    nothing_left(all.filter(|line| !used.contains(line)).map(|line| format!("{line:?} is used for nothing")).collect());
}
