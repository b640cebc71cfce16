//! A command that stays in front of a running program: streams in and out, signals handed on, the terminal borrowed and
//! given back.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use engine::{Cell, Conversation, Error as EngineError, RunningExec, Said, Stream};
use model::{Arch, Exit, ExitReport, StartStep, Stdin, Terminal};
use rustix::event::{PollFd, PollFlags};

use crate::error::{CommandError, Kind, Result};
use crate::output;
use crate::relay::Relays;

const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGQUIT: i32 = 3;
const SIGKILL: i32 = 9;
const SIGPIPE: i32 = 13;
const SIGTERM: i32 = 15;
const SIGWINCH: i32 = 28;

/// So many interrupts end a program of `run` by force.
const INSISTENCE: u32 = 3;

/// What to do when nobody reads our output any more, as after `skep run … | head`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnBrokenPipe {
    /// The program is told, as it would be if it wrote to the pipe itself, and stayed with until it ends.
    TellProgram,
    /// The program is left to itself: others may be attached to it.
    Leave,
}

/// The signals that are the program's while this command stands in front of it. To be caught before the program starts:
/// one that came earlier would end this command and leave the program running.
#[derive(Debug)]
pub(crate) struct CaughtSignals(OwnedFd);

impl CaughtSignals {
    pub(crate) fn catch() -> Result<Self> {
        let set = sys::signal::SignalSet::of(&[SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH]);
        Ok(Self(sys::signal::descriptor(set)?))
    }

    fn next(&self) -> Result<Option<i32>> {
        Ok(sys::signal::next(self.0.as_fd())?.map(|it| it.signal))
    }
}

/// Stays with a cell's own program until it ends, and ends as it did.
pub(crate) fn follow(
    cell: &Cell,
    conversation: Conversation,
    signals: CaughtSignals,
    input: Stdin,
    on_broken_pipe: OnBrokenPipe,
) -> Result<()> {
    match Follower::new(cell, conversation, signals, input, on_broken_pipe)?.run()? {
        Some(report) => exit_report(cell, &report),
        None => {
            output::note(format!("left {} running; 'skep attach {}' joins it again", cell.spec.name, cell.spec.name));
            Ok(())
        }
    }
}

fn exit_report(cell: &Cell, report: &ExitReport) -> Result<()> {
    match &report.exit {
        Exit::Code { code: 0 } => Ok(()),
        Exit::Code { code } => Err(CommandError::program(*code)),
        _ => Err(ending(cell, report)),
    }
}

/// An ending that is not the program's own choice, told with its reason.
pub(crate) fn ending(cell: &Cell, report: &ExitReport) -> CommandError {
    let kept = cell.spec.lifetime == model::Lifetime::Keep;
    let error = match &report.exit {
        Exit::NotStarted { step: StartStep::Network, error } if !rustix::process::geteuid().is_root() => {
            CommandError::new(Kind::Program(report.exit.code()), error)
                .hinted("making networks needs root: run it with '--net none' or '--net host', or as root")
        }
        Exit::NotStarted { step, error } => {
            let error = CommandError::new(Kind::Program(report.exit.code()), error);
            let foreign = *step == StartStep::CommandNotExecutable && cell.spec.image.arch != Arch::HOST;
            if foreign { error.hinted(foreign_hint(cell.spec.image.arch)) } else { error }
        }
        // Ctrl-C and 'skep stop' say nothing new to whoever typed them.
        Exit::Signal { .. } => return CommandError::program(report.exit.code()),
        other => CommandError::new(Kind::Program(report.exit.code()), format!("{}: {other}", cell.spec.name)),
    };
    if kept { error.hinted(format!("'skep why {}' tells more", cell.spec.name)) } else { error }
}

/// Why a program of another processor does not run, and what would make it run.
fn foreign_hint(arch: Arch) -> String {
    let host = Arch::HOST;
    format!(
        "the image is for {arch} and this machine is {host}: leave out --as for a machine that has one, take the image \
         with '--arch {host}', or install qemu-user-static, by which the kernel runs programs of other processors"
    )
}

/// A program that could not be started by `exec`, with the exit code for it.
pub(crate) fn start_failure(error: EngineError) -> CommandError {
    let missing = matches!(error, EngineError::Start { step: StartStep::CommandNotFound, .. });
    let error = start_failure_plain(error);
    if missing { error.hinted("'skep cp' brings a program into a cell") } else { error }
}

/// The same, without advice.
pub(crate) fn start_failure_plain(error: EngineError) -> CommandError {
    match error {
        EngineError::Start { step, ref message } => {
            let exit = Exit::NotStarted { step, error: String::new() };
            CommandError::new(Kind::Program(exit.code()), message)
        }
        other => other.into(),
    }
}

/// Ends as a program of `exec` did.
pub(crate) fn exit_with(exit: &Exit) -> Result<()> {
    match exit.code() {
        0 => Ok(()),
        code => Err(CommandError::program(code)),
    }
}

