//! The family's server: a thread that looks at the ports of virtual machines that call often, and answers them while they
//! run. To stop a virtual machine and let it go on costs some thirty microseconds where each costs the host itself a
//! stop; what is asked for often takes one or two.
//!
//! A member is served by whoever holds its lock: the server, or the thread that runs its machine when the guest stopped
//! because the server did not answer in time. **The server keeps no processor from others for long**: it looks only while
//! somebody called a moment ago, and not at all where there is one processor. Where processors are scarce, looking costs
//! more than it spares (measured: half again as much of the processor for a request of redis, with six programs to a
//! processor): so what it spared is reckoned up, and a member on whom the time was wasted must stop ever more often before
//! it is looked at again.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use abi::port::{CALLED, SERVED, TRIED};

use crate::kvm::Guest;
use crate::member::Member;
use crate::port::Mapped;
use crate::tender::thread;

/// A member is no longer looked at when it has not called for that long. Being woken takes about as long.
const PATIENCE: Duration = Duration::from_micros(150);

/// A member that stops twice within that time is worth looking at.
const OFTEN: Duration = Duration::from_micros(400);

/// What a call that need not stop the guest spares.
const SPARED: Duration = Duration::from_micros(25);

/// How long to look before reckoning up.
const TRIAL: Duration = Duration::from_micros(500);

/// How many stops to let pass at most after time was wasted.
const MOST_PENALTY: u32 = 4096;

/// More would each be looked at too seldom.
const MOST_SEATS: usize = 16;

/// How many times to look at all before looking at the clock.
const TURNS: u32 = 64;

/// A member, where its thread and the server both reach it.
pub(crate) struct Seat {
    member: Mutex<Member>,
    port: Arc<Mapped>,
    family: Arc<crate::family::Family>,
    /// When it stopped last, in nanoseconds since the family began.
    stopped: AtomicU64,
    looked_at: AtomicBool,
    /// How many stops to let pass before it is looked at again, and how many of them are left.
    penalty: AtomicU32,
    penalty_left: AtomicU32,
}

/// What is looked at, and what came of it.
struct Looked {
    seat: Arc<Seat>,
    latest: Instant,
    since: Instant,
    answered: u32,
}

/// Those that are looked at.
pub(crate) struct Server {
    begun: Instant,
    state: Mutex<State>,
    news: AtomicBool,
    wanted: Condvar,
    can: OnceLock<bool>,
}

#[derive(Default)]
struct State {
    /// Whether there is a thread. There is none before it is needed.
    runs: bool,
    coming: Vec<Arc<Seat>>,
}

fn lock<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seat {
    pub(crate) fn new(member: Member) -> Arc<Self> {
        let (port, family) = (member.living.port.clone(), member.family.clone());
        Arc::new(Self {
            member: Mutex::new(member),
            port,
            family,
            stopped: AtomicU64::new(0),
            looked_at: AtomicBool::new(false),
            penalty: AtomicU32::new(0),
            penalty_left: AtomicU32::new(0),
        })
    }

    /// The member has ended.
    pub(crate) fn end(&self, status: i32) {
        lock(&self.member).end(status);
    }

    /// The guest has stopped to be answered.
    pub(crate) fn answer_with(self: &Arc<Self>, guest: Box<Guest>) -> Option<Box<Guest>> {
        let server = &self.family.server;
        let now = server.begun.elapsed();
        let before = Duration::from_nanos(self.stopped.swap(now.as_nanos() as u64, Ordering::Relaxed));
        if now.saturating_sub(before) < OFTEN && !self.looked_at.load(Ordering::Relaxed) {
            match self.penalty_left.load(Ordering::Relaxed) {
                0 => server.look_at(self),
                left => self.penalty_left.store(left - 1, Ordering::Relaxed),
            }
        }
        let mut member = lock(&self.member);
        // The server may have answered a moment too late.
        if self.is_called() { member.answer_with(guest) } else { Some(guest) }
    }

    /// The member has ended.
    pub(crate) fn leave(&self) {
        self.port.served.store(0, Ordering::SeqCst);
    }

    fn is_called(&self) -> bool {
        matches!(self.port.call.state.load(Ordering::Acquire), CALLED | TRIED)
    }

    /// Answers a call if there is one.
    fn serve(&self) -> bool {
        if !self.is_called() {
            return false;
        }
        let mut member = match self.member.try_lock() {
            Ok(member) => member,
            Err(TryLockError::Poisoned(it)) => it.into_inner(),
            // Its own thread is about to.
            Err(TryLockError::WouldBlock) => return false,
        };
        self.is_called() && member.answer_quickly()
    }
}

