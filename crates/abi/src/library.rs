//! How a guest stands still while its tender changes a library under it.
//!
//! When [`crate::port::Port::libraries`] is not 0, the guest, at its next way out, makes the call [`VISIT`] with a report of
//! where everything is. The answer is how many [orders](ORDER) were written; the guest carries them out, and makes the call
//! again with what came of that, until there are no more. **The program does not run meanwhile**; its memory is the
//! tender's to change.

/// `(result, report, words, orders, room)`: the guest stands still. `result` is 0, or what went wrong with the orders of the
/// last time as a negative number; `report` leads to so many words; `orders` has room for so many.
pub const VISIT: u32 = 0x1020;

/// In place of a descriptor in [`crate::call::MAP`]: the file of the new library.
pub const FILE: i32 = -2;

/// How many words the head of a report has: where the program's headers are, how many; how many areas, threads. Behind it are
/// the areas and the threads.
pub const HEAD: usize = 4;

/// An area in a report: where it begins and ends, and what may be done with it, in the numbers of mmap, with [`SHARED`].
pub const AREA: usize = 3;

/// In an area's rights: others see what is written there.
pub const SHARED: u64 = 1 << 8;

/// A thread in a report: its instruction, its stack, its thread pointer, the number of its system call (`u64::MAX` if it was
/// interrupted), and fifteen registers.
pub const THREAD: usize = 19;

/// An order: what, where, how many bytes, which rights, from where in the file.
pub const ORDER: usize = 5;

/// Keep a place free: where something is, that fails.
pub const RESERVE: u64 = 1;
/// Map a part of [`FILE`] there.
pub const MAP: u64 = 2;
/// Map zeroes there.
pub const FILL: u64 = 3;
/// Change what may be done with pages.
pub const PROTECT: u64 = 4;
/// Remove pages.
pub const UNMAP: u64 = 5;
