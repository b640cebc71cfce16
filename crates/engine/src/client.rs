//! Talking to a cell's supervisor.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use model::{CellName, ExitReport, Input, Limits, RestartPolicy, Span};

use crate::cell::Cell;
use crate::error::{Error, Result};
use crate::logs::Stream;
use crate::table::Engine;
use crate::wire::{Answer, CopyFrom, Decoder, Frame, MAX_PAYLOAD, Request};

/// A conversation with a supervisor.
#[derive(Debug)]
pub struct Conversation {
    cell: CellName,
    stream: UnixStream,
    decoder: Decoder,
}

/// What a supervisor says to an attached client.
#[derive(Debug)]
pub enum Said {
    /// The program runs; these parts of what was asked for were not applied.
    Started(Vec<String>),
    /// The program wrote this.
    Output(Stream, Vec<u8>),
    /// The cell ended for good.
    Exited(ExitReport),
}

impl Conversation {
    pub(crate) fn new(cell: CellName, stream: UnixStream) -> Self {
        Self { cell, stream, decoder: Decoder::default() }
    }

    /// Connects to the supervisor of a cell that has one. A supervisor that is just beginning is waited for.
    pub(crate) fn connect(engine: &Engine, cell: &Cell) -> Result<Self> {
        let path = engine.home.socket(cell.spec.id);
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut state = cell.record.state.clone();
        loop {
            if !state.needs_supervisor() || Instant::now() > deadline {
                return Err(Error::NotRunning { cell: cell.spec.name.clone(), state: state.word() });
            }
            if let Ok(stream) = with_short_path(&path, |short| UnixStream::connect(short)) {
                return Ok(Self::new(cell.spec.name.clone(), stream));
            }
            std::thread::sleep(Duration::from_millis(1));
            state = engine.find(&cell.spec.id.to_string())?.record.state;
        }
    }

    fn send(&mut self, frame: &Frame) -> Result<()> {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.stream.write_all(&bytes).map_err(|_| Error::SupervisorGone(self.cell.clone()))
    }

    fn receive(&mut self) -> Result<Frame> {
        let gone = || Error::SupervisorGone(self.cell.clone());
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(|_| gone())? {
                return Ok(frame);
            }
            let mut piece = [0; 16 << 10];
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(gone()),
                Ok(count) => self.decoder.push(&piece[..count]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(gone()),
            }
        }
    }

    pub(crate) fn ask(&mut self, request: Request) -> Result<()> {
        self.send(&Frame::Request(request))
    }

    fn answer(&mut self) -> Result<Answer> {
        loop {
            if let Frame::Answer(answer) = self.receive()? {
                return Ok(answer);
            }
        }
    }

    /// The next thing that the supervisor says; waits for it.
    pub fn next_word(&mut self) -> Result<Said> {
        loop {
            match self.receive()? {
                Frame::Answer(Answer::Started { warnings }) => return Ok(Said::Started(warnings)),
                Frame::Answer(Answer::Exited(report)) => return Ok(Said::Exited(report)),
                Frame::Answer(Answer::Refused { why } | Answer::Unkept { why }) => return Err(Error::Refused(why)),
                Frame::Output(stream, bytes) => return Ok(Said::Output(stream, bytes)),
                Frame::Answer(Answer::Done { .. }) | Frame::Request(_) | Frame::Input(_) | Frame::Resize(..) => {}
            }
        }
    }

    /// Whether [`Conversation::next_word`] has something to give without waiting for the socket.
    pub fn has_word(&self) -> bool {
        self.decoder.has_frame()
    }

    /// Gets the cell's output from now on, and lets input be given.
    pub fn attach(&mut self) -> Result<()> {
        self.ask(Request::Attach)
    }

    /// Gives the program input; none at all means end of file.
    pub fn input(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return self.send(&Frame::Input(Vec::new()));
        }
        bytes.chunks(MAX_PAYLOAD).try_for_each(|piece| self.send(&Frame::Input(piece.to_vec())))
    }

    /// Tells the program's terminal how large the client's is.
    pub fn resize(&mut self, rows: u16, columns: u16) -> Result<()> {
        self.send(&Frame::Resize(rows, columns))
    }

    /// Sends the program a signal, without waiting for an answer.
    pub fn forward_signal(&mut self, signal: i32) -> Result<()> {
        self.ask(Request::Kill { signal })
    }

    /// Waits for the end.
    pub(crate) fn exit(mut self) -> Result<ExitReport> {
        loop {
            match self.answer()? {
                Answer::Exited(report) => return Ok(report),
                Answer::Refused { why } | Answer::Unkept { why } => return Err(Error::Refused(why)),
                Answer::Started { .. } | Answer::Done { .. } => {}
            }
        }
    }

    /// Waits until the program runs; gives what it asked for and did not get.
    pub fn started(&mut self) -> Result<std::result::Result<Vec<String>, ExitReport>> {
        loop {
            match self.answer()? {
                Answer::Started { warnings } => return Ok(Ok(warnings)),
                Answer::Exited(report) => return Ok(Err(report)),
                Answer::Refused { why } | Answer::Unkept { why } => return Err(Error::Refused(why)),
                Answer::Done { .. } => {}
            }
        }
    }
}

