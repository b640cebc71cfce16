//! How the processor's counter relates to the host's clocks, for guests to tell the time by.

#![expect(unsafe_code, reason = "reads the processor's counter, and clocks by their numbers")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use abi::port::Clock;
use rustix::time::{ClockId, clock_gettime};

/// A moment by both.
#[derive(Clone, Copy)]
struct Moment {
    ticks: u64,
    nanoseconds: u64,
}

impl Moment {
    /// Under load a thread may lose its processor between the two readings: the pair that took the shortest counts.
    fn now() -> Self {
        const TRIES: usize = 8;
        let read = || {
            let before = ticks();
            let nanoseconds = nanoseconds(ClockId::Monotonic);
            let took = ticks().wrapping_sub(before);
            (took, Self { ticks: before.wrapping_add(took / 2), nanoseconds })
        };
        let mut best = read();
        for _ in 1..TRIES {
            let next = read();
            if next.0 < best.0 {
                best = next;
            }
        }
        best.1
    }
}

fn ticks() -> u64 {
    // SAFETY: reads a counter that every processor of this architecture has.
    unsafe { core::arch::x86_64::_rdtsc() }
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}

/// A processor's time as the host counts it: of a process with its threads, or of one thread of the tender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    Process(i32),
    Thread(i32),
}

/// What was used of it, in nanoseconds; nothing if that is there no more.
pub(crate) fn used(by: Counted) -> Option<u64> {
    /// The kernel's numbers of such clocks: of what was scheduled, of a thread.
    const SCHEDULED: i32 = 2;
    const OF_THREAD: i32 = 4;
    let clock = match by {
        Counted::Process(number) => !number << 3 | SCHEDULED,
        Counted::Thread(number) => !number << 3 | SCHEDULED | OF_THREAD,
    };
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes one time, and there is room for it.
    let told = unsafe { libc::clock_gettime(clock, &raw mut time) };
    (told == 0).then_some((time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64))
}

/// When the comparison began.
static FIRST: Mutex<Option<Moment>> = Mutex::new(None);

/// For how long the counter is compared with the clock at least, before it is believed.
const SHORTEST: u64 = 1_000_000;

/// How much later than the host's the guests' clock is, in nanoseconds: one that began on a host that has run for longer
/// must not see it go back.
static AHEAD: AtomicU64 = AtomicU64::new(0);

/// The guests' clock now.
pub(crate) fn monotonic() -> u64 {
    nanoseconds(ClockId::Monotonic).wrapping_add(AHEAD.load(Ordering::Relaxed))
}

/// The host's clock of the day.
pub(crate) fn wall() -> u64 {
    nanoseconds(ClockId::Realtime)
}

/// Makes the guests' clock later than that from now on.
pub(crate) fn be_later_than(moment: u64) {
    /// Nothing has run for longer: 100 years.
    const MOST: u64 = 100 * 365 * 86_400 * 1_000_000_000;
    let behind = moment.min(MOST).saturating_sub(monotonic());
    AHEAD.fetch_add(behind, Ordering::Relaxed);
}

fn first() -> MutexGuard<'static, Option<Moment>> {
    FIRST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins to compare them, so that nobody waits for it later, unless somebody has: waiting here was 0.6 of the 10 ms that a
/// whole cell took to say hello.
pub(crate) fn begin() {
    begun();
}

fn begun() -> Moment {
    *first().get_or_insert_with(Moment::now)
}

/// Begins to compare them, whenever that was done before: while a machine slept only one of them may have gone on.
pub(crate) fn begin_anew() {
    *first() = Some(Moment::now());
}

/// Writes how they relate. The longer ago the first time was, the more exact is the rate.
pub(crate) fn write(clock: &Clock) {
    let first = begun();
    let mut now = Moment::now();
    while now.nanoseconds - first.nanoseconds < SHORTEST {
        std::hint::spin_loop();
        now = Moment::now();
    }
    let (ticks, passed) = (now.ticks.wrapping_sub(first.ticks).max(1), now.nanoseconds - first.nanoseconds);
    let scale = (u128::from(passed) << 32) / u128::from(ticks);
    let ahead = AHEAD.load(Ordering::Relaxed);
    let wall = nanoseconds(ClockId::Realtime).wrapping_sub(nanoseconds(ClockId::Monotonic)).wrapping_sub(ahead);
    clock.ticks.store(now.ticks, Ordering::Relaxed);
    clock.monotonic.store(now.nanoseconds.wrapping_add(ahead), Ordering::Relaxed);
    clock.wall.store(wall as i64, Ordering::Relaxed);
    clock.scale.store(scale as u64, Ordering::Relaxed);
}
