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
//! cannot be made shorter. A tender that ends at any moment leaves nothing half done; one that was taken over can wake for
//! nothing and keep others from being woken, as its programs can in the memory that they share, and no more.

use std::num::NonZeroU32;
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

/// How many tenders have a line of their own. Who comes later shares the last, and hears itself there.
const LINES: usize = 32;

/// The counters of a tender, which it raises and the others look at. All of them only ever grow, and wrap.
#[repr(C)]
struct Line {
    /// Whichever of the others was raised, this is raised after it.
    rounds: AtomicU32,
    /// System V's messages and semaphores, all of them.
    changes: AtomicU32,
    /// Words of memory, those that [`counter`] takes together.
    words: [AtomicU32; COUNTERS],
}

/// The lines of all tenders.
#[repr(C, align(4096))]
pub(crate) struct Counters {
    /// Raised last, by whoever raised something; tenders sleep on it.
    rounds: AtomicU32,
    /// How many tenders have come so far.
    tenders: AtomicU32,
    lines: [Line; LINES],
}

/// The counters, mapped.
#[derive(Debug)]
pub(crate) struct Board {
    all: Mapped<Counters>,
    /// Which line is the tender's.
    own: usize,
}

impl Board {
    /// The board of such a family, if it shares anything.
    pub(crate) fn of(ipc: Ipc) -> Result<Option<Self>, Errno> {
        let all: Mapped<Counters> = match ipc {
            Ipc::Private => return Ok(None),
            Ipc::Shareable => Mapped::new(|_| {})?,
            Ipc::Joined(file) => Mapped::of(file)?,
        };
        let before = all.tenders.fetch_add(1, Ordering::SeqCst);
        Ok(Some(Self { all, own: (before as usize).min(LINES - 1) }))
    }

    /// For others to map.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.all.file().as_fd()
    }

    /// Others may sleep on that word.
    pub(crate) fn tell_of_word(&self, memory: u64, offset: u64) {
        self.tell(|line| line.words.get(counter(memory, offset)));
    }

    /// Messages or semaphores have changed.
    pub(crate) fn tell_of_change(&self) {
        self.tell(|line| Some(&line.changes));
    }

    fn tell(&self, which: impl Fn(&Line) -> Option<&AtomicU32>) {
        let Some(line) = self.all.lines.get(self.own) else { return };
        let Some(counter) = which(line) else { return };
        for raised in [counter, &line.rounds, &self.all.rounds] {
            raised.fetch_add(1, Ordering::SeqCst);
        }
        if let Some(line) = NonZeroU32::new(1 << self.own) {
            let _ = futex::wake_bitset(&self.all.rounds, futex::Flags::empty(), i32::MAX as u32, line);
        }
    }

    /// The lines that it looks at.
    fn others(&self) -> impl Iterator<Item = usize> {
        let own = self.own;
        (0..LINES).filter(move |it| *it != own || own == LINES - 1)
    }

    /// Sleeps until somebody raises something after that round.
    fn wait(&self, round: u32) {
        let lines = NonZeroU32::new(self.others().fold(0, |set, it| set | 1 << it));
        let _ = lines.map(|it| futex::wait_bitset(&self.all.rounds, futex::Flags::empty(), round, None, it));
    }
}

/// What a tender has seen of a board.
pub(crate) struct Seen {
    /// Of each line: its rounds, its changes, its words.
    lines: Vec<(u32, u32, Vec<u32>)>,
}

impl Seen {
    /// All that is there: nobody sleeps yet.
    pub(crate) fn all(board: &Board) -> Self {
        let now = |it: &AtomicU32| it.load(Ordering::SeqCst);
        let line = |it: &Line| (now(&it.rounds), now(&it.changes), it.words.iter().map(now).collect());
        Self { lines: board.all.lines.iter().map(line).collect() }
    }

    /// Looks again at the lines of others: which counters of words were raised, and whether that of the changes was.
    fn look(&mut self, board: &Board) -> (Vec<usize>, bool) {
        let is_new = |seen: &mut u32, counter: &AtomicU32| {
            let now = counter.load(Ordering::SeqCst);
            std::mem::replace(seen, now) != now
        };
        let (mut raised, mut has_changed) = (Vec::new(), false);
        for at in board.others() {
            let (Some((rounds, changes, words)), Some(line)) = (self.lines.get_mut(at), board.all.lines.get(at)) else {
                continue;
            };
            if is_new(rounds, &line.rounds) {
                let words = words.iter_mut().zip(&line.words).enumerate();
                raised.extend(words.filter_map(|(at, (seen, counter))| is_new(seen, counter).then_some(at)));
                has_changed |= is_new(changes, &line.changes);
            }
        }
        (raised, has_changed)
    }
}

/// Wakes those of a family to whom others' tenders have something to say, for as long as the tender lives.
pub(crate) fn listen(family: &Family, board: &Board, mut seen: Seen) {
    loop {
        // What is raised from here on ends the sleep below.
        let round = board.all.rounds.load(Ordering::SeqCst);
        let (raised, changes) = seen.look(board);
        family.futexes.wake_by_counters(&raised);
        if changes {
            family.changes.note();
        }
        board.wait(round);
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
        // What it says itself is for others.
        let mut ones = Seen::all(&one);
        one.tell_of_word(1, 2);
        assert_eq!(ones.look(&one), (Vec::new(), false));
    }

    #[test]
    fn who_comes_late_hears_and_is_heard() {
        let one = Board::of(Ipc::Shareable).unwrap().unwrap();
        let join = |_| Board::of(Ipc::Joined(one.file().try_clone_to_owned().unwrap())).unwrap().unwrap();
        let late: Vec<Board> = (0..LINES + 3).map(join).collect();
        let mut seen: Vec<Seen> = late.iter().map(Seen::all).collect();
        let (last, before) = (late.last().unwrap(), late.len() - 2);
        last.tell_of_word(7, 8);
        assert_eq!(seen[before].look(&late[before]), (vec![counter(7, 8)], false));
        assert_eq!(seen[0].look(&late[0]), (vec![counter(7, 8)], false));
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
