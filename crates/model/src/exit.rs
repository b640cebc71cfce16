//! Why a cell ended. Every ending has exactly one reason, and the reason says what to do next.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::time::{Span, Timestamp};
use crate::units::ByteSize;

/// The reason that a cell ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Exit {
    /// The program returned from `main` or called `exit`.
    Code {
        /// 0 to 255.
        code: u8,
    },
    /// A signal ended the program.
    Signal {
        /// The signal's number.
        signal: i32,
    },
    /// The kernel killed the program because the cell was over its memory limit.
    OutOfMemory {
        /// The limit, when it is known.
        limit: Option<ByteSize>,
    },
    /// The seccomp filter killed the program.
    Seccomp {
        /// The number of the refused system call, when it is known.
        syscall: Option<u32>,
    },
    /// A guest with its own memory took a fault that it could not handle.
    GuestFault {
        /// The address of the instruction.
        pc: u64,
        /// The symbol that it lies in, when the image has one.
        symbol: Option<String>,
    },
    /// The cell used up a budget that its specification gave it.
    Budget {
        /// Which budget, and how it was exceeded.
        what: String,
    },
    /// The program never ran.
    NotStarted {
        /// What was being done when it failed.
        step: StartStep,
        /// The system's word for the failure.
        error: String,
    },
    /// The supervisor vanished (killed, or the machine went down), and the cell with it.
    SupervisorLost,
}

/// The steps of a start that can fail, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartStep {
    /// Reading the image and materialising its root file system.
    Image,
    /// Control groups.
    Limits,
    /// Namespaces.
    Namespaces,
    /// The root file system and the mounts in it.
    Mounts,
    /// Interfaces, addresses, published ports.
    Network,
    /// User, capabilities, seccomp.
    Security,
    /// The program does not exist in the image.
    CommandNotFound,
    /// The program exists but cannot be executed.
    CommandNotExecutable,
}

impl Exit {
    /// The exit code that `run`, `exec` and `wait` return for it: the program's own, 128 + signal, or, when the program
    /// never ran, 125 to 127 as other engines do.
    pub fn code(&self) -> u8 {
        match self {
            Self::Code { code } => *code,
            Self::Signal { signal } => 128u8.saturating_add(u8::try_from(*signal).unwrap_or(127)),
            Self::OutOfMemory { .. } | Self::SupervisorLost => 137,
            Self::Seccomp { .. } => 128 + 31,
            Self::GuestFault { .. } => 128 + 11,
            Self::Budget { .. } => 128 + 9,
            Self::NotStarted { step: StartStep::CommandNotFound, .. } => 127,
            Self::NotStarted { step: StartStep::CommandNotExecutable, .. } => 126,
            Self::NotStarted { .. } => 125,
        }
    }

    /// Whether the program did what it was asked to.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Code { code: 0 })
    }
}

/// The ending in a few words: what `ps` and events show.
impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code { code } => write!(f, "exit code {code}"),
            Self::Signal { signal } => write!(f, "signal {signal}"),
            Self::OutOfMemory { limit: Some(limit) } => write!(f, "out of memory (limit {limit})"),
            Self::OutOfMemory { limit: None } => f.write_str("out of memory"),
            Self::Seccomp { syscall: Some(number) } => write!(f, "seccomp refused system call {number}"),
            Self::Seccomp { syscall: None } => f.write_str("seccomp refused a system call"),
            Self::GuestFault { pc, symbol: Some(symbol) } => write!(f, "guest fault at {pc:#x} ({symbol})"),
            Self::GuestFault { pc, symbol: None } => write!(f, "guest fault at {pc:#x}"),
            Self::Budget { what } => write!(f, "over budget: {what}"),
            Self::NotStarted { step: StartStep::CommandNotFound, .. } => f.write_str("command not found"),
            Self::NotStarted { error, .. } => write!(f, "not started: {error}"),
            Self::SupervisorLost => f.write_str("supervisor lost"),
        }
    }
}

/// An ending with its times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExitReport {
    /// The reason.
    pub exit: Exit,
    /// When it ended.
    pub at: Timestamp,
    /// How long the program had run.
    pub ran: Span,
    /// Whether somebody had asked for it (`stop`, `kill`).
    pub requested: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_that_scripts_expect() {
        let check = |exit: Exit, code| assert_eq!(exit.code(), code, "{exit}");
        check(Exit::Code { code: 3 }, 3);
        check(Exit::Signal { signal: 15 }, 143);
        check(Exit::OutOfMemory { limit: None }, 137);
        check(Exit::Signal { signal: i32::MAX }, 255);
        check(Exit::NotStarted { step: StartStep::CommandNotFound, error: String::new() }, 127);
        check(Exit::NotStarted { step: StartStep::CommandNotExecutable, error: String::new() }, 126);
        check(Exit::NotStarted { step: StartStep::Mounts, error: String::new() }, 125);
    }
}
