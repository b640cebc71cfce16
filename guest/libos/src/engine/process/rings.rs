//! The rings of pipes ([`crate::pipe`]): the memory is mapped, and each side's bell is an event counter of the tender's,
//! which was sent with it.

use abi::ring::{Ring, WHOLE};

use super::{FIXED, SHARED, host, lent, receive};
use crate::engine::Bells;
use crate::errno::Result;
use crate::number;

/// Takes up what the tender has sent.
pub fn take(at: usize) -> Result<Bells> {
    let [memory, reader, writer] = receive()?;
    let mapped = host(number::MMAP, [at, WHOLE, 3, SHARED | FIXED, memory, 0]);
    close(memory);
    let bells = Bells([reader as u32, writer as u32]);
    if let Err(errno) = mapped {
        bells.0.iter().for_each(|it| close(*it as usize));
        return Err(errno);
    }
    Ok(bells)
}

/// Maps memory that all members have.
pub fn take_counters(at: usize, length: usize) -> Result<()> {
    take_memory(abi::call::FUTEX_COUNTERS, at, length)
}

/// Maps the link to the cell's network.
pub fn take_link(at: usize, length: usize) -> Result<()> {
    take_memory(abi::call::LINK, at, length)
}

fn take_memory(call: u32, at: usize, length: usize) -> Result<()> {
    crate::port::call(call, [0; 6])?;
    let [memory] = receive()?;
    let mapped = host(number::MMAP, [at, length, 3, SHARED | FIXED, memory, 0]);
    close(memory);
    mapped.map(|_| ())
}

fn close(descriptor: usize) {
    let _ = host(number::CLOSE, [descriptor, 0, 0, 0, 0, 0]);
}

pub fn drop(at: usize, bells: Bells) {
    let _ = host(number::MUNMAP, [at, WHOLE, 0, 0, 0, 0]);
    bells.0.iter().for_each(|it| close(*it as usize));
}

pub fn wake(bells: Bells, side: usize) {
    let one = 1u64;
    let _ = host(number::WRITE, [bells.0[side] as usize, &raw const one as usize, 8, 0, 0, 0]);
}

/// Sleeps until the side's bell rings or there is something for [`abi::call::WAIT`].
pub fn doze(ring: &Ring, bells: Bells, side: usize, nanoseconds: u64) {
    const IN: u16 = 1;
    let bell = bells.0[side] as usize;
    let mut count = 0u64;
    let _ = host(number::READ, [bell, &raw mut count as usize, 8, 0, 0, 0]);
    ring.forget_bell(side);
    if !ring.is_live() {
        // What was forgotten was for all.
        return wake(bells, side);
    }
    if !ring.has_for(side, abi::ring::PIECE) && !lent::is_the_tenders_turn() {
        let _ = lent::doze(bell, IN, nanoseconds);
    }
}
