//! Signals on their way to a guest: a short queue in the port, which the tender fills and the guest empties whenever it
//! looks. What is pending is the guest's own account.
//!
//! What finds no room waits with the tender, which then says so ([`Queue::more`]) and hands it over when it is asked
//! ([`crate::call::SIGNALS`]). **The tender goes by its own count of what it has put**; what it reads here tells it only
//! how much room there is.

use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

/// How many signals there is room for.
pub const ROOM: usize = 32;

/// Those from this number on queue, each with what was said of it; of a lower one, the first counts.
pub const FIRST_QUEUED: i32 = 32;

/// The end of a child, its being stopped and let go on: `si_code` of a SIGCHLD.
pub const EXITED: i32 = 1;
/// A signal ended it.
pub const KILLED: i32 = 2;
/// It is stopped.
pub const STOPPED: i32 = 5;
/// It goes on.
pub const CONTINUED: i32 = 6;
/// `si_code`: of kill.
pub const BY_KILL: i32 = 0;
/// `si_code`: of tkill and tgkill.
pub const BY_TKILL: i32 = -6;
/// `si_code`: of nobody.
pub const BY_KERNEL: i32 = 0x80;
/// `si_code`: of a timer.
pub const BY_TIMER: i32 = -2;
/// `si_code`: of a message queue.
pub const BY_QUEUE: i32 = -3;

/// A signal, as a `siginfo_t` tells of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Its number.
    pub signal: i32,
    /// `si_code`.
    pub code: i32,
    /// The thread that it is for, or 0 for the process as a whole.
    pub thread: u32,
    /// What stands behind that: process and user, or a timer and how often it was too early, or an address.
    pub first: u64,
    /// What stands behind that: a value, or a child's status.
    pub second: u64,
}

impl Info {
    /// Process and user, as they stand in [`Info::first`].
    pub const fn from(process: u32, user: u32) -> u64 {
        process as u64 | (user as u64) << 32
    }

    /// If both are of the same timer, and this has not come yet, the other is one that came too early. Says whether it was.
    pub fn absorb(&mut self, other: &Self) -> bool {
        let same = self.code == BY_TIMER
            && (self.signal, self.code, self.thread, self.first as u32)
                == (other.signal, other.code, other.thread, other.first as u32);
        if same {
            const MOST: u64 = i32::MAX as u64;
            let early = ((self.first >> 32) + (other.first >> 32) + 1).min(MOST);
            self.first = self.first & 0xffff_ffff | early << 32;
        }
        same
    }
}

/// A place in the queue.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Slot {
    signal: AtomicI32,
    code: AtomicI32,
    thread: AtomicU32,
    reserved: u32,
    first: AtomicU64,
    second: AtomicU64,
}

/// The queue.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Queue {
    /// How many were ever put, set by the tender.
    pub put: AtomicU32,
    /// How many were ever taken, set by the guest.
    pub taken: AtomicU32,
    /// Not 0 when more wait with the tender.
    pub more: AtomicU32,
    reserved: u32,
    all: [Slot; ROOM],
}

impl Queue {
    /// Whether there is something that the guest has not taken.
    pub fn has_news(&self) -> bool {
        self.put.load(Ordering::SeqCst) != self.taken.load(Ordering::SeqCst)
    }

    /// The tender puts a signal, as the one with that number; nothing when there is no room.
    pub fn put(&self, number: u32, info: &Info) -> Option<()> {
        let used = number.wrapping_sub(self.taken.load(Ordering::SeqCst));
        let slot = self.all.get(number as usize % ROOM).filter(|_| (used as usize) < ROOM)?;
        slot.signal.store(info.signal, Ordering::Relaxed);
        slot.code.store(info.code, Ordering::Relaxed);
        slot.thread.store(info.thread, Ordering::Relaxed);
        slot.first.store(info.first, Ordering::Relaxed);
        slot.second.store(info.second, Ordering::Relaxed);
        self.put.store(number.wrapping_add(1), Ordering::SeqCst);
        Some(())
    }

    /// The guest takes the next one.
    pub fn take(&self) -> Option<Info> {
        let taken = self.taken.load(Ordering::Relaxed);
        if self.put.load(Ordering::SeqCst) == taken {
            return None;
        }
        let info = self.at(taken);
        self.taken.store(taken.wrapping_add(1), Ordering::SeqCst);
        Some(info)
    }

    /// What stands in the place of that number.
    pub fn at(&self, number: u32) -> Info {
        let slot = &self.all[number as usize % ROOM];
        Info {
            signal: slot.signal.load(Ordering::Relaxed),
            code: slot.code.load(Ordering::Relaxed),
            thread: slot.thread.load(Ordering::Relaxed),
            first: slot.first.load(Ordering::Relaxed),
            second: slot.second.load(Ordering::Relaxed),
        }
    }
}
