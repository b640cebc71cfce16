//! Pipes to other members of the family, in memory that they share ([`abi::ring`]): bytes are moved here, and the tender is
//! asked only for what else there is to a pipe.
//!
//! Which descriptor is such a pipe the tender says when one is first read or written; what changes the descriptor
//! afterwards passes here first. **Who holds a lock makes no call and does not sleep.** What other members write into a
//! ring is taken for numbers, and a place in the ring is a remainder: they can spoil the bytes, and nothing else.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::layout::{RING_PLACES, RING_ROOM, RINGS};
use abi::ring::{BYTES, PIECE, READER, Ring, SHORT, SIZE, WRITER, between};

use crate::engine::{self, Bells};
use crate::errno::{EAGAIN, EFAULT, ERESTART, Result};
use crate::space::{Protection, SPACE};
use crate::sync::Local;
use crate::thread::{self, Wake};
use crate::{number, port, signal, user};

/// A descriptor that is an end of a ring.
#[derive(Clone, Copy)]
struct Open {
    /// Where its ring is.
    at: usize,
    /// The side of it that the descriptor is.
    side: usize,
    bells: Bells,
    /// Where the other side was when it was looked at last.
    seen: u64,
    /// For how many ticks to look before sleeping.
    patience: u64,
    /// How often in a row that was for nothing, and how many waits are to do without it then.
    wasted: u32,
    rests: u32,
    /// Another one for each ring that there ever was here.
    which: u64,
}

impl Open {
    /// It was found by looking, after so many ticks: it is worth looking some times as long.
    fn found(&mut self, after: u64) {
        self.patience = ((3 * self.patience + 4 * after.min(MOST_PATIENCE)) / 4).clamp(LEAST_PATIENCE, MOST_PATIENCE);
        self.wasted = 0;
    }

    /// It was not, and then slept for: looking for longer would have spared a short sleep. But where that does not help
    /// either, the other side wants for the processor that is looked with.
    fn slept(&mut self, slept: u64) {
        if self.patience >= MOST_PATIENCE / 8 {
            self.wasted += 1;
            if self.wasted >= MOST_WASTED {
                (self.wasted, self.rests) = (0, REST);
            }
        }
        self.patience = match self.rests {
            0 if slept < 2 * MOST_PATIENCE => (slept + slept / 2).min(MOST_PATIENCE),
            0 => self.patience / 2,
            _ => LEAST_PATIENCE,
        }
        .max(LEAST_PATIENCE);
        self.rests = self.rests.saturating_sub(1);
    }
}

static OPEN: Local<Vec<Option<Open>>> = Local::new(Vec::new());

/// Whether there are any.
static ANY: AtomicBool = AtomicBool::new(false);

/// No descriptor from here on is kept here: each takes a process of the host two of its own.
const MOST: usize = 256;

/// How long to look at most: about what sleeping and being woken costs, in ticks.
const MOST_PATIENCE: u64 = 200_000;
const LEAST_PATIENCE: u64 = 2_000;
const MOST_WASTED: u32 = 4;
const REST: u32 = 64;

/// What there is to move: where and how much.
type Parts<'a> = &'a [[u64; 2]];

static NEXT: AtomicU64 = AtomicU64::new(0);

/// What came of an attempt.
enum Attempt {
    Moved(usize),
    /// There is nothing, or no room.
    Nothing,
    /// It is the host's pipe by now.
    Surrendered,
    Fault,
}

/// Makes the call here, if it can be made so.
pub fn directly(number: u32, [a, b, c, ..]: [u64; 6]) -> Option<Result> {
    if !ANY.load(Ordering::Relaxed) {
        return None;
    }
    match number {
        number::READ => transfer(a, READER, &[[b, c]]),
        number::WRITE => transfer(a, WRITER, &[[b, c]]),
        number::READV => transfer_all(a, READER, [b, c]),
        number::WRITEV => transfer_all(a, WRITER, [b, c]),
        _ => None,
    }
}

/// The tender says that the descriptor of a call is a ring, and where. Says whether it can be used here; otherwise it is the
/// host's pipe from now on.
pub fn take_up(number: u32, descriptor: u64, place: u64) -> bool {
    const SET_SIZE: u64 = 1031;
    if try_take_up(number, descriptor, place) {
        return true;
    }
    let _ = port::call(number::FCNTL, [descriptor, SET_SIZE, SIZE as u64, 0, 0, 0]);
    false
}

