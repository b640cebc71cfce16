//! A machine's clock: ticks since it began, read without asking anybody.
//!
//! It is the processor's time stamp counter, scaled; generated code reads it by itself. How fast that counter runs is
//! measured once, against the host's own clock. Or it stands still but for when somebody moves it: then whatever looks at
//! it is the same each time.

#![expect(unsafe_code, reason = "reads the time stamp counter")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// A clock of so many ticks a second.
#[derive(Debug, Clone)]
pub struct Clock {
    /// Ticks are the counter times this, of which the upper 64 bits count, ...
    pub(crate) multiplier: u64,
    /// ... and this, ...
    offset: u64,
    /// ... and what it was moved on by hand.
    moved: Option<Arc<AtomicU64>>,
    frequency: u64,
}

/// How long the counter is compared with the host's clock.
const COMPARISON: Duration = Duration::from_millis(5);

/// The time stamp counter.
#[inline]
fn counter() -> u64 {
    // SAFETY: every x86-64 processor has it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// How often the time stamp counter counts in a second.
fn rate() -> u64 {
    static RATE: OnceLock<u64> = OnceLock::new();
    *RATE.get_or_init(|| {
        let (began, first) = (Instant::now(), counter());
        // However long that takes, it is measured.
        std::thread::sleep(COMPARISON);
        let (counted, time) = (counter().wrapping_sub(first), began.elapsed());
        (u128::from(counted) * 1_000_000_000 / time.as_nanos().max(1)) as u64
    })
}

impl Clock {
    /// One that begins now.
    pub fn new(frequency: u64) -> Clock {
        let multiplier = ((u128::from(frequency) << 64) / u128::from(rate().max(frequency + 1))) as u64;
        let mut clock = Clock { multiplier, offset: 0, moved: None, frequency };
        clock.offset = clock.now().wrapping_neg();
        clock
    }

    /// One that has come as far as that now.
    pub fn at(frequency: u64, ticks: u64) -> Clock {
        let mut clock = Clock::new(frequency);
        clock.offset = clock.offset.wrapping_add(ticks);
        clock
    }

    /// One that stands still until it is moved. All that are copied from it are moved with it.
    pub fn by_hand(frequency: u64) -> Clock {
        Clock { multiplier: 0, offset: 0, moved: Some(Arc::default()), frequency }
    }

    /// Moves it, if it is one that is moved by hand.
    pub fn advance(&self, ticks: u64) {
        if let Some(moved) = &self.moved {
            moved.fetch_add(ticks, Ordering::SeqCst);
        }
    }

    /// What is added to the counter's part.
    pub(crate) fn offset(&self) -> u64 {
        let moved = self.moved.as_ref().map_or(0, |it| it.load(Ordering::SeqCst));
        self.offset.wrapping_add(moved)
    }

    /// Ticks since it began.
    pub fn now(&self) -> u64 {
        let scaled = (u128::from(counter()) * u128::from(self.multiplier)) >> 64;
        (scaled as u64).wrapping_add(self.offset())
    }

    /// The same, read when all that was loaded before is there: not before what another processor has said of it.
    pub(crate) fn now_in_order(&self) -> u64 {
        // SAFETY: every x86-64 processor has it.
        unsafe { std::arch::x86_64::_mm_lfence() };
        self.now()
    }

    /// Ticks in a second.
    pub fn frequency(&self) -> u64 {
        self.frequency
    }

    /// How long it is until that tick.
    pub fn until(&self, tick: u64) -> Duration {
        let ticks = tick.saturating_sub(self.now());
        Duration::from_nanos(
            (u128::from(ticks) * 1_000_000_000 / u128::from(self.frequency)).min(u64::MAX.into()) as u64
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs_as_fast_as_it_should() {
        let clock = Clock::new(1_000_000);
        let (began, first) = (Instant::now(), clock.now());
        std::thread::sleep(Duration::from_millis(50));
        let (ticks, time) = (clock.now() - first, began.elapsed().as_micros() as u64);
        assert!(ticks.abs_diff(time) < time / 20, "{ticks} ticks in {time} microseconds");
        assert!(clock.until(clock.now() + 1_000_000) <= Duration::from_secs(1));
        assert_eq!(clock.until(0), Duration::ZERO);
        let later = Clock::at(1_000_000, 7_000_000_000);
        assert!((7_000_000_000..7_010_000_000).contains(&later.now()));
    }

    #[test]
    fn one_that_is_moved_by_hand_stands_still_otherwise() {
        let clock = Clock::by_hand(1000);
        let copy = clock.clone();
        assert_eq!((clock.now(), clock.until(500)), (0, Duration::from_millis(500)));
        clock.advance(7);
        assert_eq!((clock.now(), copy.now_in_order()), (7, 7));
    }
}
