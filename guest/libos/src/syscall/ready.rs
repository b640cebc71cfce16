//! poll, select and epoll: waiting for one of many descriptors. The tender says what is ready now; what is not is watched.

use alloc::vec;
use alloc::vec::Vec;

use super::time::Timeout;
use crate::errno::{EINTR, EINVAL, Result};
use crate::thread::{self, Wake};
use crate::{clock, engine, number, port, signal, user};

const IN: u32 = 1;

/// One of poll's descriptors, as the program gives it: the descriptor, the events asked for, the events that are.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Asked {
    pub descriptor: i32,
    pub events: u16,
    pub found: u16,
}

// SAFETY: numbers, without padding.
unsafe impl user::Plain for Asked {}

const MOST: u64 = 1 << 20;

/// poll.
pub fn poll(at: u64, count: u64, timeout: Result<Timeout>) -> Result {
    if count > MOST {
        return Err(EINVAL);
    }
    let mut asked: Vec<Asked> = user::read_all(at, count as usize)?;
    let found = wait(&mut asked, timeout?)?;
    user::write_all(at, &asked)?;
    Ok(found)
}

/// ppoll.
pub fn poll_masked(at: u64, count: u64, timeout: u64, mask: u64) -> Result {
    let timeout = super::time::timeout(timeout)?;
    set_mask(mask)?;
    poll(at, count, Ok(timeout))
}

fn set_mask(mask: u64) -> Result<()> {
    if mask != 0 {
        signal::mask_for_now(user::read(mask)?);
    }
    Ok(())
}

fn wait(asked: &mut [Asked], timeout: Timeout) -> Result {
    if let Some(result) = crate::net::poll(asked, timeout) {
        return result;
    }
    let deadline = timeout.map(|it| clock::monotonic().saturating_add(it));
    loop {
        signal::pending::tell();
        let arguments = [asked.as_mut_ptr() as u64, asked.len() as u64, 0, 0, 0, 0];
        let found = port::call(number::POLL, arguments)?;
        if found > 0 || timeout == Some(0) {
            return Ok(found);
        }
        let watched: Vec<u64> = asked
            .iter()
            .filter(|it| it.descriptor >= 0)
            .filter_map(|it| thread::watch(it.descriptor as u64, u32::from(it.events)).ok())
            .collect();
        let why = thread::sleep(deadline);
        watched.into_iter().for_each(thread::unwatch);
        match why {
            Wake::Signal => return Err(EINTR),
            Wake::Timeout => return Ok(0),
            Wake::Up => {}
        }
    }
}

/// select. The sets are for reading, writing, exceptions.
pub fn select(count: u64, sets: [u64; 3], timeout: Result<Timeout>, mask: u64) -> Result {
    /// What each set asks for, and which events belong to it.
    const ASK: [u16; 3] = [0x41, 0x104, 2];
    const BELONG: [u16; 3] = [0x41 | 0x80 | 0x10 | 8, 0x104 | 8, 2];
    let timeout = timeout?;
    let count = usize::try_from(count as i32).map_err(|_| EINVAL)?.min(1024);
    let words = count.div_ceil(64);
    let mut asked: Vec<Asked> = Vec::new();
    let mut given = [const { Vec::new() }; 3];
    for (index, set) in sets.into_iter().enumerate().filter(|(_, set)| *set != 0) {
        given[index] = user::read_all::<u64>(set, words)?;
        for descriptor in (0..count).filter(|it| given[index][it / 64] >> (it % 64) & 1 != 0) {
            match asked.iter_mut().find(|it| it.descriptor == descriptor as i32) {
                Some(it) => it.events |= ASK[index],
                None => asked.push(Asked { descriptor: descriptor as i32, events: ASK[index], found: 0 }),
            }
        }
    }
    set_mask(mask)?;
    wait(&mut asked, timeout)?;
    const INVALID: u16 = 0x20;
    if asked.iter().any(|it| it.found & INVALID != 0) {
        return Err(crate::errno::EBADF);
    }
    let mut total = 0;
    for (index, set) in sets.into_iter().enumerate().filter(|(_, set)| *set != 0) {
        let mut out = vec![0u64; words];
        for it in &asked {
            let at = it.descriptor as usize;
            if given[index][at / 64] >> (at % 64) & 1 != 0 && it.found & BELONG[index] != 0 {
                out[at / 64] |= 1 << (at % 64);
                total += 1;
            }
        }
        user::write_all(set, &out)?;
    }
    Ok(total)
}

/// pselect6, whose last argument points to the mask's address and size.
pub fn select_masked(count: u64, sets: [u64; 3], timeout: u64, mask: u64) -> Result {
    let timeout = super::time::timeout(timeout);
    let mask = if mask == 0 { 0 } else { user::read::<[u64; 2]>(mask)?[0] };
    select(count, sets, timeout, mask)
}

/// epoll_wait and its kin: the set's descriptor, where events go, and how many at most.
pub fn events([set, into, most]: [u64; 3], timeout: Result<Timeout>, mask: u64) -> Result {
    let timeout = timeout?;
    let deadline = timeout.map(|it| clock::monotonic().saturating_add(it));
    set_mask(mask)?;
    if let Some(result) = crate::net::wait([set, into, most], timeout) {
        return result;
    }
    loop {
        signal::pending::tell();
        let patience = if timeout == Some(0) { 0 } else { thread::patience(deadline) };
        let found = match engine::events([set, into, most], patience) {
            Some(found) => found,
            None => port::ask(number::EPOLL_WAIT, [set, into, most, 0, 0, 0], patience).result?,
        };
        if found > 0 || timeout == Some(0) {
            return Ok(found);
        }
        let cookie = thread::watch(set, IN)?;
        let why = thread::sleep(deadline);
        thread::unwatch(cookie);
        match why {
            Wake::Signal => return Err(EINTR),
            Wake::Timeout => return Ok(0),
            Wake::Up => {}
        }
    }
}
