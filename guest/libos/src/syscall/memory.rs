//! mmap and its kin.

use alloc::collections::BTreeMap;
use alloc::vec;
use core::sync::atomic::Ordering;

use abi::layout::PAGE;

use crate::engine::{self, Part, Source};
use crate::errno::{EACCES, EEXIST, EINVAL, ENOMEM, EPERM, Result};
use crate::space::{Place, Protection, Resize, SPACE};
use crate::sync::Local;
use crate::user;
use crate::{number, port};

/// What may be done with memory from now on. In a sealed guest nothing becomes code: `call` is who asks for it.
fn protection(bits: u64, call: u32) -> Result<Protection> {
    let protection = Protection::from_bits(bits as u8 & 7).ok_or(EINVAL)?;
    if protection.contains(Protection::EXECUTE) && engine::port().sealed.load(Ordering::Relaxed) != 0 {
        let _ = port::call(abi::call::UNKNOWN, [u64::from(call | abi::call::OUTSIDE), 0, 0, 0, 0, 0]);
        return Err(EPERM);
    }
    Ok(protection)
}

/// mmap.
pub fn map(hint: u64, length: u64, rights: u64, flags: u64, descriptor: i32, offset: u64) -> Result {
    const SHARED: u64 = 1;
    const PRIVATE: u64 = 2;
    const KIND: u64 = 0xf;
    const FIXED: u64 = 0x10;
    const ANONYMOUS: u64 = 0x20;
    const FIXED_NO_REPLACE: u64 = 0x10_0000;
    let place = match flags {
        _ if flags & FIXED_NO_REPLACE != 0 => Place::AtFree(hint as usize),
        _ if flags & FIXED != 0 => Place::At(hint as usize),
        _ => Place::Anywhere(hint as usize),
    };
    let (length, rights) = (length as usize, protection(rights, number::MMAP)?);
    let shared = match flags & KIND {
        PRIVATE => false,
        SHARED | 3 => true,
        _ => return Err(EINVAL),
    };
    if offset % PAGE as u64 != 0 || length == 0 {
        return Err(EINVAL);
    }
    match (flags & ANONYMOUS != 0, shared) {
        (true, false) => SPACE.get().map(place, length, rights, Source::Anonymous),
        (true, true) => {
            let memory = Memory::new(length)?;
            SPACE.get().map(place, length, rights, Source::Shared { descriptor: memory.0, offset: 0 })
        }
        (false, false) => {
            SPACE.get().map(place, length, rights, Source::Private(Part { descriptor, offset, ahead: 0 }))
        }
        (false, true) => SPACE.get().map(place, length, rights, Source::Shared { descriptor, offset }),
    }
}

/// Memory of the tender's, to be shared with processes that are made later.
struct Memory(i32);

impl Memory {
    fn new(length: usize) -> Result<Self> {
        const MEMFD_CREATE: u32 = 319;
        const FTRUNCATE: u32 = 77;
        const CLOSE_ON_EXEC: u64 = 1;
        let name = c"shared";
        let made = port::call(MEMFD_CREATE, [name.as_ptr() as u64, CLOSE_ON_EXEC, 0, 0, 0, 0])?;
        let memory = Self(made as i32);
        port::call(FTRUNCATE, [made as u64, length as u64, 0, 0, 0, 0])?;
        Ok(memory)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        const CLOSE: u32 = 3;
        let _ = port::call(CLOSE, [self.0 as u64, 0, 0, 0, 0, 0]);
    }
}

/// System V's shared memory, by where it is attached: its number, and how long it is.
static ATTACHED: Local<BTreeMap<usize, (u64, usize)>> = Local::new(BTreeMap::new());

/// shmat.
pub fn attach(id: u64, at: u64, flags: u64) -> Result {
    const READ_ONLY: u64 = 0o10000;
    const ROUND: u64 = 0o20000;
    const REPLACE: u64 = 0o40000;
    const EXECUTE: u64 = 0o100_000;
    let mut rights = Protection::READ;
    rights.set(Protection::WRITE, flags & READ_ONLY == 0);
    rights.set(Protection::EXECUTE, flags & EXECUTE != 0);
    let at = if flags & ROUND != 0 { at - at % PAGE as u64 } else { at };
    let place = match at {
        0 if flags & REPLACE != 0 => return Err(EINVAL),
        0 => Place::Anywhere(0),
        at if at % PAGE as u64 != 0 => return Err(EINVAL),
        at if flags & REPLACE != 0 => Place::At(at as usize),
        at => Place::AtFree(at as usize),
    };
    let answer = port::ask(number::SHMAT, [id, at, flags, 0, 0, 0], 0);
    let memory = Memory(answer.result? as i32);
    let length = (answer.limit as usize).next_multiple_of(PAGE);
    let source = Source::Shared { descriptor: memory.0, offset: 0 };
    let mapped = SPACE.get().map(place, length, rights, source);
    match mapped {
        Ok(at) => drop(ATTACHED.get().insert(at, (id, length))),
        Err(_) => drop(port::call(number::SHMDT, [id, 0, 0, 0, 0, 0])),
    }
    mapped.map_err(|errno| if errno == EEXIST { EINVAL } else { errno })
}

