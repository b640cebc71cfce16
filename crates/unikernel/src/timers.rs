//! Timers that signal processes, and the beat by which the threads of one program take turns.
//!
//! One thread serves a family, and only from the first timer or the first second thread on.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use crate::family::Family;
use crate::tender::thread;

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
    due: Instant,
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
    /// By process and signal.
    running: BTreeMap<(u32, u32), Running>,
    beating: bool,
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

    /// What is left of the timer of that signal.
    pub(crate) fn get(family: &Family, number: u32, signal: u32) -> Timer {
        family.timers.state().running.get(&(number, signal)).map_or_else(Timer::default, Running::as_timer)
    }

    /// Sets it, and gives what was left.
    pub(crate) fn set(family: &Arc<Family>, number: u32, signal: u32, timer: Timer) -> Timer {
        let mut state = family.timers.state();
        let before = state.running.remove(&(number, signal));
        let due = Instant::now().checked_add(Duration::from_nanos(timer.left));
        if let (Some(due), 1..) = (due, timer.left) {
            state.running.insert((number, signal), Running { due, interval: Duration::from_nanos(timer.interval) });
        }
        drop(state);
        Self::begin(family);
        before.as_ref().map_or_else(Timer::default, Running::as_timer)
    }

    /// Every timer of a process, by its signal.
    pub(crate) fn all(family: &Family, number: u32) -> Vec<(u32, Timer)> {
        let state = family.timers.state();
        state.running.range((number, 0)..=(number, u32::MAX)).map(|(key, it)| (key.1, it.as_timer())).collect()
    }

    /// The process has ended.
    pub(crate) fn forget(&self, number: u32) {
        self.state().running.retain(|it, _| it.0 != number);
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
    fn as_timer(&self) -> Timer {
        let nanoseconds = |it: Duration| u64::try_from(it.as_nanos()).unwrap_or(u64::MAX);
        let left = nanoseconds(self.due.saturating_duration_since(Instant::now())).max(1000);
        Timer { left, interval: nanoseconds(self.interval) }
    }
}

/// Takes out what is due at that moment, and gives when the next one is.
fn take_due(running: &mut BTreeMap<(u32, u32), Running>, now: Instant) -> (Vec<(u32, u32)>, Option<Instant>) {
    let mut fired = Vec::new();
    running.retain(|key, it| {
        if it.due > now {
            return true;
        }
        fired.push(*key);
        // One that is late fires once, as a signal that is pending is pending once.
        it.due = (it.due + it.interval).max(now);
        !it.interval.is_zero()
    });
    (fired, running.values().map(|it| it.due).min())
}

fn serve(family: &Family) {
    let timers = &family.timers;
    let mut next_beat = Instant::now();
    let mut state = timers.state();
    loop {
        let now = Instant::now();
        let (fired, next) = take_due(&mut state.running, now);
        let beating = state.beating;
        if !fired.is_empty() || (beating && next_beat <= now) {
            drop(state);
            for (number, signal) in fired {
                family.signal_by_nobody(number, signal);
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

    #[test]
    fn what_is_due_fires_and_what_repeats_stays() {
        let now = Instant::now();
        let (second, none) = (Duration::from_secs(1), Duration::ZERO);
        let mut running = BTreeMap::from([
            ((1, 14), Running { due: now, interval: none }),
            ((2, 14), Running { due: now, interval: second }),
            ((3, 14), Running { due: now + second * 5, interval: none }),
        ]);
        let (fired, next) = take_due(&mut running, now);
        assert_eq!(fired, [(1, 14), (2, 14)]);
        assert_eq!(next, Some(now + second));
        assert_eq!(running.len(), 2);
    }
}
