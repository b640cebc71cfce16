//! What happened to cells and images, for `skep events` and for whoever watches.

use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::name::{CellId, CellName};
use crate::time::Timestamp;

/// One happening.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// The cell it happened to; none when it is none of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cell: Option<CellId>,
    /// That cell's name at the time, or what the other is called.
    pub name: String,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// A file that slimming took away and that a program looked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Missed {
    /// Its path.
    pub path: String,
    /// Why it could not be put back, if it could not.
    pub failure: Option<String>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the words are the verbs of the command line")]
pub enum EventKind {
    Created { image: String },
    Started { pid: u32 },
    Paused,
    Resumed,
    Limited,
    Renamed { from: CellName },
    Executed { command: String },
    Debugged { toolbox: String, command: String, privileges: String },
    Degraded { what: String, why: String },
    Missed { path: String, failure: Option<String> },
    Exited { exit: Exit, code: u8 },
    Restarting { attempt: u32 },
    Recovered { why: String },
    Removed,
}

impl EventKind {
    /// The event's word.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Created { .. } => "created",
            Self::Started { .. } => "started",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Limited => "limited",
            Self::Renamed { .. } => "renamed",
            Self::Executed { .. } => "executed",
            Self::Debugged { .. } => "debugged",
            Self::Degraded { .. } => "degraded",
            Self::Missed { .. } => "missed",
            Self::Exited { .. } => "exited",
            Self::Restarting { .. } => "restarting",
            Self::Recovered { .. } => "recovered",
            Self::Removed => "removed",
        }
    }
}