/// shmdt.
pub fn detach(at: u64) -> Result {
    let (id, length) = ATTACHED.get().remove(&(at as usize)).ok_or(EINVAL)?;
    unmap(at, length as u64)?;
    port::call(number::SHMDT, [id, 0, 0, 0, 0, 0])
}

/// The process has become another program.
pub fn forget_attached() {
    ATTACHED.get().clear();
}

/// process_vm_readv and process_vm_writev, between parts of this process's own memory: others' is out of reach. Gives how
/// much was copied before a part that is not there.
pub fn copy_between(process: u64, from: [u64; 2], to: [u64; 2], flags: u64) -> Result {
    const MOST_PARTS: u64 = 1024;
    if flags != 0 || from[1] > MOST_PARTS || to[1] > MOST_PARTS {
        return Err(EINVAL);
    }
    if process != u64::from(super::process::number()) {
        port::call(number::KILL, [process, 0, 0, 0, 0, 0])?;
        return Err(EPERM);
    }
    let parts = |[at, count]: [u64; 2]| user::read_all::<[u64; 2]>(at, count as usize);
    let (from, to) = (parts(from)?, parts(to)?);
    let mut rest = to.into_iter().filter(|it| it[1] > 0);
    let mut target = rest.next();
    let mut done = 0;
    for [mut at, mut left] in from {
        while left > 0 {
            let Some([into, room]) = target else { return Ok(done) };
            let count = left.min(room).min(PAGE as u64 - at % PAGE as u64);
            let mut piece = [0u8; PAGE];
            let piece = &mut piece[..count as usize];
            match user::read_into(at, piece).and_then(|()| user::write_all(into, piece)) {
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => return Ok(done),
                Ok(()) => {}
            }
            (at, left, done) = (at + count, left - count, done + count as usize);
            target = if room == count { rest.next() } else { Some([into + count, room - count]) };
        }
    }
    Ok(done)
}

/// munmap.
pub fn unmap(at: u64, length: u64) -> Result {
    SPACE.get().unmap(at as usize, length as usize).map(|()| 0)
}

/// mprotect.
pub fn protect(at: u64, length: u64, rights: u64) -> Result {
    SPACE.get().protect(at as usize, length as usize, protection(rights, number::MPROTECT)?).map(|()| 0)
}

/// brk.
pub fn set_heap(end: u64) -> Result {
    Ok(SPACE.get().set_heap(end as usize))
}

/// mremap.
pub fn resize(at: u64, old: u64, new: u64, flags: u64, to: u64) -> Result {
    let place = match flags {
        0 => Resize::Here,
        1 => Resize::Anywhere,
        3 => Resize::To(to as usize),
        _ => return Err(EINVAL),
    };
    SPACE.get().resize(at as usize, old as usize, new as usize, place)
}

/// madvise: what frees memory is passed on; what only helps is taken as done.
pub fn advise(at: u64, length: u64, advice: i32) -> Result {
    const DONT_NEED: i32 = 4;
    const FREE: i32 = 8;
    const REMOVE: i32 = 9;
    /// Of those for which there is a number.
    const KNOWN: i32 = 103;
    const GUARD: core::ops::RangeInclusive<i32> = 102..=103;
    let (at, length) = (at as usize, (length as usize).next_multiple_of(PAGE));
    if at % PAGE != 0 {
        return Err(EINVAL);
    }
    if length == 0 {
        return Ok(0);
    }
    if !SPACE.get().is_mapped(at, length, Protection::empty()) {
        return Err(ENOMEM);
    }
    match advice {
        DONT_NEED | FREE => engine::discard(at, length).map(|()| 0),
        REMOVE => Err(EACCES),
        it if GUARD.contains(&it) || !(0..=KNOWN).contains(&it) => Err(EINVAL),
        _ => Ok(0),
    }
}

/// msync: what was written to a file's pages is in the file.
pub fn synchronise(at: u64, length: u64) -> Result {
    if at as usize % PAGE != 0 {
        return Err(EINVAL);
    }
    let length = (length as usize).checked_next_multiple_of(PAGE).ok_or(ENOMEM)?;
    if SPACE.get().is_mapped(at as usize, length, Protection::empty()) { Ok(0) } else { Err(ENOMEM) }
}

/// mincore: all that is mapped may be there.
pub fn resident(at: u64, length: u64, into: u64) -> Result {
    let length = (length as usize).next_multiple_of(PAGE);
    if at as usize % PAGE != 0 {
        return Err(EINVAL);
    }
    if !SPACE.get().is_mapped(at as usize, length, Protection::empty()) {
        return Err(ENOMEM);
    }
    user::write_all(into, &vec![1u8; length / PAGE])?;
    Ok(0)
}
