//! The process that a cell has outside: it starts the cell, keeps its output, answers for it, and clears up after it.
//!
//! One thread, one `poll`, for a cell and for those that are forked from it. **Single-threaded on purpose**: a restart clones a new cell out of this process, and a clone of
//! a process with threads may inherit a lock that nobody will ever release. Whoever launched it is its first client and
//! may go away; the supervisor stays until the cell has ended for good. It holds the cell's lock from before its first
//! instruction (the lock comes in with the descriptor) to its last, which is what makes the cell's record believable.

mod clients;
mod fork;
mod household;
mod notes;
mod requests;
mod run;
mod streams;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use model::{EventKind, Exit, ExitReport, Input, Lifetime, State, Timestamp};
use rustix::event::PollFlags;

use self::clients::Client;
use self::household::Household;
use self::run::Run;
pub(crate) use self::streams::open_null;
use crate::boundary::Origin;
use crate::cell::{Cell, CellLock};
use crate::clock::now;
use crate::disk::Durability;
use crate::error::{Error, Result};
use crate::events;
use crate::home::Home;
use crate::logs::{LogWriter, Stream};
use crate::process::ProcessIdentity;
use crate::table::Engine;
use crate::wire::{Answer, Frame};

/// Supervises a cell until it has ended for good. `launcher` is the conversation with the command that asked for it,
/// `lock` carries the cell's lock. Whatever goes wrong is told to the launcher and written into the cell's record; the
/// process exits with 0 when both were possible.
pub fn supervise(home: Home, dir: &Path, launcher: OwnedFd, lock: OwnedFd) -> Result<()> {
    let mut launcher = Client::new(launcher.into()).map_err(|e| Error::io("talking to the launcher", e))?;
    let prepared = match Prepared::new(home, dir) {
        Ok(prepared) => prepared,
        Err(error) => {
            launcher.answer(Answer::Refused { why: error.to_string() });
            launcher.flush_last();
            return Err(error);
        }
    };
    let Prepared { engine, signals, cell, listener, log } = prepared;
    let parts = Parts { engine: Rc::new(engine), cell, lock: CellLock::from_fd(lock), listener, log };
    let mut supervisor = Supervisor::new(parts, vec![launcher]);
    // The launcher asked before this process existed: an attached one misses not a byte.
    supervisor.on_client(0);
    supervisor.begin_run();
    Household::new(signals, supervisor).live()
}

const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
pub(crate) const SIGKILL: i32 = 9;
const SIGPIPE: i32 = 13;
const SIGTERM: i32 = 15;

/// One cell's affairs. Those that were forked from it have their own, in the same process.
struct Supervisor {
    engine: Rc<Engine>,
    cell: Cell,
    lock: CellLock,
    listener: UnixListener,
    clients: Vec<Client>,
    log: LogWriter,
    run: Option<Run>,
    /// Input that came before there was a program to read it.
    early_input: Vec<Vec<u8>>,
    /// Rows and columns of the client's terminal, as last heard.
    window: (u16, u16),
    /// Somebody asked for the end; when it is still there at that time, it is ended by force.
    stop: Option<Option<Instant>>,
    restart_at: Option<Instant>,
    /// The snapshot that the next run goes on from.
    back_to: Option<PathBuf>,
    restarts: u32,
    finished: bool,
    /// Those that were forked from this since the last turn.
    born: Vec<Supervisor>,
}

/// What a supervisor begins with.
struct Parts {
    engine: Rc<Engine>,
    cell: Cell,
    lock: CellLock,
    listener: UnixListener,
    log: LogWriter,
}

/// What a turn of the loop waits for.
#[derive(Clone, Copy, Debug)]
enum Source {
    Listener,
    Ended,
    Notices,
    Service,
    Output(Stream),
    Input,
    Client(usize),
}

/// What a supervisor needs before it can say anything but that it failed.
struct Prepared {
    engine: Engine,
    cell: Cell,
    listener: UnixListener,
    signals: OwnedFd,
    log: LogWriter,
}

