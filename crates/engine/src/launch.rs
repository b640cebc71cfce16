//! Starting a cell: a supervisor is executed from the command's own binary and handed the cell's lock.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

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
        let mut command = Command::new("/proc/self/exe");
        command.arg0("skep-supervisor").arg(SUPERVISE);
        command.args([self.home.data(), self.home.run(), &cell.dir]);
        for fd in [&theirs, &lock] {
            command.arg(fd.as_raw_fd().to_string());
            let inherited = rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty());
            inherited.map_err(|e| Error::io("starting a supervisor", e))?;
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // It is nobody's child for long: it outlives this process and is reaped by whoever reaps orphans.
        command.spawn().map_err(|e| Error::io("starting a supervisor", e))?;
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
    let _ = rustix::process::setsid();
    rustix::process::chdir("/").map_err(|e| Error::io("entering /", e))?;
    crate::supervisor::supervise(Home::of_parts(data, run), &dir, launcher, lock)
}
