//! How a processor is told that there is something for it, by whoever raises an interrupt, switches it on, or wants it to
//! stand still: it looks at its board at the next occasion if it works, and is woken if it waits.
//!
//! **Invariant: nobody waits past his bell.** Who waits says so before he looks whether it has rung; who rings does so before
//! he looks whether somebody waits.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use dbt::Ram;

/// What wakes a processor that waits.
#[derive(Default)]
enum Wakes {
    #[default]
    Nothing,
    Thread(Thread),
    /// It is with its guest.
    Guest(vm::Interrupter),
}

/// One for each processor of a machine, by its number.
pub(crate) struct Bells(Vec<Bell>);

struct Bell {
    attention: Arc<AtomicU32>,
    /// It waits.
    is_idle: AtomicBool,
    wakes: Mutex<Wakes>,
}

impl Bells {
    /// For the processors that share a memory.
    pub(crate) fn new(ram: &Ram) -> Bells {
        let bell = |number| Bell {
            attention: ram.attention(number),
            is_idle: AtomicBool::new(false),
            wakes: Mutex::default(),
        };
        Bells((0..ram.processors()).map(bell).collect())
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// This thread is that processor's from now on.
    pub(crate) fn hang_here(&self, number: usize) {
        *self.0[number].wakes.lock().unwrap_or_else(PoisonError::into_inner) = Wakes::Thread(thread::current());
    }

    /// The same of a processor that is the host's own.
    pub(crate) fn hang_guest_here(&self, number: usize, interrupter: vm::Interrupter) {
        *self.0[number].wakes.lock().unwrap_or_else(PoisonError::into_inner) = Wakes::Guest(interrupter);
    }

    /// Such a processor is about to be with its guest, unless its bell has rung. It comes back when that rings.
    pub(crate) fn leave(&self, number: usize) -> bool {
        let bell = &self.0[number];
        bell.is_idle.store(true, Ordering::SeqCst);
        let has_rung = bell.attention.swap(0, Ordering::SeqCst) != 0;
        if has_rung {
            self.come_back(number);
        }
        !has_rung
    }

    /// It is not with its guest any more.
    pub(crate) fn come_back(&self, number: usize) {
        self.0[number].is_idle.store(false, Ordering::SeqCst);
    }

    /// Tells one.
    pub(crate) fn ring(&self, number: usize) {
        let Some(bell) = self.0.get(number) else { return };
        bell.attention.store(1, Ordering::SeqCst);
        if bell.is_idle.load(Ordering::SeqCst) {
            match &*bell.wakes.lock().unwrap_or_else(PoisonError::into_inner) {
                Wakes::Nothing => {}
                Wakes::Thread(thread) => thread.unpark(),
                Wakes::Guest(interrupter) => interrupter.interrupt(),
            }
        }
    }

    /// Tells all.
    pub(crate) fn ring_all(&self) {
        (0..self.count()).for_each(|number| self.ring(number));
    }

    /// Tells whoever has the least to do.
    pub(crate) fn ring_any(&self) {
        self.ring(self.0.iter().position(|it| it.is_idle.load(Ordering::SeqCst)).unwrap_or(0));
    }

    /// Has those that work look at their boards.
    pub(crate) fn disturb(&self) {
        let at_work = self.0.iter().filter(|it| !it.is_idle.load(Ordering::SeqCst));
        at_work.for_each(|it| it.attention.store(1, Ordering::Release));
    }

    /// Whether all wait.
    pub(crate) fn are_idle(&self) -> bool {
        self.0.iter().all(|it| it.is_idle.load(Ordering::SeqCst))
    }

    /// A processor waits on this thread, for so long at most, unless it is not to when it says that it does.
    pub(crate) fn wait(&self, number: usize, most: Duration, must_not: impl FnOnce() -> bool) {
        let bell = &self.0[number];
        bell.is_idle.store(true, Ordering::SeqCst);
        if bell.attention.load(Ordering::SeqCst) == 0 && !must_not() {
            thread::park_timeout(most);
        }
        bell.is_idle.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bell_that_rings_before_somebody_waits_is_heard() {
        let memory = Arc::new(vm::Memory::new(4096).unwrap());
        let bells = Arc::new(Bells::new(&Ram::shared(memory, 0, 2)));
        bells.hang_here(1);
        bells.ring(1);
        bells.wait(1, Duration::MAX, || false);
        bells.0[1].attention.store(0, Ordering::SeqCst);
        let other = Arc::clone(&bells);
        let ringing = thread::spawn(move || {
            while !other.0[1].is_idle.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            other.ring_any();
        });
        // Threads are woken for no reason, too.
        while bells.0[1].attention.load(Ordering::SeqCst) == 0 {
            bells.wait(1, Duration::MAX, || false);
        }
        ringing.join().unwrap();
    }
}
