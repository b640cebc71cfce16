//! Words of memory that other members share, too: who sleeps on one is known to the tender, which is asked only where
//! somebody sleeps ([`abi::futex`]).
//!
//! Who would sleep counts itself, has the tender know, and looks at the word once more; who wakes changes the word first and
//! looks at the counter then. So one of them sees the other. Before all that the word is looked at for a moment: when it
//! changes, the call was merely late.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

use abi::call;
use abi::futex::{Counters, SIZE, counter};
use abi::layout::COUNTERS;

use crate::errno::{EAGAIN, EINTR, ETIMEDOUT, Result};
use crate::space::SPACE;
use crate::thread::{self, Wake};
use crate::{clock, engine, port, user};

/// A word: which memory, and where in it.
pub type Word = (u64, u64);

/// The word at an address, if others may have it.
pub fn word(address: u64) -> Option<Word> {
    SPACE.get().shared(address as usize)
}

static MAPPED: AtomicBool = AtomicBool::new(false);

/// For how long to look before sleeping, in nanoseconds: as long as that was worth it of late. Two that wake each other in
/// turn would sleep in between for ever if neither looked for longer than it takes to wake the other.
static PATIENCE: AtomicU64 = AtomicU64::new(MOST_PATIENCE / 8);
const MOST_PATIENCE: u64 = 200_000;
const LEAST_PATIENCE: u64 = 1_000;

/// How often in a row looking long was for nothing, and how many waits are to do without it then.
static WASTED: AtomicU32 = AtomicU32::new(0);
static RESTS: AtomicU32 = AtomicU32::new(0);
const MOST_WASTED: u32 = 4;
const REST: u32 = 64;

fn counters() -> Result<&'static Counters> {
    if !MAPPED.load(Ordering::Relaxed) {
        engine::take_counters(COUNTERS, SIZE)?;
        MAPPED.store(true, Ordering::Relaxed);
    }
    // SAFETY: it is mapped from now on, and all of it is atomic.
    Ok(unsafe { &*(COUNTERS as *const Counters) })
}

/// Sleeps until somebody wakes the word's sleepers.
pub fn wait(word: Word, address: u64, value: u32, deadline: Option<u64>, bits: u32) -> Result {
    let is_changed = || user::read::<u32>(address).map(|it| it != value);
    if is_changed()? || changes_soon(address, value, deadline)? {
        return Err(EAGAIN);
    }
    let (memory, offset) = word;
    let begun = clock::monotonic();
    let sleepers = &counters()?.0[counter(memory, offset)];
    let process = crate::syscall::process::number();
    let cookie = thread::expect();
    sleepers.fetch_add(1, Ordering::SeqCst);
    let told = port::call(call::FUTEX_SLEEP, [memory, offset, u64::from(bits), cookie, 0, 0]);
    let why = match told {
        Ok(_) if is_changed() != Ok(true) => thread::sleep(deadline),
        // As if it had been so from the beginning.
        _ => Wake::Timeout,
    };
    let changed = is_changed();
    thread::expect_no_more(cookie);
    let was_there =
        why != Wake::Up && told.is_ok() && port::call(call::FUTEX_LEAVE, [memory, offset, cookie, 0, 0, 0]) == Ok(1);
    // A copy of the process was never counted.
    if process == crate::syscall::process::number() {
        sleepers.fetch_sub(1, Ordering::SeqCst);
    }
    learn(clock::monotonic().saturating_sub(begun));
    told?;
    match why {
        _ if !was_there => Ok(0),
        Wake::Timeout if deadline.is_some_and(|it| it <= clock::monotonic()) => Err(ETIMEDOUT),
        Wake::Timeout if changed? => Err(EAGAIN),
        Wake::Timeout => Err(ETIMEDOUT),
        Wake::Up | Wake::Signal => Err(EINTR),
    }
}

/// For how long to look the next time, after a sleep of so many nanoseconds: if it was short, looking for longer would have
/// spared it.
fn learn(slept: u64) {
    let patience = PATIENCE.load(Ordering::Relaxed);
    if patience >= MOST_PATIENCE / 2 && WASTED.fetch_add(1, Ordering::Relaxed) >= MOST_WASTED {
        WASTED.store(0, Ordering::Relaxed);
        RESTS.store(REST, Ordering::Relaxed);
    }
    let rests = RESTS.load(Ordering::Relaxed);
    RESTS.store(rests.saturating_sub(1), Ordering::Relaxed);
    let next = match rests {
        0 if slept < 2 * MOST_PATIENCE => (slept + slept / 2).min(MOST_PATIENCE),
        0 => patience / 2,
        _ => LEAST_PATIENCE,
    };
    PATIENCE.store(next.max(LEAST_PATIENCE), Ordering::Relaxed);
}

/// Looks at a word for a moment, if there is nothing else to do.
fn changes_soon(address: u64, value: u32, deadline: Option<u64>) -> Result<bool> {
    let (patience, begun) = (PATIENCE.load(Ordering::Relaxed), clock::monotonic());
    while thread::patience(deadline) > 0 && clock::monotonic().saturating_sub(begun) < patience {
        for _ in 0..16 {
            if user::read::<u32>(address)? != value {
                PATIENCE.store((patience * 2).min(MOST_PATIENCE), Ordering::Relaxed);
                WASTED.store(0, Ordering::Relaxed);
                return Ok(true);
            }
            core::hint::spin_loop();
        }
    }
    Ok(false)
}

/// Wakes so many of those that sleep on a word.
pub fn wake((memory, offset): Word, most: u32, bits: u32) -> Result {
    fence(Ordering::SeqCst);
    if counters()?.0[counter(memory, offset)].load(Ordering::SeqCst) == 0 {
        return Ok(0);
    }
    port::call(call::FUTEX_WAKE, [memory, offset, u64::from(most), u64::from(bits), 0, 0])
}
