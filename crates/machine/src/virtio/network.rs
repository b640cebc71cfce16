//! A network card: frames to and from a descriptor.
//!
//! The descriptor has one frame a read and a write, and does not block: a socket of datagrams or of packets, or a tap
//! without headers. **Invariant: a frame is whole or lost**, as on a wire.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, read, write};

use super::{Broken, Cause, Device, Queues};

const ADDRESS: u64 = 1 << 5;
const STATUS: u64 = 1 << 16;
/// Bytes before a frame: nothing is offered that would need any of them.
const HEADER: usize = 12;
/// Bytes of a frame at most.
const MOST: usize = 64 << 10;
const RECEIVE: usize = 0;
const SEND: usize = 1;

/// A network card.
pub struct Card {
    /// Its address.
    pub address: [u8; 6],
    /// Where its frames go and come from.
    pub frames: OwnedFd,
}

/// The card, behind its queues.
pub(crate) struct Network {
    card: Card,
    buffer: Vec<u8>,
}

impl Network {
    pub(crate) fn new(card: Card) -> Network {
        Network { card, buffer: vec![0; HEADER + MOST] }
    }

    fn send(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        while let Some(mut chain) = queues.pop(SEND)? {
            let size = usize::try_from(chain.left()).map_err(|_| Broken)?;
            if !(HEADER..=self.buffer.len()).contains(&size) {
                return Err(Broken);
            }
            chain.read(queues.ram, &mut self.buffer[..size])?;
            let _ = write(&self.card.frames, &self.buffer[HEADER..size]);
            queues.push(SEND, &chain)?;
        }
        Ok(())
    }

    /// As many as there is room for.
    fn receive(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        while queues.has(RECEIVE) {
            let size = match read(&self.card.frames, &mut self.buffer[HEADER..]) {
                Ok(size) if size > 0 => size,
                Err(Errno::INTR) => continue,
                _ => break,
            };
            let Some(mut chain) = queues.pop(RECEIVE)? else { break };
            self.buffer[..HEADER].fill(0);
            // It came in one piece.
            self.buffer[10] = 1;
            let whole = HEADER + size;
            if chain.room() < whole as u64 {
                queues.put_back(RECEIVE);
                continue;
            }
            chain.write(queues.ram, &self.buffer[..whole])?;
            queues.push(RECEIVE, &chain)?;
        }
        Ok(())
    }
}

impl Device for Network {
    fn id(&self) -> u32 {
        1
    }

    fn features(&self) -> u64 {
        ADDRESS | STATUS
    }

    fn queues(&self) -> usize {
        2
    }

    fn configuration(&self) -> Vec<u8> {
        // Connected.
        [&self.card.address[..], &1u16.to_le_bytes()].concat()
    }

    fn work(&mut self, queues: &mut Queues<'_>, _cause: Cause) -> Result<(), Broken> {
        self.send(queues)?;
        self.receive(queues)
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.card.frames.as_fd()]
    }
}
