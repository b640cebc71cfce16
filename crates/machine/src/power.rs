//! Which processors of a machine are switched on, and whether the machine is.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};

use crate::bells::Bells;
use crate::error::Result as Done;
use crate::machine::End;
use crate::saved::unfit;

/// What a processor begins with: arguments of its description's `reset`.
pub(crate) type Beginning = [u64; 3];

/// A processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Switch {
    Off,
    /// It is going to be on.
    Starting(Beginning),
    On,
}

/// All of them.
pub(crate) struct Power {
    switches: Mutex<Vec<Switch>>,
    end: OnceLock<End>,
    /// Why the host could not go on with it.
    failure: OnceLock<String>,
    bells: Arc<Bells>,
}

impl Power {
    /// The first is on.
    pub(crate) fn new(bells: &Arc<Bells>) -> Power {
        let switches = (0..bells.count()).map(|number| if number == 0 { Switch::On } else { Switch::Off });
        Power {
            switches: Mutex::new(switches.collect()),
            end: OnceLock::new(),
            failure: OnceLock::new(),
            bells: Arc::clone(bells),
        }
    }

    fn switches(&self) -> MutexGuard<'_, Vec<Switch>> {
        self.switches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How all are.
    pub(crate) fn save(&self) -> Vec<Switch> {
        self.switches().clone()
    }

    /// They are as those of another were.
    pub(crate) fn restore(&self, switches: Vec<Switch>) -> Done<()> {
        if switches.len() != self.bells.count() {
            return unfit("it has other processors");
        }
        *self.switches() = switches;
        Ok(())
    }

    /// How a processor is. Nothing if there is none of this number.
    pub(crate) fn switch(&self, number: u64) -> Option<Switch> {
        self.switches().get(usize::try_from(number).ok()?).copied()
    }

    /// Whether a processor is to work.
    pub(crate) fn is_on(&self, number: usize) -> bool {
        self.end.get().is_none() && self.switches().get(number) == Some(&Switch::On)
    }

    /// Switches one on that is off. If it is not, it says how it is.
    pub(crate) fn start(&self, number: u64, with: Beginning) -> Result<(), Option<Switch>> {
        let mut switches = self.switches();
        let at = usize::try_from(number).map_err(|_| None)?;
        match switches.get_mut(at) {
            Some(switch @ Switch::Off) => *switch = Switch::Starting(with),
            other => return Err(other.copied()),
        }
        drop(switches);
        self.bells.ring(at);
        Ok(())
    }

    /// What a processor begins with that is to be on: then it is.
    pub(crate) fn take_start(&self, number: usize) -> Option<Beginning> {
        let mut switches = self.switches();
        let switch = switches.get_mut(number)?;
        let Switch::Starting(with) = *switch else { return None };
        *switch = Switch::On;
        Some(with)
    }

    /// Switches one off.
    pub(crate) fn stop(&self, number: usize) {
        if let Some(switch) = self.switches().get_mut(number) {
            *switch = Switch::Off;
        }
    }

    /// The host cannot go on with it, as whoever says so first says.
    pub(crate) fn give_up(&self, why: String) {
        let _ = self.failure.set(why);
    }

    /// Why it could not.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Whether the machine has ended.
    pub(crate) fn end(&self) -> Option<End> {
        self.end.get().copied()
    }

    /// The machine ends; as whoever says so first says.
    pub(crate) fn finish(&self, end: End) {
        let _ = self.end.set(end);
        self.bells.ring_all();
    }
}
