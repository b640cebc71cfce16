//! The cell's link, where the program's sockets are of a stack in the guest: frames are moved between it and one member's
//! memory ([`abi::link`]), and no socket is made for the program.
//!
//! **Who has the link is one member at a time**, the first that asks; when it ends, the next. Frames are moved by its thread
//! at each stop, and by the family's ticker while it runs; in its sleep it hears of those that come. What a guest writes into
//! the rings is a number: a position that no ring has is nothing to move, and a length that no frame has ends the ring. What
//! goes is copied before it is looked at, and **goes only from the link's own addresses**.

mod mapped;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use abi::link::{CAME_SIZE, GOES_SIZE, HEADER, LONGEST_TO_COME, LONGEST_TO_GO, SKIP, WHOLE, step};
use net::Link;
use rustix::net::{AddressFamily, SendFlags};
use sys::Errno;

use crate::calls::Reply;
use crate::family::Family;
use crate::fixed::Mapped;
use crate::member::{Body, Member};
use crate::process;
use crate::waits::Waits;

/// What a family's programs have their sockets of.
#[derive(Debug)]
pub enum Stack {
    /// The host's kernel.
    Host,
    /// The library operating system, with the cell's link, or with none.
    Guest(Option<Link>),
}

/// A family's link, and who has it.
pub(crate) struct Shared {
    link: Link,
    holder: Mutex<Option<Holder>>,
}

/// Who has the link.
#[derive(Clone)]
struct Holder {
    number: u32,
    rings: Arc<Rings>,
    waits: Arc<Waits>,
}

/// The rings of the member that has the link.
#[derive(Debug)]
pub(crate) struct Rings {
    memory: Mapped<abi::link::Link>,
    /// How far the ring of frames that came was written, and that of those that go was read. The guest sees them, and
    /// nobody believes what it makes of them.
    positions: Mutex<(u64, u64)>,
}

fn lock<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(link: Link) -> Self {
        Self { link, holder: Mutex::new(None) }
    }

    /// What frames come from.
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.link.socket.as_fd()
    }

    /// The rings for a member, if no other has the link.
    fn take(&self, number: u32, waits: &Arc<Waits>) -> Result<Arc<Rings>, Errno> {
        let mut holder = lock(&self.holder);
        match &*holder {
            Some(it) if it.number == number => return Ok(it.rings.clone()),
            Some(_) => return Err(Errno::BUSY),
            None => {}
        }
        let rings = Arc::new(Rings { memory: mapped::new(&self.link)?, positions: Mutex::new((0, 0)) });
        // What waits was for nobody.
        let mut frame = [0; 16];
        while rustix::net::recv(&self.link.socket, &mut frame, rustix::net::RecvFlags::DONTWAIT).is_ok() {}
        waits.watch_link(self.socket())?;
        *holder = Some(Holder { number, rings: rings.clone(), waits: waits.clone() });
        Ok(rings)
    }

    /// A member has ended. What it sent before goes out.
    pub(crate) fn release(&self, number: u32) {
        let mut holder = lock(&self.holder);
        if let Some(it) = holder.take_if(|it| it.number == number) {
            drop(holder);
            it.rings.send(&self.link);
        }
    }

    /// Moves frames for that member, if it has the link. Says whether some wait for it.
    pub(crate) fn carry(&self, number: u32) -> bool {
        let rings = lock(&self.holder).as_ref().filter(|it| it.number == number).map(|it| it.rings.clone());
        rings.is_some_and(|it| it.carry(&self.link))
    }

    /// Moves frames for whoever has the link, and wakes it if some came: its sleep would not hear of those.
    pub(crate) fn carry_for_all(&self) {
        let Some(it) = lock(&self.holder).clone() else { return };
        let before = lock(&it.rings.positions).0;
        it.rings.carry(&self.link);
        if lock(&it.rings.positions).0 != before {
            it.waits.ring();
        }
    }
}

impl Rings {
    fn carry(&self, link: &Link) -> bool {
        self.send(link);
        self.receive(link)
    }

