//! The processes that talk to a supervisor: the command that launched it, and whoever connected since.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use crate::logs::Stream;
use crate::wire::{Answer, Decoder, Frame, Garbage};

/// A client with more than this unread is slow, and the cell waits for it as it would for a full pipe.
const SLOW: usize = 256 << 10;

/// One conversation.
#[derive(Debug)]
pub(super) struct Client {
    stream: UnixStream,
    decoder: Decoder,
    unsent: Vec<u8>,
    /// Whether it gets output and gives input.
    pub(super) attached: bool,
    /// Whether it is to learn how the cell ends.
    pub(super) waiting: bool,
}

/// The conversation is over.
#[derive(Debug)]
pub(super) struct HungUp;

impl Client {
    pub(super) fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, decoder: Decoder::default(), unsent: Vec::new(), attached: false, waiting: false })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// How many bytes wait for the client to take them.
    pub(super) fn unsent(&self) -> usize {
        self.unsent.len()
    }

    pub(super) fn is_slow(&self) -> bool {
        self.unsent.len() > SLOW
    }

    /// Reads what the client sent. Frames that were complete before it hung up are still given.
    pub(super) fn receive(&mut self, frames: &mut Vec<Frame>) -> Result<(), HungUp> {
        // One piece a turn keeps a chatty client from starving the rest.
        let mut piece = [0; 16 << 10];
        let outcome = match self.stream.read(&mut piece) {
            Ok(0) => Err(HungUp),
            Ok(count) => {
                self.decoder.push(&piece[..count]);
                Ok(())
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(()),
            Err(_) => Err(HungUp),
        };
        loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => return outcome,
                Err(Garbage) => return Err(HungUp),
            }
        }
    }

    pub(super) fn answer(&mut self, answer: Answer) {
        Frame::Answer(answer).encode(&mut self.unsent);
    }

    pub(super) fn output(&mut self, stream: Stream, bytes: &[u8]) {
        Frame::Output(stream, bytes.to_vec()).encode(&mut self.unsent);
    }

    /// Sends what is unsent, as far as the client takes it.
    pub(super) fn flush(&mut self) -> Result<(), HungUp> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(0) => return Err(HungUp),
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(HungUp),
            }
        }
        Ok(())
    }

    /// Sends everything, waiting for the client, though not for ever: the last words of a supervisor.
    pub(super) fn flush_last(mut self) {
        let patience = std::time::Duration::from_secs(10);
        let blocking = self.stream.set_nonblocking(false).and_then(|()| self.stream.set_write_timeout(Some(patience)));
        if blocking.is_ok() {
            let _ = self.stream.write_all(&self.unsent);
        }
    }
}
