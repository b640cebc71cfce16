//! Split queues: a table of descriptors, a ring of what is available, and a ring of what was used.
//!
//! **Invariant: all that is read here was written by a guest.** A chain that leads in a circle, out of memory, or from a
//! table into a table ends in [`Broken`]; a whole chain is looked through before a byte of it is used.

use std::sync::atomic::{Ordering, fence};

use dbt::Ram;
use serde::{Deserialize, Serialize};

use super::Broken;

/// Descriptors that a queue has at most.
pub(crate) const MOST: u16 = 256;
/// Bytes that a chain has at most, in each direction.
pub(crate) const MOST_BYTES: u64 = 32 << 20;
/// Descriptors that a table beside the queue has at most.
const MOST_INDIRECT: u32 = 1024;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const DESCRIPTOR: u64 = 16;
/// The driver does not want to hear of what was used.
const NO_INTERRUPT: u16 = 1;

/// A queue, as its driver has set it up.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Queue {
    pub(crate) size: u16,
    pub(crate) is_ready: bool,
    pub(crate) table: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    next_available: u16,
    next_used: u16,
}

/// A part of memory.
#[derive(Debug, Clone, Copy)]
struct Part {
    at: u64,
    size: u64,
}

/// Parts in a row, and how far they were used.
#[derive(Debug, Default)]
struct Stream {
    parts: Vec<Part>,
    next: usize,
    within: u64,
    left: u64,
}

impl Stream {
    fn add(&mut self, part: Part) {
        self.left += part.size;
        self.parts.push(part);
    }

    /// The next piece, of so many bytes at most.
    fn take(&mut self, most: usize) -> Option<(u64, usize)> {
        while let Some(part) = self.parts.get(self.next) {
            let size = (part.size - self.within).min(most as u64);
            if size > 0 {
                let at = part.at + self.within;
                self.within += size;
                self.left -= size;
                return Some((at, size as usize));
            }
            if most == 0 {
                return None;
            }
            self.next += 1;
            self.within = 0;
        }
        None
    }
}

/// What a driver made available as one: bytes to read, and room for bytes.
#[derive(Debug)]
pub(crate) struct Chain {
    head: u16,
    to_read: Stream,
    room: Stream,
    written: u32,
}

impl Chain {
    /// How many bytes there are to read still.
    pub(crate) fn left(&self) -> u64 {
        self.to_read.left
    }

    /// How many bytes of it were read.
    pub(crate) fn taken(&self) -> u64 {
        self.to_read.parts.iter().map(|part| part.size).sum::<u64>() - self.to_read.left
    }

    /// How much room there is still.
    pub(crate) fn room(&self) -> u64 {
        self.room.left
    }

    /// Where there is room: addresses and sizes.
    pub(crate) fn rooms(&self) -> impl Iterator<Item = (u64, u64)> {
        self.room.parts.iter().map(|part| (part.at, part.size))
    }

    /// Reads all of these bytes.
    pub(crate) fn read(&mut self, ram: &Ram, into: &mut [u8]) -> Result<(), Broken> {
        if self.left() < into.len() as u64 {
            return Err(Broken);
        }
        let mut done = 0;
        while done < into.len() {
            let (at, size) = self.to_read.take(into.len() - done).ok_or(Broken)?;
            ram.copy_out(at, &mut into[done..done + size]).ok_or(Broken)?;
            done += size;
        }
        Ok(())
    }

    /// Reads a fixed number of bytes.
    pub(crate) fn read_array<const N: usize>(&mut self, ram: &Ram) -> Result<[u8; N], Broken> {
        let mut bytes = [0; N];
        self.read(ram, &mut bytes)?;
        Ok(bytes)
    }

    /// Writes all of these bytes.
    pub(crate) fn write(&mut self, ram: &Ram, from: &[u8]) -> Result<(), Broken> {
        if self.room() < from.len() as u64 {
            return Err(Broken);
        }
        let mut done = 0;
        while done < from.len() {
            let (at, size) = self.room.take(from.len() - done).ok_or(Broken)?;
            ram.deliver(at, &from[done..done + size]).ok_or(Broken)?;
            done += size;
        }
        self.written += from.len() as u32;
        Ok(())
    }
}

/// A device's queues, while it works.
pub(crate) struct Queues<'q> {
    pub(crate) ram: &'q Ram,
    pub(crate) queues: &'q mut [Queue],
    /// Whether the driver is to be told that something was used.
    pub(crate) must_tell: bool,
    /// Whether the driver is to be told that the configuration is another one.
    pub(crate) has_changed: bool,
}

impl Queues<'_> {
    /// The next that was made available. Nothing if there is none.
    pub(crate) fn pop(&mut self, number: usize) -> Result<Option<Chain>, Broken> {
        let chain = self.pop_places(number)?;
        let is_bounded = |it: &Chain| it.left() <= MOST_BYTES && it.room() <= MOST_BYTES;
        if chain.as_ref().is_none_or(is_bounded) { Ok(chain) } else { Err(Broken) }
    }

    /// The same, of any length: for who takes the places and not what is there.
    pub(crate) fn pop_places(&mut self, number: usize) -> Result<Option<Chain>, Broken> {
        match self.queues.get_mut(number) {
            Some(queue) if queue.is_ready => queue.pop(self.ram),
            _ => Ok(None),
        }
    }

    /// Whether something was made available.
    pub(crate) fn has(&self, number: usize) -> bool {
        self.queues.get(number).is_some_and(|queue| queue.is_ready && queue.waiting(self.ram).is_ok_and(|it| it > 0))
    }

    /// What was popped last was not used: it comes again.
    pub(crate) fn put_back(&mut self, number: usize) {
        if let Some(queue) = self.queues.get_mut(number) {
            queue.next_available = queue.next_available.wrapping_sub(1);
        }
    }

    /// Gives back what was used.
    pub(crate) fn push(&mut self, number: usize, chain: &Chain) -> Result<(), Broken> {
        let queue = self.queues.get_mut(number).ok_or(Broken)?;
        queue.push(self.ram, chain)?;
        self.must_tell |= queue.wants_interrupts(self.ram);
        Ok(())
    }
}

