//! Timers: those that a process always has, and those that it makes.

use abi::signal::{BY_TIMER, Info};
use sys::Errno;

use super::Reply;
use crate::member::Member;
use crate::timers::{By, Kind, Timer, Timers, Which};

pub(crate) fn answer(member: &mut Member, number: u32, [a, b, c, d, ..]: [u64; 6]) -> Option<Reply> {
    let timers = &member.family.timers;
    Some(
        match i64::from(number) {
            libc::SYS_alarm | libc::SYS_setitimer | libc::SYS_getitimer => own(member, number, [a, b, c]),
            libc::SYS_timer_create => make(member, a, b),
            libc::SYS_timer_settime => set(member, a as u32, b, c, d),
            libc::SYS_timer_gettime => made(member, a as u32)
                .map(|_| Timers::get(&member.family, member.number, Which::Made(a as u32)))
                .and_then(|it| tell(member, b, it)),
            libc::SYS_timer_getoverrun => made(member, a as u32).map(|_| 0),
            libc::SYS_timer_delete => timers.delete(member.number, a as u32).map(|()| 0).ok_or(Errno::INVAL),
            _ => return None,
        }
        .into(),
    )
}

const SECOND: u64 = 1_000_000_000;

/// The timers that a process always has, each with its signal: of real time, and two of the processor's, which does not
/// tell a program's time from what is done for it.
fn own(member: &Member, number: u32, [which, new, old]: [u64; 3]) -> Result<u64, Errno> {
    const SIGNALS: [i32; 3] = [14, 26, 27];
    const REAL: i32 = 14;
    let (family, own) = (&member.family, member.number);
    let set = |signal, timer| Timers::set(family, own, Which::Own(signal), Kind::own(signal), timer);
    if i64::from(number) == libc::SYS_alarm {
        let timer = Timer::once(u64::from(which as u32) * SECOND);
        // What is left counts as the next whole second.
        return Ok(set(REAL, timer).left.div_ceil(SECOND));
    }
    let signal = *SIGNALS.get(which as usize).ok_or(Errno::INVAL)?;
    let time = |bytes: &[u8]| -> Result<u64, Errno> {
        let word = |at: usize| bytes[at..at + 8].try_into().map_or(0, i64::from_ne_bytes);
        let (seconds, microseconds) = (u64::try_from(word(0)), u64::try_from(word(8)));
        match (seconds, microseconds) {
            (Ok(seconds), Ok(micro)) if micro < 1_000_000 => {
                Ok(seconds.saturating_mul(SECOND).saturating_add(micro * 1000))
            }
            _ => Err(Errno::INVAL),
        }
    };
    let (before, old) = match i64::from(number) {
        libc::SYS_getitimer => (Timers::get(family, own, Which::Own(signal)), new),
        _ => {
            let bytes: [u8; 32] = if new == 0 { [0; 32] } else { member.memory.number(new)? };
            let timer = Timer { interval: time(&bytes[..16])?, left: time(&bytes[16..])? };
            (set(signal, timer), old)
        }
    };
    if old != 0 {
        let words = [before.interval, before.left].map(|it| [it / SECOND, it % SECOND / 1000]);
        member.memory.write(old, &words.as_flattened().iter().flat_map(|it| it.to_ne_bytes()).collect::<Vec<u8>>())?;
    }
    Ok(0)
}

fn made(member: &Member, id: u32) -> Result<(Kind, u64), Errno> {
    member.family.timers.made(member.number, id).ok_or(Errno::INVAL)
}

