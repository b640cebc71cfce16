//! A program's streams between the guest and the host: nothing is kept but one piece of what goes in.
//!
//! **Nothing here waits:** what a descriptor of the host does not take now stays in the guest, whose program then waits as
//! it would for any reader.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;
use rustix::io::Errno;

use super::agent::{BUFFER, BUFFER_ROOM};
use super::link::Link;
use super::script::{Call, Script, Value};
use crate::error::Result;

/// What a pipe that is ready takes or has without waiting.
const PIECE: usize = 4096;
const AGAIN: i64 = -11;

/// What a program's input comes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// A pipe, which is closed when the input has ended.
    Pipe,
    /// A terminal, which goes on.
    Terminal,
}

/// From the host into the guest.
#[derive(Debug)]
pub(crate) struct Input {
    from: OwnedFd,
    pub(crate) to: i32,
    /// What was read and not written yet.
    pending: Vec<u8>,
    has_ended: bool,
    way: Way,
}

/// From the guest to the host.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) from: i32,
    /// Which of the program's streams it is.
    pub(crate) stream: usize,
    to: OwnedFd,
    /// How much is copied at once.
    most: usize,
}

/// How a stream is after something of it was passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// There may be more.
    Open,
    /// There is nothing now.
    Empty,
    /// There will be nothing any more.
    Over,
}

impl Input {
    pub(crate) fn new(from: OwnedFd, to: i32, way: Way) -> Input {
        Input { from, to, pending: Vec::new(), has_ended: false, way }
    }

    /// The host's descriptor, if something is to be read there.
    pub(crate) fn source(&self) -> Option<BorrowedFd<'_>> {
        (self.pending.is_empty() && !self.has_ended).then(|| self.from.as_fd())
    }

    /// Whether the guest's descriptor must become ready.
    pub(crate) fn is_full(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Takes what there is on the host, if its descriptor is ready.
    pub(crate) fn fill(&mut self) {
        let mut piece = [0; PIECE];
        match rustix::io::read(&self.from, &mut piece) {
            Ok(count) if count > 0 => self.pending.extend_from_slice(&piece[..count]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            _ => self.has_ended = true,
        }
    }

    /// Passes on what is pending.
    pub(crate) fn flush(&mut self, link: &mut Link) -> Result<State> {
        if !self.pending.is_empty() {
            let mut script = Script::new();
            let (data, length) = (script.data(&self.pending), self.pending.len() as i64);
            let written = script.call(Call::Write, [Value::Number(self.to.into()), data.into(), length.into()]);
            let answer = link.call(script)?;
            match answer[written] {
                AGAIN => {}
                count if count >= 0 => drop(self.pending.drain(..(count as usize).min(self.pending.len()))),
                // The program reads no more.
                _ => return Ok(State::Over),
            }
        }
        let is_done = self.has_ended && self.pending.is_empty() && self.way == Way::Pipe;
        Ok(if is_done { State::Over } else { State::Open })
    }
}

impl Output {
    pub(crate) fn new(from: i32, stream: usize, to: OwnedFd) -> Output {
        let kind = rustix::fs::fstat(&to).map(|it| FileType::from_raw_mode(it.st_mode));
        let waits = !matches!(kind, Ok(FileType::RegularFile));
        Output { from, stream, to, most: if waits { PIECE } else { BUFFER_ROOM as usize } }
    }

    /// The host's descriptor.
    pub(crate) fn sink(&self) -> BorrowedFd<'_> {
        self.to.as_fd()
    }

    /// Whether the host takes anything now.
    pub(crate) fn has_room(&self) -> bool {
        let mut it = [PollFd::new(&self.to, PollFlags::OUT)];
        poll(&mut it, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
    }

    /// Passes a piece on, if the host takes anything now.
    pub(crate) fn pass(&mut self, link: &mut Link) -> Result<State> {
        if !self.has_room() {
            return Ok(State::Open);
        }
        let mut script = Script::new();
        let (from, buffer) = (Value::Number(self.from.into()), Value::Number(BUFFER as i64));
        let count = script.call(Call::Read, [from, buffer, (self.most as i64).into()]);
        let answer = link.call_reading(script, count)?;
        match answer[count] {
            AGAIN => return Ok(State::Empty),
            count if count > 0 => {}
            _ => return Ok(State::Over),
        }
        let mut rest = answer.read.as_slice();
        while !rest.is_empty() {
            match rustix::io::write(&self.to, rest) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::INTR) => {}
                // Nobody reads it any more, which the program is told when it writes again.
                Err(_) => return Ok(State::Over),
            }
        }
        Ok(State::Open)
    }
}

/// Closes a descriptor of the agent's.
pub(crate) fn close(link: &mut Link, descriptor: i32) -> Result<()> {
    let mut script = Script::new();
    script.call(Call::Close, [Value::Number(descriptor.into())]);
    link.call(script).map(drop)
}
