//! The agent: the program that is process 1 in a machine, made here of its listing and the first records.

use crate::arch::Arch;

/// Where the program begins, and where its records do: the listing says the second to the guest.
const CODE: u64 = 0x1_0000;
/// The first record.
pub(crate) const RECORDS: u64 = 0x2_0000;
/// Where a message of the host's is put.
pub(crate) const MESSAGE: u64 = 0x4_0000;
/// Room for one.
pub(crate) const MESSAGE_ROOM: u64 = 1 << 20;
/// Where data on their way to the host wait.
pub(crate) const BUFFER: u64 = MESSAGE + MESSAGE_ROOM;
/// Room for them.
pub(crate) const BUFFER_ROOM: u64 = 64 << 10;
const END: u64 = BUFFER + BUFFER_ROOM;

/// The agent's listing for an architecture.
fn listing(arch: Arch) -> &'static str {
    match arch {
        Arch::Riscv64 => include_str!("../../../../guest/agent/riscv64.lst"),
        Arch::Arm64 => include_str!("../../../../guest/agent/aarch64.lst"),
        Arch::Amd64 => include_str!("../../../../guest/agent/amd64.lst"),
    }
}

/// The words of a listing, each with what it says.
fn words(arch: Arch) -> impl Iterator<Item = (Vec<u8>, &'static str)> {
    let lines = listing(arch).lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(move |line| {
        let (word, text) = line.split_once(' ')?;
        let digits = word.as_bytes().chunks(2).map(|it| u8::from_str_radix(std::str::from_utf8(it).ok()?, 16).ok());
        let mut bytes: Vec<u8> = digits.collect::<Option<_>>()?;
        // Words are written as numbers, instructions that are as long as they like as their bytes.
        if arch != Arch::Amd64 {
            bytes.reverse();
        }
        Some((bytes, text))
    })
}

/// The agent as a file that a kernel executes, with the records that it begins with.
pub(crate) fn file(arch: Arch, records: &[u8]) -> Vec<u8> {
    const HEADERS: u64 = 64 + 2 * 56;
    let machine: u16 = match arch {
        Arch::Riscv64 => 243,
        Arch::Arm64 => 183,
        Arch::Amd64 => 62,
    };
    let code: Vec<u8> = words(arch).flat_map(|(word, _)| word).collect();
    let mut file = Vec::new();
    file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [2, machine] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    file.extend_from_slice(&1u32.to_le_bytes());
    for word in [CODE + HEADERS, 64, 0] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(&0u32.to_le_bytes());
    for half in [64u16, 56, 2, 0, 0, 0] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    let (read, write, execute) = (4u32, 2, 1);
    let length = HEADERS + code.len() as u64;
    let at = length.next_multiple_of(0x1000);
    let segments =
        [(read | execute, 0, CODE, length, length), (read | write, at, RECORDS, records.len() as u64, END - RECORDS)];
    for (flags, offset, address, in_file, in_memory) in segments {
        file.extend_from_slice(&1u32.to_le_bytes());
        file.extend_from_slice(&flags.to_le_bytes());
        for word in [offset, address, address, in_file, in_memory, 0x1000] {
            file.extend_from_slice(&u64::to_le_bytes(word));
        }
    }
    file.extend_from_slice(&code);
    file.resize(at as usize, 0);
    file.extend_from_slice(records);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_what_their_listing_says() {
        for arch in [Arch::Riscv64, Arch::Arm64] {
            let isa = crate::arch::isa(arch).unwrap();
            let mut count = 0;
            for (word, text) in words(arch) {
                let word = u32::from_le_bytes(word.try_into().unwrap());
                assert_eq!(isa.disassemble(word).as_deref(), Some(text), "{arch:?} {word:08x}");
                count += 1;
            }
            assert!(count > 30, "{arch:?}");
            let wrong = listing(arch).lines().filter(|line| !line.starts_with('#')).count();
            assert_eq!(wrong, count, "{arch:?}: each line is a word");
        }
    }

    #[test]
    fn the_instructions_are_what_their_listing_says() {
        use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
        let code: Vec<u8> = words(Arch::Amd64).flat_map(|(word, _)| word).collect();
        let mut decoder = Decoder::with_ip(64, &code, 0, DecoderOptions::NONE);
        let mut formatter = IntelFormatter::new();
        let options = formatter.options_mut();
        options.set_hex_prefix("0x");
        options.set_hex_suffix("");
        options.set_uppercase_hex(false);
        options.set_branch_leading_zeros(false);
        options.set_space_after_operand_separator(true);
        for (word, text) in words(Arch::Amd64) {
            let (instruction, mut said) = (decoder.decode(), String::new());
            formatter.format(&instruction, &mut said);
            assert_eq!((said.as_str(), instruction.len()), (text, word.len()));
        }
        let lines = listing(Arch::Amd64).lines().filter(|line| !line.starts_with('#')).count();
        assert!(!decoder.can_decode() && lines == words(Arch::Amd64).count());
    }
}
