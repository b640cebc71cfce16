//! What frames go through: the rings that the tender carries to the cell's link and from it ([`abi::link`]), and a way from
//! the process to itself.
//!
//! A connection that nobody has room for is not answered, as on Linux, and not refused: its first frame is dropped here,
//! before the stack, which knows no backlog, sees it.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use abi::layout::LINK;
use abi::link::{
    CAME, CAME_SIZE, GOES, GOES_SIZE, HEADER, LONGEST_TO_COME, LONGEST_TO_GO, Length, Link as Shared, SKIP, WHOLE, step,
};
use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use crate::engine;
use crate::errno::Result;

/// A way for frames.
pub enum Way {
    Inside(Circle),
    Outside(Link),
}

impl Way {
    /// Ports whose backlog is full.
    pub fn full(&mut self) -> &mut Vec<u16> {
        match self {
            Self::Inside(it) => &mut it.full,
            Self::Outside(it) => &mut it.full,
        }
    }

    /// Whether a frame waits to be taken.
    pub fn has_frames(&self) -> bool {
        match self {
            Self::Inside(it) => !it.frames.is_empty(),
            Self::Outside(_) => {
                let came = &shared().came;
                came.written.0.load(Ordering::Acquire) != came.read.0.load(Ordering::Relaxed)
            }
        }
    }
}

impl Device for Way {
    type RxToken<'a> = Came;
    type TxToken<'a> = Going<'a>;

    fn capabilities(&self) -> DeviceCapabilities {
        match self {
            Self::Inside(_) => Circle::capabilities(),
            Self::Outside(_) => Link::capabilities(),
        }
    }

    fn receive(&mut self, _: Instant) -> Option<(Came, Going<'_>)> {
        match self {
            Self::Inside(it) => it.next().map(|frame| (Came(frame), Going::Round(&mut it.frames))),
            Self::Outside(it) if !it.has_room() => None,
            Self::Outside(it) => it.next().map(|frame| (Came(frame), Going::Away(&mut it.scratch))),
        }
    }

    fn transmit(&mut self, _: Instant) -> Option<Going<'_>> {
        match self {
            Self::Inside(it) => Some(Going::Round(&mut it.frames)),
            Self::Outside(it) => it.has_room().then(|| Going::Away(&mut it.scratch)),
        }
    }
}

/// The way out.
pub struct Link {
    full: Vec<u16>,
    /// Room for a frame that is being made, or looked at.
    scratch: Vec<u8>,
}

fn shared() -> &'static Shared {
    // SAFETY: it is mapped as long as there is a `Link`, and all of it that changes is atomic.
    unsafe { &*(LINK as *const Shared) }
}

impl Link {
    /// Takes up the cell's link, if it has one and no other process has it.
    pub fn take_up() -> Result<Self> {
        engine::take_link(LINK, WHOLE)?;
        Ok(Self { full: Vec::new(), scratch: Vec::new() })
    }

    /// Gives up the memory. The link stays this process's until it ends.
    pub fn let_go() {
        let _ = engine::unmap(LINK, WHOLE);
    }

    pub fn hardware(&self) -> [u8; 6] {
        let [a, b, c, d, e, f, ..] = shared().hardware;
        [a, b, c, d, e, f]
    }

    /// The address, the length of its subnet's prefix, and the way out.
    pub fn address(&self) -> ([u8; 4], u8, [u8; 4]) {
        (shared().address, shared().prefix.min(32) as u8, shared().gateway)
    }
}

/// Whether frames wait to be sent that nobody has carried away.
pub fn is_loaded() -> bool {
    let goes = &shared().goes;
    goes.written.0.load(Ordering::Relaxed) != goes.read.0.load(Ordering::Acquire)
}

fn length_at(at: usize) -> &'static Length {
    // SAFETY: a place in one of the rings, at a multiple of the header's size.
    unsafe { &*(at as *const Length) }
}

/// A frame that came.
pub struct Came(Vec<u8>);

