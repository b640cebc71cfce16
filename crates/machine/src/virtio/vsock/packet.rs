//! What a packet begins with ("Socket Device").

use super::super::{Broken, Chain};
use dbt::Ram;

/// Bytes of it.
pub(super) const SIZE: u64 = 44;

/// Streams, the only kind of sockets here.
pub(super) const STREAM: u16 = 1;

pub(super) const REQUEST: u16 = 1;
pub(super) const RESPONSE: u16 = 2;
pub(super) const RESET: u16 = 3;
pub(super) const SHUTDOWN: u16 = 4;
pub(super) const DATA: u16 = 5;
pub(super) const CREDIT_UPDATE: u16 = 6;
pub(super) const CREDIT_REQUEST: u16 = 7;

/// Flags of a shutdown: whoever says so reads no more, writes no more.
pub(super) const NO_READING: u32 = 1;
pub(super) const NO_WRITING: u32 = 2;

/// The host's address.
pub(super) const HOST: u64 = 2;

/// A connection, by the ports at its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ends {
    pub(super) guest: u32,
    pub(super) host: u32,
}

/// What a packet says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) source: u64,
    pub(super) destination: u64,
    pub(super) ends: Ends,
    /// Bytes behind it.
    pub(super) length: u32,
    pub(super) kind: u16,
    pub(super) operation: u16,
    pub(super) flags: u32,
    /// How much whoever says this keeps at most of what he did not pass on, and how much he has passed on.
    pub(super) room: u32,
    pub(super) passed: u32,
}

impl Packet {
    /// One of a guest's.
    pub(super) fn read(chain: &mut Chain, ram: &Ram) -> Result<Packet, Broken> {
        let bytes = chain.read_array::<{ SIZE as usize }>(ram)?;
        let number = |at: usize, size: usize| {
            bytes[at..at + size].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
        };
        let narrow = |at| number(at, 4) as u32;
        Ok(Packet {
            source: number(0, 8),
            destination: number(8, 8),
            ends: Ends { guest: narrow(16), host: narrow(20) },
            length: narrow(24),
            kind: number(28, 2) as u16,
            operation: number(30, 2) as u16,
            flags: narrow(32),
            room: narrow(36),
            passed: narrow(40),
        })
    }

    /// One of the host's, as bytes.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SIZE as usize);
        bytes.extend(self.source.to_le_bytes());
        bytes.extend(self.destination.to_le_bytes());
        for number in [self.ends.host, self.ends.guest, self.length] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(self.operation.to_le_bytes());
        for number in [self.flags, self.room, self.passed] {
            bytes.extend(number.to_le_bytes());
        }
        bytes
    }
}
