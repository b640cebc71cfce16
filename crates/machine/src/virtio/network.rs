//! A network card: frames to and from a descriptor.
//!
//! The descriptor has one frame a read and a write, and does not block: a socket of datagrams or of packets, or a tap
//! without headers. **Invariant: a frame is whole or lost**, as on a wire.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, read, write};

use super::{Broken, Cause, Device, Queues};

const ADDRESS: u64 = 1 << 5;
const STATUS: u64 = 1 << 16;
/// Checksums of frames that come need not be there: who sends within the host leaves them to a card that is not there.
const UNSUMMED: u64 = 1 << 1;
/// Frames that come may be as long as a packet: nobody within the host cuts them for a wire.
const LONG: u64 = 1 << 7;
/// Says of a frame that its checksum is right.
const IS_RIGHT: u8 = 2;
/// Bytes before a frame.
const HEADER: usize = 12;
/// Bytes of a frame at most: a packet's and those around it.
const MOST: usize = (64 << 10) + 64;
const RECEIVE: usize = 0;
const SEND: usize = 1;

/// A network card.
pub struct Card {
    /// Its address.
    pub address: [u8; 6],
    /// Where its frames go and come from.
    pub frames: OwnedFd,
    /// The only address of the internet that its frames may come from; any, if none is said.
    pub source: Option<Ipv4Addr>,
}

impl Card {
    /// Whether a frame comes from where it may.
    fn permits(&self, frame: &[u8]) -> bool {
        const SOURCE: usize = 6;
        const KIND: usize = 12;
        const BODY: usize = 14;
        let Some(source) = self.source else { return true };
        let is_at = |at: usize, bytes: &[u8]| frame.get(at..at + bytes.len()) == Some(bytes);
        let is_honest = match frame.get(KIND..BODY) {
            Some([8, 0]) => is_at(BODY + 12, &source.octets()),
            // A question for an address, by both of its sender's.
            Some([8, 6]) => is_at(BODY + 8, &self.address) && is_at(BODY + 14, &source.octets()),
            _ => false,
        };
        is_honest && is_at(SOURCE, &self.address)
    }
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
            let frame = &self.buffer[HEADER..size];
            if self.card.permits(frame) {
                let _ = write(&self.card.frames, frame);
            }
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
            self.buffer[0] = IS_RIGHT;
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
        ADDRESS | STATUS | UNSUMMED | LONG
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
