//! Who runs a machine for a cell: its programs begin, have their streams, are signalled and end, as a container's do.
//!
//! The machine has threads of its own; this one speaks with its agent and with whoever asks for something outside: the
//! cell's first program by the process's own streams and signals, further ones by the control socket. **When the first
//! program has ended the machine ends**, with all that it has written on its way.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use sys::pty::WindowSize;
use sys::signal::{self, SignalSet};
use unikernel::Command;
use unikernel::control::{Order, Word};

use super::guest::{Guest, Origin};
use super::kept::{self, SavedInside};
use super::link::{Awaited, Link};
use super::pump::{self, Input, Output, State, Way};
use super::root;
use super::runner::Runner;
use super::script::{Call, Script, Value};
use super::setup::{self, Has};
use super::spawn::{self, Born, Ends, Outcome};
use super::whole;
use crate::arch::{Arch, tier, translations};
use crate::boot::Image;
use crate::console::Serial;
use crate::error::{Error, Result};
use crate::machine::gdb::Door;
use crate::machine::{End, Frozen, Machine, Outside, Start, Thaw};
use crate::virtio::console::Port;

const SIGNAL_WINDOW: i32 = 28;
const NOBODY_HANGS: i64 = 1;

/// Runs it to its end; gives the first program's wait status.
pub fn run(guest: Guest) -> Result<i32> {
    let signals = signal::descriptor(SignalSet::ALL).map_err(|errno| Error::Watching(errno.into()))?;
    crate::share::find_links_in(guest.descriptors).map_err(|errno| Error::Watching(errno.into()))?;
    let begin = match guest.origin {
        Origin::Kernel { image, modules, memory, processors } => {
            Begin::Anew(image, root::first(guest.arch, &modules), memory, processors)
        }
        Origin::Frozen(files) => {
            let (frozen, inside) = kept::read(files)?;
            Begin::Again(frozen, inside)
        }
    };
    let server = match &begin {
        Begin::Anew(_, first, ..) => first.server,
        Begin::Again(_, inside) => inside.server,
    };
    let (link, port) = line(guest.arch, server)?;
    let mut devices = setup::devices(port, guest.root, guest.network.as_ref())?;
    devices.sockets = guest.sockets;
    let has = if guest.disks.is_empty() { Has::Nothing } else { Has::Disks };
    devices.disks = guest.disks.into_iter().enumerate().map(whole::disk).collect::<Result<_>>()?;
    let serial = Serial { output: Box::new(guest.log), input: None };
    let (arch, kvm, mode) = (guest.arch, guest.kvm, tier());
    let door = Arc::new(Door::default());
    let translations = guest.translations.and_then(|file| translations(arch, file).ok());
    let (runner, inside) = match begin {
        Begin::Anew(kernel, first, memory, processors) => {
            let make = move || {
                let (kernel, initrd, command_line) = (Image::File(&kernel), &first.archive, setup::command_line(arch));
                let outside = Outside::Host;
                let start = Start { kernel, initrd, command_line, memory, processors, mode, serial, devices, outside };
                Machine::of_arch(arch, kvm, start)
            };
            (Runner::begin(Arc::clone(&door), translations, make), None)
        }
        Begin::Again(frozen, inside) => {
            let make = move || Machine::thaw_of(arch, kvm, frozen, Thaw { mode, serial, devices });
            (Runner::begin(Arc::clone(&door), translations, make), Some(inside))
        }
    };
    let (control, sessions, waiting) = (guest.control, Vec::new(), Vec::new());
    let mut monitor = Monitor { link, runner, signals, control, sessions, waiting, ends: CLOSED, door };
    let began = match inside {
        None => setup::prepare(&mut monitor.link, &guest.hostname, guest.network.as_ref(), has).and_then(|ends| {
            monitor.ends = ends;
            monitor.begin(&guest.command, guest.streams)
        }),
        Some(inside) => monitor.resume(inside, guest.network.as_ref(), guest.streams),
    };
    match began.and_then(|()| monitor.live()) {
        Ok(status) => Ok(status),
        // What went wrong is better known to whoever ran the machine, if that has ended.
        Err(error) => match monitor.runner.ended(Duration::from_secs(1)) {
            Ok(Ok(End::PowerOff)) => Ok(0),
            Ok(Ok(End::Reboot)) => Err(Error::GaveUp),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(error),
        },
    }
}

/// How it begins.
enum Begin {
    Anew(File, root::First, u64, usize),
    Again(Frozen, SavedInside),
}

