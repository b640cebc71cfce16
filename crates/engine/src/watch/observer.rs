//! Noting what programs use: every file that is opened on the cell's root file system, and every path and system call
//! that its programs try.
//!
//! **Nothing is lost silently**: an overflow of the kernel's queue, too many paths, a descriptor that cannot be read make
//! [`Observed::lost`], and whoever asked for the observation fails.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use container::Attendant;
use image::slim::{Observed, TreePath};
use sys::Errno;
use sys::fanotify::{self, Event, Manner, What};
use sys::seccomp::Announced;

use super::call::{self, Subject};
use super::{Side, Waiting};
use crate::error::{Error, Result};

/// More paths than these are no application's.
const MAX_PATHS: usize = 500_000;

const OPENINGS: u64 = 1;
const CALLS: u64 = 2;
/// How often is looked for more before whoever called is let work.
const ROUNDS: usize = 256;

/// Notes what is used.
pub(crate) struct Observer {
    waiting: Waiting,
    openings: Option<OwnedFd>,
    calls: Option<OwnedFd>,
    observed: Observed,
}

impl Observer {
    /// Of whoever opens something on the file system that `root` is the root of, and of the calls that will be announced.
    pub(crate) fn of_file_system(root: BorrowedFd<'_>) -> Result<Self> {
        let failed = |e: Errno| Error::io("watching the cell's files (fanotify)", e);
        let mut observer = Self::of_calls()?;
        let group = fanotify::group(Manner::Asking).map_err(failed)?;
        fanotify::mark_file_system(group.as_fd(), root, Manner::Asking).map_err(failed)?;
        observer.waiting.add(group.as_fd(), OPENINGS).map_err(failed)?;
        observer.openings = Some(group);
        Ok(observer)
    }

    /// Of announced calls alone: for a further program in a cell whose files are watched already.
    pub(crate) fn of_calls() -> Result<Self> {
        let waiting = Waiting::new().map_err(|e| Error::io("watching the cell", e))?;
        Ok(Self { waiting, openings: None, calls: None, observed: Observed::default() })
    }

    /// What was noted.
    pub(crate) fn into_observed(self) -> Observed {
        self.observed
    }

    /// Writes down what was noted, where [`observed_in`] finds it.
    pub(super) fn write(&mut self, dir: &Path) -> Result<()> {
        // What is still in the queues was asked by processes that are gone.
        let _ = self.attend();
        let path = file(dir);
        let bytes = serde_json::to_vec(&self.observed)
            .map_err(|e| Error::Damaged { path: path.clone(), why: format!("cannot be written: {e}") })?;
        std::fs::write(&path, bytes).map_err(|e| Error::at("writing", &path, e))
    }

    fn lose(&mut self, why: impl Into<String>) {
        self.observed.lost.get_or_insert_with(|| why.into());
    }

    fn opened(&mut self, group: BorrowedFd<'_>, event: Event) -> sys::Result<()> {
        let Some(file) = event.file else {
            self.lose("the kernel's queue of openings ran over");
            return Ok(());
        };
        let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let answered = fanotify::allow(group, file.as_fd());
        match path {
            Ok(path) => self.note_opened(&path.into_os_string().into_vec(), event.what),
            Err(error) => self.lose(format!("a file that was opened has no path: {error}")),
        }
        answered
    }

    fn note_opened(&mut self, path: &[u8], what: What) {
        let path = TreePath::new(path);
        match what {
            What::Execute => self.observed.executed.insert(path),
            What::Open | What::Overflow => self.observed.opened.insert(path),
        };
    }

    fn called(&mut self, listener: BorrowedFd<'_>) -> sys::Result<()> {
        let call = match sys::seccomp::next(listener) {
            // Whoever made it was killed meanwhile.
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        };
        // A number without a name is no call of any kernel: this one will say so.
        if let Some(name) = container::announced_name(&call) {
            self.note_call(listener.as_fd(), name, &call);
        }
        if self.observed.paths() > MAX_PATHS {
            self.lose("it used more paths than can be noted");
        }
        match sys::seccomp::let_go_on(listener, call.id) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    fn note_call(&mut self, listener: BorrowedFd<'_>, name: &str, call: &Announced) {
        for subject in call::subjects(listener, name, call) {
            match subject {
                Subject::LookedUp(path) => self.observed.looked_up.insert(TreePath::new(&path)),
                Subject::Listed(path) => self.observed.listed.insert(TreePath::new(&path)),
            };
        }
        if !self.observed.calls.contains(name) {
            self.observed.calls.insert(name.to_owned());
        }
    }

    fn answer(&mut self, key: u64, side: Side) -> sys::Result<()> {
        if key == OPENINGS
            && let Some(group) = self.openings.take()
        {
            let events = fanotify::next(group.as_fd());
            let answered = events.and_then(|it| it.into_iter().try_for_each(|event| self.opened(group.as_fd(), event)));
            self.openings = Some(group);
            return answered;
        }
        if key == CALLS
            && let Some(listener) = self.calls.take()
        {
            if side == Side::Gone {
                self.waiting.remove(listener.as_fd());
                return Ok(());
            }
            let answered = self.called(listener.as_fd());
            self.calls = Some(listener);
            return answered;
        }
        Ok(())
    }
}

impl Attendant for Observer {
    fn listen(&mut self, listener: OwnedFd) -> sys::Result<()> {
        self.waiting.add(listener.as_fd(), CALLS)?;
        self.calls = Some(listener);
        Ok(())
    }

    fn questions(&self) -> BorrowedFd<'_> {
        self.waiting.0.as_fd()
    }

    fn attend(&mut self) -> sys::Result<()> {
        for _ in 0..ROUNDS {
            let ready = self.waiting.ready()?;
            if ready.is_empty() {
                break;
            }
            for (key, side) in ready {
                if let Err(errno) = self.answer(key, side) {
                    self.lose(format!("answering for the cell failed: {errno}"));
                    return Err(errno);
                }
            }
        }
        Ok(())
    }
}

fn file(dir: &Path) -> PathBuf {
    dir.join("observed.json")
}

/// What the observer of a cell's last run wrote down.
pub(crate) fn observed_in(dir: &Path) -> Result<Observed> {
    let path = file(dir);
    let bytes = std::fs::read(&path).map_err(|e| Error::at("reading", &path, e))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::Damaged { path, why: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overflow_is_never_silent() {
        let mut observer = Observer::of_calls().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        observer.opened(null.as_fd(), Event { what: What::Overflow, file: None }).unwrap();
        observer.lose("a later reason");
        assert_eq!(observer.into_observed().lost.as_deref(), Some("the kernel's queue of openings ran over"));
    }
}
