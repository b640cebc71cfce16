//! The time, from the processor's counter and what the tender said of it.

use core::arch::x86_64::_rdtsc;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::engine::port;

/// The latest time that was told: the tender corrects the rate now and then, and a clock must not go back.
static LATEST: AtomicU64 = AtomicU64::new(0);

/// Nanoseconds of CLOCK_MONOTONIC.
pub fn monotonic() -> u64 {
    let clock = &port().clock;
    // SAFETY: reads a counter.
    let ticks = unsafe { _rdtsc() }.wrapping_sub(clock.ticks.load(Ordering::Relaxed));
    let passed = (u128::from(ticks) * u128::from(clock.scale.load(Ordering::Relaxed))) >> 32;
    let now = clock.monotonic.load(Ordering::Relaxed).wrapping_add(passed as u64);
    LATEST.fetch_max(now, Ordering::Relaxed).max(now)
}

/// Nanoseconds of CLOCK_REALTIME.
pub fn wall() -> u64 {
    monotonic().wrapping_add_signed(port().clock.wall.load(Ordering::Relaxed))
}
