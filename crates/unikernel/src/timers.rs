//! Timers that signal processes, and the beat by which the threads of one program take turns.
//!
//! One thread serves a family, and only from the first timer or the first second thread on. A timer of the processor's time
//! is looked at when it would be due if the process had computed all the time, and again after what is missing then.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use abi::signal::{BY_KERNEL, Info};

use crate::family::Family;
use crate::tender::thread;

/// Which timer of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Which {
    /// The one that it always has, with that signal.
    Own(i32),
    /// One that it made, by its number.
    Made(u32),
}

/// What a timer goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Time,
    /// The processor's time that the process has used.
    Processor,
}

/// What comes of a timer that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) by: By,
    /// The signal, if there is one.
    pub(crate) signal: Option<Info>,
}

impl Kind {
    /// Of a timer that a process always has.
    pub(crate) fn own(signal: i32) -> Self {
        const REAL: i32 = 14;
        let by = if signal == REAL { By::Time } else { By::Processor };
        Self { by, signal: Some(Info { signal, code: BY_KERNEL, ..Info::default() }) }
    }
}

/// A timer as a program gives it or is given it, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timer {
    /// How long until it fires; 0 for never.
    pub(crate) left: u64,
    /// How long until it fires again each time; 0 for never.
    pub(crate) interval: u64,
}

impl Timer {
    pub(crate) fn once(left: u64) -> Self {
        Self { left, interval: 0 }
    }
}

/// A timer that runs.
#[derive(Clone, Copy, Debug)]
struct Running {
    kind: Kind,
    /// When it is to be looked at.
    due: Instant,
    /// By the processor's time: when it is due.
    used: u64,
    interval: Duration,
}

/// A family's timers.
pub(crate) struct Timers {
    state: Mutex<State>,
    changed: Condvar,
    thread: Once,
}

#[derive(Default)]
struct State {
    running: BTreeMap<(u32, Which), Running>,
    /// What processes have made, and the next number of each.
    made: BTreeMap<(u32, u32), (Kind, u64)>,
    numbers: BTreeMap<u32, u32>,
    beating: bool,
}

impl State {
    /// Processes that have timers of the processor's time.
    fn by_processor(&self) -> impl Iterator<Item = u32> {
        self.running.iter().filter(|it| it.1.kind.by == By::Processor).map(|it| it.0.0)
    }
}

/// The turn of a thread that computes, and how often it is looked whether there is one.
const BEAT: Duration = Duration::from_millis(10);
const LOOK: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(3600);

impl Default for Timers {
    fn default() -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), thread: Once::new() }
    }
}

impl Timers {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the threads of programs take turns from here on.
    pub(crate) fn beat(family: &Arc<Family>) {
        family.timers.state().beating = true;
        Self::begin(family);
    }

    /// What is left of a timer.
    pub(crate) fn get(family: &Family, number: u32, which: Which) -> Timer {
        let running = family.timers.state().running.get(&(number, which)).copied();
        running.map_or_else(Timer::default, |it| it.as_timer(family, number))
    }

    /// Sets it, and gives what was left.
    pub(crate) fn set(family: &Arc<Family>, number: u32, which: Which, kind: Kind, timer: Timer) -> Timer {
        let used = if kind.by == By::Processor { family.used_by(number) } else { 0 };
        let mut state = family.timers.state();
        let before = state.running.remove(&(number, which));
        let due = Instant::now().checked_add(Duration::from_nanos(timer.left));
        if let (Some(due), 1..) = (due, timer.left) {
            let (used, interval) = (used.saturating_add(timer.left), Duration::from_nanos(timer.interval));
            state.running.insert((number, which), Running { kind, due, used, interval });
        }
        drop(state);
        Self::begin(family);
        before.map_or_else(Timer::default, |it| it.as_timer(family, number))
    }

