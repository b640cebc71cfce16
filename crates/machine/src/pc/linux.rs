//! A kernel of x86-64 in memory, as Linux begins in 64-bit mode (`Documentation/arch/x86/boot.rst`, `zero-page.rst`).
//!
//! It is an ELF file, as one lies packed in a distribution's, or such a file as it is, which unpacks itself first.

use dbt::Ram;
use vm::Entry;

use super::acpi;
use super::memory::{self, HIGH, HOLE, TABLES_OF_ACPI};
use crate::error::{Error, Result};
use crate::machine::{self, Outside, Start};

const DESCRIPTORS: u64 = 0x6000;
const PARAMETERS: u64 = 0x7000;
/// Three levels of page tables, the last of which has pages of two mebibytes.
const TABLES: u64 = 0x9000;
const COMMAND_LINE: u64 = 0x2_0000;
const MOST_COMMAND_LINE: usize = 2048;
const SEED: u64 = 0x2_1000;
/// Where a kernel that can be anywhere likes to be.
const PREFERRED: u64 = 16 << 20;
const PAGE: u64 = 4096;
const LARGE: u64 = 2 << 20;
/// What of the parameters is the kernel's own header.
const HEADER: std::ops::Range<usize> = 0x1f1..0x290;

/// Where a kernel begins, where it ends, and what of the parameters it says itself.
struct Placed {
    entry: u64,
    end: u64,
    header: Vec<u8>,
}

fn bad(why: &'static str) -> Error {
    Error::Kernel { architecture: "amd64", why }
}

fn put(ram: &Ram, what: &'static str, at: u64, bytes: &[u8]) -> Result<()> {
    ram.copy_in(at, bytes).ok_or(Error::Room { what, needed: bytes.len() as u64, memory: ram.length() })
}

