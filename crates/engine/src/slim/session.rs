//! A workload done once, in a fresh cell of one tree.
//!
//! The service is the image's own command, or the workload's. A program of a step runs beside it; when the service has
//! ended by itself (a shell, a tool), in a cell of its own. **Every cell of a session is gone when the session is.**

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use image::slim::{HttpStep, Observed, RunStep, Step};
use model::{
    Boundary, CellId, CellName, CellSpec, Exit, ExitReport, Init, Lifetime, Limits, LogPolicy, Mount, MountAccess,
    MountKind, Network, ObjectId, RestartPolicy, Security, Span, StartStep, State, Stdin, StopPolicy, Terminal, Watch,
};
use rustix::event::{PollFd, PollFlags};

use super::SlimRequest;
use super::talk::{self, Ran};
use crate::build::{Doomed, Tail, builder, builder_label};
use crate::cell::Cell;
use crate::client::Said;
use crate::clock::now;
use crate::error::{Error, Result};
use crate::home::Home;
use crate::launch::Attach;
use crate::logs::LogReader;
use crate::request::{CellRequest, ExecRequest, NamedImage, companion, specify};
use crate::table::Engine;
use crate::watch::observed_in;

/// Which tree is run, as what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject {
    /// `original` or `slim`.
    pub(super) on: &'static str,
    /// The root file system.
    pub(super) tree: ObjectId,
}

/// The answers' statuses on the original image, by what was asked.
#[derive(Debug, Default)]
pub(super) struct Statuses(BTreeMap<String, u16>);

/// A step that did not do what it should.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    step: String,
    why: String,
}

impl Failure {
    /// The failure as an error.
    pub(super) fn on(self, subject: Subject) -> Error {
        Error::Workload { on: subject.on, step: self.step, why: self.why }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.step, self.why)
    }
}

/// Why an attempt came to nothing.
enum Setback {
    /// The service may not be ready yet.
    Perhaps(String),
    /// Another attempt will not do better.
    Surely(String),
}