impl Looked {
    /// Whether to go on looking; takes leave of the member if not.
    fn is_worth_it(&mut self, now: Instant) -> bool {
        let took = now.duration_since(self.since);
        let calls = now.duration_since(self.latest) < PATIENCE;
        if calls && took < TRIAL {
            return true;
        }
        let spared = SPARED * self.answered;
        let penalty = match spared > took {
            true => 0,
            false => (self.seat.penalty.load(Ordering::Relaxed) * 2 + 16).min(MOST_PENALTY),
        };
        self.seat.penalty.store(penalty, Ordering::Relaxed);
        self.seat.penalty_left.store(penalty, Ordering::Relaxed);
        (self.since, self.answered) = (now, 0);
        if calls && penalty == 0 {
            return true;
        }
        self.seat.port.served.store(0, Ordering::SeqCst);
        // Who called before it saw that hopes for an answer.
        self.seat.serve();
        self.seat.looked_at.store(false, Ordering::Relaxed);
        false
    }
}

impl Server {
    pub(crate) fn new() -> Self {
        Self {
            begun: Instant::now(),
            state: Mutex::default(),
            news: AtomicBool::new(false),
            wanted: Condvar::new(),
            can: OnceLock::new(),
        }
    }

    fn look_at(&self, seat: &Arc<Seat>) {
        let several = || std::thread::available_parallelism().is_ok_and(|it| it.get() > 1);
        if !*self.can.get_or_init(several) {
            return;
        }
        let mut state = lock(&self.state);
        if state.coming.len() >= MOST_SEATS {
            return;
        }
        if !state.runs {
            let family = seat.family.clone();
            state.runs = thread("server", move || family.server.run()).is_ok();
        }
        seat.looked_at.store(true, Ordering::Relaxed);
        state.coming.push(seat.clone());
        self.news.store(true, Ordering::Release);
        self.wanted.notify_one();
    }

    fn run(&self) {
        let mut seats: Vec<Looked> = Vec::new();
        loop {
            self.admit(&mut seats);
            let before: Vec<u32> = seats.iter().map(|it| it.answered).collect();
            for _ in 0..TURNS {
                for it in &mut seats {
                    it.answered += u32::from(it.seat.serve());
                }
                std::hint::spin_loop();
            }
            let now = Instant::now();
            for (it, _) in seats.iter_mut().zip(before).filter(|(it, before)| it.answered != *before) {
                it.latest = now;
            }
            seats.retain_mut(|it| it.is_worth_it(now));
        }
    }

    /// Takes in newcomers; waits for one if there is nobody.
    fn admit(&self, seats: &mut Vec<Looked>) {
        if !seats.is_empty() && !self.news.swap(false, Ordering::Acquire) {
            return;
        }
        let mut state = lock(&self.state);
        while seats.is_empty() && state.coming.is_empty() {
            state = self.wanted.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let now = Instant::now();
        for seat in state.coming.drain(..).take(MOST_SEATS) {
            seat.port.served.store(SERVED, Ordering::SeqCst);
            seats.push(Looked { seat, latest: now, since: now, answered: 0 });
        }
    }
}
