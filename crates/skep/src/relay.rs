//! The standard streams of a program that runs beside a cell's own: this command's, but for terminals.
//!
//! **No program of a cell ever holds a terminal of the user's.** It could keep it, read what is typed there later, and change
//! how it behaves. So whatever of the three is a terminal is handed on through a pipe.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use engine::ExecStreams;
use model::Stdin;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::Result;

/// So much can be written to a pipe that polls writable without waiting (`pipe(7)`, `PIPE_BUF`).
const PIECE: usize = 4096;

/// Pipes between terminals and a program.
#[derive(Debug, Default)]
pub(crate) struct Relays {
    /// From the terminal to the program.
    input: Option<Relay>,
    /// From the program to the terminal.
    outputs: Vec<Relay>,
}

#[derive(Debug)]
struct Relay {
    from: OwnedFd,
    to: OwnedFd,
}

/// The streams for a program, and what must be kept going while it runs.
pub(crate) fn streams(input: Stdin) -> Result<(ExecStreams, Relays)> {
    let mut relays = Relays::default();
    let stdin = match input {
        Stdin::Closed => None,
        Stdin::Open => Some(relays.input(rustix::stdio::stdin())?),
    };
    let stdout = relays.output(rustix::stdio::stdout())?;
    let stderr = relays.output(rustix::stdio::stderr())?;
    Ok((ExecStreams::Three(stdin, stdout, stderr), relays))
}

fn own(stream: BorrowedFd<'_>) -> Result<OwnedFd> {
    Ok(stream.try_clone_to_owned()?)
}

impl Relays {
    fn input(&mut self, stream: BorrowedFd<'_>) -> Result<OwnedFd> {
        if !rustix::termios::isatty(stream) {
            return own(stream);
        }
        let (near, far) = pipe_with(PipeFlags::CLOEXEC)?;
        self.input = Some(Relay { from: own(stream)?, to: far });
        Ok(near)
    }

    fn output(&mut self, stream: BorrowedFd<'_>) -> Result<OwnedFd> {
        if !rustix::termios::isatty(stream) {
            return own(stream);
        }
        let (near, far) = pipe_with(PipeFlags::CLOEXEC)?;
        self.outputs.push(Relay { from: near, to: own(stream)? });
        Ok(far)
    }

    /// What to wait for until [`Relays::pass_on`] has something to do.
    pub(crate) fn add_to<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        if let Some(Relay { from, to }) = &self.input {
            // While the program does not read, nothing is read from the terminal.
            fds.push(match is_ready(to.as_fd(), PollFlags::OUT) {
                true => PollFd::from_borrowed_fd(from.as_fd(), PollFlags::IN),
                false => PollFd::from_borrowed_fd(to.as_fd(), PollFlags::OUT),
            });
        }
        fds.extend(self.outputs.iter().map(|it| PollFd::from_borrowed_fd(it.from.as_fd(), PollFlags::IN)));
    }

    /// Hands on what is there now.
    pub(crate) fn pass_on(&mut self) {
        self.input.take_if(|it| is_ready(it.to.as_fd(), PollFlags::OUT) && !it.pass_on());
        self.outputs.retain(Relay::pass_on);
    }

    /// Hands on what the program has left behind.
    pub(crate) fn finish(&mut self) {
        self.input = None;
        while self.outputs.iter().any(|it| is_ready(it.from.as_fd(), PollFlags::IN)) {
            self.outputs.retain(Relay::pass_on);
        }
    }
}

impl Relay {
    /// Whether there may be more.
    fn pass_on(&self) -> bool {
        if !is_ready(self.from.as_fd(), PollFlags::IN) {
            return true;
        }
        let mut piece = [0; PIECE];
        let count = match rustix::io::retry_on_intr(|| rustix::io::read(&self.from, &mut piece)) {
            Ok(0) | Err(_) => return false,
            Ok(count) => count,
        };
        let mut rest = piece.get(..count).unwrap_or_default();
        while !rest.is_empty() {
            match rustix::io::retry_on_intr(|| rustix::io::write(&self.to, rest)) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(_) => return false,
            }
        }
        true
    }
}

/// Whether reading or writing would not wait; also when the other side is gone.
fn is_ready(fd: BorrowedFd<'_>, wanted: PollFlags) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, wanted)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::io::retry_on_intr(|| poll(&mut fds, Some(&now))).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_arrives_and_an_end_is_an_end() {
        let (near, far) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (out, to) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut relays = Relays { input: None, outputs: vec![Relay { from: near, to }] };
        relays.pass_on();
        rustix::io::write(&far, b"bees").unwrap();
        relays.finish();
        let mut piece = [0; 8];
        assert_eq!(rustix::io::read(&out, &mut piece), Ok(4));
        drop(far);
        relays.pass_on();
        assert!(relays.outputs.is_empty());
    }

    #[test]
    fn a_program_that_does_not_read_is_not_fed_beyond_its_pipe() {
        let (from, terminal) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (_program, to) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut relays = Relays { input: Some(Relay { from, to }), outputs: Vec::new() };
        for _ in 0..40 {
            rustix::io::write(&terminal, &[0; PIECE]).unwrap();
            relays.pass_on();
            if !is_ready(terminal.as_fd(), PollFlags::OUT) {
                break;
            }
        }
        let mut fds = Vec::new();
        relays.add_to(&mut fds);
        assert_eq!(fds.len(), 1);
    }
}