/// How long a step that is not the first may fail before it has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a service gets to end when it is asked to.
const STOP: Span = Span::seconds(15);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// A workload being done.
pub(super) struct Session<'a> {
    engine: &'a Engine,
    request: &'a SlimRequest<'a>,
    subject: Subject,
    watch: Watch,
    /// The files that are mounted.
    files: Files,
    service: Option<Doomed<'a>>,
    observed: Observed,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        engine: &'a Engine,
        request: &'a SlimRequest<'a>,
        subject: Subject,
        watch: Watch,
    ) -> Result<Self> {
        let files = Files::write(engine, &request.workload.files)?;
        Ok(Self { engine, request, subject, watch, files, service: None, observed: Observed::default() })
    }

    /// Does the steps, one after the other; gives what was used, also when one failed.
    pub(super) fn run(
        mut self,
        steps: &[Step],
        statuses: &mut Statuses,
    ) -> Result<(Observed, std::result::Result<(), Failure>)> {
        let config = &self.request.record.config;
        let has_command = !(config.entrypoint.is_empty() && config.command.is_empty());
        let mut outcome = Ok(());
        if has_command || self.request.workload.command.is_some() {
            outcome = self.start_service()?;
        }
        let whole: Duration = self.request.workload.patience.into();
        let mut patience = whole;
        for step in steps {
            if outcome.is_err() {
                break;
            }
            outcome = match step {
                Step::Restart => self.restart()?,
                _ => self.persist(step, patience, statuses)?,
            };
            // A service that has just been started gets its time; one that has answered needs less.
            patience = if matches!(step, Step::Restart) { whole } else { PATIENCE.min(whole) };
        }
        self.end_service()?;
        Ok((std::mem::take(&mut self.observed), outcome))
    }

    /// Tries a step until it goes well or patience ends.
    fn persist(
        &mut self,
        step: &Step,
        patience: Duration,
        statuses: &mut Statuses,
    ) -> Result<std::result::Result<(), Failure>> {
        let deadline = Instant::now() + patience;
        loop {
            let (why, is_last) = match self.attempt(step, statuses)? {
                Ok(()) => return Ok(Ok(())),
                Err(Setback::Perhaps(why)) => (why, Instant::now() > deadline),
                Err(Setback::Surely(why)) => (why, true),
            };
            let ended = self.ended(step)?;
            if ended.is_some() || is_last {
                let said = self.service_output();
                let why =
                    format!("{}{}{said}", why, ended.map_or(String::new(), |it| format!("; the service ended: {it}")));
                return Ok(Err(Failure { step: step.to_string(), why }));
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn attempt(&mut self, step: &Step, statuses: &mut Statuses) -> Result<std::result::Result<(), Setback>> {
        let talked = match step {
            Step::Run(step) => return self.run_program(step),
            Step::Http(step) => self.address()?.and_then(|at| ask(at, step, self.subject, statuses)),
            Step::Tcp(step) => self.address()?.and_then(|at| talk::tcp(at, step)),
            Step::Restart => Ok(()),
        };
        Ok(talked.map_err(Setback::Perhaps))
    }

    fn specification(&self, command: Vec<String>, entrypoint: Option<String>) -> Result<CellSpec> {
        let id = self.engine.fresh_id()?;
        let mut stop = StopPolicy { timeout: STOP, ..StopPolicy::default() };
        if let Some(signal) = crate::why::signal_number(&self.request.record.config.stop_signal) {
            stop.signal = signal;
        }
        let request = CellRequest {
            ipc: model::Ipc::Private,
            name: slim_name(id),
            boundary: Boundary::Container,
            command,
            entrypoint,
            env: self.request.workload.env.clone(),
            cwd: None,
            user: self.request.workload.user.clone(),
            terminal: Terminal::None,
            stdin: Stdin::Closed,
            hostname: Some("localhost".to_owned()),
            limits: Limits::default(),
            network: Network::default(),
            mounts: self.files.mounts(),
            security: Security::default(),
            init: Init::Reaper,
            restart: RestartPolicy::No,
            stop,
            log: LogPolicy::default(),
            // What was seen is read after its end.
            lifetime: Lifetime::Keep,
            watch: self.watch,
            machine: None,
            labels: BTreeMap::from([builder_label()?]),
        };
        let image = NamedImage { name: self.request.image, id: self.request.id, record: self.request.record };
        let mut spec = specify(request, image, id, now())
            .map_err(|_| Error::Refused(format!("{} has no default command", self.request.image)))?;
        spec.image.tree = self.subject.tree;
        Ok(spec)
    }

    fn start_service(&mut self) -> Result<std::result::Result<(), Failure>> {
        let spec = match &self.request.workload.command {
            None => self.specification(Vec::new(), None)?,
            Some(command) => as_program(command).and_then(|(program, rest)| self.specification(rest, Some(program)))?,
        };
        let step = spec.process.argv.join(" ");
        let (cell, lock) = self.engine.create(spec)?;
        let service = self.service.insert(Doomed { engine: self.engine, cell });
        let mut conversation = self.engine.start(&service.cell, lock, Attach::Nothing)?;
        let started = conversation.started()?;
        service.cell = self.engine.find(&service.cell.spec.id.to_string())?;
        Ok(started.map(drop).map_err(|report| Failure { step, why: report.exit.to_string() }))
    }

    fn restart(&mut self) -> Result<std::result::Result<(), Failure>> {
        let Some(service) = &mut self.service else { return Ok(Ok(())) };
        let failed = |why: String| Failure { step: Step::Restart.to_string(), why };
        let cell = service.cell.clone();
        let report = stop(self.engine, &cell)?;
        self.take_down(&cell, &report)?;
        let Some(service) = &mut self.service else { return Ok(Ok(())) };
        if matches!(report.exit, Exit::NotStarted { .. }) {
            return Ok(Err(failed(report.exit.to_string())));
        }
        let lock = self.engine.lock(&service.cell)?;
        let mut conversation = self.engine.start(&service.cell, lock, Attach::Nothing)?;
        let started = conversation.started()?;
        service.cell = self.engine.find(&service.cell.spec.id.to_string())?;
        Ok(started.map(drop).map_err(|report| failed(report.exit.to_string())))
    }

    /// Ends the service in its own way, which is part of what it does, and takes down what was seen.
    fn end_service(&mut self) -> Result<()> {
        let Some(service) = self.service.take() else { return Ok(()) };
        let report = stop(self.engine, &service.cell)?;
        self.take_down(&service.cell, &report)?;
        service.remove()
    }

    /// Takes down what was seen in a cell's run. Of one that never came to run there may be nothing.
    fn take_down(&mut self, cell: &Cell, report: &ExitReport) -> Result<()> {
        if self.watch != Watch::Uses {
            return Ok(());
        }
        match observed_in(&cell.dir) {
            Ok(observed) => self.observed.merge(observed),
            Err(_) if matches!(report.exit, Exit::NotStarted { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// How the service ended, when the step cannot go well for that. A program may be run without it.
    fn ended(&self, step: &Step) -> Result<Option<Exit>> {
        let Some(service) = &self.service else { return Ok(None) };
        let cell = self.engine.find(&service.cell.spec.id.to_string())?;
        let needs_it = !matches!(step, Step::Run(_));
        Ok(match cell.record.state {
            State::Exited { report } if needs_it || !report.exit.is_success() => Some(report.exit),
            _ => None,
        })
    }

    fn is_running(&self) -> Result<bool> {
        let Some(service) = &self.service else { return Ok(false) };
        Ok(self.engine.find(&service.cell.spec.id.to_string())?.record.state.is_live())
    }

    /// Where the service listens.
    fn address(&self) -> Result<std::result::Result<SocketAddr, String>> {
        let Some(service) = &self.service else {
            return Ok(Err("the image has no command that could serve".to_owned()));
        };
        let record = &service.cell.record;
        let (Some(attachment), Some(process)) = (&record.attachment, record.process) else {
            return Ok(Err("the service has no address".to_owned()));
        };
        let listening = talk::listening(process.pid);
        let exposed =
            self.request.record.config.exposed_ports.iter().filter_map(|it| it.strip_suffix("/tcp")?.parse().ok());
        let wanted: Vec<u16> = self.request.workload.port.map_or_else(|| exposed.collect(), |it| vec![it]);
        let port = match wanted.iter().find(|it| listening.contains(it)) {
            Some(port) => Some(*port),
            None if self.request.workload.port.is_some() => None,
            None => listening.first().copied(),
        };
        let port = port.ok_or_else(|| "the service does not listen".to_owned());
        Ok(port.map(|port| SocketAddr::new(IpAddr::V4(attachment.address), port)))
    }

    /// The end of what the service printed.
    fn service_output(&self) -> String {
        let Some(service) = &self.service else { return String::new() };
        let mut reader = LogReader::open(&service.cell.log_dir());
        let mut tail = Tail::default();
        while let Ok(Some(record)) = reader.next_record() {
            tail.push(&record.bytes);
        }
        let lines = tail.last_lines();
        if lines.is_empty() { lines } else { format!("\n{lines}") }
    }

    fn run_program(&mut self, step: &RunStep) -> Result<std::result::Result<(), Setback>> {
        let ran = if self.is_running()? { self.beside(step)? } else { self.alone(step)? };
        let Ran::Ended(exit, output) = ran else {
            return Ok(Err(Setback::Surely(format!("it has not ended after {}", self.request.workload.limit))));
        };
        let shown = String::from_utf8_lossy(&output).trim_end().to_owned();
        Ok(match exit {
            Exit::Code { code } if code == step.exit && step.expect.holds(&output) => Ok(()),
            Exit::Code { code } if code == step.exit => {
                Err(Setback::Perhaps(format!("it does not print what it should: {shown}")))
            }
            exit @ Exit::NotStarted { step: StartStep::CommandNotFound | StartStep::CommandNotExecutable, .. } => {
                Err(Setback::Surely(exit.to_string()))
            }
            exit => Err(Setback::Perhaps(format!("{exit}: {shown}"))),
        })
    }

    /// Runs a program in the service's cell.
    fn beside(&mut self, step: &RunStep) -> Result<Ran> {
        let Some(service) = &self.service else { return self.alone(step) };
        let process = companion(
            &service.cell.spec,
            ExecRequest {
                argv: step.command.clone(),
                env: Vec::new(),
                cwd: None,
                user: step.user.clone(),
                terminal: Terminal::None,
                stdin: Stdin::Closed,
            },
        );
        match talk::run_beside(&service.cell, &process, self.watch, self.deadline(), &mut self.observed) {
            Ok(ran) => Ok(ran),
            Err(Error::Start { step, message }) => {
                Ok(Ran::Ended(Exit::NotStarted { step, error: message }, Vec::new()))
            }
            // It ended a moment ago.
            Err(Error::NotRunning { .. } | Error::Container(container::Error::NotRunning)) => self.alone(step),
            Err(error) => Err(error),
        }
    }

    /// Runs a program as the first of a cell of its own.
    fn alone(&mut self, step: &RunStep) -> Result<Ran> {
        let (program, rest) = as_program(&step.command)?;
        let mut spec = self.specification(rest, Some(program))?;
        if let Some(user) = &step.user {
            spec.process.user = user.clone();
        }
        let (cell, lock) = self.engine.create(spec)?;
        let doomed = Doomed { engine: self.engine, cell };
        let mut conversation = self.engine.start(&doomed.cell, lock, Attach::Streams(None))?;
        let mut output = Vec::new();
        let deadline = self.deadline();
        let report = loop {
            let mut fds = [PollFd::new(&conversation, PollFlags::IN)];
            if !conversation.has_word() && !talk::wait(&mut fds, deadline)? {
                let report = stop(self.engine, &doomed.cell)?;
                self.take_down(&doomed.cell, &report)?;
                doomed.remove()?;
                return Ok(Ran::TooLong);
            }
            match conversation.next_word()? {
                Said::Started(_) => {}
                Said::Output(_, bytes) if output.len() < talk::MAX_ANSWER => output.extend_from_slice(&bytes),
                Said::Output(..) => {}
                Said::Exited(report) => break report,
            }
        };
        self.take_down(&doomed.cell, &report)?;
        doomed.remove()?;
        Ok(Ran::Ended(report.exit, output))
    }

    /// When a program that begins now has to have ended.
    fn deadline(&self) -> Instant {
        let limit: Duration = self.request.workload.limit.into();
        Instant::now() + limit
    }
}

fn ask(at: SocketAddr, step: &HttpStep, subject: Subject, statuses: &mut Statuses) -> std::result::Result<(), String> {
    let answer = talk::http(at, step)?;
    let key = format!("{} {}", step.method, step.path);
    let status = answer.status;
    let expected = step.status.or_else(|| statuses.0.get(&key).copied());
    match expected {
        Some(expected) if expected != status => return Err(format!("status {status}, not {expected}")),
        None if status >= 500 => return Err(format!("status {status}")),
        _ => {}
    }
    if !step.expect.holds(&answer.bytes) {
        return Err(format!("the answer (status {status}) does not hold what it should"));
    }
    if subject.on == "original" {
        statuses.0.insert(key, status);
    }
    Ok(())
}

fn as_program(command: &[String]) -> Result<(String, Vec<String>)> {
    let (program, rest) = command.split_first().ok_or_else(|| Error::Refused("a command is empty".to_owned()))?;
    Ok((program.clone(), rest.to_vec()))
}

fn slim_name(id: CellId) -> Option<CellName> {
    format!("slim-{id}").parse().ok()
}

fn stop(engine: &Engine, cell: &Cell) -> Result<ExitReport> {
    let cell = engine.find(&cell.spec.id.to_string())?;
    match &cell.record.state {
        State::Exited { report } => Ok(report.clone()),
        _ => engine.stop(&cell, cell.spec.stop.signal, cell.spec.stop.timeout),
    }
}

/// What directories of workloads' files are called: this, whose they are, and a number.
const FILES: &str = "slim-";

/// Removes the files of workloads that nobody does any more.
pub(crate) fn remove_orphaned_files(home: &Home) {
    let is_orphaned = |name: &str| {
        let label = name.strip_prefix(FILES).and_then(|it| it.rsplit_once('-')).map(|it| it.0);
        label.is_some_and(|it| !builder(it).is_some_and(|it| it.is_alive()))
    };
    for entry in std::fs::read_dir(home.run()).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_orphaned) {
            // What stays lies in a directory that need not survive.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// The files of a workload, in a directory of their own.
struct Files {
    dir: std::path::PathBuf,
    targets: Vec<String>,
}

impl Files {
    fn write(engine: &Engine, files: &BTreeMap<String, String>) -> Result<Self> {
        let (_, builder) = builder_label()?;
        let dir = engine.home.run().join(format!("{FILES}{builder}-{}", engine.fresh_id()?));
        let this = Self { dir, targets: files.keys().cloned().collect() };
        std::fs::create_dir_all(&this.dir).map_err(|e| Error::at("making", &this.dir, e))?;
        for (index, text) in files.values().enumerate() {
            let path = this.dir.join(index.to_string());
            std::fs::write(&path, text).map_err(|e| Error::at("writing", &path, e))?;
        }
        Ok(this)
    }

    fn mounts(&self) -> Vec<Mount> {
        let mount = |(index, target): (usize, &String)| Mount {
            kind: MountKind::Bind(self.dir.join(index.to_string())),
            target: target.into(),
            access: MountAccess::ReadOnly,
        };
        self.targets.iter().enumerate().map(mount).collect()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // What stays lies in a directory that need not survive.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
