//! Libraries of a running program: which it has, and one put in another's place while it runs.
//!
//! A program's own loader has mapped its libraries, and knows nothing of this. Its process stands still at its next way out of
//! the library operating system ([`abi::library`]); everything else is done from here, in its memory, by what its loader left
//! there. **All of that is the guest's, and believed as little as anything of a guest's; the new library is read, checked
//! and linked outside.** A change is made in all processes of the cell or in none: each is changed and stands still until
//! all are, or is changed back.
//!
//! The new library is mapped beside the old one, which stays: whoever is in it comes back to it. Whatever led to the old
//! one is made to lead to the new one, in three ways that cover each other:
//! - words that the loader filled in for other libraries are written anew;
//! - the old table of symbols says where the new ones are, for whoever looks them up from now on;
//! - each old function begins with a jump to the new one, for pointers that are held anywhere else.

mod carry;
mod elf;
mod errand;
mod jumps;
mod linked;
mod place;
mod plan;
mod root;
mod standing;
#[cfg(test)]
mod tests;
mod update;
mod words;

pub(crate) use self::errand::Ledger;
pub(crate) use self::update::Update;
pub use self::words::{Data, Library, Request, State, Updated, read_request, write_request};
pub(crate) use self::words::{LONGEST, cut, library_of, library_word, updated_of, updated_word};

/// What is wrong with a library or a report.
pub(crate) type Malformed = &'static str;

/// Why a library was not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It cannot be done at this moment, and perhaps in a while.
    NotNow(&'static str),
    /// It cannot be done at this moment, and perhaps at the next system call.
    NotHere(&'static str),
    /// It cannot be done.
    Refused(String),
}

impl From<Malformed> for Trouble {
    fn from(why: Malformed) -> Self {
        Self::Refused(why.to_owned())
    }
}

impl From<String> for Trouble {
    fn from(why: String) -> Self {
        Self::Refused(why)
    }
}

/// A name for people.
fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).escape_debug().to_string()
}