fn try_take_up(number: u32, descriptor: u64, place: u64) -> bool {
    let side = if matches!(number, number::READ | number::READV) { READER } else { WRITER };
    let descriptor = descriptor as u32 as usize;
    let (at, which) = free_place();
    let Ok(bells) = engine::take_ring(place, at) else { return false };
    if descriptor >= MOST {
        engine::drop_ring(at, bells);
        return false;
    }
    let mut all = OPEN.get();
    if all.len() <= descriptor {
        all.resize(descriptor + 1, None);
    }
    all[descriptor] = Some(Open { at, side, bells, seen: 0, patience: MOST_PATIENCE / 4, wasted: 0, rests: 0, which });
    ANY.store(true, Ordering::Relaxed);
    true
}

/// A place where there is no ring, one that was not used for as long as can be, with a number that no other ring had.
fn free_place() -> (usize, u64) {
    loop {
        let which = NEXT.fetch_add(1, Ordering::Relaxed);
        let at = RINGS + which as usize % RING_PLACES * RING_ROOM;
        if OPEN.get().iter().flatten().all(|it| it.at != at) {
            return (at, which);
        }
    }
}

fn ring(at: usize) -> &'static Ring {
    // SAFETY: it is mapped as long as there is an entry with that place, and all of it is atomic.
    unsafe { &*(at as *const Ring) }
}

fn open(descriptor: u64, side: usize) -> Option<Open> {
    let open = (*OPEN.get().get(descriptor as u32 as usize)?)?;
    (open.side == side).then_some(open)
}

/// Keeps what was learnt of a ring, if it is still the same. Says whether it is.
fn keep(descriptor: u64, it: &Open) -> bool {
    match OPEN.get().get_mut(descriptor as u32 as usize) {
        Some(Some(open)) if open.which == it.which => {
            *open = *it;
            true
        }
        _ => false,
    }
}

/// What is at that number is about to change.
pub fn forget(descriptor: u64) {
    let open = OPEN.get().get_mut(descriptor as u32 as usize).and_then(Option::take);
    if let Some(open) = open {
        engine::drop_ring(open.at, open.bells);
    }
}

/// Everything may have changed.
pub fn forget_all() {
    let all = core::mem::take(&mut *OPEN.get());
    all.into_iter().flatten().for_each(|it| engine::drop_ring(it.at, it.bells));
    ANY.store(false, Ordering::Relaxed);
}

/// The process is a copy of another.
pub fn adopt() {
    OPEN.get().iter_mut().flatten().for_each(|it| it.bells = engine::adopt_bells(it.bells));
}

fn transfer_all(descriptor: u64, side: usize, [list, count]: [u64; 2]) -> Option<Result> {
    const MOST_PARTS: u64 = 1024;
    open(descriptor, side)?;
    if count > MOST_PARTS {
        return Some(Err(crate::errno::EINVAL));
    }
    match user::read_all::<[u64; 2]>(list, count as usize) {
        Ok(parts) if parts.iter().any(|it| it[1] > i64::MAX as u64) => Some(Err(crate::errno::EINVAL)),
        Ok(parts) => transfer(descriptor, side, &parts),
        Err(errno) => Some(Err(errno)),
    }
}

/// Moves bytes; waits for some, or for room for all of them, if the program does. Nothing when the tender must do it.
fn transfer(descriptor: u64, side: usize, parts: Parts<'_>) -> Option<Result> {
    let mut it = open(descriptor, side)?;
    let total = parts.iter().fold(0usize, |sum, part| sum.saturating_add(part[1] as usize));
    if total == 0 {
        return Some(Ok(0));
    }
    let ring = ring(it.at);
    if side == WRITER {
        engine::settle();
    }
    let mut done = 0;
    let errno = loop {
        match attempt(ring, descriptor, &mut it, parts, [done, total]) {
            Attempt::Moved(part) => {
                done += part;
                if side == READER {
                    crate::kept::hear();
                }
                if side == READER || done == total {
                    keep(descriptor, &it);
                    return Some(Ok(done));
                }
            }
            Attempt::Surrendered => {
                forget(descriptor);
                return (done > 0).then_some(Ok(done));
            }
            Attempt::Fault => break EFAULT,
            Attempt::Nothing if ring.unwilling[side].load(Ordering::Relaxed) != 0 => break EAGAIN,
            Attempt::Nothing => {
                let waited = wait(ring, descriptor, &mut it, need(side, total - done));
                // Meanwhile other threads ran.
                if !keep(descriptor, &it) {
                    return (done > 0).then_some(Ok(done));
                }
                if let Err(errno) = waited {
                    break errno;
                }
            }
        }
    };
    Some(if done > 0 { Ok(done) } else { Err(errno) })
}