/// The line to the agent, and the port that is its other end.
fn line(arch: Arch, server: u64) -> Result<(Link, Port)> {
    let pair = || socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let failed = |errno: rustix::io::Errno| Error::Watching(errno.into());
    let (ours, theirs) = pair().map_err(failed)?;
    rustix::io::ioctl_fionbio(&theirs, true).map_err(failed)?;
    let copy = |it: &OwnedFd| it.try_clone().map_err(Error::Watching);
    let port = Port { name: "line".into(), input: Some(copy(&theirs)?), output: theirs };
    Ok((Link::new(arch, copy(&ours)?, ours, server), port))
}

/// A program and who is told of its end.
pub(super) struct Session {
    /// What it is called.
    pub(super) name: String,
    pub(super) process: i64,
    pub(super) input: Option<Input>,
    pub(super) outputs: Vec<Output>,
    /// The agent's end of its terminal, and the host's.
    pub(super) terminal: Option<(i32, OwnedFd)>,
    pub(super) status: Option<i32>,
    /// The connection that asked for it; nothing for the first.
    pub(super) asker: Option<OwnedFd>,
}

/// What a descriptor of the host is waited for.
#[derive(Debug, Clone, Copy)]
enum Here {
    Signals,
    Control,
    Asker(usize),
    Source(usize),
    /// An output has room again.
    Room,
}

/// What a descriptor of the guest is waited for.
#[derive(Debug, Clone, Copy)]
enum There {
    Ends,
    Input(usize),
    Output(usize, usize),
}

pub(super) struct Monitor {
    pub(super) link: Link,
    pub(super) runner: Runner,
    signals: OwnedFd,
    control: Option<OwnedFd>,
    pub(super) sessions: Vec<Session>,
    /// Connections of those who only want to know of its end.
    waiting: Vec<OwnedFd>,
    /// The agent's descriptor for ends of programs.
    pub(super) ends: i32,
    /// Where debuggers come in.
    door: Arc<Door>,
}

impl Monitor {
    /// Begins the first program.
    fn begin(&mut self, command: &Command, streams: [OwnedFd; 3]) -> Result<()> {
        let failed =
            |errno| Error::Program { path: command.path.clone(), source: std::io::Error::from_raw_os_error(errno) };
        self.start(command, streams, None)?.map_err(failed)
    }

    /// Sees the first program to its end.
    fn live(&mut self) -> Result<i32> {
        loop {
            self.step()?;
            self.settle()?;
            let first = self.sessions.iter().find(|it| it.asker.is_none());
            if let Some(Session { status: Some(status), outputs, .. }) = first
                && outputs.is_empty()
            {
                let status = *status;
                let mut script = Script::new();
                script.call(Call::Sync, []);
                self.link.call(script)?;
                return Ok(status);
            }
        }
    }

    fn start(&mut self, command: &Command, streams: [OwnedFd; 3], asker: Option<OwnedFd>) -> Result<Outcome<()>> {
        let [stdin, stdout, stderr] = streams;
        let is_terminal = rustix::termios::isatty(&stdin) && rustix::termios::isatty(&stdout);
        let size = is_terminal.then(|| size_of(&stdin));
        let Born { process, streams } = match spawn::spawn(&mut self.link, command, size)? {
            Ok(born) => born,
            Err(errno) => return Ok(Err(errno)),
        };
        let (input, outputs, terminal) = match streams {
            Ends::Pipes([to, from, other]) => {
                let outputs = vec![Output::new(from, 1, stdout), Output::new(other, 2, stderr)];
                (Input::new(stdin, to, Way::Pipe), outputs, None)
            }
            Ends::Terminal(end) => {
                // Keys mean what the guest's terminal says they do.
                if let Ok(raw) = sys::pty::RawMode::enter(stdin.as_fd()) {
                    std::mem::forget(raw);
                }
                let copy = stdin.try_clone().map_err(Error::Watching)?;
                (Input::new(stdin, end, Way::Terminal), vec![Output::new(end, 1, stdout)], Some((end, copy)))
            }
        };
        let name = command.path.file_name().map_or_else(String::new, |it| it.to_string_lossy().into_owned());
        self.sessions.push(Session { name, process, input: Some(input), outputs, terminal, status: None, asker });
        Ok(Ok(()))
    }

