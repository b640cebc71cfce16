//! The one error of this crate, in the words of somebody who wants an image.

use std::fmt::Display;
use std::io;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an image could not be had, or could not be given away.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The pool refused.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The operating system refused something.
    #[error("cannot read or write {what}: {source}")]
    Io {
        /// The file, or what it is.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// Input that is not what it should be. Nothing of it was kept.
    #[error("damaged or hostile {what}: {why}")]
    Malformed {
        /// What was being read.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// Input beyond a bound of [`crate::Limits`].
    #[error("{what} exceed the limit of {limit}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The most there can be.
        limit: String,
    },
    /// Bytes that do not have the digest or size they were promised with.
    #[error("{what} is not what was promised: expected {expected}, found {found}")]
    Mismatch {
        /// What was fetched.
        what: String,
        /// Digest or size by its referrer.
        expected: String,
        /// What it has.
        found: String,
    },
    /// A program of the machine that is needed and absent, or one that failed.
    #[error("{program} cannot {doing}: {said}")]
    Program {
        /// Its name.
        program: &'static str,
        /// What was asked of it, as a verb.
        doing: &'static str,
        /// What it said, one line.
        said: String,
    },
    /// No such package in the machine's apt sources.
    #[error("no package '{name}' in the machine's apt sources{}", did_you_mean(similar))]
    NoSuchPackage {
        /// As asked for.
        name: String,
        /// Names like it, or packages that provide it.
        similar: Vec<String>,
    },
    /// No such suite in the machine's apt sources.
    #[error("the machine's apt sources offer no suite '{suite}': they offer {}", offered.join(", "))]
    NoSuchSuite {
        /// As asked for.
        suite: String,
        /// What there is.
        offered: Vec<String>,
    },
    /// Packages that exclude each other or need what there is not.
    #[error("the packages cannot be brought together: {0}")]
    Unsolvable(String),
    /// Something that was named and is not there: a file, a library, a tag, an image.
    #[error("{what} not found{}", colon(hint))]
    NotFound {
        /// What, as a noun with its name.
        what: String,
        /// What there is instead, or what to do; may be empty.
        hint: String,
    },
    /// A short id that several images have.
    #[error("'{prefix}' is the beginning of {} images' ids", candidates.len())]
    Ambiguous {
        /// As typed.
        prefix: String,
        /// The short ids of those images.
        candidates: Vec<String>,
    },
    /// A registry that refused or could not be reached.
    #[error("registry {registry}: {said}")]
    Registry {
        /// Host and port.
        registry: String,
        /// What went wrong.
        said: String,
    },
    /// Input that is well formed and beyond what this version does.
    #[error("{what} cannot be used: {why}")]
    Unsupported {
        /// What.
        what: String,
        /// Why not, and what can be done.
        why: String,
    },
}

fn did_you_mean(similar: &[String]) -> String {
    if similar.is_empty() { String::new() } else { format!(" (did you mean {}?)", similar.join(", ")) }
}

fn colon(hint: &str) -> String {
    if hint.is_empty() { String::new() } else { format!(": {hint}") }
}

impl Error {
    pub(crate) fn malformed(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Malformed { what: what.into(), why: why.into() }
    }

    pub(crate) fn limit(what: &'static str, limit: impl Display) -> Self {
        Self::Limit { what, limit: limit.to_string() }
    }

    pub(crate) fn io(what: impl Display, source: impl Into<io::Error>) -> Self {
        Self::Io { what: what.to_string(), source: source.into() }
    }

    pub(crate) fn not_found(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::NotFound { what: what.into(), hint: hint.into() }
    }

    /// An error of reading input: of this crate when one travelled inside, damage when the data ended or was corrupt, and
    /// the system's otherwise.
    pub(crate) fn read(what: impl Display, source: io::Error) -> Self {
        match source.downcast::<Self>() {
            Ok(own) => own,
            Err(source) => match source.kind() {
                io::ErrorKind::UnexpectedEof => Self::malformed(what.to_string(), "it ends too early"),
                io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other => {
                    Self::malformed(what.to_string(), source.to_string())
                }
                _ => Self::io(what, source),
            },
        }
    }

    /// Lets an error of this crate travel through an [`io::Read`].
    pub(crate) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }
}
