//! poll and epoll: what is ready now.

#![expect(unsafe_code, reason = "epoll's events are the guest's bytes")]

use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, PoisonError};

use rustix::event::epoll::{self, CreateFlags};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use sys::Errno;

use super::Reply;
use crate::files::{File, OnExec, Waiting};
use crate::interests::{EVENT, Interest};
use crate::member::Member;
use crate::raw::{self, Argument};

pub(crate) fn answer(member: &mut Member, number: u32, [a, b, c, d, ..]: [u64; 6]) -> Option<Reply> {
    Some(
        match i64::from(number) {
            libc::SYS_poll => poll(member, a, b),
            libc::SYS_epoll_create1 => create(member, a),
            libc::SYS_epoll_ctl => control(member, [a, b, c], d),
            libc::SYS_epoll_wait => events(member, a, b, c),
            _ => return None,
        }
        .into(),
    )
}

/// What Linux says that an epoll instance is.
pub(crate) const EPOLL: &[u8] = b"anon_inode:[eventpoll]";

/// The size of a guest's `struct pollfd`.
const ASKED: usize = 8;

fn poll(member: &Member, at: u64, count: u64) -> Result<u64, Errno> {
    const MOST: u64 = 1 << 20;
    if count > MOST {
        return Err(Errno::INVAL);
    }
    let mut bytes = member.memory.bytes(at, count as usize * ASKED)?;
    let mut places = Vec::new();
    let mut asked = Vec::new();
    let mut invalid = 0;
    for (index, one) in bytes.chunks_exact_mut(ASKED).enumerate() {
        let descriptor = i32::from_ne_bytes([one[0], one[1], one[2], one[3]]);
        let events = u16::from_ne_bytes([one[4], one[5]]);
        one[6..].fill(0);
        if descriptor < 0 {
            continue;
        }
        match member.table.get(descriptor as u64) {
            Ok(file) => {
                places.push(index);
                asked.push(PollFd::from_borrowed_fd(file.as_fd(), PollFlags::from_bits_retain(events)));
            }
            Err(_) => {
                one[6..].copy_from_slice(&(libc::POLLNVAL as u16).to_ne_bytes());
                invalid += 1;
            }
        }
    }
    let found = rustix::event::poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    for (place, one) in places.into_iter().zip(&asked) {
        let at = place * ASKED + 6;
        bytes[at..at + 2].copy_from_slice(&one.revents().bits().to_ne_bytes());
    }
    drop(asked);
    member.memory.write(at, &bytes)?;
    Ok((found + invalid) as u64)
}

fn create(member: &mut Member, flags: u64) -> Result<u64, Errno> {
    if flags & !u64::from(OFlags::CLOEXEC.bits()) != 0 {
        return Err(Errno::INVAL);
    }
    let fd = epoll::create(CreateFlags::CLOEXEC)?;
    member.table.add(File::new(fd, Waiting::Yes, EPOLL), OnExec::by(flags), 0)
}

fn control(member: &Member, [set, operation, number]: [u64; 3], event: u64) -> Result<u64, Errno> {
    let (set, file) = (member.table.get(set)?, member.table.get(number)?);
    let mut event = match event {
        0 => Vec::new(),
        event => member.memory.bytes(event, EVENT)?,
    };
    let host = |file: &File| Argument::Number(file.as_fd().as_raw_fd() as u64);
    let nothing = || Argument::Number(0);
    let mut words =
        [host(set), Argument::Number(operation), host(file), Argument::Memory(&mut event), nothing(), nothing()];
    // SAFETY: it reads one event, and there is one or none.
    let done = unsafe { raw::call(libc::SYS_epoll_ctl as u32, &mut words) }?;
    note_interest(set, (file, number), operation, &event);
    Ok(done)
}

fn note_interest(set: &File, (file, descriptor): (&Arc<File>, u64), operation: u64, event: &[u8]) {
    let mut interests = set.interests.lock().unwrap_or_else(PoisonError::into_inner);
    let host = file.as_fd().as_raw_fd();
    match Interest::new(file, descriptor, event) {
        Some(interest) if operation as i32 != libc::EPOLL_CTL_DEL => interests.put(host, interest),
        _ => interests.remove(host),
    }
}

fn events(member: &mut Member, set: u64, into: u64, most: u64) -> Result<u64, Errno> {
    const MOST: u64 = 1024;
    if most == 0 || most > i32::MAX as u64 {
        return Err(Errno::INVAL);
    }
    let set = member.table.get(set)?;
    let most = most.min(MOST);
    let mut events = vec![0; most as usize * EVENT];
    let mut words = [
        Argument::Number(set.as_fd().as_raw_fd() as u64),
        Argument::Memory(&mut events),
        Argument::Number(most),
        Argument::Number(0),
        Argument::Number(0),
        Argument::Number(0),
    ];
    // SAFETY: there is room for as many events as are asked for.
    let found = unsafe { raw::call(libc::SYS_epoll_wait as u32, &mut words) }?;
    let length = (found.min(most)) as usize * EVENT;
    member.memory.write(into, &events[..length])?;
    crate::ahead::send_along(member, set, &events[..length]);
    // Whatever brought the news may have changed files before.
    member.check_kept();
    Ok(found)
}
