//! Streams: connections whose bytes came with the news of them, and to which writing waits for the next stop
//! ([`abi::post`]).
//!
//! What is known of a stream holds until its descriptor is used in a way that is not done here, or a call is made after
//! which somebody else may have the file as well, and in any case until a set is waited for again.

use alloc::alloc::{Layout, alloc};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use abi::call;
use abi::post::{ALIGNMENT, DRAINED, LONGEST, MOST, SEND, TAKE, TRUST, WAITS, WITHOUT_SIGNAL};

use super::port;
use crate::errno::{EAGAIN, EFAULT, Result};
use crate::sync::Local;
use crate::{clock, number, user};

struct Stream {
    descriptor: u64,
    /// What is left of its bytes.
    at: usize,
    left: usize,
    /// Whether there are no more behind them. To be believed once: the program may look again without waiting.
    is_drained: bool,
    /// Whether the program wants to wait for it.
    waits: bool,
    /// How much may be posted to it.
    room: usize,
}

struct Streams {
    known: Vec<Stream>,
    /// Where the descriptor at that index is in `known`, plus one; 0 if it is not.
    places: Vec<u8>,
    /// Memory for what comes, and behind it for what is posted.
    memory: usize,
    /// How much of the latter is used.
    used: usize,
    /// Until when it may be posted, by [`clock::monotonic`].
    until: u64,
}

static STREAMS: Local<Streams> =
    Local::new(Streams { known: Vec::new(), places: Vec::new(), memory: 0, used: 0, until: 0 });

/// Room for what comes.
const COMING: usize = 192 << 10;
/// Room for what goes.
const GOING: usize = 256 << 10;

/// Makes the call without the tender, if it can be made so.
pub fn directly(number: u32, [a, b, c, d, e, _]: [u64; 6]) -> Option<Result> {
    const DONT_WAIT: u64 = 0x40;
    const NO_SIGNAL: u64 = 0x4000;
    match number {
        number::READ => STREAMS.get().read(a, &[[b, c]]),
        number::RECVFROM if d & !DONT_WAIT == 0 && e == 0 => STREAMS.get().read(a, &[[b, c]]),
        number::READV => with_parts(a, b, c, Streams::read),
        number::WRITE => STREAMS.get().write(a, &[[b, c]], 0),
        number::SENDTO if d & !(DONT_WAIT | NO_SIGNAL) == 0 && e == 0 => {
            STREAMS.get().write(a, &[[b, c]], if d & NO_SIGNAL == 0 { 0 } else { WITHOUT_SIGNAL })
        }
        number::WRITEV => with_parts(a, b, c, |streams, a, parts| streams.write(a, parts, 0)),
        _ => None,
    }
}

/// The same with a list of buffers.
fn with_parts(
    descriptor: u64,
    at: u64,
    count: u64,
    transfer: impl FnOnce(&mut Streams, u64, &[[u64; 2]]) -> Option<Result>,
) -> Option<Result> {
    const MOST_PARTS: u64 = 64;
    if count > MOST_PARTS || STREAMS.get().place(descriptor).is_none() {
        return None;
    }
    let parts: Vec<[u64; 2]> = user::read_all(at, count as usize).ok()?;
    transfer(&mut STREAMS.get(), descriptor, &parts)
}

/// A call is about to be made of the tender.
pub fn before(number: u32, arguments: &[u64; 6]) {
    // Our own calls, which may also come of memory that is taken in here.
    if number >= call::BOOT && !matches!(number, call::FORK | call::EXECUTED) {
        return;
    }
    let mut streams = STREAMS.get();
    match number {
        number::EPOLL_WAIT => {
            streams.forget_all();
            streams.offer_room();
        }
        number::ACCEPT4 | number::OPENAT | number::STAT | number::NEWFSTATAT => {}
        // What finds no room here fills the host's.
        number::WRITE | number::WRITEV | number::SENDTO | number::SENDFILE => {
            if let Some(place) = streams.place(arguments[0]) {
                streams.known[place].room = 0;
            }
        }
        number::READ
        | number::READV
        | number::RECVFROM
        | number::PREAD
        | number::FSTAT
        | number::LSEEK
        | number::CLOSE => streams.forget(arguments[0]),
        // Of the set, and of the file.
        number::EPOLL_CTL => streams.forget(arguments[2]),
        _ => streams.forget_all(),
    }
}

