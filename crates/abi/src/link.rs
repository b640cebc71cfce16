//! A guest's link to its cell's network, where the program's sockets are of a stack in the guest: two rings of frames in
//! memory that the guest and its tender share, one for each way.
//!
//! A page of counters, then the ring of frames that came, then that of frames that go. Positions are counted up for ever;
//! where one is, its remainder tells. A frame is a [`HEADER`] that says how long it is, and its bytes, **in one piece**:
//! where there is no room for it before the end of the ring, [`SKIP`] stands there, and it begins at the front.
//!
//! **Nobody rings.** The tender moves frames at each stop of the guest, and every few milliseconds while it runs; before it
//! lets the guest sleep it looks for frames that came, and what comes then ends the sleep.

use core::sync::atomic::{AtomicU32, AtomicU64};

/// Where the frames that came begin.
pub const CAME: usize = 4096;

/// The bytes of that ring.
pub const CAME_SIZE: usize = 512 << 10;

/// Where the frames that go begin.
pub const GOES: usize = CAME + CAME_SIZE;

/// The bytes of that ring.
pub const GOES_SIZE: usize = 256 << 10;

/// All of it, in bytes.
pub const WHOLE: usize = GOES + GOES_SIZE;

/// What stands before a frame: its length, as a word of 32 bits, and as much of nothing.
pub const HEADER: usize = 8;

/// In the place of a length: the rest of the ring is nothing.
pub const SKIP: u32 = u32::MAX;

/// The longest frame that comes: hosts hand over what they would cut in pieces for a wire.
pub const LONGEST_TO_COME: usize = 64 << 10;

/// The longest frame that goes.
pub const LONGEST_TO_GO: usize = 1514;

/// How far a frame of that length is from the next.
pub const fn step(length: usize) -> usize {
    (HEADER + length).next_multiple_of(HEADER)
}

/// The counters, and what the link is.
#[repr(C, align(4096))]
pub struct Link {
    /// The hardware's address, in its first six bytes; written by the tender.
    pub hardware: [u8; 8],
    /// The address, written by the tender.
    pub address: [u8; 4],
    /// The way out, written by the tender.
    pub gateway: [u8; 4],
    /// The length of the subnet's prefix, written by the tender.
    pub prefix: u32,
    /// Frames that came.
    pub came: Positions,
    /// Frames that go.
    pub goes: Positions,
}

/// How far a ring was written and read, in lines of their own.
#[repr(C, align(128))]
pub struct Positions {
    /// How many bytes were ever written.
    pub written: Position,
    /// How many were read.
    pub read: Position,
}

/// A position with a line of its own.
#[repr(C, align(128))]
pub struct Position(pub AtomicU64);

/// A frame's length, where it stands.
pub type Length = AtomicU32;

const _: () = assert!(size_of::<Link>() == CAME, "the counters are one page");
const _: () = assert!(GOES_SIZE >= 4 * step(LONGEST_TO_GO) && CAME_SIZE >= 4 * step(LONGEST_TO_COME));