    /// timer_create: gives its number; `kind` is told it.
    pub(crate) fn make(&self, number: u32, clock: u64, kind: impl FnOnce(u32) -> Kind) -> Option<u32> {
        /// What a process may have of them.
        const MOST: usize = 1024;
        let mut state = self.state();
        if state.made.range((number, 0)..=(number, u32::MAX)).count() >= MOST {
            return None;
        }
        let next = state.numbers.entry(number).or_default();
        let id = *next;
        *next = next.wrapping_add(1) & i32::MAX as u32;
        state.made.insert((number, id), (kind(id), clock));
        Some(id)
    }

    /// What a process has made with that number, and by which clock.
    pub(crate) fn made(&self, number: u32, id: u32) -> Option<(Kind, u64)> {
        self.state().made.get(&(number, id)).copied()
    }

    /// timer_delete.
    pub(crate) fn delete(&self, number: u32, id: u32) -> Option<()> {
        let mut state = self.state();
        state.running.remove(&(number, Which::Made(id)));
        state.made.remove(&(number, id)).map(drop)
    }

    /// Every timer that a process always has, by its signal.
    pub(crate) fn own(family: &Family, number: u32) -> Vec<(u32, Timer)> {
        let running: Vec<_> = family.timers.state().running.iter().map(|it| (*it.0, *it.1)).collect();
        let own = running.into_iter().filter_map(|(key, it)| match key {
            (process, Which::Own(signal)) if process == number => Some((signal as u32, it)),
            _ => None,
        });
        own.map(|(signal, it)| (signal, it.as_timer(family, number))).collect()
    }

    /// Whether a process has made any.
    pub(crate) fn has_made(&self, number: u32) -> bool {
        self.state().made.range((number, 0)..=(number, u32::MAX)).next().is_some()
    }

    /// The process has ended.
    pub(crate) fn forget(&self, number: u32) {
        self.forget_made(number);
        let mut state = self.state();
        state.running.retain(|it, _| it.0 != number);
        state.numbers.remove(&number);
    }

    /// The process has become another program, which has not made those.
    pub(crate) fn forget_made(&self, number: u32) {
        let mut state = self.state();
        state.running.retain(|it, _| it.0 != number || matches!(it.1, Which::Own(_)));
        state.made.retain(|it, _| it.0 != number);
    }

    fn begin(family: &Arc<Family>) {
        family.timers.thread.call_once(|| {
            let family = family.clone();
            if thread("timers", move || serve(&family)).is_err() {
                crate::say("there is no thread to be had for timers");
            }
        });
        family.timers.changed.notify_all();
    }
}

impl Running {
    fn as_timer(&self, family: &Family, number: u32) -> Timer {
        let nanoseconds = |it: Duration| u64::try_from(it.as_nanos()).unwrap_or(u64::MAX);
        let left = match self.kind.by {
            By::Time => nanoseconds(self.due.saturating_duration_since(Instant::now())),
            By::Processor => self.used.saturating_sub(family.used_by(number)),
        };
        Timer { left: left.max(1000), interval: nanoseconds(self.interval) }
    }

    /// It has been due: the next time it is so many intervals later, of which all but one were missed.
    fn advance(&mut self, now: Instant) -> u64 {
        let interval = self.interval.as_nanos().max(1);
        let late = now.saturating_duration_since(self.due).as_nanos();
        let intervals = u64::try_from(late / interval + 1).unwrap_or(u64::MAX);
        let whole = Duration::from_nanos(u64::try_from(interval.saturating_mul(intervals.into())).unwrap_or(u64::MAX));
        // However often it is due, it is looked at no more often than that: what was missed is counted.
        self.due = self.due.checked_add(whole).unwrap_or(now + LONGEST).max(now + SHORTEST);
        intervals - 1
    }
}

/// A timer that is due more often is looked at no more often than that.
const SHORTEST: Duration = Duration::from_micros(500);

/// How much of the processor's time a process has used, in nanoseconds.
type Used<'a> = &'a dyn Fn(u32) -> u64;

