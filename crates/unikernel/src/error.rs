//! What can go wrong with a tender.

use sys::Errno;

/// A failure of the tender itself. What a guest does wrong is the guest's affair.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host refused something that a guest cannot be without.
    #[error("{what}: {errno}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
    /// There is no virtual machine to be had.
    #[error(transparent)]
    Machine(vm::Error),
    /// The library operating system that was built in is not as it should be.
    #[error("the library operating system is malformed: build it anew")]
    Image,
    /// There is something that a snapshot cannot hold.
    #[error("{0} cannot be kept")]
    Unkept(String),
    /// A snapshot is not what this build writes.
    #[error("the snapshot is damaged: {0}")]
    Damaged(&'static str),
    /// A snapshot is not the one that was meant.
    #[error("the snapshot was changed since it was made")]
    Changed,
    /// It cannot go on here.
    #[error("the snapshot cannot go on here: {0}")]
    Elsewhere(String),
    /// A part of the command cannot be given to a program.
    #[error("the command holds a zero byte")]
    Command,
}

/// What the tender's functions give.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// For `map_err`.
    pub(crate) fn host(what: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::Host { what, errno }
    }
}