impl Prepared {
    fn new(home: Home, dir: &Path) -> Result<Self> {
        let signals = sys::signal::descriptor(sys::signal::SignalSet::of(&[SIGHUP, SIGINT, SIGTERM]))
            .map_err(|e| Error::io("blocking signals", e))?;
        let cell = Cell::read(dir.to_owned())?;
        let listener = listen(&home, &cell)?;
        let log = LogWriter::open(&cell.log_dir(), cell.spec.log)?;
        Ok(Self { engine: Engine::open(home)?, cell, listener, signals, log })
    }
}

impl Supervisor {
    fn new(parts: Parts, clients: Vec<Client>) -> Self {
        Self {
            engine: parts.engine,
            cell: parts.cell,
            lock: parts.lock,
            listener: parts.listener,
            clients,
            log: parts.log,
            run: None,
            early_input: Vec::new(),
            window: (24, 80),
            stop: None,
            restart_at: None,
            back_to: None,
            restarts: 0,
            finished: false,
            born: Vec::new(),
        }
    }

    fn note(&self, kind: EventKind) {
        events::record(&self.engine.home, &self.cell, kind);
    }

    /// Starts the program, or ends the cell with the reason why it could not be started.
    fn begin_run(&mut self) {
        self.restart_at = None;
        match self.try_begin_run() {
            Ok(()) => {
                let warnings: Vec<_> = self.cell.record.degraded.iter().map(ToString::to_string).collect();
                // Only the launcher can be waiting for this.
                if let Some(launcher) = self.clients.first_mut().filter(|_| self.restarts == 0) {
                    launcher.answer(Answer::Started { warnings });
                }
            }
            Err(error) => {
                // It may have started, and not been written down: a program that no record knows of must not stay.
                if let Some(run) = self.run.take() {
                    let _ = run.live.kill();
                    run.finish(&self.cell.spec.limits, &self.engine.home, self.cell.spec.id);
                }
                let exit = not_started(&error);
                self.end_for_good(ExitReport {
                    exit,
                    at: now(),
                    ran: model::Span::millis(0),
                    requested: self.stop.is_some(),
                });
            }
        }
    }

    fn try_begin_run(&mut self) -> Result<()> {
        self.cell.advance(Input::Start(now()))?;
        self.cell.record.supervisor = ProcessIdentity::of(std::process::id());
        self.cell.record.runs += 1;
        // Started anew, it is a cell by itself, whatever it was made from.
        self.cell.record.kin = None;
        self.cell.record.unknown.clear();
        self.cell.record.traps = 0;
        self.cell.write_record(&self.lock, Durability::Relaxed)?;
        let back_to = self.back_to.take();
        let origin = back_to.as_deref().map_or(Origin::Program, Origin::Snapshot);
        let mut run = Run::start(&self.engine, &mut self.cell, self.window, origin)?;
        let pid = run.pid;
        self.early_input.drain(..).for_each(|bytes| run.streams.push_input(&bytes));
        self.run = Some(run);
        self.cell.record.process = ProcessIdentity::of(pid);
        self.cell.advance(Input::Started(now()))?;
        self.cell.write_record(&self.lock, Durability::Relaxed)?;
        self.note(EventKind::Started { pid });
        self.note_missed();
        for degraded in &self.cell.record.degraded {
            self.note(EventKind::Degraded { what: degraded.what.clone(), why: degraded.why.clone() });
        }
        Ok(())
    }

    /// Handles what has happened.
    fn act(&mut self, ready: &[Source]) {
        for source in ready {
            match *source {
                Source::Listener => self.accept(),
                Source::Output(stream) => self.pump(stream),
                Source::Input => self.with_run(|run| run.streams.write_input()),
                Source::Service => self.with_run(Run::serve_network),
                Source::Notices => self.on_notice(),
                Source::Client(index) => self.on_client(index),
                Source::Ended => {}
            }
        }
        self.clients.iter_mut().for_each(|it| drop(it.flush()));
        if ready.iter().any(|it| matches!(it, Source::Ended)) {
            self.end_run();
        }
        self.on_deadlines();
    }

    fn with_run(&mut self, action: impl FnOnce(&mut Run)) {
        if let Some(run) = &mut self.run {
            action(run);
        }
    }

