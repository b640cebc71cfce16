//! What executes a member's instructions, seen from the tender.

use std::sync::Mutex;
use std::sync::PoisonError;

use rustix::process::{Pid, Signal};

/// A member's execution, as somebody other than its own thread reaches it.
pub(crate) enum Handle {
    /// A process of the host; not known before it said so.
    Process(Mutex<Option<Pid>>),
}

impl Handle {
    pub(crate) fn process(pid: Option<Pid>) -> Self {
        Self::Process(Mutex::new(pid))
    }

    /// The process of the host, for those that are one.
    pub(crate) fn pid(&self) -> Option<Pid> {
        let Self::Process(pid) = self;
        *pid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new process has said which it is; or one has ended, and its number may soon be another's.
    pub(crate) fn set_pid(&self, new: Option<Pid>) {
        let Self::Process(pid) = self;
        *pid.lock().unwrap_or_else(PoisonError::into_inner) = new;
    }

    /// Makes the guest look at its port.
    pub(crate) fn interrupt(&self) {
        self.send(Signal::URG);
    }

    /// Ends it at once.
    pub(crate) fn kill(&self) {
        self.send(Signal::KILL);
    }

    fn send(&self, signal: Signal) {
        let Self::Process(pid) = self;
        // Under the lock: whoever reaps it takes the number away first.
        if let Some(pid) = *pid.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}
