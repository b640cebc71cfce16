//! A debugger's view of a machine: gdb's remote protocol (`gdbstub`) on a connection that somebody else has made.
//!
//! The machine's own thread speaks with the debugger, so nothing of the machine moves while it is looked at. **Whoever leaves
//! leaves a machine that runs as before**: places to stop at go with the connection.

mod view;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dbt::Until;
use gdbstub::common::Signal;
use gdbstub::conn::{Connection, ConnectionExt};
use gdbstub::stub::run_blocking::{BlockingEventLoop, Event, WaitForStopReasonError};
use gdbstub::stub::{DisconnectReason, GdbStub, SingleThreadStopReason};
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::single_register_access::{SingleRegisterAccess, SingleRegisterAccessOps};
use gdbstub::target::ext::base::singlethread::{
    SingleThreadBase, SingleThreadResume, SingleThreadResumeOps, SingleThreadSingleStep, SingleThreadSingleStepOps,
};
use gdbstub::target::ext::breakpoints::{Breakpoints, BreakpointsOps, SwBreakpoint, SwBreakpointOps};
use gdbstub::target::ext::target_description_xml_override::{
    TargetDescriptionXmlOverride, TargetDescriptionXmlOverrideOps,
};
use gdbstub::target::{Target, TargetError, TargetResult};

use self::view::{Bytes, Number, Processors, Shown};
use super::{End, Machine};
use crate::watch::Interrupter;

/// For so long a machine runs before its debugger is listened to again, and for so many instructions.
const SLICE: Duration = Duration::from_millis(20);
const SLICE_INSTRUCTIONS: u64 = 20_000;

/// Where debuggers come in, from other threads than the machine's.
#[derive(Default)]
pub(crate) struct Door(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    connections: Vec<OwnedFd>,
    interrupter: Option<Interrupter>,
}

impl Door {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A debugger has come.
    pub(crate) fn enter(&self, connection: OwnedFd) {
        let mut waiting = self.waiting();
        waiting.connections.insert(0, connection);
        waiting.interrupter.iter().for_each(Interrupter::interrupt);
    }

    fn open(&self, interrupter: Interrupter) {
        self.waiting().interrupter = Some(interrupter);
    }

    fn next(&self) -> Option<OwnedFd> {
        self.waiting().connections.pop()
    }
}

impl Machine {
    /// Runs until the machine ends, or it was interrupted and is to run no more, and serves debuggers meanwhile.
    pub(crate) fn run_with(&mut self, door: &Door, is_over: impl Fn() -> bool) -> Option<End> {
        door.open(self.interrupter());
        while !is_over() {
            while let Some(connection) = door.next() {
                if let Some(end) = self.be_debugged(connection) {
                    return Some(end);
                }
            }
            if let Some(end) = self.run_for(Duration::from_secs(3600)) {
                return Some(end);
            }
        }
        None
    }

    /// Stands still, and does what a debugger says until that leaves. Gives how the machine ended, if it did.
    pub fn be_debugged(&mut self, connection: OwnedFd) -> Option<End> {
        let shown = view::shown(self.processor.isa())?;
        let mut debugged = Debugged { machine: self, shown, places: BTreeSet::new(), is_stepping: false, end: None };
        let outcome = GdbStub::new(Line(File::from(connection))).run_blocking::<Loop<'_>>(&mut debugged);
        match outcome {
            Ok(DisconnectReason::Kill) => Some(End::PowerOff),
            _ => debugged.end,
        }
    }
}

/// A machine that is looked at.
struct Debugged<'m> {
    machine: &'m mut Machine,
    shown: Vec<Shown>,
    places: BTreeSet<u64>,
    is_stepping: bool,
    end: Option<End>,
}

impl Debugged<'_> {
    /// Goes on for a moment; gives why it stopped, if it did.
    fn go_on(&mut self) -> Option<SingleThreadStopReason<u64>> {
        let machine = &mut *self.machine;
        if self.is_stepping {
            machine.hear();
            machine.processor.step_once(&mut *machine.board);
        } else if self.places.is_empty() {
            machine.run_for(SLICE);
        } else {
            machine.hear();
            let rest = match machine.processor.run_until(&mut *machine.board, SLICE_INSTRUCTIONS, &self.places) {
                Until::Reached => return Some(SingleThreadStopReason::SwBreak(())),
                Until::Done => Duration::ZERO,
                Until::Waiting => machine.board.idle().min(SLICE),
            };
            machine.watch.look(Some(rest));
        }
        self.end = self.machine.board.end();
        match self.end {
            Some(_) => Some(SingleThreadStopReason::Exited(0)),
            None => self.is_stepping.then_some(SingleThreadStopReason::DoneStep),
        }
    }

    fn read(&mut self, number: usize) -> Option<Vec<u8>> {
        let machine = &mut *self.machine;
        self.shown.get(number).map(|it| it.read(&mut machine.processor, &mut *machine.board))
    }

    fn write(&mut self, number: usize, value: &[u8]) -> Option<()> {
        let machine = &mut *self.machine;
        self.shown.get(number)?.write(&mut machine.processor, &mut *machine.board, value)
    }
}