/// Rows and columns of the terminal that this command stands on.
pub(crate) fn terminal_size() -> (u16, u16) {
    rustix::termios::tcgetwinsize(std::io::stdout()).map_or((24, 80), |size| (size.ws_row, size.ws_col))
}

/// Rows and columns of this command's terminal, when it stands on one.
pub(crate) fn own_terminal() -> Option<(u16, u16)> {
    rustix::termios::isatty(std::io::stdout()).then(terminal_size)
}

struct Follower {
    conversation: Conversation,
    signals: CaughtSignals,
    reads_input: bool,
    keys: Option<DetachKeys>,
    _raw: Option<sys::pty::RawMode<'static>>,
    is_terminal: bool,
    on_broken_pipe: OnBrokenPipe,
    interrupts: u32,
}

impl Follower {
    fn new(
        cell: &Cell,
        mut conversation: Conversation,
        signals: CaughtSignals,
        input: Stdin,
        on_broken_pipe: OnBrokenPipe,
    ) -> Result<Self> {
        let is_terminal = cell.spec.process.terminal == Terminal::Pty;
        let stdin_is_terminal = rustix::termios::isatty(std::io::stdin());
        let raw =
            (is_terminal && stdin_is_terminal).then(|| sys::pty::RawMode::enter(rustix::stdio::stdin())).transpose()?;
        if is_terminal {
            let (rows, columns) = terminal_size();
            conversation.resize(rows, columns)?;
        }
        let keys = (is_terminal && stdin_is_terminal).then(DetachKeys::default);
        let reads_input = input == Stdin::Open;
        Ok(Self { conversation, signals, reads_input, keys, _raw: raw, is_terminal, on_broken_pipe, interrupts: 0 })
    }

    /// Gives how the cell ended, or nothing when the user left it running.
    fn run(mut self) -> Result<Option<ExitReport>> {
        loop {
            let (spoke, typed, signalled) = self.wait()?;
            if signalled {
                self.forward_signals()?;
            }
            if typed && !self.pass_input()? {
                return Ok(None);
            }
            if !spoke {
                continue;
            }
            loop {
                match self.conversation.next_word()? {
                    Said::Started(warnings) => warnings.iter().for_each(output::warning),
                    Said::Output(Stream::Out, bytes) => self.show(std::io::stdout().lock(), &bytes)?,
                    Said::Output(Stream::Err, bytes) => self.show(std::io::stderr().lock(), &bytes)?,
                    Said::Exited(report) => return Ok(Some(report)),
                }
                if !self.conversation.has_word() {
                    break;
                }
            }
        }
    }

    fn show(&mut self, mut out: impl Write, bytes: &[u8]) -> Result<()> {
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Err(e)
                if e.kind() == std::io::ErrorKind::BrokenPipe && self.on_broken_pipe == OnBrokenPipe::TellProgram =>
            {
                Ok(self.conversation.forward_signal(SIGPIPE)?)
            }
            outcome => Ok(outcome?),
        }
    }

    fn wait(&self) -> Result<(bool, bool, bool)> {
        let stdin = rustix::stdio::stdin();
        let input = if self.reads_input { PollFlags::IN } else { PollFlags::empty() };
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.conversation.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.signals.0.as_fd(), PollFlags::IN),
        ];
        if self.reads_input {
            fds.push(PollFd::from_borrowed_fd(stdin, input));
        }
        poll(&mut fds)?;
        let ready = |index: usize| fds.get(index).is_some_and(|it| !it.revents().is_empty());
        Ok((ready(0), ready(2), ready(1)))
    }

    fn forward_signals(&mut self) -> Result<()> {
        while let Some(signal) = self.signals.next()? {
            match signal {
                SIGWINCH if self.is_terminal => {
                    let (rows, columns) = terminal_size();
                    self.conversation.resize(rows, columns)?;
                }
                SIGWINCH => {}
                SIGINT if self.on_broken_pipe == OnBrokenPipe::TellProgram => self.interrupt()?,
                other => self.conversation.forward_signal(other)?,
            }
        }
        Ok(())
    }

    /// The program is asked first. One that does not listen, as a shell that waits for a child of its own, is ended by
    /// whoever insists.
    fn interrupt(&mut self) -> Result<()> {
        self.interrupts += 1;
        if self.interrupts + 1 == INSISTENCE {
            output::note("the program goes on; another Ctrl-C ends it by force");
        }
        let signal = if self.interrupts < INSISTENCE { SIGINT } else { SIGKILL };
        Ok(self.conversation.forward_signal(signal)?)
    }

    /// Whether to stay.
    fn pass_input(&mut self) -> Result<bool> {
        let mut piece = [0; 16 << 10];
        let count = std::io::stdin().lock().read(&mut piece).unwrap_or(0);
        let bytes = &piece[..count];
        if count == 0 {
            self.reads_input = false;
        }
        if let Some(keys) = &mut self.keys {
            let kept = keys.filter(bytes);
            if !kept.is_empty() {
                self.conversation.input(&kept)?;
            }
            return Ok(!keys.complete);
        }
        self.conversation.input(bytes)?;
        Ok(true)
    }
}

