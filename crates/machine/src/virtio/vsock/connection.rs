//! A connection between a socket of the guest and one of the host.
//!
//! **Invariant: no more than [`ROOM`] bytes of a guest's are kept**, and nothing of the host's: a guest that sends more than
//! it was told there is room for loses its connection, and of the host no more is read than the guest has room for.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, read, write};
use rustix::net::Shutdown;

use super::packet::{NO_READING, NO_WRITING, Packet};

/// Bytes of a guest's that are kept at most.
pub(super) const ROOM: u32 = 256 << 10;

/// What became of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Open,
    /// There is nothing more to be done for it.
    Over,
}

/// What the host sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Came {
    Bytes(usize),
    Nothing,
    /// No more will come.
    End,
    /// Nobody is there any more.
    Lost,
}

/// A connection.
pub(super) struct Connection {
    socket: OwnedFd,
    /// The guest has said that it is there.
    pub(super) is_open: bool,
    /// What the guest sent and the host did not take yet.
    kept: Vec<u8>,
    /// How many bytes of the guest's the host has taken, and how many the guest knows of.
    passed: u32,
    told: u32,
    /// How many bytes the guest was sent, has passed on, and keeps at most.
    sent: u32,
    peer_passed: u32,
    peer_room: u32,
    /// What the guest does no more.
    ended: u32,
    /// The host sends no more.
    has_ended: bool,
}

impl Connection {
    /// With a socket that does not block.
    pub(super) fn new(socket: OwnedFd, is_open: bool) -> Connection {
        Connection {
            socket,
            is_open,
            kept: Vec::new(),
            passed: 0,
            told: 0,
            sent: 0,
            peer_passed: 0,
            peer_room: 0,
            ended: 0,
            has_ended: false,
        }
    }

    /// What the guest says of the room that it has.
    pub(super) fn hear(&mut self, packet: &Packet) {
        (self.peer_room, self.peer_passed) = (packet.room, packet.passed);
    }

    /// What the guest is told of the room here.
    pub(super) fn tell(&mut self) -> (u32, u32) {
        self.told = self.passed;
        (ROOM, self.passed)
    }

    /// Whether the guest may think that there is less room than there is, by so much that it should be told.
    pub(super) fn must_tell(&self) -> bool {
        self.passed.wrapping_sub(self.told) >= ROOM / 4
    }

    /// Tells whoever began it that the guest is there: by which port of the host's.
    pub(super) fn answer(&mut self, port: u32) -> State {
        match write(&self.socket, format!("OK {port}\n").as_bytes()) {
            Ok(_) => State::Open,
            Err(_) => State::Over,
        }
    }

    /// Takes bytes of the guest's.
    pub(super) fn take(&mut self, bytes: &[u8]) -> State {
        if self.kept.len() + bytes.len() > ROOM as usize || self.ended & NO_WRITING != 0 {
            return State::Over;
        }
        self.kept.extend_from_slice(bytes);
        self.flush()
    }

    /// The guest does this no more.
    pub(super) fn end(&mut self, flags: u32) -> State {
        self.ended |= flags & (NO_READING | NO_WRITING);
        self.flush()
    }

    /// Passes on what there is room for.
    pub(super) fn flush(&mut self) -> State {
        let mut done = 0;
        while done < self.kept.len() {
            match write(&self.socket, &self.kept[done..]) {
                Ok(size) => done += size,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return State::Over,
            }
        }
        self.kept.drain(..done);
        self.passed = self.passed.wrapping_add(done as u32);
        match (self.kept.is_empty(), self.ended) {
            (true, it) if it == NO_READING | NO_WRITING => State::Over,
            (true, NO_WRITING) => {
                let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
                State::Open
            }
            _ => State::Open,
        }
    }

    /// How many bytes the guest has room for.
    fn room(&self) -> u32 {
        self.peer_room.saturating_sub(self.sent.wrapping_sub(self.peer_passed))
    }

    /// Whether something for the guest is to be looked for.
    pub(super) fn may_send(&self) -> bool {
        self.is_open && !self.has_ended && self.ended & NO_READING == 0 && self.room() > 0
    }

    /// Takes what the host sent, no more than the guest has room for.
    pub(super) fn receive(&mut self, into: &mut [u8]) -> Came {
        let most = into.len().min(self.room() as usize);
        loop {
            return match read(&self.socket, &mut into[..most]) {
                Ok(0) => {
                    self.has_ended = true;
                    Came::End
                }
                Ok(size) => {
                    self.sent = self.sent.wrapping_add(size as u32);
                    Came::Bytes(size)
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Came::Nothing,
                Err(_) => Came::Lost,
            };
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
