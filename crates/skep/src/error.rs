//! One line of what went wrong, a hint that names the next command, and the exit code that goes with it.

use std::fmt;
use std::process::ExitCode;

use engine::Error as EngineError;

/// Shorthand.
pub(crate) type Result<T> = std::result::Result<T, CommandError>;

/// How a command fails.
#[derive(Debug)]
pub(crate) struct CommandError {
    kind: Kind,
    message: String,
    hints: Vec<String>,
}

/// What kind of failure it is; each has its exit code, which scripts may rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Something did not work.
    Failed,
    /// The arguments make no sense.
    Usage,
    /// What was named does not exist.
    NotFound,
    /// It exists, but is not in a state for this.
    Conflict,
    /// This machine, this build or this boundary cannot do it.
    Unsupported,
    /// The reader of our output went away: no failure, and nothing to say.
    BrokenPipe,
    /// A program of a cell decided the exit code; everything has been said.
    Program(u8),
}

impl CommandError {
    pub(crate) fn new(kind: Kind, message: impl fmt::Display) -> Self {
        Self { kind, message: message.to_string(), hints: Vec::new() }
    }

    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::new(Kind::Usage, message)
    }

    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// The exit code of a program, with nothing more to say.
    pub(crate) fn program(code: u8) -> Self {
        Self::new(Kind::Program(code), "")
    }

    pub(crate) fn hinted(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The same, failing with the codes that `run` and `exec` use for failures of their own.
    pub(crate) fn before_program(mut self) -> Self {
        if matches!(self.kind, Kind::Failed) {
            self.kind = Kind::Program(125);
        }
        self
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self.kind {
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::NotFound => 3,
            Kind::Conflict => 4,
            Kind::Unsupported => 5,
            Kind::BrokenPipe => 0,
            Kind::Program(code) => code,
        })
    }

    /// Tells the user, on standard error.
    pub(crate) fn report(&self) {
        if self.kind == Kind::BrokenPipe || self.message.is_empty() {
            return;
        }
        crate::output::error(&self.message, &self.hints);
    }
}

impl From<std::io::Error> for CommandError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::new(Kind::BrokenPipe, ""),
            _ => Self::failed(error),
        }
    }
}

impl From<rustix::io::Errno> for CommandError {
    fn from(errno: rustix::io::Errno) -> Self {
        std::io::Error::from(errno).into()
    }
}

impl From<EngineError> for CommandError {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        match error {
            EngineError::NoSuchCell { similar, .. } => {
                let hint = match similar {
                    Some(name) => format!("did you mean '{name}'?"),
                    None => "'skep ps -a' lists the cells there are".to_owned(),
                };
                Self::new(Kind::NotFound, message).hinted(hint)
            }
            EngineError::Ambiguous { .. } => {
                Self::new(Kind::Conflict, message).hinted("give more of the id, or the name")
            }
            EngineError::NameTaken { name, .. } => Self::new(Kind::Conflict, message)
                .hinted(format!("remove it with 'skep rm {name}', or choose another name")),
            EngineError::State { ref cell, ref refusal } => {
                let hint = match (refusal.from, refusal.input) {
                    ("running" | "paused" | "restarting" | "starting", "be removed") => {
                        format!("stop it first: 'skep stop {cell}', or remove it anyway: 'skep rm -f {cell}'")
                    }
                    ("paused", "run a further program" | "be paused" | "be asked for its libraries") => {
                        format!("'skep resume {cell}' lets it go on")
                    }
                    ("running" | "paused", "be started") => format!("'skep attach {cell}' joins it"),
                    _ => format!("'skep why {cell}' tells how it came to that"),
                };
                Self::new(Kind::Conflict, message).hinted(hint)
            }
            EngineError::NotRunning { ref cell, .. } => {
                let hint = format!("'skep why {cell}' tells why, 'skep start {cell}' starts it");
                Self::new(Kind::Conflict, message).hinted(hint)
            }
            EngineError::NotJoined { ref other, ref why, .. } => of_joining(&message, other, why),
            EngineError::Unsupported { by: Some(by), .. } => {
                Self::new(Kind::Unsupported, message).hinted(format!("a cell run with '--as {by}' can"))
            }
            EngineError::NoProcessor { boundary: model::Boundary::Machine, .. } => Self::new(Kind::Unsupported, message)
                .hinted("gdb comes to machines whose processor is translated: --arch arm64, --arch riscv64"),
            EngineError::NoProcessor { ref cell, .. } => Self::new(Kind::Unsupported, message)
                .hinted(format!("'skep debug {cell}' attaches a toolbox, which has gdb")),
            EngineError::NoNativeMachine { .. } => Self::new(Kind::Unsupported, message).hinted(
                "run it '--as container' or '--as unikernel', or take it for a processor that is translated: --arch riscv64",
            ),
            EngineError::OwnSystem { ref cell, .. } => Self::new(Kind::Unsupported, message)
                .hinted(format!("'skep attach {cell}' is its console, and its network reaches it")),
            EngineError::NeedsKvm(_) => Self::new(Kind::Unsupported, message)
                .hinted("'skep doctor' tells whether there is /dev/kvm; SKEP_ENGINE=kvm chooses it"),
            EngineError::Unsupported { .. } | EngineError::NoBoundary(_) => {
                Self::new(Kind::Unsupported, message).hinted("'--as container' is the boundary that every build has")
            }
            EngineError::NoSuchSnapshot { ref cell, .. } => {
                Self::new(Kind::NotFound, message).hinted(format!("'skep snapshot ls {cell}' lists those there are"))
            }
            EngineError::SnapshotTaken { ref cell, ref name } => Self::new(Kind::Conflict, message)
                .hinted(format!("'skep snapshot rm {cell} {name}' removes it, or choose another name")),
            EngineError::Unkept { .. } | EngineError::NoCore { .. } => {
                Self::new(Kind::Unsupported, message).hinted("the cell goes on as before")
            }
            EngineError::UnknownEngine(_) => Self::new(Kind::Usage, message)
                .hinted("without it the best one here is chosen: 'skep doctor' shows what there is"),
            EngineError::Tender(_) => {
                Self::failed(message).hinted("'SKEP_ENGINE=process' does without virtual machines")
            }
            EngineError::Toolbox(error) => error.into(),
            EngineError::Damaged { .. } => Self::failed(message).hinted("'skep pool fsck' checks the pool"),
            EngineError::Store(error) => error.into(),
            EngineError::Build { .. } => {
                Self::failed(message).hinted("without --configure no script is run; most packages need none")
            }
            EngineError::Image(error) => error.into(),
            EngineError::Workload { on: "original", .. } => {
                Self::failed(message).hinted("mend the workload, or the command that serves it, first")
            }
            EngineError::Workload { .. } => {
                Self::failed(message).hinted("no image was made; '--keep GLOB' keeps what cannot be seen to be needed")
            }
            EngineError::Library { why, .. } => of_library(message, &why),
            EngineError::Start { .. }
            | EngineError::Refused(_)
            | EngineError::SupervisorGone(_)
            | EngineError::Io { .. }
            | EngineError::Container(_)
            | EngineError::Net(_) => Self::failed(message),
        }
    }
}

