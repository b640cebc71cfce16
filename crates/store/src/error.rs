//! The one error of the store, in its own words.

use std::io;
use std::path::{Path, PathBuf};

use model::ObjectId;

/// A result of the store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in a store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused something. A full disk arrives here.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb: "write", "open".
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The source that a caller handed in to be stored could not be read.
    #[error("cannot read the data to be stored: {0}")]
    Source(#[source] io::Error),
    /// Another process is writing.
    #[error("the pool is being written by process {}", holder.map_or("(unknown)".to_owned(), |pid| pid.to_string()))]
    Busy {
        /// Its process id, when it left one.
        holder: Option<u32>,
    },
    /// No such object in the pool.
    #[error("the pool holds no object {0}")]
    Missing(ObjectId),
    /// Something in the pool is not what was written: never returned as data.
    #[error("damaged: {what}: {why} (run `skep pool fsck`)")]
    Damaged {
        /// The file or object.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The pool was made by another version of the format.
    #[error("{} is not a pool that this version can use: {found}", path.display())]
    Format {
        /// The pool's directory.
        path: PathBuf,
        /// What was found there.
        found: String,
    },
    /// The index database refused. It can be rebuilt from the packs.
    #[error("the pool's index cannot be used: {0} (`skep pool fsck --repair` rebuilds it)")]
    Index(String),
    /// A path or name that no tree can hold, or an operation that the tree's shape does not allow.
    #[error("{}: {why}", String::from_utf8_lossy(path).escape_debug())]
    Path {
        /// The path inside the tree.
        path: Vec<u8>,
        /// Why not.
        why: &'static str,
    },
    /// More than the format holds.
    #[error("{what} is too large: the limit is {limit}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// The most there can be.
        limit: u64,
    },
}

impl Error {
    pub(crate) fn damaged(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Damaged { what: what.into(), why: why.into() }
    }

    pub(crate) fn path(path: &[u8], why: &'static str) -> Self {
        Self::Path { path: path.to_vec(), why }
    }
}

/// Adds to an I/O result what was tried, and on what.
pub(crate) trait Context<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { action, path: path.to_owned(), source: source.into() })
    }
}