/// Little-endian, of so many bytes.
fn number(bytes: &[u8], at: usize, size: usize) -> Result<u64> {
    let found = at.checked_add(size).and_then(|end| bytes.get(at..end)).ok_or(bad("it is shorter than it says"))?;
    Ok(found.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// Puts what the machine starts with into its memory.
pub(crate) fn load(ram: &Ram, start: &Start<'_>, slots: usize) -> Result<Entry> {
    let kernel = start.kernel.all()?;
    let placed = match &*kernel {
        [0x7f, b'E', b'L', b'F', ..] => place_segments(ram, &kernel)?,
        _ => place_image(ram, &kernel)?,
    };
    let initrd = placed.end.next_multiple_of(LARGE);
    put(ram, "a first root file system", initrd, start.initrd)?;
    let tables = acpi::tables(TABLES_OF_ACPI, slots, start.processors);
    put(ram, "tables", TABLES_OF_ACPI, &tables)?;
    if start.command_line.len() >= MOST_COMMAND_LINE {
        return Err(bad("it is told more than a kernel hears"));
    }
    put(ram, "a command line", COMMAND_LINE, &[start.command_line.as_bytes(), &[0]].concat())?;
    put(ram, "a seed", SEED, &seed(start.outside))?;
    put(ram, "parameters", PARAMETERS, &parameters(&placed, start, initrd, ram.length()))?;
    put(ram, "page tables", TABLES, &page_tables())?;
    let descriptors = [0u64, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
    put(ram, "descriptors", DESCRIPTORS, &descriptors.map(u64::to_le_bytes).concat())?;
    let (instruction, argument) = (placed.entry, PARAMETERS);
    Ok(Entry { instruction, argument, tables: TABLES, descriptors: DESCRIPTORS })
}

/// An ELF file's segments, each where it wants to be.
fn place_segments(ram: &Ram, kernel: &[u8]) -> Result<Placed> {
    const OF_X86_64: u64 = 62;
    const LOADED: u64 = 1;
    if number(kernel, 4, 1)? != 2 || number(kernel, 18, 2)? != OF_X86_64 {
        return Err(bad("it is an ELF file for another processor"));
    }
    let (table, size, count) = (number(kernel, 32, 8)?, number(kernel, 54, 2)?, number(kernel, 56, 2)?);
    let mut end = 0;
    for segment in 0..count {
        let at = usize::try_from(table.saturating_add(segment * size)).map_err(|_| bad("its segments are nowhere"))?;
        let word = |field: usize| number(kernel, at.saturating_add(field), 8);
        if number(kernel, at, 4)? != LOADED {
            continue;
        }
        let (from, to, in_file, in_memory) = (word(8)?, word(24)?, word(32)?, word(40)?);
        let content = usize::try_from(from).ok().and_then(|from| kernel.get(from..)?.get(..in_file as usize));
        let content = content.ok_or(bad("it is shorter than it says"))?;
        let last = to.checked_add(in_memory.max(in_file)).filter(|_| to >= HIGH);
        let last = last.ok_or(bad("it wants to be where no kernel is"))?;
        if last > ram.length().min(HOLE.start) {
            return Err(Error::Room { what: "a kernel", needed: last, memory: ram.length() });
        }
        put(ram, "a kernel", to, content)?;
        end = last.max(end);
    }
    let mut header = vec![0; HEADER.len()];
    // A kernel's of version 2.15.
    for (at, field) in [(0x1fe, &[0x55, 0xaa][..]), (0x202, b"HdrS"), (0x206, &[0x0f, 0x02])] {
        header[at - HEADER.start..][..field.len()].copy_from_slice(field);
    }
    Ok(Placed { entry: number(kernel, 24, 8)?, end, header })
}

/// A distribution's file: its second part unpacks the kernel, in 64-bit mode from its 512th byte on.
fn place_image(ram: &Ram, kernel: &[u8]) -> Result<Placed> {
    const BEGINS_IN_64_BITS: u64 = 1;
    if kernel.get(0x202..0x206) != Some(b"HdrS") {
        return Err(bad("it is neither an ELF file nor a bzImage"));
    }
    if number(kernel, 0x206, 2)? < 0x20c || number(kernel, 0x236, 2)? & BEGINS_IN_64_BITS == 0 {
        return Err(bad("it does not begin in 64-bit mode"));
    }
    // Parts of 512 bytes; none means four.
    let parts = match number(kernel, 0x1f1, 1)? {
        0 => 4,
        parts => parts,
    };
    let content = kernel.get((parts as usize + 1) * 512..).ok_or(bad("it is shorter than it says"))?;
    let needed = number(kernel, 0x260, 4)?.max(content.len() as u64);
    if PREFERRED + needed > ram.length().min(HOLE.start) {
        return Err(Error::Room { what: "a kernel", needed: PREFERRED + needed, memory: ram.length() });
    }
    put(ram, "a kernel", PREFERRED, content)?;
    let header = kernel.get(HEADER).ok_or(bad("it is shorter than its header"))?.to_vec();
    Ok(Placed { entry: PREFERRED + 0x200, end: PREFERRED + needed, header })
}

/// What a kernel is told: where it finds what.
fn parameters(placed: &Placed, start: &Start<'_>, initrd: u64, memory: u64) -> Vec<u8> {
    const NO_LOADER_OF_ITS: u8 = 0xff;
    let mut page = vec![0; PAGE as usize];
    page[HEADER].copy_from_slice(&placed.header);
    let mut set = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    set(0x070, &TABLES_OF_ACPI.to_le_bytes());
    set(0x210, &[NO_LOADER_OF_ITS]);
    if !start.initrd.is_empty() {
        set(0x218, &(initrd as u32).to_le_bytes());
        set(0x21c, &(start.initrd.len() as u32).to_le_bytes());
    }
    set(0x228, &(COMMAND_LINE as u32).to_le_bytes());
    set(0x238, &(MOST_COMMAND_LINE as u32 - 1).to_le_bytes());
    set(0x250, &SEED.to_le_bytes());
    let parts = memory::told(memory);
    set(0x1e8, &[parts.len() as u8]);
    for (number, (part, kind)) in parts.into_iter().enumerate() {
        let (from, length, kind) = (part.start, part.end - part.start, kind as u32);
        let entry = [&from.to_le_bytes()[..], &length.to_le_bytes(), &kind.to_le_bytes()].concat();
        set(0x2d0 + number * entry.len(), &entry);
    }
    page
}

/// What a kernel's random numbers begin with, as its parameters lead to it.
fn seed(outside: Outside) -> Vec<u8> {
    const RANDOM: u32 = 9;
    let seed = machine::seed(outside);
    [&0u64.to_le_bytes()[..], &RANDOM.to_le_bytes(), &(seed.len() as u32).to_le_bytes(), &seed].concat()
}

/// The first gibibyte, each address to itself.
fn page_tables() -> Vec<u8> {
    const LEADS_ON: u64 = 3;
    const IS_LARGE: u64 = 0x83;
    let mut entries = vec![0u64; 3 * 512];
    entries[0] = (TABLES + PAGE) | LEADS_ON;
    entries[512] = (TABLES + 2 * PAGE) | LEADS_ON;
    (0..512).for_each(|number| entries[1024 + number] = (number as u64 * LARGE) | IS_LARGE);
    entries.into_iter().flat_map(u64::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn ram() -> Ram {
        Ram::new(Arc::new(vm::Memory::new(32 << 20).unwrap()), 0)
    }

    /// An ELF file of one segment: twelve bytes, of which `length` are in the file.
    fn kernel(to: u64, length: u64) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(64 + 56, 0);
        let mut set = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        set(18, &[62]);
        set(24, &to.to_le_bytes());
        set(32, &[64]);
        set(54, &[56]);
        set(56, &[1]);
        set(64, &[1]);
        for (at, word) in [(8, 120), (24, to), (32, length), (40, 12)] {
            set(64 + at, &u64::to_le_bytes(word));
        }
        file.extend_from_slice(b"segmentsegment");
        file
    }

    #[test]
    fn segments_are_put_where_there_is_memory() {
        let ram = ram();
        let placed = place_segments(&ram, &kernel(PREFERRED, 7)).unwrap();
        assert_eq!((placed.entry, placed.end), (PREFERRED, PREFERRED + 12));
        let mut bytes = [1; 12];
        ram.copy_out(PREFERRED, &mut bytes).unwrap();
        assert_eq!(&bytes, b"segment\0\0\0\0\0");
        for (to, length) in [(0x1000, 7), (32 << 20, 7), (u64::MAX - 3, 7), (PREFERRED, 1 << 40), (PREFERRED, 15)] {
            assert!(place_segments(&ram, &kernel(to, length)).is_err(), "{to:#x} {length}");
        }
        for length in 0..kernel(PREFERRED, 7).len() - 7 {
            assert!(place_segments(&ram, &kernel(PREFERRED, 7)[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn an_image_says_what_it_needs() {
        let ram = ram();
        let mut image = vec![0; 4096];
        assert!(place_image(&ram, &image).is_err());
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&[0x0f, 2]);
        assert!(place_image(&ram, &image).is_err(), "it begins in 32-bit mode");
        (image[0x236], image[0x1f1], image[0x262]) = (1, 1, 0x10);
        let placed = place_image(&ram, &image).unwrap();
        assert_eq!((placed.entry, placed.end), (PREFERRED + 0x200, PREFERRED + (1 << 20)));
        image[0x263] = 0x10;
        assert!(place_image(&ram, &image).is_err(), "it needs more than there is");
        image[0x1f1] = 200;
        assert!(place_image(&ram, &image).is_err(), "it is too short");
    }
}