    /// Waits for something to happen, and deals with it.
    fn step(&mut self) -> Result<()> {
        let (mut there, mut awaited) = (vec![There::Ends], vec![awaited(self.ends, PollFlags::IN)]);
        let mut here = vec![(Here::Signals, self.signals.as_fd(), PollFlags::IN)];
        here.extend(self.control.iter().map(|it| (Here::Control, it.as_fd(), PollFlags::IN)));
        for (number, session) in self.sessions.iter().enumerate() {
            here.extend(session.asker.iter().map(|it| (Here::Asker(number), it.as_fd(), PollFlags::IN)));
            if let Some(input) = &session.input {
                here.extend(input.source().map(|it| (Here::Source(number), it, PollFlags::IN)));
                if input.is_full() {
                    there.push(There::Input(number));
                    awaited.push(self::awaited(input.to, PollFlags::OUT));
                }
            }
            for (which, output) in session.outputs.iter().enumerate() {
                if output.has_room() {
                    there.push(There::Output(number, which));
                    awaited.push(self::awaited(output.from, PollFlags::IN));
                } else {
                    here.push((Here::Room, output.sink(), PollFlags::OUT));
                }
            }
        }
        let descriptors: Vec<(BorrowedFd<'_>, PollFlags)> = here.iter().map(|(_, it, flags)| (*it, *flags)).collect();
        let (states, ours) = self.link.wait(&awaited, &descriptors)?;
        let there: Vec<There> = ready(there, &states);
        let here: Vec<Here> = ready(here.iter().map(|it| it.0).collect(), &ours);
        there.into_iter().try_for_each(|it| self.attend_there(it))?;
        here.into_iter().try_for_each(|it| self.attend_here(it))
    }

    fn attend_there(&mut self, what: There) -> Result<()> {
        match what {
            There::Ends => self.reap(),
            There::Input(number) => self.flush(number),
            There::Output(number, which) => {
                let output = &mut self.sessions[number].outputs[which];
                if output.pass(&mut self.link)? == State::Over {
                    self.close_output(number, which)?;
                }
                Ok(())
            }
        }
    }

    /// The output stays in its place, with a descriptor that is none, until all have been attended to.
    fn close_output(&mut self, number: usize, which: usize) -> Result<()> {
        let session = &mut self.sessions[number];
        let from = std::mem::replace(&mut session.outputs[which].from, CLOSED);
        if session.terminal.is_none() && from != CLOSED {
            pump::close(&mut self.link, from)?;
        }
        Ok(())
    }

    fn flush(&mut self, number: usize) -> Result<()> {
        let session = &mut self.sessions[number];
        let Some(input) = &mut session.input else { return Ok(()) };
        if input.flush(&mut self.link)? == State::Over {
            let to = input.to;
            session.input = None;
            if session.terminal.is_none() {
                pump::close(&mut self.link, to)?;
            }
        }
        Ok(())
    }

    fn attend_here(&mut self, what: Here) -> Result<()> {
        match what {
            Here::Signals => self.hear_signals(),
            Here::Control => self.accept(),
            Here::Asker(number) => self.hear_asker(number),
            Here::Source(number) => {
                if let Some(input) = &mut self.sessions[number].input {
                    input.fill();
                }
                self.flush(number)
            }
            Here::Room => Ok(()),
        }
    }

    /// Collects what has ended.
    fn reap(&mut self) -> Result<()> {
        let mut script = Script::new();
        let news = script.room(1024);
        script.call(Call::Read, [Value::Number(self.ends.into()), news.into(), 1024.into()]);
        self.link.call(script)?;
        loop {
            let mut script = Script::new();
            let status = script.room(8);
            let ended = script.call(Call::Wait4, [(-1).into(), status.into(), NOBODY_HANGS.into(), 0.into()]);
            let answer = self.link.call(script)?;
            if answer[ended] <= 0 {
                return Ok(());
            }
            // Others were left to process 1 by programs that ended before them.
            if let Some(session) = self.sessions.iter_mut().find(|it| it.process == answer[ended]) {
                session.status = Some(i32::from_le_bytes(answer.data(status)));
            }
        }
    }

    /// What is left of programs that have ended: what they printed, and the word that they have.
    fn settle(&mut self) -> Result<()> {
        for number in 0..self.sessions.len() {
            let is_over = self.sessions[number].status.is_some();
            for which in 0..self.sessions[number].outputs.len() {
                // Somebody may still hold the streams of a program that ended: what is there now is its last.
                while is_over && self.sessions[number].outputs[which].from != CLOSED {
                    let output = &mut self.sessions[number].outputs[which];
                    if !output.has_room() {
                        break;
                    }
                    if output.pass(&mut self.link)? != State::Open {
                        self.close_output(number, which)?;
                    }
                }
            }
            self.sessions[number].outputs.retain(|it| it.from != CLOSED);
        }
        let mut number = 0;
        while number < self.sessions.len() {
            let session = &self.sessions[number];
            let (Some(status), true, Some(asker)) = (session.status, session.outputs.is_empty(), &session.asker) else {
                number += 1;
                continue;
            };
            let _ = Word::Ended { status }.say(asker);
            let session = self.sessions.remove(number);
            if let Some((end, _)) = session.terminal {
                pump::close(&mut self.link, end)?;
            } else if let Some(input) = session.input {
                pump::close(&mut self.link, input.to)?;
            }
        }
        Ok(())
    }

    fn hear_signals(&mut self) -> Result<()> {
        while let Ok(Some(it)) = signal::next(self.signals.as_fd()) {
            // What this process does to itself, by writing to where nobody reads, is not the program's.
            if it.pid == std::process::id() {
                continue;
            }
            if let Some(number) = self.sessions.iter().position(|it| it.asker.is_none()) {
                self.signal(number, it.signal)?;
            }
        }
        Ok(())
    }

    fn signal(&mut self, number: usize, signal: i32) -> Result<()> {
        let session = &self.sessions[number];
        match &session.terminal {
            Some((end, terminal)) if signal == SIGNAL_WINDOW => spawn::resize(&mut self.link, *end, size_of(terminal)),
            _ if session.status.is_some() => Ok(()),
            _ => {
                let mut script = Script::new();
                script.call(Call::Kill, [session.process.into(), i64::from(signal).into()]);
                self.link.call(script).map(drop)
            }
        }
    }

    /// Takes a connection up. Whoever makes one asks at once.
    fn accept(&mut self) -> Result<()> {
        let Some(control) = &self.control else { return Ok(()) };
        let Ok(connection) = rustix::net::accept_with(control, SocketFlags::CLOEXEC) else { return Ok(()) };
        let mut bytes = [0; 64];
        let Ok((length, descriptors)) = sys::socket::receive(&connection, &mut bytes) else { return Ok(()) };
        let [stdin, stdout, stderr, text] = match (Order::of(&bytes[..length]), descriptors) {
            (Some(Order::Run { .. }), [Some(a), Some(b), Some(c), Some(d)]) => [a, b, c, d],
            (Some(Order::Debugger), [Some(debugger), ..]) => {
                self.door.enter(debugger);
                let _ = Word::Started { number: 0 }.say(&connection);
                return Ok(());
            }
            (Some(Order::Freeze), _) => return self.hand_out(&connection),
            (Some(Order::Keep { .. }), [Some(state), Some(bytes), ..]) => return self.keep(connection, state, bytes),
            (Some(Order::List), _) => return self.list(&connection),
            _ => {
                // It is told nothing, and keeps its connection until it ends: news, of which there are none.
                self.waiting.push(connection);
                return Ok(());
            }
        };
        let Some(command) = unikernel::control::read_command(&text) else { return Ok(()) };
        let asker = connection.try_clone().map_err(Error::Watching)?;
        let word = match self.start(&command, [stdin, stdout, stderr], Some(asker))? {
            Ok(()) => Word::Started { number: self.sessions.last().map_or(0, |it| it.process as u32) },
            Err(errno) => Word::Refused(sys::Errno::from_raw_os_error(errno)),
        };
        let _ = word.say(&connection);
        Ok(())
    }

    /// An order of whoever asked for a program, or his end, which is the program's.
    fn hear_asker(&mut self, number: usize) -> Result<()> {
        const KILL: i32 = 9;
        let mut bytes = [0; 64];
        let Some(asker) = &self.sessions[number].asker else { return Ok(()) };
        match sys::socket::receive(asker, &mut bytes) {
            Ok((length, _)) if length > 0 => match Order::of(&bytes[..length]) {
                Some(Order::Signal(signal) | Order::Key(signal)) => self.signal(number, signal),
                _ => Ok(()),
            },
            _ => {
                self.signal(number, KILL)?;
                // Nobody is left to be told; the program is collected as one that was left to process 1.
                let session = self.sessions.remove(number);
                let mut ends: Vec<i32> = session.outputs.iter().map(|it| it.from).filter(|it| *it != CLOSED).collect();
                ends.extend(session.input.map(|it| it.to));
                ends.sort_unstable();
                ends.dedup();
                ends.into_iter().try_for_each(|it| pump::close(&mut self.link, it))
            }
        }
    }
}

/// No descriptor.
const CLOSED: i32 = -1;

fn awaited(descriptor: i32, events: PollFlags) -> Awaited {
    Awaited { descriptor, events }
}

fn ready<T>(what: Vec<T>, states: &[PollFlags]) -> Vec<T> {
    what.into_iter().zip(states).filter(|(_, state)| !state.is_empty()).map(|(what, _)| what).collect()
}

fn size_of(terminal: &OwnedFd) -> WindowSize {
    sys::pty::size(terminal).unwrap_or(WindowSize { rows: 24, columns: 80 })
}
