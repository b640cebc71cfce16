//! A process as a core file, which debuggers read: its memory and the registers of its threads at one moment (System V ABI,
//! "Program Loading", and Linux's `fs/binfmt_elf.c` for the notes).
//!
//! What is written is what the guest says of itself, and goes into a file that nobody but a debugger reads. Vector registers
//! are not told of.

use std::io::{Result, Seek, SeekFrom, Write};

const PAGE: u64 = 4096;
const HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;

/// A part of the address space, with what may be done with it in the numbers of mmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) begin: u64,
    pub(crate) end: u64,
    pub(crate) rights: u64,
}

/// A thread's registers, in the order of `struct user_regs_struct` but for the segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Registers {
    /// r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi.
    pub(crate) general: [u64; 15],
    /// The system call that it is in; `u64::MAX` for none.
    pub(crate) call: u64,
    pub(crate) at: u64,
    pub(crate) stack: u64,
    /// The thread pointer.
    pub(crate) pointer: u64,
}

/// What a core is of.
pub(crate) struct Process<'a> {
    pub(crate) number: u32,
    pub(crate) name: &'a [u8],
    /// Where the program's headers are, how many, and where it began.
    pub(crate) headers: (u64, u64),
    pub(crate) entry: u64,
    pub(crate) threads: &'a [Registers],
    /// In order.
    pub(crate) parts: &'a [Part],
}

/// Writes it. `read` copies from the process's memory and says whether it could; where not, there will be zeroes. Pages of
/// zeroes are left out of the file as holes. An error of `read` ends it.
pub(crate) fn write(
    process: &Process<'_>,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<bool>,
    into: &mut (impl Write + Seek),
) -> Result<()> {
    // More would take the form that the number has when it does not fit.
    const MOST_PARTS: usize = 0xfff0;
    let parts = &process.parts[..process.parts.len().min(MOST_PARTS)];
    let notes = notes(process);
    let table = HEADER + PROGRAM_HEADER * (parts.len() as u64 + 1);
    let mut head = header(parts.len() as u16 + 1).to_vec();
    head.extend(program_header(4, 4, table, 0, notes.len() as u64, notes.len() as u64, 4));
    let begin = (table + notes.len() as u64).next_multiple_of(PAGE);
    let mut offset = begin;
    for part in parts {
        let length = part.end - part.begin;
        let there = if part.rights & 1 != 0 { length } else { 0 };
        head.extend(program_header(1, rights_of(part), offset, part.begin, there, length, PAGE));
        offset += there;
    }
    into.write_all(&head)?;
    into.write_all(&notes)?;
    let mut offset = begin;
    for part in parts.iter().filter(|it| it.rights & 1 != 0) {
        content(part, offset, &mut read, into)?;
        offset += part.end - part.begin;
    }
    // The last pages may be holes.
    into.seek(SeekFrom::Start(offset - u64::from(offset > begin)))?;
    into.write_all(&[0][..usize::from(offset > begin)])
}

fn content(
    part: &Part,
    offset: u64,
    read: &mut impl FnMut(u64, &mut [u8]) -> Result<bool>,
    into: &mut (impl Write + Seek),
) -> Result<()> {
    let mut page = [0; PAGE as usize];
    for at in (part.begin..part.end).step_by(PAGE as usize) {
        if read(at, &mut page)? && page != [0; PAGE as usize] {
            into.seek(SeekFrom::Start(offset + at - part.begin))?;
            into.write_all(&page)?;
        }
    }
    Ok(())
}

/// PF_R, PF_W and PF_X have the same bits in another order.
fn rights_of(part: &Part) -> u32 {
    let bit = |from: u64, to: u32| if part.rights & from != 0 { to } else { 0 };
    bit(1, 4) | bit(2, 2) | bit(4, 1)
}

fn header(segments: u16) -> [u8; HEADER as usize] {
    let mut bytes = [0; HEADER as usize];
    let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
    // A 64-bit, little-endian core (4) for that processor (62), version 1.
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &4u16.to_le_bytes());
    put(18, &62u16.to_le_bytes());
    put(20, &1u32.to_le_bytes());
    put(32, &HEADER.to_le_bytes());
    put(52, &(HEADER as u16).to_le_bytes());
    put(54, &(PROGRAM_HEADER as u16).to_le_bytes());
    put(56, &segments.to_le_bytes());
    bytes
}

