//! Bytes that come with the news of them: see [`abi::post`].

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use abi::post::{ALIGNMENT, Ahead, DRAINED, LONGEST, MOST, WAITS};
use rustix::net::RecvFlags;

use crate::files::{File, Waiting};
use crate::interests::{EVENT, Interest, read_event};
use crate::member::Member;

/// How much on its way a stream surely has room for, even one that was just opened, in bytes.
const SURE_ROOM: u32 = 8 << 10;

/// What a guest offers room for at most.
const MOST_ROOM: u32 = 1 << 20;

/// The events of [`epoll_ctl`](https://man7.org/linux/man-pages/man2/epoll_ctl.2.html).
const IN: u32 = 1;
const URGENT: u32 = 2;
const ERROR: u32 = 8;
const HUNG_UP: u32 = 0x10;
const PEER_HUNG_UP: u32 = 0x2000;

/// Sends along what the streams hold that those events of a set tell of.
pub(crate) fn send_along(member: &Member, set: &File, events: &[u8]) {
    let port = member.living.port.clone();
    let ahead = &port.ahead;
    let (at, room) = (ahead.room_at.load(Ordering::Relaxed), ahead.room.load(Ordering::Relaxed).min(MOST_ROOM));
    ahead.count.store(0, Ordering::Relaxed);
    if at == 0 {
        return;
    }
    let mut made = Made { at, room: room as usize, used: 0, count: 0, buffer: vec![0; LONGEST] };
    let interests = set.interests.lock().unwrap_or_else(PoisonError::into_inner);
    for event in events.chunks_exact(EVENT) {
        let Some((events, number)) = read_event(event) else { continue };
        if let Some(interest) = interests.by_number(number)
            && made.count < MOST
            && events & (IN | URGENT) == IN
        {
            made.add(member, ahead, interest, events);
        }
    }
    ahead.count.store(made.count as u32, Ordering::Relaxed);
    if made.count > 0 {
        member.family.ticker.arm(&member.family);
    }
}

/// The pieces so far.
struct Made {
    at: u64,
    room: usize,
    used: usize,
    count: usize,
    buffer: Vec<u8>,
}

impl Made {
    /// Makes one of that file, if it is a stream of this process alone.
    fn add(&mut self, member: &Member, ahead: &Ahead, interest: &Interest, events: u32) -> Option<()> {
        let file = member.table.get(interest.descriptor).ok()?;
        let is_the_same = std::ptr::eq(interest.file.as_ptr(), Arc::as_ptr(file));
        if !is_the_same || Arc::strong_count(file) != 1 || !file.is_stream() {
            return None;
        }
        let bytes = &mut self.buffer[..LONGEST.min(self.room - self.used)];
        let (length, _) = rustix::net::recv(&**file, &mut *bytes, RecvFlags::PEEK | RecvFlags::DONTWAIT).ok()?;
        if length == 0 {
            return None;
        }
        member.memory.write(self.at.checked_add(self.used as u64)?, &bytes[..length]).ok()?;
        // Only where the set tells of the end, too, does a short read mean that it will tell of whatever comes next.
        let ends = interest.events & PEER_HUNG_UP == 0 || events & (ERROR | HUNG_UP | PEER_HUNG_UP) != 0;
        let drained = if ends || length == bytes.len() { 0 } else { DRAINED };
        let waits = if file.waiting() == Waiting::Yes { WAITS } else { 0 };
        let piece = ahead.all.get(self.count)?;
        piece.descriptor.store(interest.descriptor as u32, Ordering::Relaxed);
        piece.length.store(length as u32, Ordering::Relaxed);
        piece.room.store(SURE_ROOM.saturating_sub(on_its_way(file)), Ordering::Relaxed);
        piece.state.store(drained | waits, Ordering::Relaxed);
        self.used = (self.used + length).next_multiple_of(ALIGNMENT).min(self.room);
        self.count += 1;
        Some(())
    }
}

/// How much of what was written has not arrived yet.
fn on_its_way(file: &File) -> u32 {
    let mut left = [0; 4];
    let asked = sys::file_control::device(std::os::fd::AsFd::as_fd(file), libc::TIOCOUTQ, &mut left);
    asked.map_or(u32::MAX, |_| u32::from_ne_bytes(left))
}