impl RxToken for Came {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl Link {
    /// The next frame, copied: what the tender writes next does not wait for it.
    fn next(&mut self) -> Option<Vec<u8>> {
        let came = &shared().came;
        loop {
            let read = came.read.0.load(Ordering::Relaxed);
            if came.written.0.load(Ordering::Acquire) == read {
                return None;
            }
            let place = read as usize % CAME_SIZE;
            let length = length_at(LINK + CAME + place).load(Ordering::Relaxed);
            if length == SKIP {
                came.read.0.store(read + (CAME_SIZE - place) as u64, Ordering::Release);
                continue;
            }
            let length = (length as usize).min(LONGEST_TO_COME).min(CAME_SIZE - place - HEADER);
            // SAFETY: the frame is in the ring, in one piece.
            let bytes = unsafe { core::slice::from_raw_parts((LINK + CAME + place + HEADER) as *const u8, length) };
            let frame = (!is_unwelcome(bytes, Medium::Ethernet, &self.full)).then(|| bytes.to_vec());
            came.read.0.store(read + step(length) as u64, Ordering::Release);
            if frame.is_some() {
                return frame;
            }
        }
    }
}

/// Room for one frame.
pub enum Going<'a> {
    /// To the cell's network.
    Away(&'a mut Vec<u8>),
    /// To oneself.
    Round(&'a mut VecDeque<Vec<u8>>),
}

impl TxToken for Going<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut own = Vec::new();
        let (frame, round) = match self {
            Self::Away(scratch) => (scratch, None),
            Self::Round(frames) => (&mut own, Some(frames)),
        };
        frame.clear();
        frame.resize(length, 0);
        let result = fill(frame);
        match round {
            None => send_away(frame),
            Some(frames) => frames.push_back(own),
        }
        result
    }
}

/// Puts a frame into the ring. There is room, as `transmit` saw.
fn send_away(frame: &[u8]) {
    let goes = &shared().goes;
    let mut written = goes.written.0.load(Ordering::Relaxed);
    let mut place = written as usize % GOES_SIZE;
    if GOES_SIZE - place < step(LONGEST_TO_GO) {
        length_at(LINK + GOES + place).store(SKIP, Ordering::Relaxed);
        written += (GOES_SIZE - place) as u64;
        place = 0;
    }
    let length = frame.len().min(LONGEST_TO_GO);
    length_at(LINK + GOES + place).store(length as u32, Ordering::Relaxed);
    // SAFETY: there is room for it, and nobody reads it yet.
    unsafe {
        core::ptr::copy_nonoverlapping(frame.as_ptr(), (LINK + GOES + place + HEADER) as *mut u8, length);
    }
    goes.written.0.store(written + step(length) as u64, Ordering::Release);
}

impl Link {
    fn has_room(&self) -> bool {
        let goes = &shared().goes;
        let used = goes.written.0.load(Ordering::Relaxed).wrapping_sub(goes.read.0.load(Ordering::Acquire));
        used as usize + 2 * step(LONGEST_TO_GO) <= GOES_SIZE
    }
}

impl Link {
    fn capabilities() -> DeviceCapabilities {
        let mut it = DeviceCapabilities::default();
        it.medium = Medium::Ethernet;
        it.max_transmission_unit = LONGEST_TO_GO;
        // Who sends within the host leaves checksums to a card that is not there.
        let mut checksums = ChecksumCapabilities::default();
        (checksums.tcp, checksums.udp) = (Checksum::Tx, Checksum::Tx);
        it.checksum = checksums;
        it
    }
}

/// The way from the process to itself.
#[derive(Default)]
pub struct Circle {
    frames: VecDeque<Vec<u8>>,
    full: Vec<u16>,
}

impl Circle {
    fn capabilities() -> DeviceCapabilities {
        let mut it = DeviceCapabilities::default();
        it.medium = Medium::Ip;
        it.max_transmission_unit = 65_535;
        it.checksum = ChecksumCapabilities::ignored();
        it
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let frame = self.frames.pop_front()?;
            if !is_unwelcome(&frame, Medium::Ip, &self.full) {
                return Some(frame);
            }
        }
    }
}

/// Whether the frame asks for a connection to a port that has no room for another.
fn is_unwelcome(frame: &[u8], medium: Medium, full: &[u16]) -> bool {
    const ETHERNET: usize = 14;
    const TCP: u8 = 6;
    const SYN: u8 = 2;
    const ACK: u8 = 0x10;
    if full.is_empty() {
        return false;
    }
    let packet = if medium == Medium::Ethernet { frame.get(ETHERNET..) } else { Some(frame) };
    let asked = || {
        let packet = packet?;
        let segment = packet.get(usize::from(packet.first()? & 0xf) * 4..)?;
        let is_first = *packet.get(9)? == TCP && segment.get(13)? & (SYN | ACK) == SYN;
        is_first.then_some(u16::from_be_bytes([*segment.get(2)?, *segment.get(3)?]))
    };
    asked().is_some_and(|it| full.contains(&it))
}
