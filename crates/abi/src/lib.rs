//! The contract between a guest's library operating system and the tender that runs it: what both sides see in memory,
//! what one may ask of the other, and where things are in a guest's address space.
//!
//! It is compiled twice, into the host's program and into the freestanding guest, so it has no dependencies and uses
//! `core` alone. **The tender trusts nothing that it reads here**: every field may hold any value at any time.

#![no_std]

pub mod boot;
pub mod call;
pub mod futex;
pub mod kept;
pub mod layout;
pub mod library;
pub mod link;
pub mod patched;
pub mod port;
pub mod post;
pub mod ring;
pub mod signal;

/// Both sides refuse each other when theirs differs.
pub const VERSION: u32 = 12;
