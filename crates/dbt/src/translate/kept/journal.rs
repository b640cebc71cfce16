//! What is going to be added to a file of translations: pieces, each with the frames of its records before all their bytes,
//! so that whoever looks for records need not go through these.
//!
//! **A file is only ever added to**, and the number of its bytes at its beginning says how much of it counts; who adds holds
//! a lock. So machines share one, and who is killed in the midst of it leaves nothing.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustc_hash::FxHashSet;
use rustix::fs::{FlockOperation, flock};

use super::record::Frame;

/// A file's beginning, and where that says how many bytes count.
pub(super) const HEADER: usize = 24;
const LENGTH_AT: usize = 16;
/// No file becomes longer.
const MOST: u64 = 192 << 20;
/// So much is written at once.
const CHUNK: usize = 1 << 20;
/// Where a processor has time.
const WORTH_WRITING: usize = 64 << 10;

/// What a file of one translator and one description begins with.
pub(super) type Title = [u8; LENGTH_AT];

/// How many bytes of a file count. Nothing if it is another's, or none.
pub(super) fn length(file: &File, title: &Title) -> Option<u64> {
    let mut beginning = [0; HEADER];
    file.read_exact_at(&mut beginning, 0).ok()?;
    (beginning[..LENGTH_AT] == *title).then(|| length_of(&beginning).min(MOST))
}

fn length_of(beginning: &[u8; HEADER]) -> u64 {
    let [.., a, b, c, d, e, f, g, h] = *beginning;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// What a piece begins with: how many records it has.
pub(super) const PIECE: usize = 4;

#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    frames: Vec<Frame>,
    bodies: Vec<u8>,
    /// What each record is that was added: code that comes and goes is added once.
    known: FxHashSet<u128>,
    is_full: bool,
}

impl Journal {
    pub(super) fn new(file: File) -> Journal {
        Journal { file, frames: Vec::new(), bodies: Vec::new(), known: FxHashSet::default(), is_full: false }
    }

    /// A file that was nothing becomes an empty one. One of another translator stays as it is: machines may have it mapped.
    pub(super) fn begin(&mut self, title: &Title) {
        let is_done = self.locked(|file| {
            let mut beginning = [0; HEADER];
            if file.metadata()?.len() == 0 {
                beginning[..LENGTH_AT].copy_from_slice(title);
                beginning[LENGTH_AT..].copy_from_slice(&(HEADER as u64).to_le_bytes());
                file.write_all_at(&beginning, 0)?;
            }
            file.read_exact_at(&mut beginning, 0)?;
            Ok(beginning[..LENGTH_AT] == *title)
        });
        self.is_full = !is_done.unwrap_or(false);
    }

    /// Adds a record that is this among all, unless it was added before.
    pub(super) fn add(&mut self, identity: u128, frame: Frame, bytes: &[u8]) {
        if self.is_full || !self.known.insert(identity) {
            return;
        }
        self.frames.push(frame);
        self.bodies.extend_from_slice(bytes);
        if self.bodies.len() >= CHUNK {
            self.write();
        }
    }

    /// There is time to write what was added.
    pub(super) fn rest(&mut self) {
        if self.bodies.len() >= WORTH_WRITING {
            self.write();
        }
    }

    /// Adds to the file what there is. What fails is not tried again: these are things that can be made anew.
    pub(super) fn write(&mut self) {
        if self.frames.is_empty() || self.is_full {
            return;
        }
        let mut added = (self.frames.len() as u32).to_le_bytes().to_vec();
        added.extend_from_slice(self.frames.as_flattened());
        added.extend_from_slice(&self.bodies);
        self.frames.clear();
        self.bodies.clear();
        let is_done = self.locked(|file| {
            let mut beginning = [0; HEADER];
            file.read_exact_at(&mut beginning, 0)?;
            let length = length_of(&beginning);
            if length + added.len() as u64 > MOST {
                return Ok(false);
            }
            file.write_all_at(&added, length)?;
            file.write_all_at(&(length + added.len() as u64).to_le_bytes(), LENGTH_AT as u64)?;
            Ok(true)
        });
        self.is_full = !is_done.unwrap_or(false);
    }

    /// Does something to the file that nobody else does meanwhile.
    fn locked<T>(&self, change: impl FnOnce(&File) -> std::io::Result<T>) -> std::io::Result<T> {
        flock(&self.file, FlockOperation::LockExclusive)?;
        let changed = change(&self.file);
        flock(&self.file, FlockOperation::Unlock)?;
        changed
    }
}
