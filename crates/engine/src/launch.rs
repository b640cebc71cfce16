//! Starting a cell: a supervisor is executed from the command's own binary and handed the cell's lock.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use model::Verb;

use crate::cell::{Cell, CellLock};
use crate::client::Conversation;
use crate::error::{Error, Result};
use crate::home::Home;
use crate::table::Engine;

/// The first argument that makes the binary a supervisor. What follows is this crate's business alone.
pub const SUPERVISE: &str = "supervise";

impl Engine {
    /// Starts a cell that does not run. The conversation is attached when `attach` says so from the very first byte.
    pub fn start(&self, cell: &Cell, lock: CellLock, attach: Attach) -> Result<Conversation> {
        crate::boundary::boundary(cell.spec.boundary)?;
        self.check_neighbour(&cell.spec)?;
        let (ours, theirs) = UnixStream::pair().map_err(|e| Error::io("making a socket pair", e))?;
        let mut conversation = Conversation::new(cell.spec.name.clone(), ours);
        match attach {
            Attach::Streams(size) => {
                conversation.attach()?;
                if let Some((rows, columns)) = size {
                    conversation.resize(rows, columns)?;
                }
            }
            Attach::Nothing => {}
        }
        let (theirs, lock) = (OwnedFd::from(theirs), lock.into_fd());
        let failed = |e: std::io::Error| Error::io("starting a supervisor", e);
        let keep = [theirs.as_fd(), lock.as_fd()];
        let words =
            [OsStr::new("skep"), OsStr::new(SUPERVISE), self.home.data().as_os_str(), self.home.run().as_os_str()];
        let numbers = keep.map(|fd| sys::process::number(fd).to_string());
        let words = words.into_iter().chain([cell.dir.as_os_str()]).chain(numbers.iter().map(OsStr::new));
        let words: std::result::Result<Vec<_>, _> = words.map(|it| CString::new(it.as_bytes())).collect();
        let words = words.map_err(|e| failed(e.into()))?;
        // It is nobody's child for long: it outlives this process and is reaped by whoever reaps orphans.
        sys::process::reexec_read_only(&words, &keep).map_err(|e| failed(e.into()))?;
        Ok(conversation)
    }

    /// Takes the lock of a cell that somebody wants to start.
    pub fn lock(&self, cell: &Cell) -> Result<CellLock> {
        self.lock_idle(cell, "be started")
    }

    /// Refuses a verb that the cell's boundary does not have.
    pub fn require(&self, cell: &Cell, verb: Verb) -> Result<()> {
        crate::boundary::boundary_for(&cell.spec, verb).map(drop)
    }
}

/// Whether the launching command takes part in the cell's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// It gets the output and gives input; its terminal, if it has one, is of so many rows and columns.
    Streams(Option<(u16, u16)>),
    /// It only wants to know whether the start went well.
    Nothing,
}

/// Runs the supervisor in this process, which was executed for it: `args` are those after [`SUPERVISE`].
pub fn supervisor_main(args: impl IntoIterator<Item = std::ffi::OsString>) -> Result<()> {
    let failed = |e: std::io::Error| Error::io("starting a supervisor", e);
    let mut args = args.into_iter();
    let mut next = || args.next().ok_or_else(|| failed(std::io::Error::other("it is started by skep itself")));
    let (data, run, dir) = (PathBuf::from(next()?), PathBuf::from(next()?), PathBuf::from(next()?));
    let mut adopt = || {
        let number = next()?.to_str().and_then(|it| it.parse().ok()).unwrap_or(-1);
        sys::inherit::adopt(number).map_err(|e| failed(e.into()))
    };
    let (launcher, lock) = (adopt()?, adopt()?);
    release_standard_streams()?;
    rustix::process::chdir("/").map_err(|e| Error::io("entering /", e))?;
    crate::supervisor::supervise(Home::of_parts(data, run), &dir, launcher, lock)
}

/// A supervisor that kept its launcher's standard streams would keep a pipeline from ending.
pub(crate) fn release_standard_streams() -> Result<()> {
    let null = crate::supervisor::open_null()?;
    let failed = |e: rustix::io::Errno| Error::io("starting a supervisor", e);
    rustix::stdio::dup2_stdin(&null).map_err(failed)?;
    rustix::stdio::dup2_stdout(&null).map_err(failed)?;
    rustix::stdio::dup2_stderr(&null).map_err(failed)
}