/// What to do about a cell that cannot be joined.
fn of_joining(message: &str, other: &model::CellName, why: &engine::NotJoined) -> CommandError {
    use engine::NotJoined;
    let (kind, hint) = match why {
        NotJoined::Missing => (Kind::NotFound, "'skep ps -a' lists the cells there are".to_owned()),
        NotJoined::Itself => (Kind::Usage, "name another cell".to_owned()),
        NotJoined::Private => {
            (Kind::Conflict, format!("make it with '--ipc shareable': 'skep run --ipc shareable --name {other} ...'"))
        }
        NotJoined::Joined(third) => (Kind::Conflict, format!("join the same: '--ipc cell:{third}'")),
        NotJoined::Boundary(boundary) => (Kind::Unsupported, format!("run this one with '--as {boundary}', too")),
        NotJoined::Users => (Kind::Unsupported, "leave out --userns auto for both".to_owned()),
        NotJoined::NotRunning("paused") => (Kind::Conflict, format!("'skep resume {other}' lets it go on")),
        NotJoined::NotRunning(_) => (Kind::Conflict, format!("'skep start {other}' starts it")),
    };
    CommandError::new(kind, message).hinted(hint)
}

/// What to do about a library that was not replaced.
fn of_library(message: String, why: &engine::LibraryRefusal) -> CommandError {
    use engine::LibraryRefusal;
    match why {
        LibraryRefusal::NotInImage => CommandError::new(Kind::NotFound, message),
        LibraryRefusal::NotInCell => {
            CommandError::new(Kind::NotFound, message).hinted("'skep lib ls CELL' lists those that it has")
        }
        LibraryRefusal::Unsigned | LibraryRefusal::UnknownAge => CommandError::new(Kind::Conflict, message)
            .hinted("take it from a deb: image, or say that you trust this very file: '--digest sha256:...'"),
        LibraryRefusal::Digest(_) | LibraryRefusal::Older { .. } => CommandError::new(Kind::Conflict, message),
        LibraryRefusal::Tender(why) if why.contains("have no name") => CommandError::failed(message)
            .hinted("'--fresh-data' lets them begin afresh, if the library can do with that"),
        LibraryRefusal::Tender(_) => CommandError::failed(message).hinted("nothing was changed"),
    }
}

impl From<engine::ToolboxError> for CommandError {
    fn from(error: engine::ToolboxError) -> Self {
        use engine::ToolboxError;
        let message = error.to_string();
        match error {
            ToolboxError::NotRunning(_) => {
                Self::new(Kind::NotFound, message).hinted("'skep debug' lists what runs here")
            }
            ToolboxError::NoSuchTarget { similar: Some(name), .. } => {
                Self::new(Kind::NotFound, message).hinted(format!("did you mean '{name}'?"))
            }
            ToolboxError::NoSuchTarget { similar: None, .. } => {
                Self::new(Kind::NotFound, message).hinted("'skep debug' lists what runs here")
            }
            ToolboxError::Several { .. } => Self::new(Kind::Conflict, message).hinted("name one of them like that"),
            ToolboxError::Stopped(_) => {
                Self::new(Kind::Conflict, message).hinted("start it with its engine; 'skep debug' lists what runs here")
            }
            ToolboxError::Paused(_) => Self::new(Kind::Conflict, message).hinted("let it go on first"),
            ToolboxError::Filters { tracer: Some(_), .. } => Self::new(Kind::Conflict, message)
                .hinted("end that first, or leave the filter out with '--privileged-tools'"),
            ToolboxError::Filters { .. } => {
                Self::failed(message).hinted("run it as root, or leave the filter out with '--privileged-tools'")
            }
            ToolboxError::Distrusted(_) => Self::new(Kind::Unsupported, message)
                .hinted("'--trust-target' attaches all the same, if you trust what runs there"),
            ToolboxError::Unmatched { .. } => Self::new(Kind::Unsupported, message),
            ToolboxError::Store(error) => error.into(),
            ToolboxError::NotLazy { .. } => Self::new(Kind::Unsupported, message).hinted("try it without '--lazy'"),
            ToolboxError::Kernel { .. } | ToolboxError::Container(_) => Self::failed(message),
        }
    }
}

impl From<model::ParseError> for CommandError {
    fn from(error: model::ParseError) -> Self {
        Self::usage(error)
    }
}
