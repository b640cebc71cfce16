//! Devices of virtio ("Virtual I/O Device", version 1.2) behind registers in memory.
//!
//! `mmio` is the transport, `queue` are the queues, and every other module is a device. Queues are read with the
//! [`dbt::Ram`] that processors use, and not with a crate's: that is two hundred lines without anything unsafe, each access
//! is checked where all of a guest's accesses are, and what a device writes is told to processors in the same step, which a
//! second view of the memory would have to do by a log of its own.
//!
//! **Invariant: a driver's mistakes are its own.** What breaks the rules of a queue is [`Broken`]; the transport then asks
//! for a reset and does nothing more until it has come. No work that a driver asks for is without bounds: a chain has no
//! more parts than its queue or its table, and no more than [`queue::MOST_BYTES`] where anybody reads or writes them.

pub(crate) mod balloon;
pub(crate) mod block;
pub(crate) mod console;
pub(crate) mod entropy;
pub(crate) mod keyboard;
pub(crate) mod mmio;
pub(crate) mod network;
pub(crate) mod queue;
pub(crate) mod share;
pub(crate) mod vsock;

use std::os::fd::BorrowedFd;

pub(crate) use queue::{Chain, Queues};

use crate::error::Result as Outcome;
use crate::saved::{State, of_data};

/// A driver broke the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken;

/// What a device does its work for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The driver put something into a queue.
    Notified(usize),
    /// A descriptor may have become ready.
    Ready,
}

/// A device behind a transport.
pub(crate) trait Device: Send {
    /// Its number in the standard.
    fn id(&self) -> u32;

    /// What it offers, beside what the transport does.
    fn features(&self) -> u64 {
        0
    }

    /// How many queues it has.
    fn queues(&self) -> usize;

    /// What its driver may read of it.
    fn configuration(&self) -> Vec<u8> {
        Vec::new()
    }

    /// The driver writes some of it.
    fn write_configuration(&mut self, _offset: u64, _value: u64) {}

    /// The driver has agreed on these features.
    fn agreed(&mut self, _features: u64) {}

    /// Forgets what the driver has told it.
    fn reset(&mut self) {}

    /// Does what there is to do.
    fn work(&mut self, queues: &mut Queues<'_>, cause: Cause) -> Result<(), Broken>;

    /// What it reads from and writes to.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    /// Its state, beside that of its queues. Most have none.
    fn save(&self) -> Outcome<State> {
        Ok(State::Null)
    }

    /// Queues of which the last chain is not done yet: another device begins with it again.
    fn undone(&self) -> Vec<usize> {
        Vec::new()
    }

    /// Takes on the state of one that was like it.
    fn restore(&mut self, state: State) -> Outcome<()> {
        of_data::<()>(state)
    }
}

#[cfg(test)]
mod tests;
