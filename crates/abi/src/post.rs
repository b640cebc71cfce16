//! Much at one stop of a virtual machine: calls that wait for it, and what comes with it.
//!
//! When a set of files is waited for, the tender sends along what the streams among them have to be read: a [`Piece`] each,
//! whose bytes it puts one after the other where [`Ahead::room_at`] says. **It only looks at them**: they stay in the
//! host's socket until the guest says with a [`TAKE`] that the program has read them. So a piece that the guest forgets is
//! read again, and nothing is lost whatever else happens to the file. A piece is made only of a file that nobody but this
//! process has.
//!
//! With a piece comes the right to write as much to the stream as surely finds room in it ([`Piece::room`]), by a [`SEND`],
//! which gives all that was asked for at once. **Posts are carried out in their order, at the latest when the guest stops
//! for any reason, and before anything else is**; a guest that runs on is stopped after some milliseconds.
//!
//! A regular file that a guest has mapped is written to in its memory. What makes it longer is posted ([`WRITE`]), and how
//! long it is stands in [`crate::port::Port::sizes`] after each stop. An error of such a post is the next call's on that
//! file.

use core::sync::atomic::{AtomicU32, AtomicU64};

/// The most that may be posted between two stops, and the most pieces that come with one.
pub const MOST: usize = 48;

/// The most that a piece has, in bytes.
pub const LONGEST: usize = 16 << 10;

/// Each piece begins at a multiple of that.
pub const ALIGNMENT: usize = 16;

/// For how long after a stop a guest may post, in nanoseconds: the tender looks for posts for longer.
pub const TRUST: u64 = 20_000_000;

/// The bytes at [`Post::at`] go to the stream.
pub const SEND: u32 = 1;

/// So many bytes of the stream have been read.
pub const TAKE: u32 = 2;

/// The bytes at [`Post::at`] go to the file, at [`Post::offset`].
pub const WRITE: u32 = 3;

/// The most that a [`WRITE`] has, in bytes.
pub const LONGEST_WRITE: usize = 1 << 20;

/// The most files whose sizes are told.
pub const MOST_SIZES: usize = 4;

/// In [`Piece::state`]: there was no more at that time, and the set will tell when there is.
pub const DRAINED: u32 = 1;

/// In [`Piece::state`]: the program wants to wait for the file.
pub const WAITS: u32 = 2;

/// In [`Post::how`]: a broken stream raises no signal (`MSG_NOSIGNAL`).
pub const WITHOUT_SIGNAL: u32 = 1;

/// The most parts of files that are given up between two stops.
pub const MOST_RELEASED: usize = 24;

/// Parts of files that a virtual machine has mapped no more, by their physical addresses.
#[repr(C)]
pub struct Released {
    /// How many of them there are, set by the guest; the tender sets it to none at each stop.
    pub count: AtomicU32,
    /// Keeps the rest aligned.
    pub reserved: u32,
    /// They.
    pub all: [AtomicU64; MOST_RELEASED],
}

/// What was posted.
#[repr(C)]
pub struct Posts {
    /// How many of them there are, set by the guest; the tender sets it to none.
    pub count: AtomicU32,
    /// Keeps the rest aligned.
    pub reserved: u32,
    /// They.
    pub all: [Post; MOST],
}

/// A call for which nobody stops.
#[repr(C)]
pub struct Post {
    /// [`SEND`], [`TAKE`] or [`WRITE`].
    pub kind: AtomicU32,
    /// Of the stream or file.
    pub descriptor: AtomicU32,
    /// In bytes.
    pub length: AtomicU32,
    /// [`WITHOUT_SIGNAL`] or 0.
    pub how: AtomicU32,
    /// Where the bytes are, in memory that the program does not change.
    pub at: AtomicU64,
    /// Where they go in the file.
    pub offset: AtomicU64,
}

/// How long a file is.
#[repr(C)]
pub struct Size {
    /// The descriptor, and one; 0 for none. Set by the guest.
    pub of: AtomicU32,
    /// Keeps the rest aligned.
    pub reserved: u32,
    /// In bytes, at the end of the last stop. Set by the tender.
    pub size: AtomicU64,
}

/// What came along.
#[repr(C)]
pub struct Ahead {
    /// Where the bytes of pieces go, set by the guest before it waits for a set; 0 if it wants none.
    pub room_at: AtomicU64,
    /// How many there is room for.
    pub room: AtomicU32,
    /// How many pieces came, set by the tender; the guest sets it to none.
    pub count: AtomicU32,
    /// They.
    pub all: [Piece; MOST],
}

/// The next bytes of a stream.
#[repr(C)]
pub struct Piece {
    /// Of the stream.
    pub descriptor: AtomicU32,
    /// In bytes.
    pub length: AtomicU32,
    /// How many bytes may be posted to it.
    pub room: AtomicU32,
    /// [`DRAINED`] and [`WAITS`].
    pub state: AtomicU32,
}
