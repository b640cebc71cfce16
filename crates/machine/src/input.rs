//! What a machine reads of the host's: a descriptor, which may block others and never blocks a machine.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read};

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Bytes(Vec<u8>),
    /// Nothing now; the watch tells when there is.
    Nothing,
    /// Nothing any more, said once.
    Ended,
}

/// A descriptor that is read.
pub(crate) struct Input {
    descriptor: OwnedFd,
    has_ended: bool,
}

impl Input {
    pub(crate) fn new(descriptor: OwnedFd) -> Input {
        Input { descriptor, has_ended: false }
    }

    /// Takes so many bytes at most.
    pub(crate) fn take(&mut self, most: usize) -> Taken {
        if self.has_ended || most == 0 || !self.is_readable() {
            return Taken::Nothing;
        }
        let mut bytes = vec![0; most];
        match read(&self.descriptor, &mut bytes[..]) {
            Ok(size) if size > 0 => {
                bytes.truncate(size);
                Taken::Bytes(bytes)
            }
            Err(Errno::AGAIN | Errno::INTR) => Taken::Nothing,
            _ => {
                self.has_ended = true;
                Taken::Ended
            }
        }
    }

    /// A descriptor that others have too, a terminal's, should not be told not to block.
    fn is_readable(&self) -> bool {
        let mut it = [PollFd::new(&self.descriptor, PollFlags::IN)];
        poll(&mut it, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
    }
}

impl AsFd for Input {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
