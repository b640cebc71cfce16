//! A debugger's view of a machine: gdb's remote protocol (`gdbstub`) on a connection that somebody else has made.
//!
//! The machine's own thread speaks with the debugger, so nothing of the machine moves while it is looked at. **Whoever leaves
//! leaves a machine that runs as before**: places to stop at go with the connection.
//!
//! Each processor is a thread to gdb, and where one stops all do. While there are places to stop at, or only some processors
//! are to go on, they take turns on the machine's own thread; else all of them work as they do without a debugger.

mod view;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dbt::Until;
use gdbstub::common::{Signal, Tid};
use gdbstub::conn::{Connection, ConnectionExt};
use gdbstub::stub::run_blocking::{BlockingEventLoop, Event, WaitForStopReasonError};
use gdbstub::stub::{DisconnectReason, GdbStub, MultiThreadStopReason};
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadResume, MultiThreadResumeOps, MultiThreadSchedulerLocking,
    MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::base::single_register_access::{SingleRegisterAccess, SingleRegisterAccessOps};
use gdbstub::target::ext::breakpoints::{Breakpoints, BreakpointsOps, SwBreakpoint, SwBreakpointOps};
use gdbstub::target::ext::target_description_xml_override::{
    TargetDescriptionXmlOverride, TargetDescriptionXmlOverrideOps,
};
use gdbstub::target::{Target, TargetError, TargetResult};

use self::view::{Bytes, Number, Processors, Shown};
use super::{End, Machine, Platform};
use crate::watch::Interrupter;

/// For so long a machine runs before its debugger is listened to again; or each processor does so many instructions.
const SLICE: Duration = Duration::from_millis(20);
const TURN: u64 = 10_000;
/// Instructions that others do while one does one.
const STEP_TURN: u64 = 100;

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
        let shown = view::shown(self.processors[0].processor.described()?.isa())?;
        let (places, actions) = (BTreeSet::new(), Actions::default());
        let mut debugged = Debugged { machine: self, shown, places, actions, turn: 0, end: None };
        let outcome = GdbStub::new(Line(File::from(connection))).run_blocking::<Loop<'_>>(&mut debugged);
        match outcome {
            Ok(DisconnectReason::Kill) => Some(End::PowerOff),
            _ => debugged.end,
        }
    }
}

/// What processors do next, by their numbers.
#[derive(Default)]
struct Actions {
    /// It does one instruction, and then all stop.
    steps: Option<usize>,
    /// They go on.
    go_on: BTreeSet<usize>,
    /// All others stand still; else they go on, too.
    is_for_these_alone: bool,
}

impl Actions {
    fn moves(&self, number: usize) -> bool {
        self.steps != Some(number) && (!self.is_for_these_alone || self.go_on.contains(&number))
    }
}

/// A machine that is looked at.
struct Debugged<'m> {
    machine: &'m mut Machine,
    shown: Vec<Shown>,
    places: BTreeSet<u64>,
    actions: Actions,
    /// Whose turn is next.
    turn: usize,
    end: Option<End>,
}

/// A processor as gdb calls it.
fn thread(number: usize) -> Tid {
    Tid::MIN.saturating_add(number)
}

fn number(thread: Tid) -> usize {
    thread.get() - 1
}

impl Debugged<'_> {
    /// Goes on for a moment; gives why it stopped, if it did.
    fn go_on(&mut self) -> Option<MultiThreadStopReason<u64>> {
        let is_free = self.places.is_empty() && self.actions.steps.is_none() && !self.actions.is_for_these_alone;
        let stopped = match self.actions.steps {
            _ if is_free => {
                self.machine.run_for(SLICE);
                None
            }
            Some(number) => self.step(number),
            None => self.take_turns(),
        };
        self.end = self.machine.end();
        match self.end {
            Some(_) => Some(MultiThreadStopReason::Exited(0)),
            None => stopped,
        }
    }

    /// One does an instruction. Others go on a little, if they are to: it may wait for one of them.
    fn step(&mut self, number: usize) -> Option<MultiThreadStopReason<u64>> {
        if let Err(stopped) = self.each(STEP_TURN) {
            return Some(stopped);
        }
        let (processor, place) = self.machine.processors.get_mut(number)?.described()?;
        processor.step_once(place);
        Some(MultiThreadStopReason::SignalWithThread { tid: thread(number), signal: Signal::SIGTRAP })
    }

    /// All have a turn, and wait if none has anything to do.
    fn take_turns(&mut self) -> Option<MultiThreadStopReason<u64>> {
        match self.each(TURN) {
            Ok(rest) => self.machine.watch.look(Some(rest)),
            Err(stopped) => return Some(stopped),
        }
        None
    }

    /// Each that goes on does so many instructions, until one is at one of the places. Gives for how long nothing is due.
    fn each(&mut self, instructions: u64) -> Result<Duration, MultiThreadStopReason<u64>> {
        self.machine.hear();
        let count = self.machine.processors.len();
        let mut rest = SLICE;
        for _ in 0..count {
            let number = self.turn;
            self.turn = (self.turn + 1) % count;
            if !self.actions.moves(number) {
                continue;
            }
            let seated = &mut self.machine.processors[number];
            let Some((processor, place)) = seated.described() else { continue };
            match processor.run_until(place, instructions, &self.places) {
                Until::Reached => return Err(MultiThreadStopReason::SwBreak(thread(number))),
                Until::Waiting => rest = rest.min(seated.place.idle()),
                Until::Off if !seated.start() => {}
                Until::Off | Until::Done => rest = Duration::ZERO,
            }
        }
        Ok(rest)
    }

    fn seated(&mut self, thread: Tid) -> TargetResult<(&mut dbt::Processor, &mut dyn Platform), Self> {
        seated(self.machine, thread).ok_or(TargetError::NonFatal)
    }

    fn read(&mut self, register: usize, thread: Tid) -> TargetResult<Vec<u8>, Self> {
        let (processor, place) = seated(self.machine, thread).ok_or(TargetError::NonFatal)?;
        let shown = self.shown.get(register).ok_or(TargetError::NonFatal)?;
        Ok(shown.read(processor, place))
    }

    fn write(&mut self, register: usize, thread: Tid, value: &[u8]) -> TargetResult<(), Self> {
        let (processor, place) = seated(self.machine, thread).ok_or(TargetError::NonFatal)?;
        let shown = self.shown.get(register).ok_or(TargetError::NonFatal)?;
        shown.write(processor, place, value).ok_or(TargetError::NonFatal)
    }
}