/// How much there must be for the side: a short piece is written whole.
fn need(side: usize, left: usize) -> u32 {
    if side == WRITER && left <= PIECE as usize { left as u32 } else { 1 }
}

/// Moves what can be moved now.
fn attempt(ring: &Ring, descriptor: u64, it: &mut Open, parts: Parts<'_>, [done, total]: [usize; 2]) -> Attempt {
    let (side, other) = (it.side, 1 - it.side);
    let need = need(side, total - done);
    if !ring.is_live() {
        return Attempt::Surrendered;
    }
    if there(ring, it, need).is_none() {
        return Attempt::Nothing;
    }
    if !take_hold(ring, side) {
        return Attempt::Nothing;
    }
    // Looked at again by who may act on it.
    let attempt = match there(ring, it, need) {
        _ if !ring.is_live() => Attempt::Surrendered,
        None => Attempt::Nothing,
        Some(there) => {
            let part = (there as usize).min(total - done);
            let own = &ring.positions[side].count;
            let position = own.load(Ordering::Relaxed);
            let is_copied = copy_short(ring, it, position, parts, [done, part, there as usize])
                .unwrap_or_else(|| copy(it.at, side, position, parts, [done, part]));
            if is_copied {
                // Before the sleepers are looked for.
                own.swap(position.wrapping_add(part as u64), Ordering::SeqCst);
                Attempt::Moved(part)
            } else {
                Attempt::Fault
            }
        }
    };
    ring.locks[side].0.store(0, Ordering::Release);
    if let Attempt::Moved(_) = attempt {
        // Who of several sleepers comes first may leave something to the next.
        for side in [other, side] {
            let sleeps = ring.sleepers[side].load(Ordering::Relaxed) > 0 && ring.has_for(side, PIECE);
            if sleeps && ring.rung[side].swap(1, Ordering::SeqCst) == 0 {
                engine::wake_ring(descriptor, &mut it.bells, side);
            }
        }
    }
    attempt
}

/// How much there is for the side, if it is enough. The other side's position is taken from it only when what was seen of
/// it is not enough: each look takes its line away from it.
fn there(ring: &Ring, it: &mut Open, need: u32) -> Option<u32> {
    let own = ring.positions[it.side].count.load(Ordering::Relaxed);
    if it.side == READER {
        it.seen = ring.positions[WRITER].count.load(Ordering::Acquire);
        return between(own, it.seen).filter(|it| *it > 0);
    }
    let room = |seen| between(seen, own).map(|used| SIZE as u32 - used).filter(|it| *it >= need);
    room(it.seen).or_else(|| {
        it.seen = ring.positions[READER].count.load(Ordering::Acquire);
        room(it.seen)
    })
}

/// Waits until nobody else moves bytes on that side; not when a signal came meanwhile.
fn take_hold(ring: &Ring, side: usize) -> bool {
    const TURNS: u32 = 4096;
    /// So many rounds, each with a call, and nobody holds it any more who means well.
    const MOST_ROUNDS: u32 = 20_000;
    let (lock, own) = (&ring.locks[side].0, crate::syscall::process::number());
    for _ in 0..MOST_ROUNDS {
        for _ in 0..TURNS {
            if lock.compare_exchange(0, own, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return true;
            }
            core::hint::spin_loop();
        }
        if signal::is_due() {
            return false;
        }
        // Who holds it may need the processor. A call that does nothing gives it away.
        let _ = port::call(number::GETPID, [0; 6]);
    }
    lock.store(own, Ordering::Relaxed);
    true
}

