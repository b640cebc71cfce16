//! Messages and semaphores of System V: the host's, in the cell's IPC namespace. Nothing waits there: who has to, hears when
//! another process of the family has changed something, and tries again.

#![expect(unsafe_code, reason = "structures of these calls are bytes, each as long as its call says")]

use std::sync::{Arc, Mutex, PoisonError};

use sys::Errno;

use super::Reply;
use super::pass::MOST;
use crate::member::Member;
use crate::raw::{self, Argument};
use crate::waits::{MOST_AWAITED, Waits};

/// Who waits for a change.
#[derive(Default)]
pub(crate) struct Changes {
    state: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// How often something has changed.
    count: u64,
    waiting: Vec<(Arc<Waits>, u64)>,
}

impl Changes {
    fn count(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).count
    }

    /// Something has changed.
    pub(crate) fn note(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.count += 1;
        state.waiting.drain(..).for_each(|(waits, cookie)| waits.give(cookie));
    }

    /// Gives the cookie at the first change after that call; at once to a process that waits for too many.
    pub(crate) fn watch(&self, waits: &Arc<Waits>, cookie: u64, waited: Option<Waited>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_mine = |it: &&(Arc<Waits>, u64)| Arc::ptr_eq(&it.0, waits);
        let is_full = |all: &[_]| all.len() >= MOST_AWAITED && all.iter().filter(is_mine).count() >= MOST_AWAITED;
        if waited.is_none_or(|it| it.seen != state.count) || is_full(&state.waiting) {
            waits.give(cookie);
        } else {
            state.waiting.push((waits.clone(), cookie));
        }
    }

    /// With what a process would be told.
    pub(crate) fn cookies_of(&self, waits: &Arc<Waits>) -> Vec<u64> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting.iter().filter(|it| Arc::ptr_eq(&it.0, waits)).map(|it| it.1).collect()
    }

    /// That process waits no longer.
    pub(crate) fn unwatch(&self, waits: &Arc<Waits>, cookie: Option<u64>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting.retain(|it| !Arc::ptr_eq(&it.0, waits) || cookie.is_some_and(|cookie| it.1 != cookie));
    }
}

/// A call that had to wait: on what, and how often something had changed before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waited {
    call: u32,
    id: u64,
    seen: u64,
}

/// What is taken back of a process's operations when it ends (SEM_UNDO), by set and semaphore.
#[derive(Debug, Default)]
pub(crate) struct Undo(Vec<(i32, u16, i32)>);

const DONT_WAIT: u64 = libc::IPC_NOWAIT as u64;

/// An operation on a semaphore: which, by how much, flags.
const OPERATION: usize = 6;
const MOST_OPERATIONS: u64 = 500;

pub(crate) fn answer(member: &mut Member, number: u32, [a, b, c, d, e, _]: [u64; 6]) -> Option<Reply> {
    // Before the attempt: what changes from here on counts.
    let seen = member.family.changes.count();
    let waited = member.waited.take().is_some_and(|it| (it.call, it.id) == (number, a));
    let (result, waits, limit) = match i64::from(number) {
        libc::SYS_msgget => (call(number, [a, b, 0, 0], None), false, 0),
        libc::SYS_semget => (call(number, [a, b, c, 0], None), false, 0),
        libc::SYS_msgsnd => (send(member, [a, b, c, d]), d & DONT_WAIT == 0, 0),
        libc::SYS_msgrcv => (receive(member, [a, b, c, d], e), e & DONT_WAIT == 0, 0),
        libc::SYS_msgctl => (control_queue(member, a, b, c), false, 0),
        libc::SYS_semctl => (control_set(member, a, b, c, d), false, 0),
        libc::SYS_semop | libc::SYS_semtimedop => {
            let time = if i64::from(number) == libc::SYS_semop { 0 } else { d };
            let limit = match limit(member, time) {
                Ok(limit) => limit,
                Err(errno) => return Some(Err(errno).into()),
            };
            match operate(member, a, b, c) {
                Ok(waits) => (waits, true, limit.unwrap_or(0)),
                Err(errno) => (Err(errno), false, 0),
            }
        }
        _ => return None,
    };
    Some(match result {
        Err(Errno::AGAIN | Errno::NOMSG) if waits => {
            member.waited = Some(Waited { call: number, id: a, seen });
            Reply::AfterChange { limit }
        }
        // It was there when the process began to wait.
        Err(Errno::INVAL) if waited => Err(Errno::IDRM).into(),
        other => other.into(),
    })
}

