//! A disk.
//!
//! **Invariant: no sector outside of it is touched.** A request's range is checked as a whole before any of it is done.

use std::io;

use super::{Broken, Cause, Chain, Device, Queues};
use crate::disk::{Access, Disk, Zeroes};
use crate::error::Error;
use crate::saved::State;

const SECTOR: u64 = 512;
/// What is copied at once.
const PIECE: usize = 128 << 10;
/// Bytes of an identity.
const IDENTITY: usize = 20;
/// Sectors that one request makes zero at most, and how many parts it has at most.
const MOST_ZEROES: u32 = 1 << 21;
const MOST_PARTS: u32 = 16;

const SEGMENTS: u64 = 1 << 2;
const READ_ONLY: u64 = 1 << 5;
const BLOCK_SIZE: u64 = 1 << 6;
const FLUSH: u64 = 1 << 9;
const DISCARD: u64 = 1 << 13;
const WRITE_ZEROES: u64 = 1 << 14;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Done = 0,
    Failed = 1,
    Unsupported = 2,
}

/// The disk.
pub(crate) struct Block {
    disk: Disk,
}

impl Block {
    pub(crate) fn new(disk: Disk) -> Block {
        Block { disk }
    }

    fn sectors(&self) -> u64 {
        self.disk.medium.length() / SECTOR
    }

    /// Where a request's bytes begin, if all of them are on the disk.
    fn range(&self, sector: u64, length: u64) -> Option<u64> {
        let end = sector.checked_add(length.div_ceil(SECTOR))?;
        (length.is_multiple_of(SECTOR) && end <= self.sectors()).then_some(sector * SECTOR)
    }

    fn serve(&mut self, queues: &Queues<'_>, chain: &mut Chain) -> Result<(), Broken> {
        let header = chain.read_array::<16>(queues.ram)?;
        let [kind, _, sector @ ..] = split(&header);
        let sector = u64::from(sector[0]) | u64::from(sector[1]) << 32;
        // The last byte that may be written is the status.
        let room = chain.room().checked_sub(1).ok_or(Broken)?;
        let may_write = self.disk.access == Access::ReadWrite;
        let status = match kind {
            0 => self.read(queues, chain, sector, room)?,
            1 if may_write => self.write(queues, chain, sector)?,
            4 => status(self.disk.medium.flush()),
            8 => self.identify(queues, chain, room)?,
            11 | 13 if may_write => self.zero(queues, chain, kind)?,
            1 | 11 | 13 => Status::Failed,
            _ => Status::Unsupported,
        };
        // What was not read is not there.
        let rest = chain.room() - 1;
        if rest > 0 {
            chain.write(queues.ram, &vec![0; rest as usize])?;
        }
        chain.write(queues.ram, &[status as u8])
    }

    fn read(&mut self, queues: &Queues<'_>, chain: &mut Chain, sector: u64, length: u64) -> Result<Status, Broken> {
        let Some(mut at) = self.range(sector, length) else { return Ok(Status::Failed) };
        let mut buffer = vec![0; PIECE.min(length as usize)];
        let end = at + length;
        while at < end {
            let piece = &mut buffer[..PIECE.min((end - at) as usize)];
            if self.disk.medium.read(piece, at).is_err() {
                return Ok(Status::Failed);
            }
            chain.write(queues.ram, piece)?;
            at += piece.len() as u64;
        }
        Ok(Status::Done)
    }

    fn write(&mut self, queues: &Queues<'_>, chain: &mut Chain, sector: u64) -> Result<Status, Broken> {
        let Some(mut at) = self.range(sector, chain.left()) else { return Ok(Status::Failed) };
        let mut buffer = vec![0; PIECE.min(chain.left() as usize)];
        while chain.left() > 0 {
            let piece = &mut buffer[..PIECE.min(chain.left() as usize)];
            chain.read(queues.ram, piece)?;
            if self.disk.medium.write(piece, at).is_err() {
                return Ok(Status::Failed);
            }
            at += piece.len() as u64;
        }
        Ok(Status::Done)
    }

    fn identify(&self, queues: &Queues<'_>, chain: &mut Chain, room: u64) -> Result<Status, Broken> {
        let mut identity = [0; IDENTITY];
        identity.iter_mut().zip(self.disk.serial.bytes()).for_each(|(to, from)| *to = from);
        chain.write(queues.ram, &identity[..IDENTITY.min(room as usize)])?;
        Ok(Status::Done)
    }

    /// Discards, or writes zeroes: a list of ranges.
    fn zero(&mut self, queues: &Queues<'_>, chain: &mut Chain, kind: u32) -> Result<Status, Broken> {
        let is_discard = kind == 11;
        if chain.left() > u64::from(MOST_PARTS) * 16 {
            return Ok(Status::Failed);
        }
        while chain.left() > 0 {
            let part = chain.read_array::<16>(queues.ram)?;
            let [low, high, count, flags] = split(&part);
            let sector = u64::from(low) | u64::from(high) << 32;
            if flags & !1 != 0 || (is_discard && flags != 0) {
                return Ok(Status::Unsupported);
            }
            let length = u64::from(count) * SECTOR;
            let Some(at) = self.range(sector, length).filter(|_| count <= MOST_ZEROES) else {
                return Ok(Status::Failed);
            };
            let how = if is_discard || flags & 1 != 0 { Zeroes::Release } else { Zeroes::Keep };
            if self.disk.medium.zero(at, length, how).is_err() {
                return Ok(Status::Failed);
            }
        }
        Ok(Status::Done)
    }
}

fn status(done: io::Result<()>) -> Status {
    if done.is_ok() { Status::Done } else { Status::Failed }
}

/// Four words.
fn split(bytes: &[u8; 16]) -> [u32; 4] {
    [0, 4, 8, 12].map(|at| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]))
}

impl Device for Block {
    fn id(&self) -> u32 {
        2
    }

    fn features(&self) -> u64 {
        let access = match self.disk.access {
            Access::ReadOnly => READ_ONLY,
            Access::ReadWrite => DISCARD | WRITE_ZEROES,
        };
        SEGMENTS | BLOCK_SIZE | FLUSH | access
    }

    fn queues(&self) -> usize {
        1
    }

    fn configuration(&self) -> Vec<u8> {
        let mut bytes = vec![0; 60];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &self.sectors().to_le_bytes());
        // Parts of a request, beside its header and its status.
        put(12, &(u32::from(super::queue::MOST) - 2).to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
        put(34, &1u16.to_le_bytes());
        put(36, &MOST_ZEROES.to_le_bytes());
        put(40, &MOST_PARTS.to_le_bytes());
        // Discards are in units of four kibibytes.
        put(44, &8u32.to_le_bytes());
        put(48, &MOST_ZEROES.to_le_bytes());
        put(52, &MOST_PARTS.to_le_bytes());
        put(56, &[1]);
        bytes
    }

    /// What is on it would be another machine's, too.
    fn save(&self) -> Result<State, Error> {
        Err(Error::Unkept { why: "it has a disk of its own, which a copy would write to as well".into() })
    }

    fn work(&mut self, queues: &mut Queues<'_>, _cause: Cause) -> Result<(), Broken> {
        while let Some(mut chain) = queues.pop(0)? {
            self.serve(queues, &mut chain)?;
            queues.push(0, &chain)?;
        }
        Ok(())
    }
}
