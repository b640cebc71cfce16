//! Who sleeps on a word of memory that members share, by which memory it is and where in it: the library operating systems
//! know their own sleepers, and ask here about those of others.
//!
//! They ask only where somebody sleeps: a page that all members have counts sleepers, words that fall on the same
//! counter together ([`abi::futex`]). The tender never reads it.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use abi::futex::{COUNTERS, SIZE, counter};
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
    sleepers: Mutex<Sleepers>,
    counters: OnceLock<OwnedFd>,
}

/// No process has more sleepers.
const MOST: usize = 64 << 10;

/// A family's sleepers by their words, and how many each process has.
#[derive(Default)]
struct Sleepers {
    words: BTreeMap<Word, VecDeque<Sleeper>>,
    of: BTreeMap<u32, usize>,
}

impl Sleepers {
    fn add(&mut self, word: Word, sleeper: Sleeper) -> Result<u64, Errno> {
        let count = self.of.entry(sleeper.process).or_default();
        if *count >= MOST {
            return Err(Errno::NOMEM);
        }
        *count += 1;
        self.words.entry(word).or_default().push_back(sleeper);
        Ok(0)
    }

    /// Keeps those of a word of which that is true.
    fn retain(&mut self, word: Word, mut is_kept: impl FnMut(&Sleeper) -> bool) {
        let Some(queue) = self.words.get_mut(&word) else { return };
        queue.retain(|it| {
            let is_kept = is_kept(it);
            if !is_kept && let Some(count) = self.of.get_mut(&it.process) {
                *count = count.saturating_sub(1);
            }
            is_kept
        });
        if queue.is_empty() {
            self.words.remove(&word);
        }
    }

    fn forget(&mut self, process: u32) {
        self.of.remove(&process);
        self.words.retain(|_, queue| {
            queue.retain(|it| it.process != process);
            !queue.is_empty()
        });
    }
}

impl Futexes {
    fn sleepers(&self) -> MutexGuard<'_, Sleepers> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counters, of which each begins with that: no guest takes one that began above nothing for nobody's.
    pub(crate) fn counters(&self, first: u32) -> Result<&OwnedFd, Errno> {
        if let Some(file) = self.counters.get() {
            return Ok(file);
        }
        let file = crate::fixed::memory("futexes", SIZE as u64)?;
        if first != 0 {
            rustix::io::pwrite(&file, &first.to_ne_bytes().repeat(COUNTERS), 0)?;
        }
        Ok(self.counters.get_or_init(|| file))
    }

    /// Wakes all whose words have one of those counters.
    pub(crate) fn wake_by_counters(&self, counters: &[usize]) {
        if counters.is_empty() {
            return;
        }
        let mut sleepers = self.sleepers();
        let is_meant = |word: &&Word| counters.contains(&counter(word.0, word.1));
        let words: Vec<Word> = sleepers.words.keys().filter(is_meant).copied().collect();
        for word in words {
            sleepers.retain(word, |it| {
                it.waits.give(it.cookie);
                false
            });
        }
    }

    fn add(&self, word: Word, sleeper: Sleeper) -> Result<u64, Errno> {
        self.sleepers().add(word, sleeper)
    }

    /// Wakes so many of those that sleep on a word. Gives how many there were.
    fn wake(&self, word: Word, most: u64, bits: u32) -> u64 {
        let mut woken = 0;
        self.sleepers().retain(word, |it| {
            let is_meant = woken < most && it.bits & bits != 0;
            if is_meant {
                it.waits.give(it.cookie);
                woken += 1;
            }
            !is_meant
        });
        woken
    }

    /// Takes a sleeper away. Says whether it was still there.
    fn leave(&self, word: Word, process: u32, cookie: u64) -> bool {
        let mut was_there = false;
        self.sleepers().retain(word, |it| {
            let is_it = (it.process, it.cookie) == (process, cookie);
            was_there |= is_it;
            !is_it
        });
        was_there
    }

