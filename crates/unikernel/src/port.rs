//! A member's port, mapped.

use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use abi::port::{CALLED, DOZING, Engine, IDLE, Port};
use rustix::thread::futex;

use crate::error::{Error, Result};
use crate::fixed;
use crate::signals::Letters;

/// A port, and the memory that it is in.
pub(crate) struct Mapped {
    port: fixed::Mapped<Port>,
    /// How often the guest stopped: the tender's own account, which the guest does not see.
    pub(crate) stops: AtomicU64,
    /// Signals on their way to the guest.
    letters: Mutex<Letters>,
}

impl Mapped {
    /// Makes one for a guest of that engine.
    pub(crate) fn new(engine: Engine) -> Result<Self> {
        let port = fixed::Mapped::new(|port: &mut Port| {
            port.version = abi::VERSION;
            port.engine = engine as u32;
        });
        let port = port.map_err(Error::host("making a guest's port"))?;
        Ok(Self { port, stops: AtomicU64::new(0), letters: Mutex::default() })
    }

    /// The memory, for the guest to map.
    pub(crate) fn file(&self) -> &OwnedFd {
        self.port.file()
    }

    /// Waits for the guest's next call, at most that long. Looks for it so many turns before sleeping; the next time more, if
    /// that was worth it, and fewer, if not.
    pub(crate) fn wait_for_call(&self, turns: &mut u32, longest: Duration) -> bool {
        const LEAST: u32 = 20;
        const MOST: u32 = 2000;
        let state = &self.call.state;
        for _ in 0..*turns {
            if state.load(Ordering::Acquire) == CALLED {
                *turns = (*turns + *turns / 4 + 8).min(MOST);
                return true;
            }
            std::hint::spin_loop();
        }
        *turns = (*turns / 2).max(LEAST);
        if state.compare_exchange(IDLE, DOZING, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            sleep_on(state, DOZING, longest);
            // Whoever called has changed it already.
            let _ = state.compare_exchange(DOZING, IDLE, Ordering::AcqRel, Ordering::Acquire);
        }
        state.load(Ordering::Acquire) == CALLED
    }

    /// Signals on their way to the guest.
    pub(crate) fn letters(&self) -> MutexGuard<'_, Letters> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is a call to be answered.
    pub(crate) fn is_called(&self) -> bool {
        self.call.state.load(Ordering::Acquire) == CALLED
    }

    /// Makes [`Mapped::wait_for_call`] return.
    pub(crate) fn disturb(&self) {
        let state = &self.call.state;
        if state.compare_exchange(DOZING, IDLE, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            wake(state);
        }
    }

    /// Answers the call in progress.
    pub(crate) fn answer(&self, result: i64, wait: u32) {
        self.call.result.store(result, Ordering::Relaxed);
        self.call.wait.store(wait, Ordering::Relaxed);
        self.call.state.store(IDLE, Ordering::SeqCst);
        if self.call.sleeping.swap(0, Ordering::SeqCst) != 0 {
            wake(&self.call.state);
        }
    }
}

impl Deref for Mapped {
    type Target = Port;

    fn deref(&self) -> &Port {
        &self.port
    }
}

fn sleep_on(word: &AtomicU32, value: u32, longest: Duration) {
    let timeout = rustix::fs::Timespec { tv_sec: longest.as_secs() as i64, tv_nsec: longest.subsec_nanos().into() };
    // Whether it was woken, late or interrupted, the word tells.
    let _ = futex::wait(word, futex::Flags::empty(), value, Some(&timeout));
}

fn wake(word: &AtomicU32) {
    let _ = futex::wake(word, futex::Flags::empty(), u32::MAX);
}
