//! Carrying bytes between two connections without blocking.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

/// What is read at once. Small: a supervisor has many connections and little memory.
const PIECE: usize = 16 << 10;

/// Two connections joined: what comes in on either goes out on the other.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) near: TcpStream,
    pub(crate) far: TcpStream,
    outward: Flow,
    inward: Flow,
}

/// One direction.
#[derive(Debug, Default)]
struct Flow {
    held: Vec<u8>,
    ended: bool,
    shut: bool,
}

/// What a pair waits for on one of its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interest {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

impl Interest {
    /// Nothing at all, not even a hang-up.
    pub(crate) const NONE: Self = Self { read: false, write: false };
}

impl Pair {
    /// Both must be non-blocking; `far` may still be connecting.
    pub(crate) fn new(near: TcpStream, far: TcpStream) -> Self {
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        Self { near, far, outward: Flow::default(), inward: Flow::default() }
    }

    /// Moves what can be moved; whether there is anything left to move ever.
    pub(crate) fn pump(&mut self) -> bool {
        let outward = self.outward.pump(&mut self.near, &mut self.far);
        let inward = self.inward.pump(&mut self.far, &mut self.near);
        let failed = outward.is_err() || inward.is_err();
        let done = self.outward.shut && self.inward.shut;
        !failed && !done
    }

    /// Whether the far end was refused before it became a connection: nobody listens there, or is there, or not yet.
    pub(crate) fn is_refused(&self) -> bool {
        self.far
            .take_error()
            .ok()
            .flatten()
            .is_some_and(|it| matches!(it.kind(), ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable))
    }

    /// What to wait for on the near and on the far connection.
    pub(crate) fn interests(&self) -> (Interest, Interest) {
        let interest = |source: &Flow, sink: &Flow| Interest {
            read: source.held.is_empty() && !source.ended,
            write: !sink.held.is_empty(),
        };
        (interest(&self.outward, &self.inward), interest(&self.inward, &self.outward))
    }
}

/// The connection is broken.
#[derive(Debug)]
struct Broken;

impl Flow {
    fn pump(&mut self, from: &mut TcpStream, to: &mut TcpStream) -> Result<(), Broken> {
        // A few turns keep one busy connection from starving the others.
        for _ in 0..8 {
            if self.held.is_empty() && !self.ended {
                self.fill(from)?;
            }
            if self.held.is_empty() || !self.empty(to)? {
                break;
            }
        }
        if self.ended && self.held.is_empty() && !self.shut {
            self.shut = true;
            let _ = to.shutdown(Shutdown::Write);
        }
        Ok(())
    }

    fn fill(&mut self, from: &mut TcpStream) -> Result<(), Broken> {
        self.held.resize(PIECE, 0);
        let outcome = from.read(&mut self.held);
        let count = match &outcome {
            Ok(count) => *count,
            Err(_) => 0,
        };
        self.held.truncate(count);
        match outcome {
            Ok(0) => self.ended = true,
            Ok(_) => {}
            // A connection that is still being made has nothing to read yet.
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NotConnected) => {}
            Err(_) => return Err(Broken),
        }
        Ok(())
    }

    /// Whether everything held is gone.
    fn empty(&mut self, to: &mut TcpStream) -> Result<bool, Broken> {
        match to.write(&self.held) {
            Ok(count) => drop(self.held.drain(..count)),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NotConnected) => {}
            Err(_) => return Err(Broken),
        }
        if self.held.is_empty() {
            // An idle connection holds no memory.
            self.held = Vec::new();
        }
        Ok(self.held.is_empty())
    }
}