    /// With what a process would be woken.
    pub(crate) fn cookies_of(&self, process: u32) -> Vec<u64> {
        let sleepers = self.sleepers();
        sleepers.words.values().flatten().filter(|it| it.process == process).map(|it| it.cookie).collect()
    }

    /// A process has ended.
    pub(crate) fn forget(&self, process: u32) {
        self.sleepers().forget(process);
    }
}

impl Member {
    pub(crate) fn sleep_on_word(&self, [memory, offset, bits, cookie, ..]: [u64; 6]) -> Result<u64, Errno> {
        let waits = self.living.waits.clone();
        let sleeper = Sleeper { process: self.number, waits, cookie, bits: bits as u32 };
        self.family.futexes.add((memory, offset), sleeper)
    }

    pub(crate) fn wake_on_word(&self, [memory, offset, most, bits, ..]: [u64; 6]) -> u64 {
        let woken = self.family.futexes.wake((memory, offset), most, bits as u32);
        // Who was to wake one and did has nothing to say to others.
        if woken < most
            && let Some(board) = &self.family.board
        {
            board.tell_of_word(memory, offset);
        }
        woken
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

#[cfg(test)]
mod properties {
    use proptest::prelude::*;

    use super::*;

    fn words() -> impl Strategy<Value = [u64; 5]> {
        let small = || prop_oneof![4 => 0..4u64, 1 => any::<u64>()];
        [small(), small(), small(), small(), small()]
    }

    proptest! {
        #[test]
        fn a_sleeper_is_woken_once_by_whoever_means_it(steps in prop::collection::vec((0..5u8, words()), 0..60)) {
            let futexes = Futexes::default();
            let waits = Arc::new(Waits::new().unwrap());
            let mut asleep: Vec<(Word, u32, u64, u32)> = Vec::new();
            for (what, [memory, offset, process, a, b]) in steps {
                let (word, process) = ((memory, offset), process as u32);
                let before = asleep.len();
                match what {
                    0 | 1 => {
                        let sleeper = Sleeper { process, waits: waits.clone(), cookie: a, bits: b as u32 };
                        prop_assert_eq!(futexes.add(word, sleeper), Ok(0));
                        asleep.push((word, process, a, b as u32));
                    }
                    2 => {
                        let mut left = a;
                        asleep.retain(|it| {
                            let is_meant = left > 0 && it.0 == word && it.3 & b as u32 != 0;
                            left -= u64::from(is_meant);
                            !is_meant
                        });
                        prop_assert_eq!(futexes.wake(word, a, b as u32), (before - asleep.len()) as u64);
                    }
                    3 => {
                        asleep.retain(|it| (it.0, it.1, it.2) != (word, process, a));
                        prop_assert_eq!(futexes.leave(word, process, a), asleep.len() < before);
                    }
                    _ => {
                        asleep.retain(|it| it.1 != process);
                        futexes.forget(process);
                    }
                }
                let sleepers = futexes.sleepers();
                prop_assert!(sleepers.words.values().all(|it| !it.is_empty()));
                prop_assert_eq!(sleepers.words.values().map(VecDeque::len).sum::<usize>(), asleep.len());
                for (process, count) in &sleepers.of {
                    prop_assert_eq!(*count, asleep.iter().filter(|it| it.1 == *process).count());
                }
            }
        }
    }

    #[test]
    fn no_process_has_more_sleepers_than_the_most() {
        let futexes = Futexes::default();
        let waits = Arc::new(Waits::new().unwrap());
        let sleeper = |process, cookie| Sleeper { process, waits: waits.clone(), cookie, bits: 1 };
        for cookie in 0..MOST as u64 {
            assert_eq!(futexes.add((cookie, cookie), sleeper(7, cookie)), Ok(0));
        }
        assert_eq!(futexes.add((1, 1), sleeper(7, 1)), Err(Errno::NOMEM));
        assert_eq!(futexes.add((1, 1), sleeper(8, 1)), Ok(0), "another's are its own");
        assert_eq!(futexes.wake((5, 5), 9, 1), 1);
        assert_eq!(futexes.add((1, 1), sleeper(7, 1)), Ok(0));
    }
}
