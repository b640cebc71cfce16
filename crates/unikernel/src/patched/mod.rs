//! Code in which system calls are jumps from the start: of each file that holds many of them (the C library, its loader),
//! a copy of its text is made once for all cells, and mapped in the place of the file's own.
//!
//! Who starts a cell makes the copies ([`Cache`]), outside of it and before its first instruction, and hands over those of
//! files in the cell's root, each with what its file is known by ([`Known`]). The tender maps a copy where a guest asks for
//! code of a file that is still what it was. **No tender can write to a copy**, so no guest has another's code changed; and
//! whoever reads a file gets its own bytes.

mod cache;
mod elf;
mod instruction;
mod text;

use std::os::fd::{AsFd, OwnedFd};

use abi::patched::Nest;
use rustix::fs::Stat;

pub use cache::{Cache, View};

/// What a file is known by: where it is, and what changes when it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known([u64; 5]);

impl Known {
    pub(crate) fn of(it: &Stat) -> Self {
        let nanoseconds =
            |seconds: i64, more: i64| (seconds as u64).wrapping_mul(1_000_000_000).wrapping_add(more as u64);
        let changed = nanoseconds(it.st_ctime, it.st_ctime_nsec as i64);
        Self([it.st_dev, it.st_ino, it.st_size as u64, nanoseconds(it.st_mtime, it.st_mtime_nsec as i64), changed])
    }
}

impl Known {
    /// In the place of a device.
    const ANY: u64 = u64::MAX;

    fn on_any_device(self) -> Self {
        let [_, rest @ ..] = self.0;
        let [number, size, written, changed] = rest;
        Self([Self::ANY, number, size, written, changed])
    }

    /// Whether that file is the one that this is known of.
    fn is(&self, other: &Self) -> bool {
        *self == *other || *self == other.on_any_device()
    }
}

/// A copy of a file's code.
#[derive(Debug)]
pub struct Patched {
    of: Known,
    file: OwnedFd,
    offset: u64,
    length: u64,
    nest: Nest,
}

/// As long as what goes over a socket with a copy.
const RECORD: usize = 8 * 8;

impl Patched {
    /// Whether the copy is of exactly that part.
    pub(crate) fn is_of(&self, offset: u64, length: u64) -> bool {
        self.offset == offset && length.checked_next_multiple_of(4096) == Some(self.length)
    }

    pub(crate) fn file(&self) -> &OwnedFd {
        &self.file
    }

    /// How much of it there is to be mapped.
    pub(crate) fn length(&self) -> u64 {
        self.length + self.nest.length() as u64
    }

    /// What the guest is told.
    pub(crate) fn word(&self) -> u64 {
        self.nest.word()
    }

    /// Hands those over to the process at the other end, which waits for them.
    pub fn send_all(all: &[Self], line: &OwnedFd) {
        for it in all {
            let [a, b, c, d, e] = it.of.0;
            let record = [a, b, c, d, e, it.offset, it.length, it.nest.word()].map(u64::to_ne_bytes).concat();
            if sys::socket::send(line, &record, &[it.file.as_fd()]).is_err() {
                return;
            }
        }
        // That is all.
        let _ = sys::socket::send(line, &[0], &[]);
    }

    /// What was handed over, up to the end.
    pub fn receive_all(line: &OwnedFd) -> Vec<Self> {
        let mut all = Vec::new();
        let mut record = [0; RECORD];
        while let Ok((RECORD, [Some(file), ..])) = sys::socket::receive(line, &mut record) {
            let mut words = [0; 8];
            for (word, bytes) in words.iter_mut().zip(record.as_chunks::<8>().0) {
                *word = u64::from_ne_bytes(*bytes);
            }
            let [a, b, c, d, e, offset, length, nest] = words;
            let Some(nest) = Nest::of(nest) else { break };
            all.push(Self { of: Known([a, b, c, d, e]), file, offset, length, nest });
        }
        all
    }
}

/// The copies that a tender has.
#[derive(Debug, Default)]
pub(crate) struct Copies(Vec<Patched>);

impl Copies {
    pub(crate) fn new(all: Vec<Patched>) -> Self {
        Self(all)
    }

    /// The copy of that file's code.
    pub(crate) fn of(&self, file: &Stat) -> Option<&Patched> {
        if self.0.is_empty() {
            return None;
        }
        let known = Known::of(file);
        self.0.iter().find(|it| it.of.is(&known))
    }
}

#[cfg(test)]
mod tests;
