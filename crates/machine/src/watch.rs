//! Waiting: for a time, and for what comes from outside.
//!
//! A thread stands by while a machine runs. As long as a processor works, it has it look at its board every millisecond,
//! and one of them at once when a descriptor becomes ready; as long as all processors wait, it waits too, for descriptors
//! alone.
//! **Invariant: a descriptor's news come once** (they are edges), so devices take what there is until there is no more, or
//! until they have no room, and try again when they are given some.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

use crate::bells::Bells;
use crate::bus::Bus;
use crate::error::{Error, Result};

/// How often a processor that works looks at its board.
const TICK: Duration = Duration::from_millis(1);
const KICK: u64 = 0;
const DEVICE: u64 = 1;

/// What a machine waits with.
pub(crate) struct Watch {
    epoll: OwnedFd,
    kick: OwnedFd,
    bells: Arc<Bells>,
    /// The thread that stands by waits without end.
    is_deep: AtomicBool,
    is_over: AtomicBool,
    /// A descriptor was ready.
    is_ready: AtomicBool,
    /// Somebody wants the machine to stand still.
    is_interrupted: AtomicBool,
    /// It is going to.
    is_stopping: AtomicBool,
}

/// Makes a machine stand still, from another thread.
#[derive(Clone)]
pub struct Interrupter(Arc<Watch>);

impl Interrupter {
    /// Has [`crate::Machine::run_for`] return soon, or at once if it begins later.
    pub fn interrupt(&self) {
        self.0.is_interrupted.store(true, Ordering::SeqCst);
        self.0.kick();
    }
}

impl Watch {
    /// Watches what devices read from and write to, for the processors of those bells.
    pub(crate) fn new(bus: &Bus, bells: Arc<Bells>) -> Result<Watch> {
        let failed = |errno: Errno| Error::Watching(errno.into());
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(failed)?;
        let kick = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?;
        epoll::add(&epoll, &kick, EventData::new_u64(KICK), EventFlags::IN).map_err(failed)?;
        bus.each_descriptor(|descriptor| {
            let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
            match epoll::add(&epoll, descriptor, EventData::new_u64(DEVICE), flags) {
                // Files are always ready, and one descriptor may be in use twice.
                Ok(()) | Err(Errno::PERM | Errno::EXIST) => Ok(()),
                Err(errno) => Err(failed(errno)),
            }
        })?;
        let flag = AtomicBool::default;
        let (is_deep, is_over, is_interrupted, is_stopping) = (flag(), flag(), flag(), flag());
        // What was ready before is not told of.
        let is_ready = AtomicBool::new(true);
        Ok(Watch { epoll, kick, bells, is_deep, is_over, is_ready, is_interrupted, is_stopping })
    }

    /// Whether a descriptor has become ready since the last time.
    pub(crate) fn take_ready(&self) -> bool {
        self.is_ready.swap(false, Ordering::AcqRel)
    }

    /// Whether all processors are to stand still: somebody wants them to, or one of them has begun.
    pub(crate) fn is_stopping(&self) -> bool {
        if self.is_interrupted.swap(false, Ordering::AcqRel) {
            self.stop();
        }
        self.is_stopping.load(Ordering::SeqCst)
    }

    /// Has all processors stand still.
    pub(crate) fn stop(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
        self.bells.ring_all();
    }

    /// How to have it stand still.
    pub(crate) fn interrupter(self: &Arc<Watch>) -> Interrupter {
        Interrupter(Arc::clone(self))
    }

    /// Looks at the descriptors, for so long at most.
    pub(crate) fn look(&self, most: Option<Duration>) {
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(KICK) }; 8];
        let timeout = most.and_then(|it| Timespec::try_from(it).ok());
        let Ok(count) = epoll::wait(&self.epoll, &mut events, timeout.as_ref()) else { return };
        for event in &events[..count] {
            if event.data.u64() == KICK {
                let _ = rustix::io::read(&self.kick, &mut [0; 8]);
            } else {
                self.is_ready.store(true, Ordering::Release);
            }
        }
    }

    /// Stands by, until it is over. From that time on it has all processors stand still, of which some look at no clock.
    pub(crate) fn stand_by(&self, until: Instant) {
        while !self.is_over.load(Ordering::Acquire) {
            let is_deep = self.bells.are_idle();
            self.is_deep.store(is_deep, Ordering::SeqCst);
            // One may have begun to work before it could see that it has to wake us.
            let is_deep = is_deep && self.bells.are_idle() && !self.is_over.load(Ordering::SeqCst);
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.stop();
            }
            self.look(Some(if is_deep { left.max(TICK) } else { TICK }));
            self.is_deep.store(false, Ordering::SeqCst);
            if self.is_interrupted.load(Ordering::Acquire) {
                self.bells.ring_all();
            } else if self.is_ready.load(Ordering::Acquire) {
                self.bells.ring_any();
            }
            if !is_deep {
                self.bells.disturb();
            }
        }
    }

    /// Has a processor wait, for so long at most, or until something is ready.
    pub(crate) fn wait(&self, number: usize, most: Duration) {
        let must_not = || {
            self.is_ready.load(Ordering::SeqCst)
                || self.is_interrupted.load(Ordering::SeqCst)
                || self.is_stopping.load(Ordering::SeqCst)
        };
        self.bells.wait(number, most, must_not);
        if self.is_deep.load(Ordering::SeqCst) {
            self.kick();
        }
    }

    /// This thread is that processor's.
    pub(crate) fn hang_bell(&self, number: usize) {
        self.bells.hang_here(number);
    }

    /// Nobody needs to stand by any more.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.kick();
    }

    /// The same watch, to stand by again.
    pub(crate) fn begin(&self) {
        self.is_over.store(false, Ordering::SeqCst);
        self.is_stopping.store(false, Ordering::SeqCst);
    }

    fn kick(&self) {
        let _ = rustix::io::write(&self.kick, &1u64.to_ne_bytes());
    }
}