    /// What to wait for.
    fn sources(&self) -> Vec<(Source, BorrowedFd<'_>, PollFlags)> {
        let mut sources = vec![(Source::Listener, self.listener.as_fd(), PollFlags::IN)];
        let slow = self.clients.iter().any(Client::is_slow);
        if let Some(run) = &self.run {
            run.sources(slow, &mut sources);
        }
        let takes_input = self.run.as_ref().is_none_or(|run| run.streams.takes_input());
        for (index, client) in self.clients.iter().enumerate() {
            let mut interest = if takes_input { PollFlags::IN } else { PollFlags::empty() };
            interest.set(PollFlags::OUT, client.unsent() > 0);
            sources.push((Source::Client(index), client.fd(), interest));
        }
        sources
    }

    /// How long the next turn may wait.
    fn patience(&self) -> Option<Duration> {
        let deadlines = [self.stop.flatten(), self.restart_at];
        let next = deadlines.into_iter().flatten().min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn on_deadlines(&mut self) {
        let now = Instant::now();
        if self.stop.flatten().is_some_and(|it| it <= now) {
            self.stop = Some(None);
            self.with_run(|run| drop(run.live.kill()));
        }
        if self.restart_at.is_some_and(|it| it <= now) {
            self.begin_run();
        }
    }

    fn accept(&mut self) {
        if let Ok((stream, _)) = self.listener.accept()
            && let Ok(client) = Client::new(stream)
        {
            self.clients.push(client);
        }
    }

    /// The machine goes down, or somebody ends the supervisor in good manners: so end the cell.
    fn on_signal(&mut self) {
        let policy = self.cell.spec.stop;
        self.begin_stop(policy.signal, policy.timeout.into());
    }

    /// Hands output to the log and to every attached client.
    fn pump(&mut self, stream: Stream) {
        let Some(run) = &mut self.run else { return };
        let mut piece = [0; 16 << 10];
        if let streams::Output::Bytes(count) = run.streams.read(stream, &mut piece) {
            self.distribute(now(), stream, &piece[..count]);
        }
    }

    fn distribute(&mut self, at: Timestamp, stream: Stream, bytes: &[u8]) {
        // A log that cannot be written (a full disk) must not stop the cell; its clients still get the output.
        if let Err(error) = self.log.append(at, stream, bytes) {
            self.note_lost_output(&error);
        }
        self.clients.iter_mut().filter(|it| it.attached).for_each(|it| it.output(stream, bytes));
    }

    fn on_client(&mut self, index: usize) {
        let mut frames = Vec::new();
        let hung_up = match self.clients.get_mut(index) {
            Some(client) => client.receive(&mut frames).is_err(),
            None => return,
        };
        for frame in frames {
            self.on_frame(index, frame);
        }
        if hung_up {
            // This may seat another client here that was to be heard later in this turn; it is heard in the next.
            self.clients.swap_remove(index);
        }
    }

    fn on_frame(&mut self, index: usize, frame: Frame) {
        match frame {
            Frame::Request(request) => {
                let answer = self.on_request(index, request);
                if let (Some(answer), Some(client)) = (answer, self.clients.get_mut(index)) {
                    client.answer(answer);
                }
            }
            Frame::Input(bytes) => self.on_input(bytes),
            Frame::Resize(rows, columns) => {
                self.window = (rows, columns);
                self.with_run(|run| run.streams.resize(rows, columns));
            }
            // Only supervisors send these.
            Frame::Answer(_) | Frame::Output(..) => {}
        }
    }

    fn on_input(&mut self, bytes: Vec<u8>) {
        match &mut self.run {
            Some(run) => run.streams.push_input(&bytes),
            // A launcher that is quick has sent all of its input, and the end of it, before the program is there.
            None if self.cell.record.state.last_exit().is_none() => self.early_input.push(bytes),
            // Between two runs there is nobody to read it.
            None => {}
        }
    }

    /// The program ended: keep its last words, say why, clear up, and start it again or not.
    fn end_run(&mut self) {
        self.note_unknown();
        let Some(mut run) = self.run.take() else { return };
        for (at, stream, bytes) in run.last_words() {
            self.distribute(at, stream, &bytes);
        }
        let since = match self.cell.record.state {
            State::Running { since } | State::Paused { since } => since,
            _ => now(),
        };
        let exit = run.finish(&self.cell.spec.limits, &self.engine.home, self.cell.spec.id);
        let requested = self.stop.is_some();
        let report = ExitReport { exit, at: now(), ran: now().since(since), requested };
        self.restarts += 1;
        if self.back_to.is_some() {
            self.wait_for_restart(report, model::Span::millis(0));
            return self.begin_run();
        }
        let policy = self.cell.spec.restart;
        match policy.delay(self.restarts, report.exit.is_success(), requested) {
            Some(delay) => self.wait_for_restart(report, delay),
            None => self.end_for_good(report),
        }
    }

    fn wait_for_restart(&mut self, report: ExitReport, delay: model::Span) {
        // A program that ran for a while earns a fresh start of the delays.
        let delay = if report.ran > model::Span::seconds(60) { model::Span::millis(100) } else { delay };
        let due = Instant::now() + delay.into();
        let code = report.exit.code();
        self.note(EventKind::Exited { exit: report.exit.clone(), code });
        let moved = self.cell.advance(Input::Exit(report)).and_then(|()| self.cell.advance(Input::Restart(now())));
        self.forget_run();
        if moved.and_then(|()| self.cell.write_record(&self.lock, Durability::Relaxed)).is_ok() {
            self.note(EventKind::Restarting { attempt: self.restarts });
        }
        self.restart_at = Some(due);
    }

    fn forget_run(&mut self) {
        crate::machine_sockets::leave(&self.cell.spec);
        self.cell.record.process = None;
        self.cell.record.cgroup = None;
        self.cell.record.attachment = None;
    }

    fn end_for_good(&mut self, report: ExitReport) {
        let already = matches!(self.cell.record.state, State::Exited { .. });
        if !already {
            self.note(EventKind::Exited { exit: report.exit.clone(), code: report.exit.code() });
            // Every state that a supervisor can be in allows this input.
            let _ = self.cell.advance(Input::Exit(report));
        }
        self.restart_at = None;
        self.forget_run();
        self.cell.record.supervisor = None;
        self.finished = true;
    }

    /// Writes down the end, and only then tells whoever waits for it.
    fn farewell(mut self) -> Result<()> {
        let mut remains = None;
        let outcome = match self.cell.spec.lifetime {
            Lifetime::Keep => self.cell.write_record(&self.lock, Durability::Synced),
            Lifetime::RemoveOnExit => self.engine.make_vanish(&self.cell, &self.lock).map(|it| remains = Some(it)),
        };
        let _ = std::fs::remove_file(self.engine.home.socket(self.cell.spec.id));
        // Who got through to us before the socket went shall hear of the end, too.
        while let Ok((stream, _)) = self.listener.accept() {
            self.clients.extend(Client::new(stream).ok());
        }
        drop(self.listener);
        let report = self.cell.record.state.last_exit().cloned();
        // The record is written and the listener gone before anybody hears of it. The lock of a cell that stays is let
        // go, so that whoever acts on the news finds it free; that of one that vanished guards what is left of it.
        let guard = remains.is_some().then_some(self.lock);
        // Those who read what they get come first: the others may take their time.
        self.clients.sort_by_key(Client::unsent);
        for mut client in self.clients.drain(..) {
            if let Some(report) = &report {
                client.answer(Answer::Exited(report.clone()));
            }
            client.flush_last();
        }
        // Nobody waits for this process any more: it can do what takes long.
        if let Some(remains) = remains {
            let _ = remains.delete();
        }
        drop(guard);
        let _ = net::Net::open(self.engine.home.net()).and_then(|net| net.linger());
        outcome
    }
}

fn not_started(error: &Error) -> Exit {
    let step = match error {
        Error::Start { step, .. } => *step,
        Error::Store(_) => model::StartStep::Image,
        Error::Net(_) => model::StartStep::Network,
        _ => model::StartStep::Mounts,
    };
    Exit::NotStarted { step, error: error.to_string() }
}

/// Opens the control socket. A path longer than a socket address holds is reached through its directory's descriptor.
fn listen(home: &Home, cell: &Cell) -> Result<UnixListener> {
    let path = home.socket(cell.spec.id);
    let _ = std::fs::remove_file(&path);
    let listener = crate::client::with_short_path(&path, |short| UnixListener::bind(short))?;
    listener.set_nonblocking(true).map_err(|e| Error::at("listening on", &path, e))?;
    Ok(listener)
}
