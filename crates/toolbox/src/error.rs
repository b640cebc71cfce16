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
}