fn seated(machine: &mut Machine, thread: Tid) -> Option<(&mut dbt::Processor, &mut dyn Platform)> {
    machine.processors.get_mut(number(thread))?.described()
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
    type StopReason = MultiThreadStopReason<u64>;

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
        Ok(Some(MultiThreadStopReason::Signal(Signal::SIGINT)))
    }
}

impl Target for Debugged<'_> {
    type Arch = Processors;
    type Error = &'static str;

    fn base_ops(&mut self) -> BaseOps<'_, Processors, &'static str> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_target_description_xml_override(&mut self) -> Option<TargetDescriptionXmlOverrideOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadBase for Debugged<'_> {
    fn read_registers(&mut self, registers: &mut Bytes, thread: Tid) -> TargetResult<(), Self> {
        let each: Result<Vec<_>, _> = (0..self.shown.len()).map(|register| self.read(register, thread)).collect();
        registers.0 = each?.concat();
        Ok(())
    }

    fn write_registers(&mut self, registers: &Bytes, thread: Tid) -> TargetResult<(), Self> {
        let mut rest = &registers.0[..];
        for register in 0..self.shown.len() {
            let (value, behind) = rest.split_at_checked(self.shown[register].bytes()).ok_or(TargetError::NonFatal)?;
            rest = behind;
            // Some can't be written.
            let _ = self.write(register, thread, value);
        }
        Ok(())
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, address: u64, into: &mut [u8], thread: Tid) -> TargetResult<usize, Self> {
        let (processor, place) = self.seated(thread)?;
        match processor.peek(place, address, into) {
            0 if !into.is_empty() => Err(TargetError::NonFatal),
            count => Ok(count),
        }
    }

    fn write_addrs(&mut self, address: u64, from: &[u8], thread: Tid) -> TargetResult<(), Self> {
        let (processor, place) = self.seated(thread)?;
        let is_done = processor.poke(place, address, from);
        is_done.then_some(()).ok_or(TargetError::NonFatal)
    }

    fn list_active_threads(&mut self, is_there: &mut dyn FnMut(Tid)) -> Result<(), &'static str> {
        // One that is switched off has its registers, too.
        (0..self.machine.processors.len()).for_each(|number| is_there(thread(number)));
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }
}

impl SingleRegisterAccess<Tid> for Debugged<'_> {
    fn read_register(&mut self, thread: Tid, Number(it): Number, into: &mut [u8]) -> TargetResult<usize, Self> {
        let value = self.read(it, thread)?;
        into.get_mut(..value.len()).ok_or(TargetError::NonFatal)?.copy_from_slice(&value);
        Ok(value.len())
    }

    fn write_register(&mut self, thread: Tid, Number(it): Number, value: &[u8]) -> TargetResult<(), Self> {
        self.write(it, thread, value)
    }
}

impl MultiThreadResume for Debugged<'_> {
    fn resume(&mut self) -> Result<(), &'static str> {
        Ok(())
    }

    fn clear_resume_actions(&mut self) -> Result<(), &'static str> {
        self.actions = Actions::default();
        Ok(())
    }

    fn set_resume_action_continue(&mut self, thread: Tid, _: Option<Signal>) -> Result<(), &'static str> {
        self.actions.go_on.insert(number(thread));
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSingleStep for Debugged<'_> {
    fn set_resume_action_step(&mut self, thread: Tid, _: Option<Signal>) -> Result<(), &'static str> {
        self.actions.steps = Some(number(thread));
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Debugged<'_> {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), &'static str> {
        self.actions.is_for_these_alone = true;
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
        let processor = self.machine.processors[0].processor.described().ok_or(TargetError::NonFatal)?;
        let text = view::description(processor.isa(), &self.shown);
        let rest = usize::try_from(offset).ok().and_then(|at| text.as_bytes().get(at..)).unwrap_or(&[]);
        let count = rest.len().min(length).min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}
