//! A cell's life: made, started, supervised, observed, recovered, removed.
//!
//! [`Engine`] is what commands hold. A cell is a directory; a running cell is that directory and one supervisor process
//! ([`supervise`]) that holds its lock. There is no daemon: every command reads the directories, and asks a supervisor
//! over its socket when something shall change. The engine owns the boundaries' table and nothing above it knows which
//! boundary a cell has.
//!
//! **Absent on purpose:** terminals, tables and colours (the command line's), names of registries and packages (the image
//! crate's), any state in memory that a crash could lose.

mod appliance;
mod boundary;
mod build;
mod cell;
mod client;
mod clock;
mod container;
mod copy;
mod debug;
mod disk;
mod error;
mod events;
mod family;
mod guard;
mod home;
mod launch;
mod layer;
mod library;
mod logs;
mod machine;
mod machine_disks;
mod machine_means;
mod machine_sockets;
mod native;
mod neighbour;
mod observe;
mod patched;
mod process;
mod recover;
mod request;
mod slim;
mod snapshot;
mod stats;
mod supervisor;
mod table;
mod targets;
mod translated;
mod unikernel;
mod watch;
mod why;
mod wire;

pub use appliance::{ApplianceRequest, Jit, Warm};
pub use boundary::Relative;
pub use build::{BUILD_LABEL, BuildStep};
pub use cell::{Cell, CellLock, Kin, Record, UnknownCall};
pub use client::{Conversation, Said};
pub use clock::now;
pub use copy::{CopyEnd, CopyReport};
pub use debug::{DebugRequest, Subject, ToolboxFiles};
pub use error::{Error, NotJoined, Result};
pub use events::EventReader;
pub use guard::{GUARD, guard_main};
pub use home::Home;
pub use launch::{Attach, SUPERVISE, supervisor_main};
pub use library::{LibraryData, LibraryRefusal, LibraryReport, LibraryUpdate, MappedLibrary};
pub use logs::{LogReader, LogRecord, Stream};
pub use machine::machine_processor;
pub use native::native_machines;
pub use observe::{ExecStreams, ProcessRow, RunningExec};
pub use process::ProcessIdentity;
pub use request::{CellRequest, ExecRequest, NamedImage, NoCommand, companion, specify};
pub use slim::{SlimRequest, Slimmed};
pub use snapshot::SnapshotRow;
pub use stats::Stats;
pub use supervisor::supervise;
pub use table::{Engine, edit_distance};
pub use targets::Running;
pub use toolbox::engines::{Found as FoundContainer, Roots as EngineRoots};
pub use toolbox::{Arrangement, Error as ToolboxError, Privileges, Trust};
pub use why::{Explanation, explain, signal_name, signal_number};
pub use wire::CopyFrom;
