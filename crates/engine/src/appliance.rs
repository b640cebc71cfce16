//! Making appliances: a program is run in a cell until it has warmed up, and what it is then becomes an image.
//!
//! The image goes on from there wherever it is run. It is **sealed**: the calls of the host that it may make are those
//! that it was seen to make, those that were declared for it, and those that concern only what it has open already.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use image::{APPLIANCE_LABEL, ApplianceParts, CALLS_LABEL, Fetched, JIT_LABEL};
use model::{Boundary, CellName, CellSpec, Engine as Executor, ImageName, ImageRecord, ObjectId, Progress, Span, Verb};

use crate::boundary::boundary_for;
use crate::build::{Doomed, builder_label};
use crate::cell::Cell;
use crate::client::Said;
use crate::clock::now;
use crate::error::{Error, Result};
use crate::launch::Attach;
use crate::request::{CellRequest, NamedImage, specify};
use crate::snapshot::keep_at;
use crate::table::Engine;

/// When a program has warmed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warm {
    /// Somebody listens on that TCP port.
    Port(u16),
    /// It has printed that.
    Log(String),
    /// So much time has passed.
    After(Span),
}

impl std::str::FromStr for Warm {
    type Err = model::ParseError;

    fn from_str(text: &str) -> std::result::Result<Self, model::ParseError> {
        let wrong = || model::ParseError::new("sign of warmth", text, "'port N', 'log TEXT' or 'seconds N'");
        let (word, rest) = text.split_once(' ').ok_or_else(wrong)?;
        match word {
            "port" => rest.parse().map(Self::Port).map_err(|_| wrong()),
            "log" if !rest.is_empty() => Ok(Self::Log(rest.to_owned())),
            "seconds" => rest.parse().map(|it: u32| Self::After(Span::seconds(it.into()))).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }
}

/// Whether an appliance's program makes code while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jit {
    /// It does not, and must not.
    None,
    /// It does.
    Declared,
}

/// An appliance to make.
#[derive(Clone, Debug)]
pub struct ApplianceRequest<'a> {
    /// The name by which the image was asked for.
    pub image: &'a str,
    /// The image.
    pub id: ObjectId,
    /// What it is.
    pub record: &'a ImageRecord,
    /// What runs, in the place of the image's own command.
    pub command: Vec<String>,
    /// When it is ready.
    pub warm: Warm,
    /// Calls of the host that it may make beside those that are seen, by name.
    pub calls: &'a [String],
    /// Whether it makes code.
    pub jit: Jit,
    /// What the appliance is called.
    pub name: &'a ImageName,
}

/// How long a program may take to warm up.
const PATIENCE: Duration = Duration::from_secs(120);

const SIGKILL: i32 = 9;

/// What concerns what a process has already, and itself: reading and writing, waiting, closing, asking, ending.
const ALWAYS: &[&str] = &[
    "read",
    "write",
    "readv",
    "writev",
    "pread64",
    "pwrite64",
    "preadv",
    "pwritev",
    "preadv2",
    "pwritev2",
    "lseek",
    "close",
    "close_range",
    "dup",
    "dup2",
    "dup3",
    "fcntl",
    "fstat",
    "poll",
    "ppoll",
    "select",
    "pselect6",
    "epoll_wait",
    "epoll_pwait",
    "epoll_pwait2",
    "epoll_ctl",
    "exit",
    "exit_group",
    "getpid",
    "gettid",
    "getppid",
    "getuid",
    "geteuid",
    "getgid",
    "getegid",
    "getgroups",
    "getpgrp",
    "getpgid",
    "getsid",
    "clock_gettime",
    "getrandom",
    "uname",
    "sysinfo",
    "getrusage",
    "times",
    "getcwd",
    "rt_sigaction",
    "wait4",
    "waitid",
    "timerfd_settime",
    "timerfd_gettime",
    "setitimer",
    "getitimer",
    "alarm",
    "fsync",
    "fdatasync",
    "ftruncate",
    "memfd_create",
];

