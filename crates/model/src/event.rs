//! What happened to cells and images, for `skep events` and for whoever watches.

use std::fmt;

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

/// Something that slimming took away and that a program looked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Missed {
    /// Its path.
    pub path: String,
    /// When it is a directory that was listed: so many of its entries. Otherwise it was looked up itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<u64>,
    /// What was done about it.
    pub remedy: Remedy,
}

/// What was done about something that was missed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remedy {
    /// Nothing: nobody asked for it.
    Nothing,
    /// It was put back before the program looked.
    PutBack,
    /// It could not be put back, and why.
    Failed(String),
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.entries {
            None => f.write_str(&self.path),
            Some(1) => write!(f, "an entry of {}, which was listed", self.path),
            Some(count) => write!(f, "{count} entries of {}, which was listed", self.path),
        }
    }
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
    Missed(Missed),
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
            Self::Missed(_) => "missed",
            Self::Exited { .. } => "exited",
            Self::Restarting { .. } => "restarting",
            Self::Recovered { .. } => "recovered",
            Self::Removed => "removed",
        }
    }
}