impl AsFd for Conversation {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Asks for one thing and waits until it is done; gives the supervisor's warnings.
pub(crate) fn request(engine: &Engine, cell: &Cell, request: Request) -> Result<Vec<String>> {
    let mut conversation = Conversation::connect(engine, cell)?;
    conversation.ask(request)?;
    match conversation.answer()? {
        Answer::Refused { why } => Err(Error::Refused(why)),
        Answer::Unkept { why } => Err(Error::Unkept { cell: cell.spec.name.clone(), why }),
        Answer::Done { warnings } | Answer::Started { warnings } => Ok(warnings),
        Answer::Exited(report) => {
            let state = model::State::Exited { report }.word();
            Err(Error::NotRunning { cell: cell.spec.name.clone(), state })
        }
    }
}

impl Engine {
    /// Joins a running cell's own streams.
    pub fn attach(&self, cell: &Cell) -> Result<Conversation> {
        crate::boundary::boundary_for(&cell.spec, model::Verb::Attach)?;
        let mut conversation = Conversation::connect(self, cell)?;
        conversation.attach()?;
        Ok(conversation)
    }

    /// Asks a cell to end, ends it by force when it takes longer than `timeout`, and waits for that.
    pub fn stop(&self, cell: &Cell, signal: i32, timeout: Span) -> Result<ExitReport> {
        self.ask_and_wait(cell, Request::Stop { signal, timeout_ms: timeout.as_millis() })
    }

    /// Sends a cell's program a signal.
    pub fn kill(&self, cell: &Cell, signal: i32) -> Result<()> {
        request(self, cell, Request::Kill { signal }).map(drop)
    }

    /// Stops a cell's processors.
    pub fn pause(&self, cell: &Cell) -> Result<()> {
        crate::boundary::boundary_for(&cell.spec, model::Verb::Pause)?;
        allowed(cell, Input::Pause)?;
        request(self, cell, Request::Pause).map(drop)
    }

    /// Lets them go on.
    pub fn resume(&self, cell: &Cell) -> Result<()> {
        allowed(cell, Input::Resume)?;
        request(self, cell, Request::Resume).map(drop)
    }

    /// Makes a running cell again under each of these names.
    pub fn fork(&self, cell: &Cell, names: Vec<CellName>, from: CopyFrom) -> Result<()> {
        crate::boundary::boundary_for(&cell.spec, model::Verb::Fork)?;
        request(self, cell, Request::Fork { names, from }).map(drop)
    }

    /// The processes of a running cell's family.
    pub fn family(&self, cell: &Cell) -> Result<Vec<crate::boundary::Relative>> {
        Self::must_run(cell)?;
        crate::boundary::boundary_for(&cell.spec, model::Verb::Fork)?.family(cell)
    }

    /// Changes a cell's limits and restart policy, running or not; gives what could not be applied.
    pub fn set(&self, cell: &mut Cell, limits: Limits, restart: Option<RestartPolicy>) -> Result<Vec<String>> {
        if cell.record.state.needs_supervisor() {
            crate::boundary::boundary_for(&cell.spec, model::Verb::Set)?;
            return request(self, cell, Request::Set { limits, restart });
        }
        let _lock = self.lock_idle(cell, "be changed")?;
        cell.spec = Cell::read_spec(&cell.dir)?;
        cell.spec.limits = std::mem::take(&mut cell.spec.limits).updated(limits);
        cell.spec.restart = restart.unwrap_or(cell.spec.restart);
        cell.write_spec(crate::disk::Durability::Synced)?;
        Ok(Vec::new())
    }

    /// Waits until a cell has ended for good. One that has, answers at once; one that never ran has nothing to wait for.
    pub fn wait(&self, cell: &Cell) -> Result<ExitReport> {
        if let Some(report) = ended(cell) {
            return Ok(report);
        }
        self.ask_and_wait(cell, Request::Wait)
    }

    fn ask_and_wait(&self, cell: &Cell, request: Request) -> Result<ExitReport> {
        let outcome = Conversation::connect(self, cell).and_then(|mut it| {
            it.ask(request)?;
            it.exit()
        });
        // It may have ended, or its supervisor been lost, between the reading and the asking: then the record knows.
        outcome.or_else(|error| {
            let again = self.find(&cell.spec.id.to_string())?;
            ended(&again).ok_or(error)
        })
    }
}

/// Refuses, in the words of the rule, what a live cell's state does not allow. A cell that does not run is another matter.
fn allowed(cell: &Cell, input: Input) -> Result<()> {
    match cell.record.state.clone().next(input) {
        Err(refusal) if cell.record.state.is_live() => Err(Error::State { cell: cell.spec.name.clone(), refusal }),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// How a cell ended, when it has.
fn ended(cell: &Cell) -> Option<ExitReport> {
    match &cell.record.state {
        model::State::Exited { report } => Some(report.clone()),
        _ => None,
    }
}

/// Calls `action` with a path short enough for a socket address (108 bytes), by way of its directory's descriptor.
pub(crate) fn with_short_path<T>(path: &Path, action: impl FnOnce(&Path) -> std::io::Result<T>) -> Result<T> {
    use rustix::fs::{Mode, OFlags};
    let failed = |e: std::io::Error| Error::at("reaching", path, e);
    if path.as_os_str().len() < 100 {
        return action(path).map_err(failed);
    }
    let (dir, name) = match (path.parent(), path.file_name()) {
        (Some(dir), Some(name)) => (dir, name),
        _ => return Err(failed(ErrorKind::InvalidInput.into())),
    };
    let dir = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| failed(e.into()))?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
    action(&short).map_err(failed)
}
