//! The crate's one error. Hints are the command line's business; the facts that a hint needs are in the variants.

use sys::Errno;

/// What this crate gives.
pub type Result<T> = std::result::Result<T, Error>;

/// Why nothing could be attached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The target has no such process, or it ended meanwhile.
    #[error("{0} does not run")]
    NotRunning(String),
    /// There is nothing of that name.
    #[error("nothing here is called '{wanted}'")]
    NoSuchTarget {
        /// What was asked for.
        wanted: String,
        /// A name that is close to it.
        similar: Option<String>,
    },
    /// Several things have that name.
    #[error("'{wanted}' may be {}", .which.join(" or "))]
    Several {
        /// What was asked for.
        wanted: String,
        /// Each of them by a name that only it has.
        which: Vec<String>,
    },
    /// There is such a container, and it does not run.
    #[error("{0} exists but does not run")]
    Stopped(String),
    /// Its control group is stopped, and would stop a session.
    #[error("{0} is paused")]
    Paused(String),
    /// The target's system call filters, which a session must be under, could not be read.
    #[error("the system call filters of {target} cannot be read: {}", why(*.tracer, *.cause))]
    Filters {
        /// The target's name.
        target: String,
        /// The process that traces it.
        tracer: Option<u32>,
        /// The system's answer.
        cause: Errno,
    },
    /// The target could take over the processes of a session while they are made.
    #[error("{0} may trace processes (SYS_PTRACE), and could take a session over while it is made")]
    Distrusted(String),
    /// The target is confined in a way that a session cannot be.
    #[error("{target} cannot be matched: {why}")]
    Unmatched {
        /// The target's name.
        target: String,
        /// What stands in the way.
        why: String,
    },
    /// The kernel refused something.
    #[error("{what}: {cause}", cause = std::io::Error::from(*.cause))]
    Kernel {
        /// What was being done.
        what: String,
        /// The system's answer.
        cause: Errno,
    },
    /// The session's processes could not be made or set up.
    #[error(transparent)]
    Container(#[from] container::Error),
    /// This machine cannot mount a tree before it is unpacked.
    #[error("files cannot be unpacked as they are read: {what}: {cause}")]
    NotLazy {
        /// What was being done.
        what: &'static str,
        /// The system's answer.
        cause: Errno,
    },
    /// The pool refused.
    #[error(transparent)]
    Store(#[from] store::Error),
}

fn why(tracer: Option<u32>, cause: Errno) -> String {
    match (tracer, cause) {
        (Some(tracer), _) => format!("process {tracer} traces it already"),
        (None, Errno::TIMEDOUT) => "it stands still".to_owned(),
        (None, cause) => std::io::Error::from(cause).to_string(),
    }
}

impl Error {
    pub(crate) fn system(what: impl Into<String>, error: &std::io::Error) -> Self {
        Self::kernel(what, Errno::from_io_error(error).unwrap_or(Errno::IO))
    }

    pub(crate) fn kernel(what: impl Into<String>, cause: Errno) -> Self {
        Self::Kernel { what: what.into(), cause }
    }

    pub(crate) fn not_lazy(what: &'static str, cause: Errno) -> Self {
        Self::NotLazy { what, cause }
    }
}
