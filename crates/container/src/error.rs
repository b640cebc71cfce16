//! The crate's one error: what failed, at which step of a start, in words.

use model::StartStep;
use sys::Errno;

/// What this crate gives.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a cell could not be made, entered or measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A start failed.
    #[error("{what}: {cause}")]
    Start {
        /// The step that failed.
        step: StartStep,
        /// What was being done.
        what: String,
        /// The system's answer, or the reason in words.
        cause: Cause,
    },
    /// The cell's first process is gone.
    #[error("the cell is not running")]
    NotRunning,
    /// It has no control group that stops processes: an ordinary user may own none.
    #[error("pausing takes a control group with the freezer, and none can be used here")]
    NoFreezer,
    /// A control group could not be read or changed.
    #[error("control group {path}: {cause}")]
    Cgroup {
        /// The directory or file.
        path: String,
        /// The system's answer.
        cause: Errno,
    },
    /// The kernel refused something outside a start.
    #[error("{what}: {cause}")]
    Kernel {
        /// What was being done.
        what: &'static str,
        /// The system's answer.
        cause: Errno,
    },
}

/// The reason for a failure.
#[derive(Debug)]
pub enum Cause {
    /// The kernel's.
    Kernel(Errno),
    /// Ours.
    Words(&'static str),
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kernel(errno) => write!(f, "{}", Words(*errno)),
            Self::Words(words) => f.write_str(words),
        }
    }
}

/// An error number as the C library words it, without the number.
struct Words(Errno);

impl std::fmt::Display for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = std::io::Error::from_raw_os_error(self.0.raw_os_error()).to_string();
        let plain = text.rsplit_once(" (os error").map_or(text.as_str(), |(words, _)| words);
        f.write_str(plain)
    }
}

impl Error {
    /// The step of a start that failed, when it was a start.
    pub const fn step(&self) -> Option<StartStep> {
        match self {
            Self::Start { step, .. } => Some(*step),
            _ => None,
        }
    }

    pub(crate) fn start(step: StartStep, what: impl Into<String>, cause: Errno) -> Self {
        Self::Start { step, what: what.into(), cause: Cause::Kernel(cause) }
    }

    pub(crate) fn refused(step: StartStep, what: impl Into<String>, cause: &'static str) -> Self {
        Self::Start { step, what: what.into(), cause: Cause::Words(cause) }
    }
}
