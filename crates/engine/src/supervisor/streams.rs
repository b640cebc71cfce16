//! The near ends of a program's standard streams.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use model::{Process, Stdin, Terminal};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use crate::boundary::ProgramStreams;
use crate::error::{Error, Result};
use crate::logs::Stream;

/// Input that the program has not read yet; past this, clients are not listened to.
const INPUT_LIMIT: usize = 256 << 10;

/// What the supervisor reads and writes for a program.
#[derive(Debug, Default)]
pub(super) struct Streams {
    stdin: Option<OwnedFd>,
    /// Standard output, or the terminal.
    out: Option<OwnedFd>,
    err: Option<OwnedFd>,
    terminal: Terminality,
    input: Vec<u8>,
    input_ends: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Terminality {
    #[default]
    Pipes,
    Terminal,
}

/// What a read of the program's output gave.
pub(super) enum Output {
    Bytes(usize),
    NothingYet,
    Ended,
}

impl Streams {
    /// Makes both ends: those to keep and those to give to the program.
    pub(super) fn for_program(process: &Process, window: (u16, u16)) -> Result<(Self, ProgramStreams)> {
        if process.terminal == Terminal::Pty {
            // The terminal itself comes back from the start.
            let streams = Self { terminal: Terminality::Terminal, ..Self::default() };
            return Ok((streams, ProgramStreams::Pty(window.0, window.1)));
        }
        let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| Error::io("making a pipe", e));
        let (out, stdout) = pipe()?;
        let (err, stderr) = pipe()?;
        let (stdin, near) = match process.stdin {
            Stdin::Open => {
                let (far, near) = pipe()?;
                (far, Some(near))
            }
            Stdin::Closed => (open_null()?, None),
        };
        for fd in [Some(&out), Some(&err), near.as_ref()].into_iter().flatten() {
            rustix::io::ioctl_fionbio(fd, true).map_err(|e| Error::io("preparing a pipe", e))?;
        }
        let streams = Self { stdin: near, out: Some(out), err: Some(err), ..Self::default() };
        Ok((streams, ProgramStreams::Three { stdin, stdout, stderr }))
    }

    /// Takes the near end of the program's terminal.
    pub(super) fn set_terminal(&mut self, terminal: OwnedFd) -> Result<()> {
        rustix::io::ioctl_fionbio(&terminal, true).map_err(|e| Error::io("preparing a terminal", e))?;
        self.out = Some(terminal);
        Ok(())
    }

    pub(super) fn output_fd(&self, stream: Stream) -> Option<BorrowedFd<'_>> {
        self.source(stream).as_ref().map(AsFd::as_fd)
    }

    fn source(&self, stream: Stream) -> &Option<OwnedFd> {
        match stream {
            Stream::Out => &self.out,
            Stream::Err => &self.err,
        }
    }

    /// Reads what the program wrote. A stream that ended is closed here.
    pub(super) fn read(&mut self, stream: Stream, into: &mut [u8]) -> Output {
        let Some(fd) = self.source(stream) else { return Output::Ended };
        match rustix::io::read(fd, into) {
            Ok(count) if count > 0 => return Output::Bytes(count),
            Err(Errno::AGAIN | Errno::INTR) => return Output::NothingYet,
            // A terminal whose other side is closed reads as EIO.
            Ok(_) | Err(_) => {}
        }
        match stream {
            Stream::Out => self.out = None,
            Stream::Err => self.err = None,
        }
        Output::Ended
    }

    pub(super) fn takes_input(&self) -> bool {
        self.input.len() < INPUT_LIMIT
    }

    /// Queues input; empty means end of file.
    pub(super) fn push_input(&mut self, bytes: &[u8]) {
        if bytes.is_empty() && self.terminal == Terminality::Pipes {
            self.input_ends = true;
        } else if !self.input_ends && self.input_fd().is_some() {
            self.input.extend_from_slice(bytes);
        }
        self.write_input();
    }

    /// The descriptor to wait for when input is queued.
    pub(super) fn pending_input_fd(&self) -> Option<BorrowedFd<'_>> {
        if self.input.is_empty() { None } else { self.input_fd() }
    }

    fn input_fd(&self) -> Option<BorrowedFd<'_>> {
        match self.terminal {
            Terminality::Pipes => self.stdin.as_ref().map(AsFd::as_fd),
            Terminality::Terminal => self.out.as_ref().map(AsFd::as_fd),
        }
    }

    /// Writes queued input, as far as the program takes it.
    pub(super) fn write_input(&mut self) {
        while let Some(fd) = self.pending_input_fd() {
            match rustix::io::write(fd, &self.input) {
                Ok(count) => drop(self.input.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // The program closed its input; what was meant for it is nobody's.
                Err(_) => {
                    self.input.clear();
                    self.stdin = None;
                }
            }
        }
        if self.input_ends {
            self.stdin = None;
        }
    }

    pub(super) fn resize(&self, rows: u16, columns: u16) {
        if let (Terminality::Terminal, Some(terminal)) = (self.terminal, &self.out) {
            let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            let _ = rustix::termios::tcsetwinsize(terminal, size);
        }
    }
}

pub(crate) fn open_null() -> Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::io("opening /dev/null", e))
}
