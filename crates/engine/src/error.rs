//! What can go wrong in the life of a cell, in the engine's words. Hints are the command line's business; the facts that
//! a hint needs are in the variants.

use std::io;
use std::path::{Path, PathBuf};

use model::{Boundary, CellId, CellName, Exit, IllegalTransition, StartStep, Verb};

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation on cells failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No cell goes by that name or id.
    #[error("no cell is called '{wanted}'")]
    NoSuchCell {
        /// What was asked for.
        wanted: String,
        /// A name that is close to it.
        similar: Option<String>,
    },
    /// Several ids begin like that.
    #[error("'{wanted}' is the beginning of {count} cell ids")]
    Ambiguous {
        /// What was asked for.
        wanted: String,
        /// How many fit.
        count: usize,
    },
    /// Another cell has that name.
    #[error("the name '{name}' is taken by cell {by}")]
    NameTaken {
        /// The name.
        name: CellName,
        /// Who has it.
        by: CellId,
    },
    /// The cell is not in a state for it.
    #[error("{cell}: {refusal}")]
    State {
        /// The cell's name.
        cell: CellName,
        /// Which step of its life was refused.
        refusal: IllegalTransition,
    },
    /// The cell does not run.
    #[error("{cell} is not running (it is {state})")]
    NotRunning {
        /// The cell's name.
        cell: CellName,
        /// The state's word.
        state: &'static str,
    },
    /// The cell cannot share messages and memory with the other one.
    #[error("{cell} cannot join the IPC of {other}: {why}")]
    NotJoined {
        /// The cell's name.
        cell: CellName,
        /// Whom it was to join.
        other: CellName,
        /// Why not.
        why: NotJoined,
    },
    /// The boundary cannot do that.
    #[error("a {boundary} cell cannot {verb}")]
    Unsupported {
        /// The cell's boundary.
        boundary: Boundary,
        /// What was asked.
        verb: Verb,
        /// A boundary that can.
        by: Option<Boundary>,
    },
    /// The cell has no processor that a debugger could look at.
    #[error("{cell} is a {boundary}, whose programs run on the host's processors")]
    NoProcessor {
        /// The cell's name.
        cell: CellName,
        /// Its boundary.
        boundary: Boundary,
    },
    /// No machine can have the host's own processor here.
    #[error("no machine can have this host's own processor: {why}")]
    NoNativeMachine {
        /// Why.
        why: String,
    },
    /// The cell is a machine with a system of its own.
    #[error("{cell} runs the system of its disk, in which nothing of ours could {verb}")]
    OwnSystem {
        /// The cell's name.
        cell: CellName,
        /// What was asked.
        verb: Verb,
    },
    /// The cell was not kept under that name.
    #[error("{cell} has no snapshot '{wanted}'")]
    NoSuchSnapshot {
        /// The cell's name.
        cell: CellName,
        /// What was asked for.
        wanted: CellName,
    },
    /// Another snapshot of the cell has that name.
    #[error("{cell} has a snapshot '{name}' already")]
    SnapshotTaken {
        /// The cell's name.
        cell: CellName,
        /// What was asked for.
        name: CellName,
    },
    /// The cell's program could not be written into a file.
    #[error("{cell} was not written down: {why}")]
    NoCore {
        /// The cell's name.
        cell: CellName,
        /// Why not.
        why: String,
    },
    /// The cell has something that cannot be copied or kept.
    #[error("{cell} cannot be taken as it stands: {why}")]
    Unkept {
        /// The cell's name.
        cell: CellName,
        /// What it is.
        why: String,
    },
    /// Only a virtual machine can do that.
    #[error("a unikernel cannot {0} on the process engine: on kvm it can")]
    NeedsKvm(Verb),
    /// The boundary is not part of this build.
    #[error("the {0} boundary is not part of this build")]
    NoBoundary(Boundary),
    /// There is no such engine.
    #[error("SKEP_ENGINE names '{0}', which runs no unikernel: it is 'kvm' or 'process'")]
    UnknownEngine(String),
    /// A unikernel's tender cannot do its work here.
    #[error(transparent)]
    Tender(#[from] unikernel::Error),
    /// A program could not be started.
    #[error("{message}")]
    Start {
        /// At which step.
        step: StartStep,
        /// What happened.
        message: String,
    },
    /// A step in the making of an image failed.
    #[error("{what} failed ({exit})\n{output}")]
    Build {
        /// What was being done.
        what: String,
        /// How its command ended.
        exit: Exit,
        /// The last lines that it printed.
        output: String,
    },
    /// A workload did not do what it should.
    #[error("the workload fails on the {on} image at '{step}': {why}")]
    Workload {
        /// `original` or `slim`.
        on: &'static str,
        /// Which step.
        step: String,
        /// What happened, with the last lines of the service's output.
        why: String,
    },
    /// A library was not replaced.
    #[error("{soname} stays as it is: {why}")]
    Library {
        /// Which library.
        soname: String,
        /// Why.
        why: crate::library::LibraryRefusal,
    },
    /// The supervisor refused a request.
    #[error("{0}")]
    Refused(String),
    /// The supervisor went away in the middle of a conversation.
    #[error("the supervisor of {0} ended unexpectedly")]
    SupervisorGone(CellName),
    /// A file of ours does not read as it was written.
    #[error("{} is damaged: {why}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The system refused something.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done, with the path.
        doing: String,
        /// The system's word.
        source: io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// An image.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// The container boundary, other than a start.
    #[error(transparent)]
    Container(container::Error),
    /// A toolbox could not be attached, other than for a program that could not be started.
    #[error(transparent)]
    Toolbox(toolbox::Error),
    /// The network.
    #[error(transparent)]
    Net(#[from] net::Error),
}

/// Why a cell does not join the IPC of another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each says itself what it is")]
pub enum NotJoined {
    #[error("there is no such cell of yours")]
    Missing,
    #[error("it is the same cell")]
    Itself,
    #[error("it keeps its own to itself")]
    Private,
    #[error("it has joined {0} itself")]
    Joined(CellName),
    #[error("it is a {0}, and who sleeps in one is not woken from the other")]
    Boundary(Boundary),
    #[error("with --userns auto they have no users in common")]
    Users,
    #[error("it is not running (it is {0})")]
    NotRunning(&'static str),
}

impl From<container::Error> for Error {
    fn from(error: container::Error) -> Self {
        match error.step() {
            Some(step) => Self::Start { step, message: error.to_string() },
            None => Self::Container(error),
        }
    }
}

impl From<toolbox::Error> for Error {
    fn from(error: toolbox::Error) -> Self {
        match error {
            toolbox::Error::Container(error) => error.into(),
            error => Self::Toolbox(error),
        }
    }
}

impl Error {
    pub(crate) fn io(doing: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { doing: doing.into(), source: source.into() }
    }

    pub(crate) fn at(doing: &str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::io(format!("{doing} {}", path.display()), source)
    }
}
