//! Files that a program opens again and again, to read them: they stay open between, and what is asked of them is answered
//! in the guest.
//!
//! The guest enters such a file's number in one of [`crate::port::Port::kept`] before it asks for it with
//! [`crate::call::KEEP`], and says there whether the program has closed it ([`CLOSED`]): to everybody else its number is
//! free then. **The tender clears an entry when the file is no longer what its path leads to, or somebody else has got its
//! number**; it looks at what is kept whenever it tells a guest what others did ([`crate::call::CHECK`], and each set that
//! something is ready of), before it tells it.

/// The most files at a time.
pub const MOST: usize = 8;

/// There is a file at all.
pub const TAKEN: u32 = 1 << 31;

/// The program has closed it.
pub const CLOSED: u32 = 1 << 30;

/// The program has it, and it is not kept any more: the tender clears the entry.
pub const GIVEN_UP: u32 = 1 << 29;

/// The descriptor.
pub const NUMBER: u32 = GIVEN_UP - 1;

/// The longest content that is kept, in bytes.
pub const LONGEST: usize = 32 << 10;

/// The size of what fstat tells, in bytes.
pub const STATUS: usize = 144;
