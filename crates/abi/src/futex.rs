//! How many sleep on words of memory that members of a family share, counted where all of them see it: nobody asks the
//! tender to wake sleepers that there are not.

use core::sync::atomic::AtomicU32;

/// How many counters there are. Several words share one.
pub const COUNTERS: usize = 1024;

/// All of them, in bytes.
pub const SIZE: usize = size_of::<Counters>();

/// The counters: too high where a sleeper was killed, never too low.
#[repr(C, align(4096))]
pub struct Counters(pub [AtomicU32; COUNTERS]);

/// The counter of a word: which memory, and where in it.
pub const fn counter(memory: u64, offset: u64) -> usize {
    let mixed = (memory.rotate_left(32) ^ offset >> 2).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 54) as usize % COUNTERS
}
