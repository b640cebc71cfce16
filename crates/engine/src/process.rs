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
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self { pid, began: start_time(&stat)? })
    }

    /// Whether that very process still exists.
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }
}

/// Field 22. The second field is a program's name in parentheses and may itself hold spaces and parentheses, so fields are
/// counted from the last one.
fn start_time(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_shift_the_fields() {
        let fields: Vec<_> = (3..=52).map(|n| n.to_string()).collect();
        let stat = format!("7 (a) b (c)) {}", fields.join(" "));
        assert_eq!(start_time(&stat), Some(22));
        assert_eq!(start_time(""), None);
        assert!(ProcessIdentity::of(std::process::id()).unwrap().is_alive());
        let stale = ProcessIdentity { pid: std::process::id(), began: 1 };
        assert!(!stale.is_alive());
    }
}
