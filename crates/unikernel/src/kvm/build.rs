//! A guest's memory before its first instruction: the library operating system, and page tables for all that it needs to
//! go on by itself.

use abi::layout::kvm::{
    BOOT_STACK_END, BOOT_STACK_PAGES, CONTROL, CONTROL_PAGES, DESCRIPTORS, DOORBELL, DOORBELL_PHYSICAL, GATES, MAGIC,
    MOST_MEMORY, NO_EXECUTE, PORT, PRESENT, TASK, USED, USER, WRITABLE,
};
use abi::layout::{LIBOS, LIBOS_SIZE, LINEAR};
use vm::{Layout, Memory, Region, Start};

use crate::error::{Error, Result};

const PAGE: u64 = 4096;
const LARGE_PAGE: u64 = 2 << 20;
const TABLE: u64 = PRESENT | WRITABLE | USER | USED;
const DATA: u64 = TABLE | NO_EXECUTE;

/// Memory that is ready to run.
pub(super) struct Built {
    pub(super) layout: Layout,
    pub(super) start: Start,
}

/// Memory being prepared: everything is taken from its beginning.
struct Builder<'a> {
    memory: &'a Memory,
    next: u64,
    tables: u64,
}

/// The build is wrong: no guest has seen anything yet.
fn malformed() -> Error {
    Error::Image
}

pub(super) fn build(memory: &Memory) -> Result<Built> {
    // The first page stays empty: 0 is nobody's address.
    let mut builder = Builder { memory, next: PAGE, tables: 0 };
    builder.tables = builder.page()?;
    let surroundings = (CONTROL_PAGES + BOOT_STACK_PAGES) * PAGE as usize;
    memory.expect(PAGE as usize, (crate::process::LIBOS.len() + surroundings).next_multiple_of(PAGE as usize));
    let words = builder.load(crate::process::LIBOS)?;
    builder.fresh(CONTROL as u64, CONTROL_PAGES as u64)?;
    let stack_pages = BOOT_STACK_PAGES as u64;
    builder.fresh(BOOT_STACK_END as u64 - stack_pages * PAGE, stack_pages)?;
    builder.map(abi::layout::PORT as u64, PORT, DATA)?;
    builder.map(DOORBELL as u64, DOORBELL_PHYSICAL, DATA)?;
    builder.linear()?;
    let layout = Layout {
        tables: builder.tables,
        descriptors: DESCRIPTORS as u64,
        interrupts: GATES as u64,
        task: TASK as u64,
        call_entry: words[2],
    };
    let arguments = [builder.next, memory.length() as u64, builder.tables];
    // As if called: the stack is aligned but for a return address.
    let start = Start { entry: words[1], stack: BOOT_STACK_END as u64 - 8, arguments };
    Ok(Built { layout, start })
}

impl Builder<'_> {
    fn page(&mut self) -> Result<u64> {
        let page = self.next;
        self.next += PAGE;
        if self.next > self.memory.length() as u64 { Err(malformed()) } else { Ok(page) }
    }

    fn put(&self, physical: u64, bytes: &[u8]) -> Result<()> {
        self.memory.write(physical as usize, bytes).ok_or_else(malformed)
    }

    fn entry(&self, at: u64) -> Result<u64> {
        let mut entry = [0; 8];
        self.memory.read(at as usize, &mut entry).ok_or_else(malformed)?;
        Ok(u64::from_le_bytes(entry))
    }

    /// Where the entry of that level for an address is; tables on the way are made.
    fn slot(&mut self, at: u64, level: u32) -> Result<u64> {
        let mut table = self.tables;
        for above in (level + 1..4).rev() {
            let slot = table + (at >> (12 + 9 * above) & 511) * 8;
            let mut entry = self.entry(slot)?;
            if entry == 0 {
                entry = self.page()? | TABLE;
                self.put(slot, &entry.to_le_bytes())?;
            }
            table = entry & abi::layout::kvm::ADDRESS;
        }
        Ok(table + (at >> (12 + 9 * level) & 511) * 8)
    }

    fn map(&mut self, at: u64, physical: u64, bits: u64) -> Result<()> {
        let slot = self.slot(at, 0)?;
        self.put(slot, &(physical | bits).to_le_bytes())
    }

    /// So many new pages, for data.
    fn fresh(&mut self, at: u64, pages: u64) -> Result<()> {
        for page in 0..pages {
            let physical = self.page()?;
            self.map(at + page * PAGE, physical, DATA)?;
        }
        Ok(())
    }

    /// All memory, one to one, with the tables for as much as there can ever be: the guest cannot make some when it has no
    /// memory left to make them of.
    fn linear(&mut self) -> Result<()> {
        const GIBIBYTE: u64 = 1 << 30;
        for at in (0..MOST_MEMORY).step_by(GIBIBYTE as usize) {
            self.slot(LINEAR as u64 + at, 1)?;
        }
        for at in (0..self.memory.length() as u64).step_by(LARGE_PAGE as usize) {
            let slot = self.slot(LINEAR as u64 + at, 1)?;
            self.put(slot, &(at | DATA | abi::layout::kvm::LARGE).to_le_bytes())?;
        }
        Ok(())
    }

    /// Maps the library operating system as its headers say; gives its first words.
    fn load(&mut self, elf: &[u8]) -> Result<[u64; 3]> {
        const HEADERS: usize = 32;
        const COUNT: usize = 56;
        const SIZE: usize = 56;
        let count = number::<2>(elf, COUNT)?;
        let table = number::<8>(elf, HEADERS)? as usize;
        for index in 0..count as usize {
            let header = elf.get(table + index * SIZE..).ok_or_else(malformed)?;
            if number::<4>(header, 0)? == 1 {
                self.load_segment(elf, header)?;
            }
        }
        let first = number::<8>(elf.get(table..).ok_or_else(malformed)?, 8)? as usize;
        let words = [number::<8>(elf, first)?, number::<8>(elf, first + 8)?, number::<8>(elf, first + 16)?];
        if words[0] == MAGIC { Ok(words) } else { Err(malformed()) }
    }

    fn load_segment(&mut self, elf: &[u8], header: &[u8]) -> Result<()> {
        const EXECUTE: u64 = 1;
        const WRITE: u64 = 2;
        let [offset, at, in_file, in_memory] = [8, 16, 32, 40].map(|it| number::<8>(header, it));
        let (offset, at, in_file, in_memory) = (offset? as usize, at?, in_file? as usize, in_memory?);
        let flags = number::<4>(header, 4)?;
        if at < LIBOS as u64 || at + in_memory > (LIBOS + LIBOS_SIZE) as u64 || at % PAGE != 0 {
            return Err(malformed());
        }
        let mut bits = PRESENT | USER | USED;
        bits |= if flags & WRITE != 0 { WRITABLE } else { 0 };
        bits |= if flags & EXECUTE != 0 { 0 } else { NO_EXECUTE };
        let bytes = elf.get(offset..offset + in_file).ok_or_else(malformed)?;
        for page in 0..in_memory.div_ceil(PAGE) {
            let physical = self.page()?;
            self.map(at + page * PAGE, physical, bits)?;
            let begin = (page * PAGE) as usize;
            if let Some(part) = bytes.get(begin..in_file.min(begin + PAGE as usize)) {
                self.put(physical, part)?;
            }
        }
        Ok(())
    }
}

fn number<const N: usize>(from: &[u8], at: usize) -> Result<u64> {
    let bytes = from.get(at..at + N).ok_or_else(malformed)?;
    Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}
