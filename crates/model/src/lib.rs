//! The words of skep as types: what an image, a cell, a limit, an exit is.
//!
//! Everything here is plain data and pure functions on it. **This crate does no I/O, reads no clock, holds no
//! `unsafe`, and knows no error but its own [`ParseError`] and [`IllegalTransition`]**: each type either cannot be
//! built wrongly or is parsed once, at the edge, from text that somebody typed or a file that somebody may have damaged.

#![forbid(unsafe_code)]

mod arch;
mod boundary;
mod cell;
mod digest;
mod disk;
mod event;
mod exit;
mod image;
mod ipc;
mod limits;
mod name;
mod network;
mod parse;
mod progress;
mod security;
mod source;
mod state;
mod target;
mod time;
mod units;

pub use arch::Arch;
pub use boundary::{Boundary, Engine, Verb};
pub use cell::{
    CellImage, CellSpec, Init, Lifetime, LogPolicy, MachineSpec, Mount, MountAccess, MountKind, Process, RestartPolicy,
    Stdin, StopPolicy, Terminal, UserSpec, Watch,
};
pub use digest::{ObjectId, Sha256};
pub use disk::{DiskFormat, DiskSpec, FirstProgram};
pub use event::{Event, EventKind, Missed, Remedy};
pub use exit::{Exit, ExitReport, StartStep};
pub use image::{ImageConfig, ImageRecord, LayerRecord, SlimRecord};
pub use ipc::Ipc;
pub use limits::{Degraded, IoLimit, Limits};
pub use name::{CellId, CellName, ImageName};
pub use network::{NetMode, NetStack, Network, PortMapping, Protocol};
pub use parse::ParseError;
pub use progress::Progress;
pub use security::{Capability, NewPrivileges, RootAccess, Seccomp, Security, UserNamespace};
pub use source::{DebSource, HostSource, ImageRef, Reference, Source};
pub use state::{IllegalTransition, Input, State};
pub use target::{Foreign, TargetRef, process_number};
pub use time::{Span, Timestamp};
pub use units::{ByteSize, Cpus, Weight, counted};
