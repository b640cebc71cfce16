//! poll, select and epoll over sockets that are in here and whatever else the program has.
//!
//! A set (epoll) is the tender's, with what is not in here; of what is, this keeps account. Whether the tender's part has
//! something it tells once, by a watch that stays from call to call, so that a program which is busy with its sockets asks
//! nobody.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::socket::{ERROR, HUNG_UP, IN};
use super::{Stack, What, attend, is_on, pause, with};
use crate::errno::{EBADF, EEXIST, EINTR, EINVAL, ENOENT, Result};
use crate::syscall::Asked;
use crate::thread::{self, Wake};
use crate::{clock, number, port, user};

/// What of a set is in here.
pub struct Set {
    /// By the descriptor and the socket that it was then.
    interests: BTreeMap<(u64, u32), Interest>,
    /// The tender tells with it that its part has something.
    watch: Option<u64>,
    /// The tender's part may have something.
    has_news: bool,
    /// When it was looked for that last, by [`clock::monotonic`].
    looked: u64,
}

#[derive(Clone, Copy)]
struct Interest {
    events: u32,
    data: u64,
    /// The socket's edge when it was told of.
    told: u64,
    /// It was told of once, and that was all.
    is_spent: bool,
}

/// `struct epoll_event`, packed.
const EVENT: usize = 12;
const EDGE: u32 = 1 << 31;
const ONCE: u32 = 1 << 30;

impl Set {
    fn new() -> Self {
        Self { interests: BTreeMap::new(), watch: None, has_news: true, looked: 0 }
    }

    /// A socket is no more.
    pub fn forget(&mut self, socket: u32) {
        self.interests.retain(|it, _| it.1 != socket);
    }

    /// Nobody waits for the tender's part. Gives what it would have told with.
    pub fn forget_watch(&mut self) -> Option<u64> {
        self.has_news = true;
        self.watch.take()
    }
}

impl Stack {
    /// What of a set can be told now.
    fn ready_in(&mut self, id: u32, most: usize) -> Result<Vec<[u8; EVENT]>> {
        let mut set = self.sets.remove(&id).ok_or(EBADF)?;
        let mut ready = Vec::new();
        for ((_, socket), interest) in &mut set.interests {
            if ready.len() == most {
                break;
            }
            if interest.is_spent {
                continue;
            }
            let Some((events, edge)) = self.events_of(*socket) else { continue };
            let told = events & (interest.events | ERROR | HUNG_UP);
            if told == 0 || interest.events & EDGE != 0 && interest.told == edge {
                continue;
            }
            interest.told = edge;
            interest.is_spent = interest.events & ONCE != 0;
            let mut event = [0; EVENT];
            event[..4].copy_from_slice(&told.to_ne_bytes());
            event[4..].copy_from_slice(&interest.data.to_ne_bytes());
            ready.push(event);
        }
        self.sets.insert(id, set);
        Ok(ready)
    }

    /// What a socket has, and its edge.
    fn events_of(&mut self, id: u32) -> Option<(u32, u64)> {
        let socket = self.take(id).ok()?;
        let has = (socket.has(self).events, socket.edge);
        self.put(id, socket);
        Some(has)
    }

    /// What a descriptor in here has.
    fn events_at(&mut self, descriptor: u64) -> Option<u32> {
        match self.what(descriptor)?.what {
            What::Socket(id) => self.events_of(id).map(|it| it.0),
            What::Set(id) => {
                let any = self.sets.get(&id)?.interests.clone();
                let is_ready = any.iter().any(|((_, socket), it)| {
                    let events = self.events_of(*socket).map_or(0, |it| it.0);
                    !it.is_spent && events & (it.events | ERROR | HUNG_UP) != 0
                });
                Some(if is_ready { IN } else { 0 })
            }
        }
    }
}

/// epoll_ctl: the set, what to do, the descriptor, and where the event is. Nothing where it is the tender's alone.
pub fn control([set, operation, descriptor, at]: [u64; 4]) -> Option<Result> {
    let socket = with(|it| it.socket_at(descriptor))?;
    Some(control_own(set, operation, (descriptor, socket), at))
}

fn control_own(set: u64, operation: u64, key: (u64, u32), at: u64) -> Result {
    const ADD: u64 = 1;
    const DELETE: u64 = 2;
    const MODIFY: u64 = 3;
    let id = enter(set, key.0)?;
    let event = match operation {
        DELETE => [0; EVENT],
        ADD | MODIFY => user::read(at)?,
        _ => return Err(EINVAL),
    };
    let [e0, e1, e2, e3, data @ ..] = event;
    let events = u32::from_ne_bytes([e0, e1, e2, e3]);
    let interest = Interest { events, data: u64::from_ne_bytes(data), told: 0, is_spent: false };
    with(|it| {
        let set = it.sets.get_mut(&id).ok_or(EBADF)?;
        match (operation, set.interests.contains_key(&key)) {
            (ADD, true) => return Err(EEXIST),
            (DELETE | MODIFY, false) => return Err(ENOENT),
            (DELETE, true) => drop(set.interests.remove(&key)),
            _ => drop(set.interests.insert(key, interest)),
        }
        // Another thread may wait for the set.
        it.wake();
        Ok(0)
    })
}

