//! Clocks and sleeping.

use crate::errno::{EINTR, EINVAL, Result};
use crate::futex::nanoseconds;
use crate::thread::{self, Wake};
use crate::{clock, number, port, user};

const SECOND: u64 = 1_000_000_000;

const REALTIME: u64 = 0;
const PROCESS_CPU: u64 = 2;
const THREAD_CPU: u64 = 3;
const TAI: u64 = 11;

/// How long a call may wait: nothing for ever.
pub type Timeout = Option<u64>;

fn now(which: u64) -> Result<u64> {
    match which {
        // The coarse ones are the same.
        REALTIME | 5 | 8 | TAI => Ok(clock::wall()),
        1 | 4 | 6 | 7 | 9 => Ok(clock::monotonic()),
        PROCESS_CPU | THREAD_CPU => Ok(clock::monotonic()),
        _ => Err(EINVAL),
    }
}

fn split(nanoseconds: u64) -> [u64; 2] {
    [nanoseconds / SECOND, nanoseconds % SECOND]
}

/// The clock of a thread of ours by its number is that of the process, which is told by another.
fn of_own_thread(which: u64) -> u64 {
    const OTHERS: u64 = 1 << 31;
    const THREAD: u64 = 4;
    let thread = !(which as u32 as i32 >> 3) as u32;
    let is_ours = || crate::thread::with(thread, |_| ()).is_some();
    if which & OTHERS != 0 && which & THREAD != 0 && is_ours() { THREAD_CPU } else { which }
}

/// clock_gettime.
pub fn get(which: u64, into: u64) -> Result {
    let which = of_own_thread(which);
    /// Those of other processes' processors, whose numbers are made of theirs.
    const OTHERS: u64 = 1 << 31;
    if which & OTHERS != 0 || which == PROCESS_CPU || which == THREAD_CPU {
        let mut time = [0u64; 2];
        port::call(number::CLOCK_GETTIME, [which, time.as_mut_ptr() as u64, 0, 0, 0, 0])?;
        return user::write(into, time).map(|()| 0);
    }
    user::write(into, split(now(which)?))?;
    Ok(0)
}

/// clock_getres.
pub fn resolution(which: u64, into: u64) -> Result {
    now(of_own_thread(which))?;
    user::write_if(into, [0u64, 1])?;
    Ok(0)
}

/// gettimeofday.
pub fn of_day(into: u64, zone: u64) -> Result {
    let [seconds, nanoseconds] = split(clock::wall());
    user::write_if(into, [seconds, nanoseconds / 1000])?;
    user::write_if(zone, 0u64)?;
    Ok(0)
}

/// time.
pub fn seconds(into: u64) -> Result {
    let seconds = clock::wall() / SECOND;
    user::write_if(into, seconds)?;
    Ok(seconds as usize)
}

/// nanosleep.
pub fn sleep(time: u64, left: u64) -> Result {
    sleep_until(clock::monotonic().saturating_add(nanoseconds(time)?), left)
}

/// clock_nanosleep.
pub fn sleep_by(which: u64, flags: u64, time: u64, left: u64) -> Result {
    const ABSOLUTE: u64 = 1;
    let time = nanoseconds(time)?;
    let now = now(which)?;
    if flags & ABSOLUTE != 0 {
        return sleep_until(clock::monotonic().saturating_add(time.saturating_sub(now)), 0);
    }
    sleep_until(clock::monotonic().saturating_add(time), left)
}

fn sleep_until(deadline: u64, left: u64) -> Result {
    match thread::sleep(Some(deadline)) {
        Wake::Signal => {
            user::write_if(left, split(deadline.saturating_sub(clock::monotonic())))?;
            Err(EINTR)
        }
        Wake::Up | Wake::Timeout => Ok(0),
    }
}

/// A time in milliseconds, negative for ever.
pub fn milliseconds(time: i32) -> Result<Timeout> {
    Ok(u64::try_from(time).ok().map(|it| it * 1_000_000))
}

/// A `struct timespec`, null for ever.
pub fn timeout(at: u64) -> Result<Timeout> {
    if at == 0 { Ok(None) } else { nanoseconds(at).map(Some) }
}

/// A `struct timeval`, null for ever.
pub fn microseconds(at: u64) -> Result<Timeout> {
    if at == 0 {
        return Ok(None);
    }
    let [seconds, microseconds]: [u64; 2] = user::read(at)?;
    if seconds > i64::MAX as u64 || microseconds > i64::MAX as u64 {
        return Err(EINVAL);
    }
    Ok(Some(seconds.saturating_mul(SECOND).saturating_add(microseconds.saturating_mul(1000))))
}