/// Control-P control-Q, docker's way out.
#[derive(Debug, Default)]
struct DetachKeys {
    half: bool,
    complete: bool,
}

impl DetachKeys {
    const FIRST: u8 = 0x10;
    const SECOND: u8 = 0x11;

    /// What of the input is for the program. A first key that no second follows is handed on with the next input.
    fn filter(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut kept = Vec::with_capacity(bytes.len() + 1);
        for &byte in bytes {
            match (self.half, byte) {
                (true, Self::SECOND) => {
                    self.complete = true;
                    return kept;
                }
                (true, _) => {
                    kept.push(Self::FIRST);
                    self.half = byte == Self::FIRST;
                    if !self.half {
                        kept.push(byte);
                    }
                }
                (false, Self::FIRST) => self.half = true,
                (false, _) => kept.push(byte),
            }
        }
        kept
    }
}

fn poll(fds: &mut [PollFd<'_>]) -> Result<()> {
    match rustix::event::poll(fds, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(std::io::Error::from(e).into()),
    }
}

/// Waits for a program of `exec` that has our own streams, as far as they are no terminals.
pub(crate) fn wait_forwarding_signals(running: RunningExec, mut relays: Relays) -> Result<Exit> {
    let signals = CaughtSignals::catch()?;
    loop {
        let mut fds = vec![
            PollFd::from_borrowed_fd(running.ended(), PollFlags::IN),
            PollFd::from_borrowed_fd(signals.0.as_fd(), PollFlags::IN),
        ];
        relays.add_to(&mut fds);
        poll(&mut fds)?;
        let has_ended = !fds[0].revents().is_empty();
        drop(fds);
        relays.pass_on();
        if has_ended {
            relays.finish();
            return Ok(running.wait()?);
        }
        while let Some(signal) = signals.next()? {
            running.signal(signal);
        }
    }
}

/// Stands between our terminal and that of a program of `exec`.
pub(crate) fn drive_terminal(mut running: RunningExec, input: Stdin) -> Result<Exit> {
    let Some(terminal) = running.take_terminal() else { return wait_forwarding_signals(running, Relays::default()) };
    let stdin = rustix::stdio::stdin();
    let _raw = (input == Stdin::Open && rustix::termios::isatty(stdin))
        .then(|| sys::pty::RawMode::enter(stdin))
        .transpose()?;
    let signals = CaughtSignals::catch()?;
    let (mut reads_input, mut has_output) = (input == Stdin::Open, true);
    while has_output {
        let mut fds = vec![
            PollFd::from_borrowed_fd(terminal.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(signals.0.as_fd(), PollFlags::IN),
        ];
        if reads_input {
            fds.push(PollFd::from_borrowed_fd(stdin, PollFlags::IN));
        }
        poll(&mut fds)?;
        let ready: Vec<_> = fds.iter().map(|it| !it.revents().is_empty()).collect();
        if ready[1] {
            while let Some(signal) = signals.next()? {
                match signal {
                    SIGWINCH => {
                        let (rows, columns) = terminal_size();
                        let size =
                            rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
                        let _ = rustix::termios::tcsetwinsize(&terminal, size);
                    }
                    other => running.signal(other),
                }
            }
        }
        if ready.get(2) == Some(&true) {
            reads_input = copy_some(stdin, terminal.as_fd())?;
        }
        if ready[0] {
            has_output = copy_some(terminal.as_fd(), rustix::stdio::stdout())?;
        }
    }
    Ok(running.wait()?)
}

/// Copies what is there; whether there may be more. A terminal whose other side is closed reads as an error.
fn copy_some(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<bool> {
    let mut piece = [0; 16 << 10];
    let count = match rustix::io::read(from, &mut piece) {
        Ok(count) => count,
        Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return Ok(true),
        Err(_) => 0,
    };
    let mut rest = &piece[..count];
    while !rest.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(to, rest)).map_err(std::io::Error::from)?;
        rest = &rest[written..];
    }
    Ok(count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_both_keys_in_order_detach() {
        let check = |pieces: &[&[u8]], passed: &[u8], complete: bool| {
            let mut keys = DetachKeys::default();
            let kept: Vec<u8> = pieces.iter().flat_map(|it| keys.filter(it)).collect();
            assert_eq!((kept.as_slice(), keys.complete), (passed, complete), "{pieces:?}");
        };
        check(&[b"ls\n"], b"ls\n", false);
        check(&[b"a\x10\x11b"], b"a", true);
        check(&[b"\x10", b"\x11"], b"", true);
        check(&[b"\x10x"], b"\x10x", false);
        check(&[b"\x10\x10\x11"], b"\x10", true);
        check(&[b"\x11"], b"\x11", false);
    }
}
