//! Futexes: threads that sleep until a word of memory is changed. Those of memory that other processes share, and that the
//! program did not call its own, are in [`shared`].

pub mod shared;

use alloc::collections::{BTreeMap, VecDeque};

use crate::errno::{EAGAIN, EINTR, EINVAL, ENOSYS, ETIMEDOUT, Result};
use crate::sync::Local;
use crate::thread::{self, Wake};
use crate::{clock, user};

/// Those that sleep, by the address of their word, in the order in which they came.
static SLEEPERS: Local<BTreeMap<u64, VecDeque<Sleeper>>> = Local::new(BTreeMap::new());

#[derive(Clone, Copy)]
struct Sleeper {
    thread: u32,
    /// Which wake-ups are for it.
    bits: u32,
}

const ANY: u32 = u32::MAX;

/// The system call.
pub fn call(address: u64, operation: u32, value: u32, timeout: u64, second: u64, last: u32) -> Result {
    const PRIVATE: u32 = 128;
    const WALL_CLOCK: u32 = 256;
    if address % 4 != 0 {
        return Err(EINVAL);
    }
    if operation & PRIVATE == 0
        && let Some(word) = shared::word(address)
    {
        return call_shared(word, address, operation & !WALL_CLOCK, value, (timeout, second, last), || {
            absolute(timeout, operation & WALL_CLOCK != 0)
        });
    }
    match operation & !(PRIVATE | WALL_CLOCK) {
        0 => wait(address, value, relative(timeout)?, ANY),
        9 => wait(address, value, absolute(timeout, operation & WALL_CLOCK != 0)?, last),
        1 => wake(address, value, ANY),
        10 => wake(address, value, last),
        3 => requeue(address, value, second, timeout as u32),
        4 if user::read::<u32>(address)? != last => Err(EAGAIN),
        4 => requeue(address, value, second, timeout as u32),
        5 => wake_and_change(address, value, second, timeout as u32, last),
        _ => Err(ENOSYS),
    }
}

/// The same on memory that others share. Who is to be moved to another word is woken instead, as it may be at any time.
fn call_shared(
    word: shared::Word,
    address: u64,
    operation: u32,
    value: u32,
    (timeout, second, last): (u64, u64, u32),
    late: impl Fn() -> Result<Option<u64>>,
) -> Result {
    const EVERYBODY: u32 = i32::MAX as u32;
    match operation {
        0 => shared::wait(word, address, value, relative(timeout)?, ANY),
        9 | 10 if last == 0 => Err(EINVAL),
        9 => shared::wait(word, address, value, late()?, last),
        1 => shared::wake(word, value, ANY),
        10 => shared::wake(word, value, last),
        4 if user::read::<u32>(address)? != last => Err(EAGAIN),
        3 | 4 => shared::wake(word, EVERYBODY, ANY),
        5 => wake_and_change(address, value, second, timeout as u32, last),
        _ => Err(ENOSYS),
    }
}

/// Wakes so many of those that sleep on a word, whoever they are.
pub fn wake_all_kinds(address: u64, most: u32) -> Result {
    let others = shared::word(address).map_or(Ok(0), |word| shared::wake(word, most, ANY))?;
    wake(address, most, ANY).map(|own| own + others)
}

/// A time of the program's, in nanoseconds.
pub fn nanoseconds(at: u64) -> Result<u64> {
    let [seconds, nanoseconds]: [u64; 2] = user::read(at)?;
    if nanoseconds >= 1_000_000_000 || seconds > i64::MAX as u64 {
        return Err(EINVAL);
    }
    Ok(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
}

fn relative(timeout: u64) -> Result<Option<u64>> {
    if timeout == 0 { Ok(None) } else { Ok(Some(clock::monotonic().saturating_add(nanoseconds(timeout)?))) }
}

fn absolute(timeout: u64, by_wall: bool) -> Result<Option<u64>> {
    if timeout == 0 {
        return Ok(None);
    }
    let at = nanoseconds(timeout)?;
    let ahead = if by_wall { clock::wall() - clock::monotonic() } else { 0 };
    Ok(Some(at.saturating_sub(ahead)))
}

fn wait(address: u64, value: u32, deadline: Option<u64>, bits: u32) -> Result {
    if bits == 0 {
        return Err(EINVAL);
    }
    if user::read::<u32>(address)? != value {
        return Err(EAGAIN);
    }
    let thread = thread::current();
    SLEEPERS.get().entry(address).or_default().push_back(Sleeper { thread, bits });
    let why = thread::sleep(deadline);
    if why == Wake::Up {
        return Ok(0);
    }
    // It may have been moved to another word meanwhile.
    SLEEPERS.get().retain(|_, queue| {
        queue.retain(|it| it.thread != thread);
        !queue.is_empty()
    });
    Err(if why == Wake::Timeout { ETIMEDOUT } else { EINTR })
}

/// Wakes so many of those that sleep on a word.
pub fn wake(address: u64, most: u32, bits: u32) -> Result {
    if bits == 0 {
        return Err(EINVAL);
    }
    let mut woken = 0;
    let mut sleepers = SLEEPERS.get();
    let Some(queue) = sleepers.get_mut(&address) else { return Ok(0) };
    let mut at = 0;
    while at < queue.len() && woken < most as usize {
        if queue[at].bits & bits != 0
            && let Some(sleeper) = queue.remove(at)
        {
            woken += usize::from(thread::wake(sleeper.thread));
        } else {
            at += 1;
        }
    }
    if queue.is_empty() {
        sleepers.remove(&address);
    }
    Ok(woken)
}

fn requeue(address: u64, most: u32, to: u64, moved: u32) -> Result {
    let woken = wake(address, most, ANY)?;
    let mut sleepers = SLEEPERS.get();
    let Some(mut queue) = sleepers.remove(&address) else { return Ok(woken) };
    let count = queue.len().min(moved as usize);
    let rest = queue.split_off(count);
    sleepers.entry(to).or_default().extend(queue);
    if !rest.is_empty() {
        sleepers.insert(address, rest);
    }
    Ok(woken + count)
}

/// Changes the second word as the last argument encodes, wakes sleepers of the first, and those of the second if its old
/// value compares so.
fn wake_and_change(address: u64, most: u32, second: u64, most_second: u32, encoded: u32) -> Result {
    let sign_extended = |bits: u32| ((bits << 20) as i32 >> 20) as u32;
    let (mut operand, compared) = (sign_extended(encoded >> 12 & 0xfff), sign_extended(encoded & 0xfff));
    if encoded >> 31 != 0 {
        operand = 1u32.checked_shl(operand).unwrap_or(0);
    }
    let old: u32 = user::read(second)?;
    let new = match encoded >> 28 & 7 {
        0 => operand,
        1 => old.wrapping_add(operand),
        2 => old | operand,
        3 => old & !operand,
        4 => old ^ operand,
        _ => return Err(ENOSYS),
    };
    user::write(second, new)?;
    let (signed_old, signed_compared) = (old as i32, compared as i32);
    let also = match encoded >> 24 & 0xf {
        0 => signed_old == signed_compared,
        1 => signed_old != signed_compared,
        2 => signed_old < signed_compared,
        3 => signed_old <= signed_compared,
        4 => signed_old > signed_compared,
        5 => signed_old >= signed_compared,
        _ => return Err(ENOSYS),
    };
    let woken = wake_all_kinds(address, most)?;
    Ok(woken + if also { wake_all_kinds(second, most_second)? } else { 0 })
}