/// How long a wait may take, in nanoseconds.
fn limit(member: &Member, time: u64) -> Result<Option<u64>, Errno> {
    if time == 0 {
        return Ok(None);
    }
    let bytes: [u8; 16] = member.memory.number(time)?;
    let word = |at: usize| bytes[at..at + 8].try_into().map_or(0, i64::from_ne_bytes);
    match (u64::try_from(word(0)), u64::try_from(word(8))) {
        (Ok(seconds), Ok(nanoseconds)) if nanoseconds < 1_000_000_000 => {
            // Nothing is "for ever".
            Ok(Some(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds).max(1)))
        }
        _ => Err(Errno::INVAL),
    }
}

/// Makes a call with numbers, one of which may be the address of that memory: the argument with that index. No number is an
/// address that anybody has looked behind.
pub(super) fn call(number: u32, numbers: [u64; 4], memory: Option<(usize, &mut [u8])>) -> Result<u64, Errno> {
    let mut words = numbers.map(Argument::Number);
    if let Some((at, bytes)) = memory {
        words[at] = Argument::Memory(bytes);
    }
    let [a, b, c, d] = words;
    let mut words = [a, b, c, d, Argument::Number(0), Argument::Number(0)];
    // SAFETY: the callers give memory that is as long as the kernel follows it, and no number that is taken for an address.
    unsafe { raw::call(number, &mut words) }
}

fn send(member: &Member, [queue, at, length, how]: [u64; 4]) -> Result<u64, Errno> {
    if length > MOST as u64 {
        return Err(Errno::INVAL);
    }
    let mut message = member.memory.bytes(at, 8 + length as usize)?;
    let sent = call(libc::SYS_msgsnd as u32, [queue, 0, length, how | DONT_WAIT], Some((1, &mut message)));
    noting(member, sent)
}

fn noting(member: &Member, result: Result<u64, Errno>) -> Result<u64, Errno> {
    if result.is_ok() {
        member.family.note_change();
    }
    result
}

fn receive(member: &Member, [queue, at, length, kind]: [u64; 4], how: u64) -> Result<u64, Errno> {
    if length > i64::MAX as u64 {
        return Err(Errno::INVAL);
    }
    let mut message = vec![0; 8 + (length as usize).min(MOST)];
    let fits = (message.len() - 8) as u64;
    let mut words = [
        Argument::Number(queue),
        Argument::Memory(&mut message),
        Argument::Number(fits),
        Argument::Number(kind),
        Argument::Number(how | DONT_WAIT),
        Argument::Number(0),
    ];
    // SAFETY: the message is eight bytes longer than the length says, as the kernel has it.
    let received = unsafe { raw::call(libc::SYS_msgrcv as u32, &mut words) };
    let received = noting(member, received)?;
    member.memory.write(at, &message[..8 + (received as usize).min(fits as usize)])?;
    Ok(received)
}

fn control_queue(member: &Member, queue: u64, operation: u64, at: u64) -> Result<u64, Errno> {
    const SIZE: usize = 120;
    control(member, libc::SYS_msgctl as u32, [queue, operation, 0, 0], 2, at, SIZE)
}

/// The operations that every kind has, on a structure of that size, which is the argument with that index.
fn control(
    member: &Member,
    number: u32,
    mut words: [u64; 4],
    operation_at: usize,
    at: u64,
    size: usize,
) -> Result<u64, Errno> {
    let structure = operation_at;
    let operation = words[operation_at - 1] as i32;
    words[structure] = 0;
    match operation {
        libc::IPC_RMID => noting(member, call(number, words, None)),
        libc::IPC_SET => {
            let mut bytes = member.memory.bytes(at, size)?;
            noting(member, call(number, words, Some((structure, &mut bytes))))
        }
        libc::IPC_STAT => {
            let mut bytes = vec![0; size];
            let done = call(number, words, Some((structure, &mut bytes)))?;
            member.memory.write(at, &bytes)?;
            Ok(done)
        }
        // Tables of the whole system, which no program but `ipcs` asks for.
        _ => Err(Errno::INVAL),
    }
}