/// The account of a set, made when it is needed.
fn enter(set: u64, descriptor: u64) -> Result<u32> {
    const DELETE: u64 = 2;
    match with(|it| it.what(set)) {
        Some(super::Open { what: What::Set(id), .. }) => return Ok(id),
        Some(_) => return Err(EINVAL),
        None => {}
    }
    // Whether it is a set at all, the tender knows: of one that there is, it says that the descriptor is not in it.
    match port::call(number::EPOLL_CTL, [set, DELETE, descriptor, 0, 0, 0]) {
        Err(ENOENT) | Ok(_) => {}
        Err(errno) => return Err(errno),
    }
    const GET_DESCRIPTOR_FLAGS: u64 = 1;
    let flags = port::call(number::FCNTL, [set, GET_DESCRIPTOR_FLAGS, 0, 0, 0, 0])?;
    Ok(with(|it| {
        let id = it.next;
        it.next += 1;
        it.sets.insert(id, Set::new());
        it.enter(set, What::Set(id), flags & 1 != 0);
        id
    }))
}

/// The tender's part of a set has something. Wakes who waits.
pub fn fired(cookie: u64) {
    if is_on() {
        with(|it| {
            for set in it.sets.values_mut().filter(|it| it.watch == Some(cookie)) {
                (set.watch, set.has_news) = (None, true);
            }
            it.wake();
        });
    }
}

/// epoll_wait: the set, where events go, how many at most, and for how long. Nothing where the set is the tender's alone.
pub fn wait([set, into, most]: [u64; 3], timeout: Option<u64>) -> Option<Result> {
    if !is_on() {
        return None;
    }
    let What::Set(id) = with(|it| it.what(set))?.what else { return Some(Err(EINVAL)) };
    Some(wait_for(id, [set, into, most], timeout))
}

/// Whether the tender's part of a set is to be asked. Who finds enough in here never sleeps, and would never hear of the rest:
/// now and then it is listened to.
fn asks(id: u32, found: usize) -> bool {
    const OFTEN: u64 = 1_000_000;
    let has_news = || with(|it| it.sets.get(&id).is_some_and(|it| it.has_news));
    let now = clock::monotonic();
    let is_late = with(|it| {
        let Some(set) = it.sets.get_mut(&id) else { return false };
        let is_late = now.saturating_sub(set.looked) > OFTEN;
        if is_late || found == 0 {
            set.looked = now;
        }
        is_late
    });
    if found > 0 && is_late && !has_news() {
        thread::listen();
    }
    has_news()
}

fn wait_for(id: u32, [set, into, most]: [u64; 3], timeout: Option<u64>) -> Result {
    const MOST: u64 = 1024;
    if most == 0 || most > i32::MAX as u64 {
        return Err(EINVAL);
    }
    let most = most.min(MOST);
    let deadline = timeout.map(|it| clock::monotonic().saturating_add(it));
    loop {
        attend();
        let own = with(|it| it.ready_in(id, most as usize))?;
        user::write_bytes(into, own.as_flattened())?;
        let mut found = own.len();
        let asks = asks(id, found);
        if asks && (found as u64) < most {
            let place = into + (found * EVENT) as u64;
            let others = port::call(number::EPOLL_WAIT, [set, place, most - found as u64, 0, 0, 0])?;
            found += others;
            if others == 0 {
                let cookie = thread::watch_for_all(set, IN)?;
                let old = with(|it| {
                    let set = it.sets.get_mut(&id)?;
                    set.has_news = false;
                    set.watch.replace(cookie)
                });
                if let Some(old) = old {
                    thread::unwatch(old);
                }
            }
        }
        if found > 0 || timeout == Some(0) {
            return Ok(found);
        }
        match pause(deadline) {
            Wake::Signal => return Err(EINTR),
            Wake::Timeout => return Ok(0),
            Wake::Up => {}
        }
    }
}

/// poll, over descriptors of which some are in here; nothing where none is.
pub fn poll(asked: &mut [Asked], timeout: Option<u64>) -> Option<Result> {
    let is_own = |it: &Asked| it.descriptor >= 0 && with(|stack| stack.what(it.descriptor as u64)).is_some();
    (is_on() && asked.iter().any(is_own)).then(|| poll_mixed(asked, timeout))
}

fn poll_mixed(asked: &mut [Asked], timeout: Option<u64>) -> Result {
    let deadline = timeout.map(|it| clock::monotonic().saturating_add(it));
    loop {
        attend();
        let mut rest: Vec<Asked> = asked.to_vec();
        for (it, other) in asked.iter_mut().zip(&mut rest) {
            it.found = 0;
            if it.descriptor < 0 {
                continue;
            }
            let (is_socket, events) =
                with(|stack| (stack.socket_at(it.descriptor as u64).is_some(), stack.events_at(it.descriptor as u64)));
            let told = events.unwrap_or(0) & (u32::from(it.events) | ERROR | HUNG_UP);
            it.found = told as u16;
            if is_socket {
                other.descriptor = -1;
            }
        }
        if rest.iter().any(|it| it.descriptor >= 0) {
            port::call(number::POLL, [rest.as_mut_ptr() as u64, rest.len() as u64, 0, 0, 0, 0])?;
            for (it, other) in asked.iter_mut().zip(&rest).filter(|(_, other)| other.descriptor >= 0) {
                it.found |= other.found;
            }
        }
        let found = asked.iter().filter(|it| it.found != 0).count();
        if found > 0 || timeout == Some(0) {
            return Ok(found);
        }
        let watch = |it: &Asked| thread::watch(it.descriptor as u64, u32::from(it.events)).ok();
        let watched: Vec<u64> = rest.iter().filter(|it| it.descriptor >= 0).filter_map(watch).collect();
        let why = pause(deadline);
        watched.into_iter().for_each(thread::unwatch);
        match why {
            Wake::Signal => return Err(EINTR),
            Wake::Timeout => return Ok(0),
            Wake::Up => {}
        }
    }
}
