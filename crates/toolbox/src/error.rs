//! The crate's one error.

use sys::Errno;

/// What this crate gives.
pub type Result<T> = std::result::Result<T, Error>;

/// Why nothing could be attached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The target has no such process, or it ended meanwhile.
    #[error("{0} does not run")]
    NotRunning(String),
    /// The kernel refused something.
    #[error("{what}: {cause}")]
    Kernel {
        /// What was being done.
        what: String,
        /// The system's answer.
        cause: Errno,
    },
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

impl Error {
    pub(crate) fn kernel(what: impl Into<String>, cause: Errno) -> Self {
        Self::Kernel { what: what.into(), cause }
    }

    pub(crate) fn not_lazy(what: &'static str, cause: Errno) -> Self {
        Self::NotLazy { what, cause }
    }
}