/// A connection.
struct Line(File);

impl Connection for Line {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.0.write_all(&[byte])
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ConnectionExt for Line {
    fn read(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.0.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn peek(&mut self) -> io::Result<Option<u8>> {
        use rustix::net::{RecvFlags, recv};
        let mut byte = [0];
        match recv(&self.0, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((0, _)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(Some(byte[0])),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// What the machine does between words.
struct Loop<'m>(std::marker::PhantomData<&'m ()>);

impl<'m> BlockingEventLoop for Loop<'m> {
    type Target = Debugged<'m>;
    type Connection = Line;
    type StopReason = SingleThreadStopReason<u64>;

    fn wait_for_stop_reason(
        target: &mut Debugged<'m>,
        line: &mut Line,
    ) -> Result<Event<Self::StopReason>, WaitForStopReasonError<&'static str, io::Error>> {
        loop {
            if line.peek().map_err(WaitForStopReasonError::Connection)?.is_some() {
                return line.read().map(Event::IncomingData).map_err(WaitForStopReasonError::Connection);
            }
            if let Some(reason) = target.go_on() {
                return Ok(Event::TargetStopped(reason));
            }
        }
    }

    fn on_interrupt(_: &mut Debugged<'m>) -> Result<Option<Self::StopReason>, &'static str> {
        Ok(Some(SingleThreadStopReason::Signal(Signal::SIGINT)))
    }
}

impl Target for Debugged<'_> {
    type Arch = Processors;
    type Error = &'static str;

    fn base_ops(&mut self) -> BaseOps<'_, Processors, &'static str> {
        BaseOps::SingleThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_target_description_xml_override(&mut self) -> Option<TargetDescriptionXmlOverrideOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadBase for Debugged<'_> {
    fn read_registers(&mut self, registers: &mut Bytes) -> TargetResult<(), Self> {
        registers.0 = (0..self.shown.len()).filter_map(|number| self.read(number)).flatten().collect();
        Ok(())
    }

    fn write_registers(&mut self, registers: &Bytes) -> TargetResult<(), Self> {
        let mut rest = &registers.0[..];
        for number in 0..self.shown.len() {
            let (value, behind) = rest.split_at_checked(self.shown[number].bytes()).ok_or(TargetError::NonFatal)?;
            rest = behind;
            self.write(number, value);
        }
        Ok(())
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, (), Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, address: u64, into: &mut [u8]) -> TargetResult<usize, Self> {
        let machine = &mut *self.machine;
        match machine.processor.peek(&mut *machine.board, address, into) {
            0 if !into.is_empty() => Err(TargetError::NonFatal),
            count => Ok(count),
        }
    }

    fn write_addrs(&mut self, address: u64, from: &[u8]) -> TargetResult<(), Self> {
        let machine = &mut *self.machine;
        let is_done = machine.processor.poke(&mut *machine.board, address, from);
        is_done.then_some(()).ok_or(TargetError::NonFatal)
    }

    fn support_resume(&mut self) -> Option<SingleThreadResumeOps<'_, Self>> {
        Some(self)
    }
}

impl SingleRegisterAccess<()> for Debugged<'_> {
    fn read_register(&mut self, _: (), Number(number): Number, into: &mut [u8]) -> TargetResult<usize, Self> {
        let value = self.read(number).ok_or(TargetError::NonFatal)?;
        into.get_mut(..value.len()).ok_or(TargetError::NonFatal)?.copy_from_slice(&value);
        Ok(value.len())
    }

    fn write_register(&mut self, _: (), Number(number): Number, value: &[u8]) -> TargetResult<(), Self> {
        self.write(number, value).ok_or(TargetError::NonFatal)
    }
}

impl SingleThreadResume for Debugged<'_> {
    fn resume(&mut self, _: Option<Signal>) -> Result<(), &'static str> {
        self.is_stepping = false;
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<SingleThreadSingleStepOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadSingleStep for Debugged<'_> {
    fn step(&mut self, _: Option<Signal>) -> Result<(), &'static str> {
        self.is_stepping = true;
        Ok(())
    }
}

impl Breakpoints for Debugged<'_> {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Debugged<'_> {
    fn add_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        self.places.insert(address);
        Ok(true)
    }

    fn remove_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.places.remove(&address))
    }
}

impl TargetDescriptionXmlOverride for Debugged<'_> {
    fn target_description_xml(
        &self,
        annex: &[u8],
        offset: u64,
        length: usize,
        into: &mut [u8],
    ) -> TargetResult<usize, Self> {
        if annex != b"target.xml" {
            return Err(TargetError::NonFatal);
        }
        let text = view::description(self.machine.processor.isa(), &self.shown);
        let rest = usize::try_from(offset).ok().and_then(|at| text.as_bytes().get(at..)).unwrap_or(&[]);
        let count = rest.len().min(length).min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}