    /// Carries away what the guest sends.
    fn send(&self, link: &Link) {
        let mut positions = lock(&self.positions);
        let goes = &self.memory.goes;
        // A frame begins at a multiple of that.
        let written = goes.written.0.load(Ordering::Acquire) & !(HEADER as u64 - 1);
        let mut read = positions.1;
        let mut frame = [0; LONGEST_TO_GO];
        while read != written {
            // A position that no ring has, or a length that no frame has: what there is, is nothing.
            let place = (read % GOES_SIZE as u64) as usize;
            let left = (written.wrapping_sub(read)).min(GOES_SIZE as u64) as usize;
            let length = self.memory.length_to_go(place);
            let (distance, length) = match length {
                SKIP => (GOES_SIZE - place, 0),
                length => (step(length.min(u32::MAX / 2) as usize), length as usize),
            };
            if written.wrapping_sub(read) > GOES_SIZE as u64
                || distance > left
                || length > LONGEST_TO_GO
                || place + HEADER + length > GOES_SIZE
            {
                read = written;
                break;
            }
            let frame = &mut frame[..length];
            self.memory.copy_to_go(place + HEADER, frame);
            if is_from(link, frame) {
                // As on a wire, what does not arrive for another reason is sent again by who cares.
                if rustix::net::send(&link.socket, frame, SendFlags::DONTWAIT) == Err(Errno::AGAIN) {
                    break;
                }
            }
            read = read.wrapping_add(distance as u64);
        }
        positions.1 = read;
        goes.read.0.store(read, Ordering::Release);
    }

    /// Brings what came, as much as there is room for. Says whether the guest has not seen all of it.
    fn receive(&self, link: &Link) -> bool {
        let mut positions = lock(&self.positions);
        let came = &self.memory.came;
        let mut written = positions.0;
        let read = came.read.0.load(Ordering::Acquire);
        loop {
            let used = written.wrapping_sub(read);
            let mut place = (written % CAME_SIZE as u64) as usize;
            let rest = CAME_SIZE - place;
            let skipped = if rest < step(LONGEST_TO_COME) { rest } else { 0 };
            if used > CAME_SIZE as u64 || used as usize + skipped + step(LONGEST_TO_COME) >= CAME_SIZE {
                break;
            }
            if skipped > 0 {
                self.memory.set_length_that_came(place, SKIP);
                place = 0;
            }
            // A frame of several lengths at once is one that the host would have cut in pieces for a wire.
            match self.memory.receive(&link.socket, place + HEADER, LONGEST_TO_COME) {
                Ok(length) if length <= LONGEST_TO_COME => {
                    self.memory.set_length_that_came(place, length as u32);
                    written = written.wrapping_add((skipped + step(length)) as u64);
                    came.written.0.store(written, Ordering::Release);
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        positions.0 = written;
        written != read
    }
}

/// Whether a frame comes from the link's own addresses.
fn is_from(link: &Link, frame: &[u8]) -> bool {
    const SOURCE: usize = 6;
    const KIND: usize = 12;
    const BODY: usize = 14;
    let is_at = |at: usize, bytes: &[u8]| frame.get(at..at + bytes.len()) == Some(bytes);
    let address = link.address.octets();
    let is_honest = match frame.get(KIND..BODY) {
        // IPv4, by its sender.
        Some([8, 0]) => is_at(BODY + 12, &address),
        // ARP, by both of its sender's addresses.
        Some([8, 6]) => is_at(BODY + 8, &link.hardware) && is_at(BODY + 14, &address),
        _ => false,
    };
    is_honest && is_at(SOURCE, &link.hardware)
}

/// Whether a socket of that family speaks to a network, or to who rules it: a guest with a stack of its own has such by
/// itself, or does without. As the host sees it, so all of the number counts.
pub(crate) fn is_of_stack(family: u64) -> bool {
    family != u64::from(AddressFamily::UNIX.as_raw())
}

impl Member {
    /// Gives the member the link.
    pub(crate) fn hand_over_link(&mut self) -> Reply {
        match self.try_hand_over_link() {
            Ok(at) => Reply::Done(Ok(at)),
            Err(errno) => Err(errno).into(),
        }
    }

    fn try_hand_over_link(&mut self) -> Result<u64, Errno> {
        let family = self.family.clone();
        let shared = family.link.as_ref().ok_or(Errno::NODEV)?;
        let rings = shared.take(self.number, &self.living.waits)?;
        match &mut self.body {
            Body::Process(socket) => process::send(socket, &[rings.memory.file().as_fd()]).map(|()| 0),
            Body::Machine(_, Some(guest)) => guest.map_shared(rings.memory.file().as_fd(), WHOLE),
            Body::Machine(_, None) => Err(Errno::AGAIN),
        }
    }

    /// Moves frames, if it has the link. Says whether some wait for it.
    pub(crate) fn carry_frames(&self) -> bool {
        let Some(link) = &self.family.link else { return false };
        let waits = link.carry(self.number);
        self.family.ticker.arm(&self.family);
        waits
    }
}

impl Family {
    /// Whether the programs' sockets are of a stack in the guest.
    pub(crate) fn has_own_stack(&self) -> bool {
        self.stack != 0
    }
}

#[cfg(test)]
mod tests;