/// Takes out what is due at that moment, each with its signal, and gives when the next one is to be looked at.
fn take_due(
    running: &mut BTreeMap<(u32, Which), Running>,
    now: Instant,
    used_by: Used<'_>,
) -> (Vec<(u32, Info)>, Option<Instant>) {
    /// Who sleeps uses nothing, and is not to be looked at all the time.
    const SELDOM: Duration = Duration::from_millis(4);
    let mut fired = Vec::new();
    running.retain(|(number, which), it| {
        if it.due > now {
            return true;
        }
        if it.kind.by == By::Processor {
            let missing = it.used.saturating_sub(used_by(*number));
            if missing > 0 {
                it.due = now + Duration::from_nanos(missing).max(SELDOM);
                return true;
            }
            it.used = it.used.saturating_add(u64::try_from(it.interval.as_nanos()).unwrap_or(u64::MAX));
            it.due = it.due.max(now);
        }
        let missed = if it.interval.is_zero() { 0 } else { it.advance(now) };
        fired.extend(it.kind.signal.map(|info| match which {
            Which::Own(_) => (*number, info),
            Which::Made(_) => (*number, Info { first: info.first | missed.min(i32::MAX as u64) << 32, ..info }),
        }));
        !it.interval.is_zero()
    });
    (fired, running.values().map(|it| it.due).min())
}

fn serve(family: &Family) {
    let timers = &family.timers;
    let mut next_beat = Instant::now();
    let mut state = timers.state();
    loop {
        let processes: Vec<u32> = state.by_processor().collect();
        // The account is never asked under this lock, which is taken under the account's.
        drop(state);
        let used: BTreeMap<u32, u64> = processes.iter().map(|it| (*it, family.used_by(*it))).collect();
        state = timers.state();
        let now = Instant::now();
        let (fired, next) = take_due(&mut state.running, now, &|number| used.get(&number).copied().unwrap_or(0));
        let beating = state.beating;
        if !fired.is_empty() || (beating && next_beat <= now) {
            drop(state);
            for (number, info) in fired {
                family.signal_by_nobody(number, info);
            }
            if beating && next_beat <= now {
                next_beat = now + if family.beat() > 0 { BEAT } else { LOOK };
            }
            state = timers.state();
            continue;
        }
        let mut pause = next.map_or(LONGEST, |it| it.saturating_duration_since(now));
        if beating {
            pause = pause.min(next_beat.saturating_duration_since(now));
        }
        state = timers.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn timer(by: By, due: Instant, interval: Duration) -> Running {
        let signal = Some(Info { signal: 14, first: 3, ..Info::default() });
        Running { kind: Kind { by, signal }, due, used: 500, interval }
    }

    #[test]
    fn what_is_due_fires_and_what_repeats_stays() {
        let now = Instant::now();
        let real = |due, interval| timer(By::Time, due, interval);
        let mut running = BTreeMap::from([
            ((1, Which::Own(14)), real(now, Duration::ZERO)),
            ((2, Which::Own(14)), real(now, SECOND)),
            ((3, Which::Own(14)), real(now + SECOND * 5, Duration::ZERO)),
        ]);
        let (fired, next) = take_due(&mut running, now, &|_| 0);
        assert_eq!(fired.iter().map(|it| it.0).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(next, Some(now + SECOND));
        assert_eq!(running.len(), 2);
    }

    #[test]
    fn what_was_missed_is_counted() {
        let now = Instant::now();
        let mut running = BTreeMap::from([((1, Which::Made(3)), timer(By::Time, now - SECOND * 7 / 2, SECOND))]);
        let (fired, next) = take_due(&mut running, now, &|_| 0);
        assert_eq!(fired[0].1.first, 3 | 3 << 32);
        assert_eq!(next, Some(now + SECOND / 2));
    }

    #[test]
    fn a_timer_of_the_processor_waits_for_it() {
        let now = Instant::now();
        let mut running = BTreeMap::from([((1, Which::Own(27)), timer(By::Processor, now, Duration::ZERO))]);
        let (fired, next) = take_due(&mut running, now, &|_| 499);
        assert!(fired.is_empty() && next > Some(now));
        let (fired, next) = take_due(&mut running, now + SECOND, &|_| 500);
        assert_eq!((fired.len(), next), (1, None));
    }
}