/// The call was answered.
pub fn after(number: u32) {
    if number == number::EPOLL_WAIT {
        STREAMS.get().receive();
    }
}

impl Streams {
    /// Where it is in `known`.
    fn place(&self, descriptor: u64) -> Option<usize> {
        let place = *self.places.get(usize::try_from(descriptor).ok()?)?;
        (place as usize).checked_sub(1)
    }

    fn forget_all(&mut self) {
        for it in self.known.drain(..) {
            self.places[it.descriptor as usize] = 0;
        }
    }

    /// The others keep their places.
    fn forget(&mut self, descriptor: u64) {
        if let Some(place) = self.place(descriptor) {
            self.places[descriptor as usize] = 0;
            self.known.swap_remove(place);
            if let Some(moved) = self.known.get(place) {
                self.places[moved.descriptor as usize] = place as u8 + 1;
            }
        }
    }

    fn take_memory(&mut self) {
        if self.memory == 0
            && let Ok(layout) = Layout::from_size_align(COMING + GOING, ALIGNMENT)
        {
            // SAFETY: the layout has a size. It is never given back, and whoever reads there has written before, or the
            // tender has.
            self.memory = unsafe { alloc(layout) } as usize;
        }
    }

    fn offer_room(&mut self) {
        self.take_memory();
        let ahead = &port().ahead;
        ahead.room.store(COMING as u32, Ordering::Relaxed);
        ahead.room_at.store(self.memory as u64, Ordering::Relaxed);
    }

    /// Takes up the pieces that came.
    fn receive(&mut self) {
        let ahead = &port().ahead;
        let count = ahead.count.swap(0, Ordering::Relaxed) as usize;
        if count == 0 {
            return;
        }
        self.until = clock::monotonic().saturating_add(TRUST);
        let mut at = self.memory;
        for piece in &ahead.all[..count.min(MOST)] {
            let (descriptor, state) = (piece.descriptor.load(Ordering::Relaxed), piece.state.load(Ordering::Relaxed));
            let left = piece.length.load(Ordering::Relaxed) as usize;
            let index = descriptor as usize;
            if self.places.len() <= index {
                self.places.resize(index + 1, 0);
            }
            self.known.push(Stream {
                descriptor: u64::from(descriptor),
                at,
                left,
                is_drained: state & DRAINED != 0,
                waits: state & WAITS != 0,
                room: piece.room.load(Ordering::Relaxed) as usize,
            });
            self.places[index] = self.known.len() as u8;
            at += left.next_multiple_of(ALIGNMENT);
        }
    }

    /// How many posts there are. When there are none, nothing that was posted is needed any more.
    fn posted(&mut self) -> usize {
        let posted = port().posts.count.load(Ordering::Relaxed) as usize;
        if posted == 0 {
            self.used = 0;
        }
        posted
    }

    fn read(&mut self, descriptor: u64, parts: &[[u64; 2]]) -> Option<Result> {
        let place = self.place(descriptor)?;
        let posted = self.posted();
        let it = &mut self.known[place];
        if it.left == 0 {
            let is_drained = core::mem::take(&mut it.is_drained);
            return (is_drained && !it.waits).then_some(Err(EAGAIN));
        }
        let wanted = parts.iter().fold(0u64, |sum, it| sum.saturating_add(it[1]));
        if wanted == 0 || posted >= MOST {
            return None;
        }
        let mut read = 0;
        for &[to, length] in parts {
            let length = usize::try_from(length).ok()?.min(it.left - read);
            // SAFETY: the tender wrote so many bytes there before it said so, and nothing else does before they are
            // forgotten.
            let bytes = unsafe { core::slice::from_raw_parts((it.at + read) as *const u8, length) };
            if user::write_all(to, bytes).is_err() {
                // Nothing was taken yet.
                return Some(Err(EFAULT));
            }
            read += length;
        }
        it.at += read;
        it.left -= read;
        self.post_taking(descriptor, read, posted);
        Some(Ok(read))
    }