/// timer_create: the guest writes the number for the program.
fn make(member: &Member, clock: u64, event: u64) -> Result<u64, Errno> {
    /// Ways to be told: by a signal, not at all, by one that a thread of the C library takes; for one thread.
    const SIGNAL: i32 = 0;
    const NOTHING: i32 = 1;
    const THREAD: i32 = 2;
    const FOR_THREAD: i32 = 4;
    const SIGALRM: i32 = 14;
    let by = match clock as i32 {
        libc::CLOCK_REALTIME | libc::CLOCK_MONOTONIC | libc::CLOCK_BOOTTIME | libc::CLOCK_TAI => By::Time,
        libc::CLOCK_REALTIME_ALARM | libc::CLOCK_BOOTTIME_ALARM => By::Time,
        libc::CLOCK_PROCESS_CPUTIME_ID | libc::CLOCK_THREAD_CPUTIME_ID => By::Processor,
        // By the number of a process, which is none or its own.
        other if other < 0 && [0, member.number as i32].contains(&!(other >> 3)) => By::Processor,
        libc::CLOCK_MONOTONIC_RAW | libc::CLOCK_REALTIME_COARSE | libc::CLOCK_MONOTONIC_COARSE => {
            return Err(Errno::OPNOTSUPP);
        }
        _ => return Err(Errno::INVAL),
    };
    let mut told = match event {
        0 => None,
        event => {
            let bytes: [u8; 24] = member.memory.number(event)?;
            let word = |at: usize| bytes[at..at + 4].try_into().map_or(0, i32::from_ne_bytes);
            let value = bytes[..8].try_into().map_or(0, u64::from_ne_bytes);
            let (signal, how, thread) = (word(8), word(12), word(16));
            if ![SIGNAL, NOTHING, THREAD, FOR_THREAD].contains(&how) {
                return Err(Errno::INVAL);
            }
            if how != NOTHING && !(1..=64).contains(&signal) {
                return Err(Errno::INVAL);
            }
            let thread = if how == FOR_THREAD { thread as u32 } else { 0 };
            let info = Info { signal, code: BY_TIMER, thread, first: 0, second: value };
            Some((how != NOTHING).then_some(info))
        }
    };
    let kind = |id: u32| {
        let default = Info { signal: SIGALRM, code: BY_TIMER, thread: 0, first: 0, second: u64::from(id) };
        let signal = told.take().unwrap_or(Some(default)).map(|it| Info { first: u64::from(id), ..it });
        Kind { by, signal }
    };
    member.family.timers.make(member.number, clock, kind).map(u64::from).ok_or(Errno::AGAIN)
}

/// A `struct itimerspec`: the interval, and the time.
fn read(member: &Member, at: u64) -> Result<[u64; 2], Errno> {
    let bytes: [u8; 32] = member.memory.number(at)?;
    let word = |at: usize| bytes[at..at + 8].try_into().map_or(0, i64::from_ne_bytes);
    let time = |at: usize| match (u64::try_from(word(at)), u64::try_from(word(at + 8))) {
        (Ok(seconds), Ok(nanoseconds)) if nanoseconds < SECOND => {
            Ok(seconds.saturating_mul(SECOND).saturating_add(nanoseconds))
        }
        _ => Err(Errno::INVAL),
    };
    Ok([time(0)?, time(16)?])
}

fn tell(member: &Member, at: u64, it: Timer) -> Result<u64, Errno> {
    let words = [it.interval / SECOND, it.interval % SECOND, it.left / SECOND, it.left % SECOND];
    member.memory.write(at, &words.map(u64::to_ne_bytes).concat()).map(|()| 0)
}

/// timer_settime.
fn set(member: &Member, id: u32, flags: u64, new: u64, old: u64) -> Result<u64, Errno> {
    const ABSOLUTE: u64 = 1;
    let (kind, clock) = made(member, id)?;
    let [interval, time] = read(member, new)?;
    let left = match time {
        0 => 0,
        _ if flags & ABSOLUTE == 0 => time,
        // What is over already is due at once.
        _ => time.saturating_sub(now(member, clock as i32)).max(1),
    };
    let before = Timers::set(&member.family, member.number, Which::Made(id), kind, Timer { left, interval });
    if old == 0 { Ok(0) } else { tell(member, old, before) }
}

/// What a clock says to the guest.
fn now(member: &Member, clock: i32) -> u64 {
    match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM | libc::CLOCK_TAI => crate::clock::wall(),
        libc::CLOCK_PROCESS_CPUTIME_ID | libc::CLOCK_THREAD_CPUTIME_ID | ..0 => member.family.used_by(member.number),
        _ => crate::clock::monotonic(),
    }
}