fn control_set(member: &mut Member, set: u64, index: u64, operation: u64, value: u64) -> Result<u64, Errno> {
    const NUMBER: u32 = libc::SYS_semctl as u32;
    const SIZE: usize = 104;
    /// Where it says how many semaphores there are.
    const COUNT: std::ops::Range<usize> = 80..88;
    let words = [set, index, operation, 0];
    let count = |bytes: &mut [u8; SIZE]| {
        call(NUMBER, [set, 0, libc::IPC_STAT as u64, 0], Some((3, bytes)))?;
        Ok::<_, Errno>(bytes[COUNT].try_into().map_or(0, u64::from_ne_bytes) as usize)
    };
    match operation as i32 {
        libc::GETVAL | libc::GETPID | libc::GETNCNT | libc::GETZCNT => call(NUMBER, words, None),
        libc::SETVAL => {
            member.undo.0.retain(|it| (it.0, u64::from(it.1)) != (set as i32, index));
            noting(member, call(NUMBER, [set, index, operation, u64::from(value as u32)], None))
        }
        libc::GETALL => {
            let mut bytes = vec![0; count(&mut [0; SIZE])?.max(1) * 2];
            let done = call(NUMBER, words, Some((3, &mut bytes)))?;
            member.memory.write(value, &bytes)?;
            Ok(done)
        }
        libc::SETALL => {
            let mut bytes = member.memory.bytes(value, count(&mut [0; SIZE])?.max(1) * 2)?;
            member.undo.0.retain(|it| it.0 != set as i32);
            noting(member, call(NUMBER, words, Some((3, &mut bytes))))
        }
        _ => control(member, NUMBER, words, 3, value, SIZE),
    }
}

/// semop. The inner result is EAGAIN only where the process wants to wait.
fn operate(member: &mut Member, set: u64, at: u64, count: u64) -> Result<Result<u64, Errno>, Errno> {
    if count == 0 {
        return Err(Errno::INVAL);
    }
    if count > MOST_OPERATIONS {
        return Err(Errno::TOOBIG);
    }
    let mut bytes = member.memory.bytes(at, count as usize * OPERATION)?;
    let mut willing = true;
    let mut undo = Vec::new();
    for one in bytes.chunks_exact_mut(OPERATION) {
        let number = |at: usize| u16::from_ne_bytes([one[at], one[at + 1]]);
        let (index, by, flags) = (number(0), number(2) as i16, number(4));
        willing &= u64::from(flags) & DONT_WAIT == 0;
        if flags & libc::SEM_UNDO as u16 != 0 {
            undo.push((set as i32, index, -i32::from(by)));
        }
        // The host would take it back when the tender ends.
        let flags = (flags | DONT_WAIT as u16) & !(libc::SEM_UNDO as u16);
        one[4..].copy_from_slice(&flags.to_ne_bytes());
    }
    let done = call(libc::SYS_semop as u32, [set, 0, count, 0], Some((1, &mut bytes)));
    match noting(member, done) {
        Err(Errno::AGAIN) if willing => Ok(Err(Errno::AGAIN)),
        Err(errno) => Err(errno),
        Ok(done) => {
            for (set, index, by) in undo {
                match member.undo.0.iter_mut().find(|it| (it.0, it.1) == (set, index)) {
                    Some(known) => known.2 = known.2.saturating_add(by),
                    None => member.undo.0.push((set, index, by)),
                }
            }
            Ok(Ok(done))
        }
    }
}

impl Member {
    /// The process has ended: its operations on semaphores are taken back as it wanted, as far as that can be.
    pub(crate) fn take_back(&mut self) {
        for (set, index, by) in std::mem::take(&mut self.undo.0) {
            let Ok(by) = i16::try_from(by) else { continue };
            if by == 0 {
                continue;
            }
            let mut bytes = [index.to_ne_bytes(), by.to_ne_bytes(), (DONT_WAIT as u16).to_ne_bytes()].concat();
            let done = call(libc::SYS_semop as u32, [set as u64, 0, 1, 0], Some((1, &mut bytes)));
            let _ = noting(self, done);
        }
        self.family.changes.unwatch(&self.living.waits, None);
    }
}

#[cfg(test)]
mod properties {
    use super::*;

    #[test]
    fn no_process_waits_for_more_changes_than_the_most() {
        let (changes, [one, other]) = (Changes::default(), [(); 2].map(|()| Arc::new(Waits::new().unwrap())));
        let waited = Some(Waited { call: 0, id: 0, seen: 0 });
        for cookie in 0..MOST_AWAITED as u64 + 3 {
            changes.watch(&one, cookie, waited);
        }
        changes.watch(&other, 7, waited);
        assert_eq!((changes.cookies_of(&one).len(), changes.cookies_of(&other)), (MOST_AWAITED, vec![7]));
        assert_eq!(one.all().ready.len(), 3, "too many are told at once");
        changes.note();
        assert_eq!(other.all().ready, [7]);
    }
}