    fn post_taking(&mut self, descriptor: u64, length: usize, posted: usize) {
        let posts = &port().posts;
        // Of what was read in several parts the host hears at once.
        if let Some(last) = posted.checked_sub(1).map(|it| &posts.all[it])
            && last.kind.load(Ordering::Relaxed) == TAKE
            && u64::from(last.descriptor.load(Ordering::Relaxed)) == descriptor
        {
            last.length.fetch_add(length as u32, Ordering::Relaxed);
            return;
        }
        post(posted, TAKE, descriptor, length, 0, 0);
    }

    fn write(&mut self, descriptor: u64, parts: &[[u64; 2]], how: u32) -> Option<Result> {
        let length = parts.iter().fold(0u64, |sum, it| sum.saturating_add(it[1])) as usize;
        let room = self.room_for(descriptor, length)?;
        let mut done = 0;
        for &[from, length] in parts {
            let part = &mut room[done..done + length as usize];
            user::read_into(from, part).ok()?;
            done += part.len();
        }
        self.post_sending(descriptor, length, how);
        Some(Ok(length))
    }

    /// Where so many bytes can be put that go to that stream.
    fn room_for(&mut self, descriptor: u64, length: usize) -> Option<&'static mut [u8]> {
        let place = self.place(descriptor)?;
        let posted = self.posted();
        let fits = length <= self.known[place].room.min(LONGEST);
        if length == 0 || !fits || posted >= MOST || clock::monotonic() > self.until {
            return None;
        }
        self.room(length)
    }

    /// Where so many bytes can be put.
    fn room(&mut self, length: usize) -> Option<&'static mut [u8]> {
        if self.memory == 0 || self.used + length > GOING {
            return None;
        }
        let at = self.memory + COMING + self.used;
        // SAFETY: room of our own, of which this part is not in use before it is posted.
        Some(unsafe { core::slice::from_raw_parts_mut(at as *mut u8, length) })
    }

    /// Posts what was put there.
    fn post_sending(&mut self, descriptor: u64, length: usize, how: u32) {
        let Some(place) = self.place(descriptor) else { return };
        let at = self.memory + COMING + self.used;
        self.used += length;
        self.known[place].room -= length;
        post(port().posts.count.load(Ordering::Relaxed) as usize, SEND, descriptor, length, how, at);
    }
}

/// Where so many bytes can be put that will be posted, one behind the other.
pub fn room(length: usize) -> Option<&'static mut [u8]> {
    let mut streams = STREAMS.get();
    streams.take_memory();
    streams.posted();
    streams.room(length)
}

/// So many bytes that were put there are posted.
pub fn use_room(length: usize) {
    STREAMS.get().used += length;
}

/// Sends bytes of ours.
pub fn send(descriptor: u64, bytes: &[u8]) -> Option<usize> {
    let mut streams = STREAMS.get();
    streams.room_for(descriptor, bytes.len())?.copy_from_slice(bytes);
    streams.post_sending(descriptor, bytes.len(), 0);
    Some(bytes.len())
}

pub fn post(index: usize, kind: u32, descriptor: u64, length: usize, how: u32, at: usize) {
    let posts = &port().posts;
    let it = &posts.all[index];
    it.kind.store(kind, Ordering::Relaxed);
    it.descriptor.store(descriptor as u32, Ordering::Relaxed);
    it.length.store(length as u32, Ordering::Relaxed);
    it.how.store(how, Ordering::Relaxed);
    it.at.store(at as u64, Ordering::Relaxed);
    posts.count.store(index as u32 + 1, Ordering::Release);
}
