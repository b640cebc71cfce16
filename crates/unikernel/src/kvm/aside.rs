//! The address space in which a guest's processor changes the guest's real page tables, by instructions of the tender's:
//! they copy from a list. It is the only one in which the tables are mapped, and is entered by the tender alone.

use abi::layout::kvm::{DOORBELL_PHYSICAL, LARGE, MOST_TABLES, NO_EXECUTE, PRESENT, TABLES, USED, USER, WRITABLE};
use vm::{Detour, Memory, Region};

use super::locked::Change;

const PAGE: u64 = 4096;
const LARGE_PAGE: u64 = 2 << 20;
const LINK: u64 = PRESENT | WRITABLE | USER | USED;
const DATA: u64 = LINK | NO_EXECUTE;

/// Where what lies in the memory of the tables: this address space's own, the instructions, the list.
const TOP: u64 = 0;
const UPPER: u64 = PAGE;
const LOW: u64 = 2 * PAGE;
const LOWEST: u64 = 3 * PAGE;
const HIGH: u64 = 4 * PAGE;
const CODE: u64 = 5 * PAGE;
const LIST: u64 = 6 * PAGE;
const LIST_PAGES: u64 = 16;
/// The guest's top table.
pub(super) const ROOT: u64 = LIST + LIST_PAGES * PAGE;

/// By virtual address: the instructions, the doorbell behind them, and the memory of the tables.
const CODE_AT: u64 = LARGE_PAGE;
const BELL_AT: u64 = CODE_AT + PAGE;
const TABLES_AT: u64 = 1 << 30;

/// How many changes there are room for at once.
pub(super) const MOST: usize = (LIST_PAGES * PAGE / 16) as usize;

/// From RDI on, RSI times: an address, and what is written there. Then RDX is rung.
const INSTRUCTIONS: [u8; 28] = [
    0x48, 0x85, 0xf6, // begin: test rsi, rsi
    0x74, 0x13, //        je done
    0x48, 0x8b, 0x07, //  mov rax, [rdi]
    0x48, 0x8b, 0x4f, 0x08, // mov rcx, [rdi + 8]
    0x48, 0x89, 0x08, //  mov [rax], rcx
    0x48, 0x83, 0xc7, 0x10, // add rdi, 16
    0x48, 0xff, 0xce, //  dec rsi
    0xeb, 0xe8, //        jmp begin
    0x89, 0x02, //        done: mov [rdx], eax
    0xeb, 0xfe, //        jmp here
];

/// Writes it into memory that is zero.
pub(super) fn build(memory: &Memory) -> Option<()> {
    let put = |at: u64, entry: u64| memory.write(at as usize, &entry.to_le_bytes());
    let own = |at: u64, bits: u64| (TABLES + at) | bits;
    put(TOP, own(UPPER, LINK))?;
    put(UPPER, own(LOW, LINK))?;
    put(UPPER + 8 * (TABLES_AT >> 30), own(HIGH, LINK))?;
    put(LOW + 8 * (CODE_AT >> 21), own(LOWEST, LINK))?;
    put(LOWEST, own(CODE, PRESENT | USER | USED))?;
    put(LOWEST + 8, DOORBELL_PHYSICAL | DATA)?;
    for at in (0..MOST_TABLES).step_by(LARGE_PAGE as usize) {
        put(HIGH + 8 * (at >> 21), own(at, DATA | LARGE))?;
    }
    memory.write(CODE as usize, &INSTRUCTIONS)
}

/// Writes the list, of [`MOST`] at most; gives what carries it out.
pub(super) fn order(memory: &Memory, changes: &[Change]) -> Option<Detour> {
    let words = changes.iter().flat_map(|[slot, new]| [slot - TABLES + TABLES_AT, *new]);
    let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    if changes.len() > MOST {
        return None;
    }
    memory.write(LIST as usize, &bytes)?;
    let arguments = [TABLES_AT + LIST, changes.len() as u64, BELL_AT, 0];
    Some(Detour { tables: TABLES + TOP, entry: CODE_AT, arguments })
}
