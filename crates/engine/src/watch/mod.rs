//! Watching what a cell's programs do, as far as its specification asks for it.
//!
//! A watched program stands still at each announced call, and in what is being observed at each opening of a file, until
//! it is answered here: **nothing is missed for want of speed**, and a watcher that is gone holds nobody up.

mod call;
mod observer;
mod restorer;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use container::Attendant;
use model::{Missed, Watch};
use rustix::event::epoll;

use crate::boundary::StartRequest;
use crate::error::{Error, Result};

pub(crate) use observer::{Observer, observed_in};
pub(crate) use restorer::{Manner, Restorer};

/// The watcher of one run of a cell.
pub(crate) enum Watching {
    /// What it uses is noted, and written into the cell's directory at its end.
    Uses(Observer),
    /// What it misses is noted, or put back.
    Misses(Box<Restorer>),
}

impl Watching {
    /// The watcher that a cell's specification asks for. `root` is its root file system, if its boundary has it in hand.
    pub(crate) fn begin(request: &StartRequest<'_>, root: Option<BorrowedFd<'_>>, pid: u32) -> Result<Option<Self>> {
        match request.cell.spec.watch {
            Watch::Nothing => Ok(None),
            Watch::Uses => {
                let root = root.ok_or_else(|| {
                    Error::Refused("which files a cell opens can be seen by root alone: run this as root".to_owned())
                })?;
                Ok(Some(Self::Uses(Observer::of_file_system(root)?)))
            }
            Watch::Misses => {
                let restorer = Restorer::new(request.store, &request.cell.spec, pid, Manner::PutBack)?;
                Ok(Some(Self::Misses(Box::new(restorer))))
            }
            Watch::MissesNoted => {
                // A cell whose image was removed runs all the same: its calls are answered, and nothing is noted.
                let noting = Restorer::new(request.store, &request.cell.spec, pid, Manner::Note);
                let noting = noting.or_else(|_| Restorer::of_nothing(request.store, pid))?;
                Ok(Some(Self::Misses(Box::new(noting))))
            }
        }
    }

    pub(crate) fn attendant(&mut self) -> &mut dyn Attendant {
        match self {
            Self::Uses(observer) => observer,
            Self::Misses(restorer) => restorer.as_mut(),
        }
    }

    pub(crate) fn questions(&self) -> BorrowedFd<'_> {
        match self {
            Self::Uses(observer) => observer.questions(),
            Self::Misses(restorer) => restorer.questions(),
        }
    }

    /// What was missed since the last call.
    pub(crate) fn missed(&mut self) -> Vec<Missed> {
        match self {
            Self::Uses(_) => Vec::new(),
            Self::Misses(restorer) => restorer.take_missed(),
        }
    }

    /// Writes down what there is to write down of an ended run.
    pub(crate) fn finish(&mut self, dir: &Path) -> Result<()> {
        match self {
            Self::Uses(observer) => observer.write(dir),
            Self::Misses(_) => Ok(()),
        }
    }
}

/// Waits on descriptors by one that can be waited on in turn.
pub(super) struct Waiting(OwnedFd);

impl Waiting {
    fn new() -> sys::Result<Self> {
        epoll::create(epoll::CreateFlags::CLOEXEC).map(Self)
    }

    fn add(&self, fd: BorrowedFd<'_>, key: u64) -> sys::Result<()> {
        epoll::add(&self.0, fd, epoll::EventData::new_u64(key), epoll::EventFlags::IN)
    }

    fn remove(&self, fd: BorrowedFd<'_>) {
        // It fails only when it is not there.
        let _ = epoll::delete(&self.0, fd);
    }

    /// The keys of those that are ready now, each with whether its other side is gone.
    fn ready(&self) -> sys::Result<Vec<(u64, Side)>> {
        let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 4];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = match epoll::wait(&self.0, &mut events[..], Some(&now)) {
            Err(sys::Errno::INTR) => 0,
            other => other?,
        };
        let side =
            |flags: epoll::EventFlags| if flags.contains(epoll::EventFlags::IN) { Side::Asks } else { Side::Gone };
        Ok(events.iter().take(count).map(|it| (it.data.u64(), side(it.flags))).collect())
    }
}

/// How a watched descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// There is something to answer.
    Asks,
    /// Nobody will ask any more.
    Gone,
}
