//! The life of a cell as a state machine.
//!
//! `created → starting → running ⇄ paused → exited`, with `restarting` between an exit and the next start, and `removing`
//! as the point of no return. The supervisor moves the machine; every other process only reads it. [`State::next`] is the
//! whole rule: an input that a state does not list is refused, so no command can invent a transition.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::exit::ExitReport;
use crate::time::Timestamp;

/// Where a cell is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case", deny_unknown_fields)]
pub enum State {
    /// Specified, never started.
    Created,
    /// A supervisor is preparing the boundary; the program has not run yet.
    Starting {
        /// Since when.
        since: Timestamp,
    },
    /// The program runs.
    Running {
        /// Since when.
        since: Timestamp,
    },
    /// The program is stopped in its tracks and can go on.
    Paused {
        /// Since when the program has run (not: been paused).
        since: Timestamp,
    },
    /// The program ended and the restart policy asks for another run at `due`.
    Restarting {
        /// How the last run ended.
        last: ExitReport,
        /// When the next run begins.
        due: Timestamp,
    },
    /// The program ended.
    Exited {
        /// How.
        report: ExitReport,
    },
    /// The cell is being taken apart; whatever of it is left may be deleted.
    Removing,
}

/// What can happen to a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A supervisor took charge.
    Start(Timestamp),
    /// The program was executed.
    Started(Timestamp),
    /// Its processors were stopped.
    Pause,
    /// They go on.
    Resume,
    /// The run ended.
    Exit(ExitReport),
    /// The restart policy asked for another run at that time.
    Restart(Timestamp),
    /// Somebody asked for its removal.
    Remove,
}

/// An input that the state does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IllegalTransition {
    /// The state's word.
    pub from: &'static str,
    /// The input's word.
    pub input: &'static str,
}

impl fmt::Display for IllegalTransition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a cell that is {} cannot {}", self.from, self.input)
    }
}

impl std::error::Error for IllegalTransition {}

impl State {
    /// The state's word: what `ps` shows and `--filter` takes.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting { .. } => "starting",
            Self::Running { .. } => "running",
            Self::Paused { .. } => "paused",
            Self::Restarting { .. } => "restarting",
            Self::Exited { .. } => "exited",
            Self::Removing => "removing",
        }
    }

    /// Whether a supervisor must be alive for this state to be true. When none is, the state on disk is a lie left by a
    /// crash, and recovery replaces it.
    pub const fn needs_supervisor(&self) -> bool {
        matches!(self, Self::Starting { .. } | Self::Running { .. } | Self::Paused { .. } | Self::Restarting { .. })
    }

    /// Whether the program exists now.
    pub const fn is_live(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Paused { .. })
    }

    /// How the last finished run ended, when one did and none has begun since.
    pub const fn last_exit(&self) -> Option<&ExitReport> {
        match self {
            Self::Exited { report } | Self::Restarting { last: report, .. } => Some(report),
            _ => None,
        }
    }

    /// The state after `input`, or why there is none.
    pub fn next(self, input: Input) -> Result<Self, IllegalTransition> {
        let refused = IllegalTransition { from: self.word(), input: input.word() };
        Ok(match (self, input) {
            (Self::Created | Self::Exited { .. } | Self::Restarting { .. }, Input::Start(since)) => {
                Self::Starting { since }
            }
            (Self::Starting { .. }, Input::Started(since)) => Self::Running { since },
            (Self::Running { since }, Input::Pause) => Self::Paused { since },
            (Self::Paused { since }, Input::Resume) => Self::Running { since },
            (
                Self::Starting { .. } | Self::Running { .. } | Self::Paused { .. } | Self::Restarting { .. },
                Input::Exit(report),
            ) => Self::Exited { report },
            (Self::Exited { report }, Input::Restart(due)) => Self::Restarting { last: report, due },
            (Self::Created | Self::Exited { .. } | Self::Removing, Input::Remove) => Self::Removing,
            _ => return Err(refused),
        })
    }
}

impl Input {
    const fn word(&self) -> &'static str {
        match self {
            Self::Start(_) => "start",
            Self::Started(_) => "report that it started",
            Self::Pause => "be paused",
            Self::Resume => "be resumed",
            Self::Exit(_) => "exit",
            Self::Restart(_) => "be restarted",
            Self::Remove => "be removed",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::exit::Exit;
    use crate::time::Span;

    fn report() -> ExitReport {
        ExitReport {
            exit: Exit::Code { code: 0 },
            at: Timestamp::from_nanos(9),
            ran: Span::millis(1),
            requested: false,
        }
    }

    fn input() -> impl Strategy<Value = Input> {
        let now = Timestamp::from_nanos(7);
        prop_oneof![
            Just(Input::Start(now)),
            Just(Input::Started(now)),
            Just(Input::Pause),
            Just(Input::Resume),
            Just(Input::Exit(report())),
            Just(Input::Restart(now)),
            Just(Input::Remove),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_a_live_cell_is_never_removed_and_removal_is_final(
            inputs in proptest::collection::vec(input(), 0..40)
        ) {
            let mut state = State::Created;
            for input in inputs {
                let before = state.clone();
                match state.clone().next(input.clone()) {
                    Ok(after) => {
                        prop_assert!(before != State::Removing || after == State::Removing);
                        prop_assert!(!(before.needs_supervisor() && after == State::Removing));
                        prop_assert!(!after.is_live() || before.needs_supervisor(), "{before:?} -> {after:?}");
                        state = after;
                    }
                    Err(refusal) => prop_assert_eq!(refusal.from, before.word()),
                }
                let text = serde_json::to_string(&state).unwrap();
                prop_assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state.clone());
            }
        }
    }

    #[test]
    fn the_usual_life() {
        let now = Timestamp::from_nanos(1);
        let inputs = [
            (Input::Start(now), "starting"),
            (Input::Started(now), "running"),
            (Input::Pause, "paused"),
            (Input::Resume, "running"),
            (Input::Exit(report()), "exited"),
            (Input::Restart(now), "restarting"),
            (Input::Start(now), "starting"),
            (Input::Exit(report()), "exited"),
            (Input::Remove, "removing"),
        ];
        let mut state = State::Created;
        for (input, word) in inputs {
            state = state.next(input).unwrap();
            assert_eq!(state.word(), word);
        }
    }

    #[test]
    fn a_refusal_reads_as_a_sentence() {
        let refusal = State::Created.next(Input::Pause).unwrap_err();
        assert_eq!(refusal.to_string(), "a cell that is created cannot be paused");
    }
}
