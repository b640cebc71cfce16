//! What can go wrong with networks.

use std::io;
use std::path::{Path, PathBuf};

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a network could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory of ours.
    #[error("{doing} {}: {source}", path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The kernel refused a change of interfaces, addresses, routes or packet rules.
    #[error("{doing}: {source}")]
    Kernel {
        /// What was being done.
        doing: String,
        /// The kernel's word.
        source: io::Error,
    },
    /// A port of the host cannot be listened on.
    #[error("port {port} of the host cannot be published: {source}")]
    Port {
        /// The mapping as typed.
        port: String,
        /// The system's word.
        source: io::Error,
    },
    /// Every subnet that networks are taken from overlaps with a route of the host.
    #[error("no free subnet for network '{0}': each candidate overlaps with a route of this host")]
    NoSubnet(String),
    /// The subnet has no address left.
    #[error("network '{0}' has no free address")]
    Full(String),
}

impl Error {
    pub(crate) fn at(doing: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::File { doing, path: path.to_owned(), source: source.into() }
    }

    pub(crate) fn kernel(doing: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Kernel { doing: doing.into(), source: source.into() }
    }
}
