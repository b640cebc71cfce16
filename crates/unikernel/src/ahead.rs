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
    let room = Room::offered(ahead.room_at.load(Ordering::Relaxed), ahead.room.load(Ordering::Relaxed));
    ahead.count.store(0, Ordering::Relaxed);
    let Some(room) = room else { return };
    let mut made = Made { room, count: 0, buffer: vec![0; LONGEST] };
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

/// Where the bytes of pieces go.
#[derive(Debug)]
struct Room {
    at: u64,
    size: usize,
    used: usize,
}

impl Room {
    /// As the guest says; nothing if it wants none, or if no memory can be there.
    fn offered(at: u64, size: u32) -> Option<Self> {
        let size = size.min(MOST_ROOM);
        at.checked_add(u64::from(size)).filter(|_| at != 0)?;
        Some(Self { at, size: size as usize, used: 0 })
    }

    /// Where the next piece goes, and how long it may be.
    fn next(&self) -> (u64, usize) {
        (self.at + self.used as u64, LONGEST.min(self.size - self.used))
    }

    /// There is a piece of that length now.
    fn take(&mut self, length: usize) {
        self.used = (self.used + length).next_multiple_of(ALIGNMENT).min(self.size);
    }
}

/// The pieces so far.
struct Made {
    room: Room,
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
        let (at, longest) = self.room.next();
        let bytes = &mut self.buffer[..longest];
        let (length, _) = rustix::net::recv(&**file, &mut *bytes, RecvFlags::PEEK | RecvFlags::DONTWAIT).ok()?;
        if length == 0 {
            return None;
        }
        member.memory.write(at, &bytes[..length]).ok()?;
        // Only where the set tells of the end, too, does a short read mean that it will tell of whatever comes next.
        let ends = interest.events & PEER_HUNG_UP == 0 || events & (ERROR | HUNG_UP | PEER_HUNG_UP) != 0;
        let drained = if ends || length == bytes.len() { 0 } else { DRAINED };
        let waits = if file.waiting() == Waiting::Yes { WAITS } else { 0 };
        let piece = ahead.all.get(self.count)?;
        piece.descriptor.store(interest.descriptor as u32, Ordering::Relaxed);
        piece.length.store(length as u32, Ordering::Relaxed);
        piece.room.store(SURE_ROOM.saturating_sub(on_its_way(file)), Ordering::Relaxed);
        piece.state.store(drained | waits, Ordering::Relaxed);
        self.room.take(length);
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

#[cfg(test)]
mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_are_within_what_was_offered_and_apart(
            at in prop_oneof![0..3u64, any::<u64>(), u64::MAX - 0x10_0100..=u64::MAX],
            size in prop_oneof![0..100u32, any::<u32>()],
            lengths in prop::collection::vec(prop_oneof![0..40usize, 0..=LONGEST, Just(LONGEST)], 0..160),
        ) {
            let Some(mut room) = Room::offered(at, size) else {
                prop_assert!(at == 0 || at.checked_add(size.min(MOST_ROOM).into()).is_none());
                return Ok(());
            };
            let (whole, mut end) = (at..=at + u64::from(size.min(MOST_ROOM)), at);
            for length in lengths {
                let (begin, longest) = room.next();
                let length = length.min(longest);
                prop_assert!(longest <= LONGEST && begin >= end, "{begin:#x} is before {end:#x}");
                end = begin + length as u64;
                prop_assert!(whole.contains(&begin) && whole.contains(&end));
                prop_assert!(length == 0 || (begin - at) % ALIGNMENT as u64 == 0);
                room.take(length);
            }
        }
    }
}