/// What whoever listens needs to answer.
const SERVING: &[&str] = &[
    "accept",
    "accept4",
    "getpeername",
    "getsockname",
    "getsockopt",
    "setsockopt",
    "shutdown",
    "sendto",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "sendmmsg",
    "recvmmsg",
    "sendfile",
    "ioctl",
];

impl Engine {
    /// Makes an appliance. Its warm-up cell is removed in any case.
    pub fn appliance(&self, request: &ApplianceRequest<'_>, progress: &dyn Progress) -> Result<Fetched> {
        self.remove_orphaned_builds()?;
        let declared = declared(request.calls)?;
        let spec = self.specify_warming(request)?;
        boundary_for(&spec, Verb::Snapshot)?;
        let (cell, lock) = self.create(spec)?;
        let cell = Doomed { engine: self, cell };
        if cell.cell.record.engine == Executor::Process {
            return Err(Error::NeedsKvm(Verb::Snapshot));
        }
        progress.begin("warming up", None);
        let mut conversation = self.start(&cell.cell, lock, Attach::Streams(None))?;
        let warming = Warming { engine: self, cell: &cell.cell, until: &request.warm };
        warming.wait(&mut conversation, progress)?;
        progress.end();
        let dir = cell.cell.dir.join("appliance");
        let running = self.find(&cell.cell.spec.id.to_string())?;
        keep_at(&dir, |keeping| crate::family::keep(&running, keeping))?;
        self.stop(&running, SIGKILL, Span::millis(0))?;
        let config = configuration(request, &running.spec, &dir, &declared)?;
        let image = self.with_stopped_root(&running, |root| {
            let (state, bytes) = (dir.join("state"), dir.join("bytes"));
            let parts = ApplianceParts { root, state: &state, bytes: &bytes, config: config.clone() };
            let original = (request.image, request.record);
            image::publish_appliance(&self.store, original, parts, request.name, progress).map_err(Error::from)
        })?;
        cell.remove()?;
        Ok(image)
    }

    fn specify_warming(&self, request: &ApplianceRequest<'_>) -> Result<CellSpec> {
        let id = self.fresh_id()?;
        let label = builder_label()?;
        let name = format!("appliance-{id}").parse().unwrap_or_else(|_| CellName::generated(id));
        let wanted = CellRequest {
            name: Some(name),
            boundary: Boundary::Unikernel,
            command: request.command.clone(),
            hostname: Some("localhost".to_owned()),
            labels: [label].into(),
            ..CellRequest::of_command(&[])
        };
        let image = NamedImage { name: request.image, id: request.id, record: request.record };
        specify(wanted, image, id, now())
            .map_err(|_| Error::Refused(format!("{} has no default command: give one", request.image)))
    }
}

/// The numbers of calls by name.
fn declared(names: &[String]) -> Result<BTreeSet<u32>> {
    let number = |name: &String| {
        container::syscall_number(name).ok_or_else(|| Error::Refused(format!("there is no system call '{name}'")))
    };
    names.iter().map(number).collect()
}

/// How the appliance is run.
fn configuration(
    request: &ApplianceRequest<'_>,
    warmed: &CellSpec,
    dir: &Path,
    declared: &BTreeSet<u32>,
) -> Result<model::ImageConfig> {
    let path = dir.join("state");
    let text = std::fs::read(&path).map_err(|e| Error::at("reading", &path, e))?;
    let file = std::fs::File::open(&path).map_err(|e| Error::at("opening", &path, e))?;
    let seen: BTreeSet<u32> = unikernel::calls_of(&file.into())?.into_iter().collect();
    let named = |names: &[&str]| names.iter().filter_map(|it| container::syscall_number(it)).collect::<BTreeSet<u32>>();
    let mut calls: BTreeSet<u32> = &seen | declared;
    calls.extend(named(ALWAYS));
    if named(&["listen"]).is_subset(&seen) {
        calls.extend(named(SERVING));
    }
    let names: Vec<&str> = calls.into_iter().filter_map(container::syscall_name).collect();
    let mut config = request.record.config.clone();
    (config.entrypoint, config.command) = (Vec::new(), warmed.process.argv.clone());
    config.labels.insert(APPLIANCE_LABEL.to_owned(), unikernel::digest_of(&text));
    config.labels.insert(CALLS_LABEL.to_owned(), names.join(","));
    if request.jit == Jit::Declared {
        config.labels.insert(JIT_LABEL.to_owned(), "declared".to_owned());
    }
    Ok(config)
}

