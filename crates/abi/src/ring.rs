//! The memory of a pipe between members of a family: what is in it and who sleeps on it, seen by every member that uses
//! it and by the tender.
//!
//! A page of counters, and then the bytes. Positions are counted up for ever; where a byte is, its position's remainder
//! tells. **Who moves bytes holds the lock of its side**, so there is one reader and one writer at a time. It says that the
//! ring is [`LIVE`] for as long as it holds a lock; the tender takes both to end that.
//!
//! Who finds nothing says that it sleeps ([`Ring::sleepers`]), forgets what rang before, looks again, and then sleeps
//! on its side's bell. Who has changed something looks for sleepers afterwards, and rings once. Nothing is lost, since
//! each first writes what the other looks for.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// How many bytes are in it at most: what a pipe of Linux holds.
pub const SIZE: usize = 64 << 10;

/// Where the bytes begin.
pub const BYTES: usize = 4096;

/// All of it, in bytes.
pub const WHOLE: usize = BYTES + SIZE;

/// So much is written in one piece, and room for it is what a sleeping writer is woken for.
pub const PIECE: u32 = 4096;

/// The side that reads.
pub const READER: usize = 0;
/// The side that writes.
pub const WRITER: usize = 1;

/// In [`Ring::state`]: the pipe is here.
pub const LIVE: u32 = 1;
/// In [`Ring::state`]: it is a pipe of the host's from now on, for ever.
pub const SURRENDERED: u32 = 2;

/// The counters. Those that one side writes all the time are lines of their own.
#[repr(C, align(4096))]
pub struct Ring {
    /// [`LIVE`] or [`SURRENDERED`].
    pub state: AtomicU32,
    /// Whether a side does not want to wait: O_NONBLOCK.
    pub unwilling: [AtomicU32; 2],
    /// How many sleep on each side, or are about to. Too many where one was killed, which does no harm.
    pub sleepers: [AtomicU32; 2],
    /// Whether a side's bell was rung since a sleeper of it last looked.
    pub rung: [AtomicU32; 2],
    /// The number of the process that holds each side, or 0.
    pub locks: [Line; 2],
    /// How many bytes were ever read, and written.
    pub positions: [Position; 2],
}

/// A number with a cache line of its own, and the one beside it, which processors fetch together.
#[repr(C, align(128))]
pub struct Line(pub AtomicU32);

/// A position, with lines of its own; and in the same line, on the side that writes, what was written last, if it is
/// short: so a reader who waits for it has all of it at once.
#[repr(C, align(128))]
pub struct Position {
    /// How many bytes.
    pub count: AtomicU64,
    /// The position of the first of those bytes, or [`NOWHERE`] while they change.
    pub begin: AtomicU64,
    /// The bytes. They are in the ring as well.
    pub latest: [AtomicU64; 6],
}

/// No byte has that position.
pub const NOWHERE: u64 = u64::MAX;

/// So many bytes are short.
pub const SHORT: usize = 48;

impl Position {
    /// Notes what is about to be written there.
    pub fn note(&self, begin: u64, bytes: [u64; 6]) {
        self.begin.store(NOWHERE, Ordering::Release);
        fence(Ordering::Release);
        for (place, word) in self.latest.iter().zip(bytes) {
            place.store(word, Ordering::Relaxed);
        }
        self.begin.store(begin, Ordering::Release);
    }

    /// What was written at that position, if it is known here.
    pub fn noted(&self, begin: u64) -> Option<[u64; 6]> {
        if self.begin.load(Ordering::Acquire) != begin {
            return None;
        }
        let bytes = self.latest.each_ref().map(|it| it.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        // Whoever changed them since says so first.
        (self.begin.load(Ordering::Relaxed) == begin).then_some(bytes)
    }
}

/// How many bytes are between two positions; nothing when no ring has such.
pub fn between(read: u64, written: u64) -> Option<u32> {
    let bytes = written.wrapping_sub(read);
    (bytes <= SIZE as u64).then_some(bytes as u32)
}

impl Ring {
    /// How many bytes there are to be read.
    pub fn used(&self) -> Option<u32> {
        let [read, written] = self.positions.each_ref().map(|it| it.count.load(Ordering::Acquire));
        between(read, written)
    }

    /// Whether there is something for that side: bytes, or so much room.
    pub fn has_for(&self, side: usize, need: u32) -> bool {
        self.used().is_some_and(|used| if side == READER { used > 0 } else { SIZE as u32 - used >= need })
    }

    /// A sleeper of that side has forgotten what rang, and is about to look once more.
    pub fn forget_bell(&self, side: usize) {
        self.rung[side].store(0, Ordering::SeqCst);
    }

    /// Whether it is one.
    pub fn is_live(&self) -> bool {
        self.state.load(Ordering::SeqCst) == LIVE
    }
}

const _: () = assert!(size_of::<Ring>() == BYTES, "the counters are one page");