/// The same of a short piece that is one part of the program's memory: what was written last is taken from beside its
/// position, if it is all that there is to read; what is written is put there, too. Nothing where that is not so.
fn copy_short(
    ring: &Ring,
    it: &Open,
    position: u64,
    parts: Parts<'_>,
    [done, part, there]: [usize; 3],
) -> Option<bool> {
    let &[[begin, length]] = parts else { return None };
    let (program, writer) = (begin as usize, &ring.positions[WRITER]);
    let is_mapped = |rights| SPACE.get().is_mapped(program, part, rights);
    match it.side {
        READER if there <= SHORT => {
            let bytes = writer.noted(position)?;
            if !is_mapped(Protection::WRITE) {
                return Some(false);
            }
            // SAFETY: the program's memory is mapped, and no longer than the bytes.
            unsafe { move_few(bytes.as_ptr().cast::<u8>(), program as *mut u8, part) };
        }
        WRITER if part <= SHORT && done == 0 && part == length as usize => {
            let place = (position % SIZE as u64) as usize;
            if place + part > SIZE {
                return None;
            }
            if !is_mapped(Protection::READ) {
                return Some(false);
            }
            let mut bytes = [0u64; SHORT / 8];
            let local = bytes.as_mut_ptr().cast::<u8>();
            // SAFETY: the same; and the ring, up to its end.
            unsafe {
                move_few(program as *const u8, local, part);
                move_few(local, (it.at + BYTES + place) as *mut u8, part);
            }
            writer.note(position, bytes);
        }
        _ => return None,
    }
    Some(true)
}

/// Copies a few bytes, which takes less than to begin to copy many.
///
/// # Safety
/// Both are mapped for that length.
unsafe fn move_few(from: *const u8, to: *mut u8, length: usize) {
    for at in 0..length {
        // SAFETY: the caller's.
        unsafe { to.add(at).write_volatile(from.add(at).read()) };
    }
}

/// Copies a part of the program's memory into the ring, or the other way. Says whether all of it was there.
fn copy(at: usize, side: usize, position: u64, parts: Parts<'_>, [done, part]: [usize; 2]) -> bool {
    let rights = if side == READER { Protection::WRITE } else { Protection::READ };
    let (mut skipped, mut left, mut place) = (done, part, (position % SIZE as u64) as usize);
    let space = SPACE.get();
    for &[begin, length] in parts {
        let length = length as usize;
        if skipped >= length {
            skipped -= length;
            continue;
        }
        let (mut begin, mut length) = (begin as usize + skipped, (length - skipped).min(left));
        skipped = 0;
        if length > 0 && !space.is_mapped(begin, length, rights) {
            return false;
        }
        left -= length;
        while length > 0 {
            let here = length.min(SIZE - place);
            let ring = at + BYTES + place;
            let (to, from) = if side == READER { (begin, ring) } else { (ring, begin) };
            // SAFETY: the program's memory is mapped, as was just looked up, and the ring is, up to its end.
            unsafe {
                match here {
                    0..=16 => move_few(from as *const u8, to as *mut u8, here),
                    _ => core::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, here),
                }
            };
            (begin, length, place) = (begin + here, length - here, (place + here) % SIZE);
        }
        if left == 0 {
            break;
        }
    }
    true
}

fn ticks() -> u64 {
    // SAFETY: reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Waits until there may be something. It is looked for first, as long as that was worth it of late.
fn wait(ring: &Ring, descriptor: u64, it: &mut Open, need: u32) -> Result<()> {
    let is_there = |it: &mut Open| !ring.is_live() || there(ring, it, need).is_some();
    let begun = ticks();
    // With another thread to run, or a signal, there is no time for that.
    while thread::patience(None) > 0 && ticks().wrapping_sub(begun) < it.patience {
        for _ in 0..32 {
            if is_there(it) {
                it.found(ticks().wrapping_sub(begun));
                return Ok(());
            }
            core::hint::spin_loop();
        }
    }
    let side = it.side;
    ring.sleepers[side].fetch_add(1, Ordering::SeqCst);
    let begun = ticks();
    let slept = sleep(ring, descriptor, it, need);
    if keep(descriptor, it) {
        ring.sleepers[side].fetch_sub(1, Ordering::SeqCst);
    }
    it.slept(ticks().wrapping_sub(begun));
    slept
}

fn sleep(ring: &Ring, descriptor: u64, it: &mut Open, need: u32) -> Result<()> {
    const EVENTS: [u32; 2] = [1, 4];
    let patience = thread::patience(None);
    if patience > 0 {
        engine::doze_on_ring(ring, descriptor, it.bells, it.side, patience);
        if !ring.is_live() || there(ring, it, need).is_some() {
            return Ok(());
        }
    }
    let cookie = thread::watch(descriptor, EVENTS[it.side])?;
    let why = thread::sleep(None);
    thread::unwatch(cookie);
    match why {
        Wake::Up | Wake::Timeout => Ok(()),
        Wake::Signal => Err(ERESTART),
    }
}
