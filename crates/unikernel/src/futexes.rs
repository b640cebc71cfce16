//! Who sleeps on a word of memory that members share, by which memory it is and where in it: the library operating systems
//! know their own sleepers, and ask here about those of others.
//!
//! They ask only where somebody sleeps: a page that all members have counts sleepers, words that fall on the same
//! counter together ([`abi::futex`]). The tender never reads it.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use abi::futex::SIZE;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use sys::Errno;

use crate::member::Member;
use crate::waits::Waits;

/// A word: which memory, and where in it.
type Word = (u64, u64);

struct Sleeper {
    process: u32,
    waits: Arc<Waits>,
    cookie: u64,
    /// Which wake-ups are for it.
    bits: u32,
}

/// A family's sleepers.
#[derive(Default)]
pub(crate) struct Futexes {
    sleepers: Mutex<BTreeMap<Word, VecDeque<Sleeper>>>,
    counters: OnceLock<OwnedFd>,
}

/// More processes than a family has could not sleep on one word.
const MOST: usize = 64 << 10;

impl Futexes {
    fn sleepers(&self) -> MutexGuard<'_, BTreeMap<Word, VecDeque<Sleeper>>> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn counters(&self) -> Result<&OwnedFd, Errno> {
        if let Some(file) = self.counters.get() {
            return Ok(file);
        }
        let file = memfd_create("futexes", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, SIZE as u64)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(self.counters.get_or_init(|| file))
    }

    fn add(&self, word: Word, sleeper: Sleeper) -> Result<u64, Errno> {
        let mut sleepers = self.sleepers();
        let queue = sleepers.entry(word).or_default();
        if queue.len() >= MOST {
            return Err(Errno::NOMEM);
        }
        queue.push_back(sleeper);
        Ok(0)
    }

    /// Wakes so many of those that sleep on a word. Gives how many there were.
    fn wake(&self, word: Word, most: u64, bits: u32) -> u64 {
        let mut sleepers = self.sleepers();
        let Some(queue) = sleepers.get_mut(&word) else { return 0 };
        let mut woken = 0;
        queue.retain(|it| {
            let is_meant = woken < most && it.bits & bits != 0;
            if is_meant {
                it.waits.give(it.cookie);
                woken += 1;
            }
            !is_meant
        });
        if queue.is_empty() {
            sleepers.remove(&word);
        }
        woken
    }

    /// Takes a sleeper away. Says whether it was still there.
    fn leave(&self, word: Word, process: u32, cookie: u64) -> bool {
        let mut sleepers = self.sleepers();
        let Some(queue) = sleepers.get_mut(&word) else { return false };
        let before = queue.len();
        queue.retain(|it| (it.process, it.cookie) != (process, cookie));
        let was_there = queue.len() < before;
        if queue.is_empty() {
            sleepers.remove(&word);
        }
        was_there
    }

    /// With what a process would be woken.
    pub(crate) fn cookies_of(&self, process: u32) -> Vec<u64> {
        let sleepers = self.sleepers();
        sleepers.values().flatten().filter(|it| it.process == process).map(|it| it.cookie).collect()
    }

    /// A process has ended.
    pub(crate) fn forget(&self, process: u32) {
        self.sleepers().retain(|_, queue| {
            queue.retain(|it| it.process != process);
            !queue.is_empty()
        });
    }
}

impl Member {
    pub(crate) fn sleep_on_word(&self, [memory, offset, bits, cookie, ..]: [u64; 6]) -> Result<u64, Errno> {
        let waits = self.living.waits.clone();
        let sleeper = Sleeper { process: self.number, waits, cookie, bits: bits as u32 };
        self.family.futexes.add((memory, offset), sleeper)
    }

    pub(crate) fn wake_on_word(&self, [memory, offset, most, bits, ..]: [u64; 6]) -> u64 {
        self.family.futexes.wake((memory, offset), most, bits as u32)
    }

    pub(crate) fn leave_word(&self, [memory, offset, cookie, ..]: [u64; 6]) -> u64 {
        u64::from(self.family.futexes.leave((memory, offset), self.number, cookie))
    }
}

/// Which memory that is, for words in it: the same number for whoever maps the same file.
pub(crate) fn identity(file: impl AsFd) -> Option<u64> {
    let it = rustix::fs::fstat(file).ok()?;
    Some(it.st_ino ^ it.st_dev.rotate_left(40))
}