/// A program that warms up.
struct Warming<'a> {
    engine: &'a Engine,
    cell: &'a Cell,
    until: &'a Warm,
}

impl Warming<'_> {
    fn wait(&self, conversation: &mut crate::client::Conversation, progress: &dyn Progress) -> Result<()> {
        const LOOK: Duration = Duration::from_millis(10);
        let deadline = Instant::now() + PATIENCE;
        let (mut output, mut began) = (crate::build::Tail::default(), None);
        loop {
            while conversation.has_word() || crate::family::is_readable(conversation, LOOK) {
                match conversation.next_word()? {
                    Said::Started(_) => began = Some(Instant::now()),
                    Said::Output(_, bytes) => {
                        progress.advance(bytes.len() as u64);
                        output.push(&bytes);
                    }
                    Said::Exited(report) => {
                        let what = "warming up".to_owned();
                        return Err(Error::Build { what, exit: report.exit, output: output.last_lines() });
                    }
                }
            }
            let Some(began) = began else { continue };
            if self.is_warm(began, &output)? {
                return Ok(());
            }
            if Instant::now() > deadline {
                let seconds = PATIENCE.as_secs();
                return Err(Error::Refused(format!(
                    "it did not warm up in {seconds} s; it said\n{}",
                    output.last_lines()
                )));
            }
        }
    }

    fn is_warm(&self, began: Instant, output: &crate::build::Tail) -> Result<bool> {
        Ok(match self.until {
            Warm::After(span) => began.elapsed() >= Duration::from(*span),
            Warm::Log(text) => output.contains(text),
            Warm::Port(port) => {
                let cell = self.engine.find(&self.cell.spec.id.to_string())?;
                cell.record.process.is_some_and(|it| listens(it.pid, *port))
            }
        })
    }
}

/// Whether anybody listens on that port in the network of a process.
fn listens(pid: u32, port: u16) -> bool {
    let is_it = |line: &str| {
        const LISTEN: &str = "0A";
        let mut fields = line.split_ascii_whitespace().skip(1);
        let number = fields.next().and_then(|it| it.rsplit_once(':')).and_then(|it| u16::from_str_radix(it.1, 16).ok());
        number == Some(port) && fields.nth(1) == Some(LISTEN)
    };
    ["tcp", "tcp6"].iter().any(|file| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{file}")).unwrap_or_default();
        text.lines().skip(1).any(is_it)
    })
}

/// What a cell of an appliance may do; nothing for a cell that is none.
pub(crate) fn seal(spec: &CellSpec) -> Option<unikernel::Seal> {
    let calls = spec.labels.get(CALLS_LABEL).filter(|_| spec.labels.contains_key(APPLIANCE_LABEL))?;
    let calls = calls.split(',').filter_map(container::syscall_number).collect();
    let generated = spec.labels.contains_key(JIT_LABEL);
    Some(unikernel::Seal { calls, code: if generated { unikernel::Code::Generated } else { unikernel::Code::Fixed } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_warmth_are_read() {
        assert_eq!("port 6379".parse(), Ok(Warm::Port(6379)));
        assert_eq!("log Ready to accept".parse(), Ok(Warm::Log("Ready to accept".to_owned())));
        assert_eq!("seconds 2".parse(), Ok(Warm::After(Span::seconds(2))));
        for wrong in ["", "port", "port x", "port 70000", "log ", "seconds -1", "moon full"] {
            assert!(wrong.parse::<Warm>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_call_that_is_always_allowed_has_a_number() {
        for name in ALWAYS.iter().chain(SERVING) {
            assert!(container::syscall_number(name).is_some(), "{name}");
        }
    }
}