impl Queue {
    /// Whether it is one that can be used.
    pub(crate) fn is_sound(&self) -> bool {
        let is_aligned =
            self.table.is_multiple_of(16) && self.available.is_multiple_of(2) && self.used.is_multiple_of(4);
        self.size.is_power_of_two() && self.size <= MOST && is_aligned
    }

    /// The same, before the last chain of it was taken.
    pub(crate) fn before_last(&self) -> Queue {
        Queue { next_available: self.next_available.wrapping_sub(1), ..*self }
    }

    /// The same place, nothing of it used yet.
    pub(crate) fn afresh(&self, is_ready: bool) -> Queue {
        Queue { is_ready, next_available: 0, next_used: 0, ..*self }
    }

    fn slot(&self, number: u16) -> u64 {
        u64::from(number % self.size)
    }

    /// How many are available.
    fn waiting(&self, ram: &Ram) -> Result<u16, Broken> {
        let index = ram.read(self.available.wrapping_add(2), 16).ok_or(Broken)? as u16;
        let waiting = index.wrapping_sub(self.next_available);
        if waiting > self.size { Err(Broken) } else { Ok(waiting) }
    }

    fn pop(&mut self, ram: &Ram) -> Result<Option<Chain>, Broken> {
        if self.waiting(ram)? == 0 {
            return Ok(None);
        }
        // What the index covers was written before it.
        fence(Ordering::Acquire);
        let at = self.available.wrapping_add(4 + 2 * self.slot(self.next_available));
        let head = ram.read(at, 16).ok_or(Broken)? as u16;
        self.next_available = self.next_available.wrapping_add(1);
        let mut chain = Chain { head, to_read: Stream::default(), room: Stream::default(), written: 0 };
        self.follow(ram, &mut chain)?;
        Ok(Some(chain))
    }

    fn follow(&self, ram: &Ram, chain: &mut Chain) -> Result<(), Broken> {
        let mut number = chain.head;
        for _ in 0..self.size {
            let it = Descriptor::read(ram, self.table, u32::from(number), u32::from(self.size))?;
            if it.flags & INDIRECT != 0 {
                // A table ends its chain.
                if it.flags & (NEXT | WRITE) != 0 {
                    return Err(Broken);
                }
                return follow_table(ram, &it, chain);
            }
            it.add_to(ram, chain)?;
            if it.flags & NEXT == 0 {
                return Ok(());
            }
            number = it.next;
        }
        Err(Broken)
    }

    fn push(&mut self, ram: &Ram, chain: &Chain) -> Result<(), Broken> {
        let element = u64::from(chain.head) | u64::from(chain.written) << 32;
        let at = self.used.wrapping_add(4 + 8 * self.slot(self.next_used));
        ram.deliver(at, &element.to_le_bytes()).ok_or(Broken)?;
        self.next_used = self.next_used.wrapping_add(1);
        fence(Ordering::Release);
        ram.deliver(self.used.wrapping_add(2), &self.next_used.to_le_bytes()).ok_or(Broken)
    }

    fn wants_interrupts(&self, ram: &Ram) -> bool {
        fence(Ordering::SeqCst);
        ram.read(self.available, 16).is_none_or(|flags| flags as u16 & NO_INTERRUPT == 0)
    }
}

fn follow_table(ram: &Ram, table: &Descriptor, chain: &mut Chain) -> Result<(), Broken> {
    let count = u32::try_from(table.size / DESCRIPTOR).map_err(|_| Broken)?;
    if !table.size.is_multiple_of(DESCRIPTOR) || count == 0 || count > MOST_INDIRECT {
        return Err(Broken);
    }
    let mut number = 0;
    for _ in 0..count {
        let it = Descriptor::read(ram, table.at, number, count)?;
        if it.flags & INDIRECT != 0 {
            return Err(Broken);
        }
        it.add_to(ram, chain)?;
        if it.flags & NEXT == 0 {
            return Ok(());
        }
        number = it.next.into();
    }
    Err(Broken)
}

struct Descriptor {
    at: u64,
    size: u64,
    flags: u16,
    next: u16,
}

impl Descriptor {
    fn read(ram: &Ram, table: u64, number: u32, count: u32) -> Result<Descriptor, Broken> {
        if number >= count {
            return Err(Broken);
        }
        let bits = ram.read(table.wrapping_add(u64::from(number) * DESCRIPTOR), 128).ok_or(Broken)?;
        let rest = (bits >> 64) as u64;
        Ok(Descriptor {
            at: bits as u64,
            size: rest & 0xffff_ffff,
            flags: (rest >> 32) as u16,
            next: (rest >> 48) as u16,
        })
    }

    fn add_to(&self, ram: &Ram, chain: &mut Chain) -> Result<(), Broken> {
        let part = Part { at: self.at, size: self.size };
        if part.size > 0 && !ram.holds_all(part.at, part.size) {
            return Err(Broken);
        }
        if self.flags & WRITE != 0 {
            chain.room.add(part);
            return Ok(());
        }
        // What is read comes before what is written.
        if !chain.room.parts.is_empty() {
            return Err(Broken);
        }
        chain.to_read.add(part);
        Ok(())
    }
}
