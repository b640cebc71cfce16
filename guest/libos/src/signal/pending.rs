//! Which signals are pending: for the process as a whole, and for each thread. What the tender has put into the port is
//! taken from there whenever somebody looks.

use alloc::collections::VecDeque;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::signal::{BY_TIMER, FIRST_QUEUED};

use super::{SIGCONT, STOPS, bit, ignored};
use crate::engine::port;
use crate::sync::Local;
use crate::{port as tender, thread};

/// What is known of a signal beside its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Its number, and what a `siginfo_t` tells of it. Of a fault, the first word is the address.
    pub of: abi::signal::Info,
    /// The processor's exception, for faults.
    pub vector: u64,
}

impl Info {
    pub const fn signal(&self) -> i32 {
        self.of.signal
    }
}

/// Signals that are pending.
pub struct Queue {
    set: u64,
    /// In the order in which they came.
    all: VecDeque<Info>,
}

/// No queue is longer: what comes then is lost.
const MOST: usize = 8192;

impl Queue {
    pub const fn new() -> Self {
        Self { set: 0, all: VecDeque::new() }
    }

    pub fn set(&self) -> u64 {
        self.set
    }

    /// Adds one. Of those that do not queue, the first is kept.
    pub fn add(&mut self, info: Info) {
        if self.set & bit(info.signal()) != 0 {
            if info.of.code == BY_TIMER && self.all.iter_mut().any(|it| it.of.absorb(&info.of)) {
                return;
            }
            if info.signal() < FIRST_QUEUED {
                return;
            }
        }
        if self.all.len() < MOST {
            self.set |= bit(info.signal());
            self.all.push_back(info);
        }
    }

    /// Adds one in the place of whatever is pending of that number.
    pub fn replace(&mut self, info: Info) {
        self.forget(bit(info.signal()));
        self.add(info);
    }

    /// Takes the first of that number.
    fn take(&mut self, signal: i32) -> Option<Info> {
        let at = self.all.iter().position(|it| it.signal() == signal)?;
        let info = self.all.remove(at);
        if self.all.iter().all(|it| it.signal() != signal) {
            self.set &= !bit(signal);
        }
        info
    }

    /// Forgets those.
    pub fn forget(&mut self, set: u64) {
        if self.set & set != 0 {
            self.all.retain(|it| bit(it.signal()) & set == 0);
            self.set &= !set;
        }
    }
}

/// Those of the process as a whole.
static SHARED: Local<Queue> = Local::new(Queue::new());

/// Those that are pending for the process as a whole.
pub fn shared() -> u64 {
    SHARED.get().set
}

/// Takes what the tender has put, and says whether there was anything.
pub fn collect() -> bool {
    let queue = &port().signals;
    let mut any = false;
    loop {
        while let Some(info) = queue.take() {
            any = true;
            accept(info);
        }
        if queue.more.load(Ordering::SeqCst) == 0 || tender::call(abi::call::SIGNALS, [0; 6]).unwrap_or(0) == 0 {
            return any;
        }
    }
}

/// A signal has come: for a thread, or for the process as a whole.
pub fn accept(of: abi::signal::Info) -> bool {
    if !(1..=64).contains(&of.signal) {
        return false;
    }
    let one = bit(of.signal);
    match of.signal {
        SIGCONT => forget(STOPS),
        _ if STOPS & one != 0 => forget(bit(SIGCONT)),
        _ => {}
    }
    let info = Info { of, vector: 0 };
    if of.thread != 0 {
        let wanted = ignored() & one == 0;
        return thread::with(of.thread, |it| {
            if wanted || it.signals.keeps() & one != 0 {
                it.signals.queue.add(info);
            }
        })
        .is_some();
    }
    // What is ignored and held back by nobody has gone already.
    if ignored() & one == 0 || thread::any(|it| it.signals.keeps() & one != 0) {
        SHARED.get().add(info);
    }
    true
}

/// Forgets those, wherever they are pending.
pub fn forget(set: u64) {
    SHARED.get().forget(set);
    thread::each(|it| it.signals.queue.forget(set));
}

/// A new process has none.
pub fn forget_all() {
    SHARED.get().forget(u64::MAX);
    thread::with_current(|it| it.signals.queue.forget(u64::MAX));
    TOLD.store(0, Ordering::Relaxed);
}

/// The current thread takes one of those: what its own instruction caused comes first, then the lowest.
pub fn take(set: u64) -> Option<Info> {
    const FAULTS: u64 = bit(4) | bit(5) | bit(7) | bit(8) | bit(11);
    let taken = thread::with_current(|it| {
        let own = &mut it.signals.queue;
        let mut shared = SHARED.get();
        let candidates = (own.set | shared.set) & set;
        if candidates == 0 {
            return None;
        }
        let first = if candidates & FAULTS & own.set != 0 { candidates & FAULTS } else { candidates };
        let signal = first.trailing_zeros() as i32 + 1;
        own.take(signal).or_else(|| shared.take(signal))
    });
    if let Some(info) = taken.filter(|it| it.of.code == BY_TIMER) {
        crate::syscall::timers::note_overrun(&info.of);
    }
    taken
}

/// Whether the process has descriptors that tell of signals.
static TELLS: AtomicBool = AtomicBool::new(false);
/// Which the tender knows to be pending.
static TOLD: AtomicU64 = AtomicU64::new(0);

/// The process has a descriptor that tells of signals.
pub fn tell_from_now_on() {
    TELLS.store(true, Ordering::Relaxed);
    // Whatever that is, it is not what the tender knows of the new one.
    TOLD.store(u64::MAX, Ordering::Relaxed);
    tell();
}

/// The process is a copy: of its descriptors the tender knows nothing yet.
pub fn tell_anew() {
    TOLD.store(u64::MAX, Ordering::Relaxed);
}

/// Tells the tender what is pending, if somebody may ask a descriptor.
pub fn tell() {
    if !TELLS.load(Ordering::Relaxed) {
        return;
    }
    collect();
    let mut set = shared();
    thread::each(|it| set |= it.signals.queue.set);
    if TOLD.swap(set, Ordering::Relaxed) != set {
        let _ = tender::call(abi::call::PENDING, [set, 0, 0, 0, 0, 0]);
    }
}
