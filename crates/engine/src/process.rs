//! Processes that cannot be mistaken for later ones with the same number.

use serde::{Deserialize, Serialize};

/// A process by its number and the time when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessIdentity {
    /// Its number on the host.
    pub pid: u32,
    /// When it began, in clock ticks since boot (`proc_pid_stat(5)`, field 22).
    pub began: u64,
}

impl ProcessIdentity {
    /// The process with that number, if there is one now.
    pub fn of(pid: u32) -> Option<Self> {
        let began = sys::process::start_time(pid).ok()?;
        Some(Self { pid, began })
    }

    /// Whether that very process still exists.
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_not_mistaken_for_an_earlier_one() {
        let own = ProcessIdentity::of(std::process::id()).unwrap();
        assert!(own.is_alive());
        assert!(!ProcessIdentity { began: own.began + 1, ..own }.is_alive());
        assert_eq!(ProcessIdentity::of(u32::MAX), None);
    }
}
