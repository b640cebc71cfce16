//! What the tenders of cells that share their IPC tell each other (`--ipc`): that something has changed on which processes of
//! others may sleep.
//!
//! What such cells share is the host's: an IPC namespace, a file system in memory. What waits for a descriptor (queues of
//! messages, FIFOs) the host wakes. Who sleeps on a word of shared memory, or for System V's messages and semaphores, is known to
//! its own tender alone, so whoever wakes raises a counter on a **board** that all have mapped, and each tender has a thread
//! that looks at it: it wakes all whose counter was raised, and they look for themselves whether they were meant. Waking
//! somebody for nothing is what futexes allow.
//!
//! **A board holds counters alone.** No tender waits for another, locks anything, or takes a place or a length from there; it
//! cannot be made shorter. Another tender, taken over or ended in any moment, costs wakes for nothing, and those of its own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use abi::futex::{COUNTERS, counter};
use rustix::thread::futex;
use sys::Errno;

use crate::family::Family;
use crate::fixed::Mapped;

/// With whom a family shares its messages and memory.
#[derive(Debug)]
pub enum Ipc {
    /// With nobody.
    Private,
    /// With whoever joins.
    Shareable,
    /// With a family that runs, which gave this: see [`crate::control::Order::Join`].
    Joined(OwnedFd),
}

/// The counters. All of them only ever grow, and wrap.
#[repr(C, align(4096))]
pub(crate) struct Counters {
    /// Whichever was raised, this is raised after it; tenders sleep on it.
    rounds: AtomicU32,
    /// System V's messages and semaphores, all of them.
    changes: AtomicU32,
    /// Words of memory, those that [`counter`] takes together.
    words: [AtomicU32; COUNTERS],
}

/// The counters, mapped.
#[derive(Debug)]
pub(crate) struct Board(Mapped<Counters>);

impl Board {
    /// The board of such a family, if it shares anything.
    pub(crate) fn of(ipc: Ipc) -> Result<Option<Self>, Errno> {
        Ok(match ipc {
            Ipc::Private => None,
            Ipc::Shareable => Some(Self(Mapped::new(|_| {})?)),
            Ipc::Joined(file) => Some(Self(Mapped::of(file)?)),
        })
    }

    /// For others to map.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.0.file().as_fd()
    }

    /// Others may sleep on that word.
    pub(crate) fn tell_of_word(&self, memory: u64, offset: u64) {
        self.tell(self.0.words.get(counter(memory, offset)));
    }

    /// Messages or semaphores have changed.
    pub(crate) fn tell_of_change(&self) {
        self.tell(Some(&self.0.changes));
    }

    fn tell(&self, counter: Option<&AtomicU32>) {
        if let Some(counter) = counter {
            counter.fetch_add(1, Ordering::SeqCst);
            self.0.rounds.fetch_add(1, Ordering::SeqCst);
            let _ = futex::wake(&self.0.rounds, futex::Flags::empty(), i32::MAX as u32);
        }
    }
}

/// What a tender has seen of a board.
pub(crate) struct Seen {
    changes: u32,
    words: Vec<u32>,
}

impl Seen {
    /// All that is there: nobody sleeps yet.
    pub(crate) fn all(board: &Board) -> Self {
        let words = board.0.words.iter().map(|it| it.load(Ordering::SeqCst)).collect();
        Self { changes: board.0.changes.load(Ordering::SeqCst), words }
    }

    /// Looks again: which counters of words were raised, and whether that of the changes was.
    fn look(&mut self, board: &Board) -> (Vec<usize>, bool) {
        let is_new = |seen: &mut u32, counter: &AtomicU32| {
            let now = counter.load(Ordering::SeqCst);
            std::mem::replace(seen, now) != now
        };
        let words = self.words.iter_mut().zip(&board.0.words).enumerate();
        let raised = words.filter_map(|(at, (seen, counter))| is_new(seen, counter).then_some(at)).collect();
        (raised, is_new(&mut self.changes, &board.0.changes))
    }
}

/// Wakes those of a family to whom others' tenders have something to say, for as long as the tender lives.
pub(crate) fn listen(family: &Family, board: &Board, mut seen: Seen) {
    loop {
        // What is raised from here on ends the sleep below.
        let round = board.0.rounds.load(Ordering::SeqCst);
        let (raised, changes) = seen.look(board);
        family.futexes.wake_by_counters(&raised);
        if changes {
            family.changes.note();
        }
        let _ = futex::wait(&board.0.rounds, futex::Flags::empty(), round, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_raised_is_seen_once_by_everybody_else() {
        let one = Board::of(Ipc::Shareable).unwrap().unwrap();
        let file = one.file().try_clone_to_owned().unwrap();
        let other = Board::of(Ipc::Joined(file)).unwrap().unwrap();
        let mut seen = Seen::all(&other);
        assert_eq!(seen.look(&other), (Vec::new(), false));
        one.tell_of_word(7, 8);
        one.tell_of_word(7, 8);
        assert_eq!(seen.look(&other), (vec![counter(7, 8)], false));
        one.tell_of_change();
        assert_eq!(seen.look(&other), (Vec::new(), true));
        assert_eq!(seen.look(&other), (Vec::new(), false));
    }

    #[test]
    fn memory_that_could_be_made_shorter_is_no_board() {
        use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
        let board = |length: usize| {
            let file = memfd_create("board", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
            ftruncate(&file, length as u64).unwrap();
            file
        };
        assert!(Board::of(Ipc::Joined(board(size_of::<Counters>()))).is_err());
        let sealed = crate::fixed::memory("board", size_of::<Counters>() as u64 - 4096).unwrap();
        assert!(Board::of(Ipc::Joined(sealed)).is_err());
        assert!(Board::of(Ipc::Joined(std::fs::File::open("/dev/null").unwrap().into())).is_err());
        assert!(Board::of(Ipc::Private).unwrap().is_none());
    }
}