fn program_header(kind: u32, flags: u32, offset: u64, at: u64, there: u64, length: u64, alignment: u64) -> Vec<u8> {
    let mut bytes = [kind, flags].iter().flat_map(|it| it.to_le_bytes()).collect::<Vec<_>>();
    bytes.extend([offset, at, 0, there, length, alignment].iter().flat_map(|it| it.to_le_bytes()));
    bytes
}

/// Who it was, what each thread's registers were, and what it was told at its start.
fn notes(process: &Process<'_>) -> Vec<u8> {
    const STATUS: u32 = 1;
    const INFORMATION: u32 = 3;
    const AUXILIARY: u32 = 6;
    let mut notes = Vec::new();
    let mut note = |kind: u32, content: &[u8]| {
        notes.extend([5, content.len() as u32, kind].iter().flat_map(|it| it.to_le_bytes()));
        notes.extend(b"CORE\0\0\0\0");
        notes.extend(content);
        notes.resize(notes.len().next_multiple_of(4), 0);
    };
    for (index, thread) in process.threads.iter().enumerate() {
        note(STATUS, &status(process.number + index as u32, thread));
        if index == 0 {
            note(INFORMATION, &information(process));
        }
    }
    let (headers, count) = process.headers;
    let auxiliary = [3, headers, 4, PROGRAM_HEADER, 5, count, 6, PAGE, 9, process.entry, 0, 0];
    note(AUXILIARY, &auxiliary.iter().flat_map(|it: &u64| it.to_le_bytes()).collect::<Vec<_>>());
    notes
}

/// `struct elf_prstatus`.
fn status(number: u32, thread: &Registers) -> [u8; 336] {
    const CODE: u64 = 0x33;
    const DATA: u64 = 0x2b;
    const FLAGS: u64 = 0x202;
    let mut bytes = [0; 336];
    bytes[32..36].copy_from_slice(&number.to_le_bytes());
    let rest = [thread.call, thread.at, CODE, FLAGS, thread.stack, DATA, thread.pointer];
    for (place, word) in bytes[112..].chunks_exact_mut(8).zip(thread.general.iter().chain(&rest)) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// `struct elf_prpsinfo`.
fn information(process: &Process<'_>) -> [u8; 136] {
    let mut bytes = [0; 136];
    bytes[24..28].copy_from_slice(&process.number.to_le_bytes());
    let name = &process.name[..process.name.len().min(15)];
    bytes[40..40 + name.len()].copy_from_slice(name);
    bytes[56..56 + name.len()].copy_from_slice(name);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_holds_what_can_be_read() {
        let thread = Registers { general: [7; 15], call: 1, at: 0x40_1000, stack: 0x7000, pointer: 9 };
        let parts = [
            Part { begin: 0x1000, end: 0x3000, rights: 1 | 4 },
            Part { begin: 0x5000, end: 0x6000, rights: 0 },
            Part { begin: 0x7000, end: 0x9000, rights: 1 | 2 },
        ];
        let process = Process {
            number: 5,
            name: b"a-long-name-of-a-program",
            headers: (0x40, 9),
            entry: 1,
            threads: &[thread],
            parts: &parts,
        };
        let mut file = std::io::Cursor::new(Vec::new());
        let read = |at: u64, page: &mut [u8]| {
            page.fill((at >> 12) as u8);
            Ok(at != 0x2000 && at != 0x8000)
        };
        write(&process, read, &mut file).unwrap();
        let file = file.into_inner();
        let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
        let segment = |index: usize| {
            let at = 64 + 56 * index;
            [word(at) & 0xffff_ffff, word(at) >> 32, word(at + 16), word(at + 32), word(at + 40)]
        };
        assert_eq!(segment(1), [1, 5, 0x1000, 0x2000, 0x2000]);
        assert_eq!(segment(2), [1, 0, 0x5000, 0, 0x1000]);
        assert_eq!(segment(3), [1, 6, 0x7000, 0x2000, 0x2000]);
        let content = |index: usize, inside: usize| file[word(64 + 56 * index + 8) as usize + inside];
        assert_eq!([content(1, 0), content(1, 0x1000), content(3, 0), content(3, 0x1fff)], [1, 0, 7, 0]);
        assert_eq!(file.len() as u64, word(64 + 56 * 3 + 8) + 0x2000);
    }
}
