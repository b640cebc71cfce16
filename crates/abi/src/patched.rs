//! Code in which system calls are jumps already: a copy of a file's text, made once for all who execute the file, with the
//! trampolines that its jumps lead to behind it in the same file.
//!
//! Where the trampolines belong in memory is fixed by the jumps: at a distance from the text that was chosen when the copy
//! was made. A guest that asks for code ([`crate::call::MAP_CODE`]) and is told [`IS`] has been given the copy, from its
//! beginning; where there is no room for the trampolines, it asks again without that bit and maps the file itself.

use crate::layout::PAGE;

/// In what [`crate::call::MAP`] says of a file beside how long it is: there is a copy of its code, which is to be asked for by
/// itself.
pub const HAS: u64 = 1 << 62;

/// In the same: what was mapped is the copy; the rest is a [`Nest`].
pub const IS: u64 = 1 << 63;

/// Where the trampolines belong, in whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nest {
    /// From the beginning of the text to the trampolines, in pages.
    pub distance: i32,
    /// How many pages they have.
    pub pages: u16,
}

impl Nest {
    /// As one word of an answer.
    pub const fn word(self) -> u64 {
        IS | (self.pages as u64) << 32 | self.distance as u32 as u64
    }

    /// What such a word says, if it is one.
    pub const fn of(word: u64) -> Option<Self> {
        if word & IS == 0 { None } else { Some(Self { distance: word as u32 as i32, pages: (word >> 32) as u16 }) }
    }

    /// Where they are when the text is there.
    pub const fn beside(self, text: usize) -> usize {
        text.wrapping_add_signed(self.distance as isize * PAGE as isize)
    }

    /// How long they are, in bytes.
    pub const fn length(self) -> usize {
        self.pages as usize * PAGE
    }
}
