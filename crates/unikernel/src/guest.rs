//! What executes a member's instructions, seen from the tender.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::process::{Pid, Signal};
use vm::Interrupter;

use crate::clock::Counted;

/// A member's execution, as somebody other than its own thread reaches it.
pub(crate) enum Handle {
    /// A process of the host, and how it has ended.
    Process { host: Mutex<Host>, ended: OnceLock<i32> },
    /// A virtual machine; its thread is not known before it began.
    Machine { thread: Mutex<Option<Interrupter>>, killed: AtomicBool },
}

/// A process of the host, as far as it is known.
pub(crate) struct Host {
    /// Not before it said so, and not after it has ended.
    pid: Option<Pid>,
    /// What it was sent before it was known.
    missed: Option<Signal>,
}

impl Host {
    fn send(&mut self, signal: Signal) {
        match self.pid {
            Some(pid) => {
                let _ = rustix::process::kill_process(pid, signal);
            }
            None if self.missed == Some(Signal::KILL) => {}
            None => self.missed = Some(signal),
        }
    }
}

fn lock<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Handle {
    pub(crate) fn process(pid: Option<Pid>) -> Self {
        Self::Process { host: Mutex::new(Host { pid, missed: None }), ended: OnceLock::new() }
    }

    pub(crate) fn machine() -> Self {
        Self::Machine { thread: Mutex::new(None), killed: AtomicBool::new(false) }
    }

    /// The process of the host, for those that are one.
    pub(crate) fn pid(&self) -> Option<Pid> {
        match self {
            Self::Process { host, .. } => lock(host).pid,
            Self::Machine { .. } => None,
        }
    }

    /// A new process has said which it is; or one has ended, and its number may soon be another's.
    pub(crate) fn set_pid(&self, new: Option<Pid>) {
        if let Self::Process { host, .. } = self {
            let mut host = lock(host);
            host.pid = new;
            if let (Some(_), Some(missed)) = (new, host.missed.take()) {
                host.send(missed);
            }
        }
    }

    /// Its process of the host has ended so: its thread is to take note.
    pub(crate) fn set_ended(&self, status: i32) {
        if let Self::Process { ended, .. } = self {
            let _ = ended.set(status);
        }
    }

    /// How its process of the host has ended.
    pub(crate) fn ended(&self) -> Option<i32> {
        match self {
            Self::Process { ended, .. } => ended.get().copied(),
            Self::Machine { .. } => None,
        }
    }

    /// Its thread has begun, or is about to end.
    pub(crate) fn set_thread(&self, new: Option<Interrupter>) {
        if let Self::Machine { thread, .. } = self {
            *lock(thread) = new;
        }
    }

    /// Whether somebody ended it.
    pub(crate) fn is_killed(&self) -> bool {
        matches!(self, Self::Machine { killed, .. } if killed.load(Ordering::SeqCst))
    }

    /// Whose time of the processor's is its own.
    pub(crate) fn counted(&self) -> Option<Counted> {
        match self {
            Self::Process { host, .. } => lock(host).pid.map(|it| Counted::Process(it.as_raw_nonzero().get())),
            Self::Machine { thread, .. } => lock(thread).map(|it| Counted::Thread(it.thread())),
        }
    }

    /// Makes the guest look at its port.
    pub(crate) fn interrupt(&self) {
        match self {
            // Under the lock: whoever reaps it takes the number away first.
            Self::Process { host, .. } => lock(host).send(Signal::URG),
            Self::Machine { thread, .. } => {
                if let Some(thread) = &*lock(thread) {
                    thread.interrupt();
                }
            }
        }
    }

    /// Ends it at once.
    pub(crate) fn kill(&self) {
        match self {
            Self::Process { host, .. } => lock(host).send(Signal::KILL),
            Self::Machine { killed, .. } => {
                killed.store(true, Ordering::SeqCst);
                self.interrupt();
            }
        }
    }
}
