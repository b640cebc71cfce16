//! The unikernel boundary, the host's side: the tender.
//!
//! A tender runs one *family*: a first process of a guest, and those that descend from it by fork, each in a virtual
//! machine (or a confined process of the host) of its own with the library operating system of `guest/libos`. The tender
//! holds what they share: open files, process numbers, who waits for whom. **It believes nothing that a guest says**:
//! addresses, lengths, descriptors and numbers are checked before they are used, and what a member does wrong costs that
//! member alone.
//!
//! The tender is meant to run where a container's program would: in namespaces of its own, on the cell's root file system,
//! and puts itself into a [`jail`] of its own there. It opens files by the paths that guests give it, as whom they became where
//! it may become others, with nothing else within reach.

mod ahead;
mod calls;
mod clock;
pub mod control;
mod copying;
mod core_file;
mod creds;
mod desk;
mod error;
mod family;
mod files;
mod fixed;
mod futexes;
mod guest;
mod identity;
mod interests;
pub mod jail;
mod kept;
mod kvm;
pub mod library;
mod link;
mod locks;
mod mapping;
mod member;
mod memory;
mod neighbours;
mod patched;
mod pipes;
mod port;
mod posts;
mod process;
mod procfs;
mod raw;
mod seal;
mod signals;
mod snapshot;
mod start;
mod tender;
mod timers;
mod visitor;
mod waits;

use std::os::fd::OwnedFd;

pub use error::{Error, Result};
pub use kvm::{Beginning, Machines};
pub use link::Stack;
pub use neighbours::Ipc;
pub use patched::{Cache, Patched, View};
pub use seal::{Code, OUTSIDE, Seal};
pub use snapshot::{Snapshot, calls_of, digest_of};
pub use tender::{Command, Engine, Guest, Outcome, Visibility, run};
pub use visitor::accompany;

/// Says something that a user will find in the cell's log, where the tender's own standard error goes.
#[expect(clippy::print_stderr, reason = "the cell's own log is where a user looks")]
pub fn say(text: &str) {
    eprintln!("skep: {text}");
}

/// Opens the host's virtual machines, for a tender that will not see `/dev`.
pub fn open_kvm() -> Result<OwnedFd> {
    vm::Machine::open().map_err(Error::Machine)
}

/// What a tender needs of its process before it enters a root that has no `/proc`.
pub fn prepare() {
    sys::pagemap::prepare(None);
}

/// Begins to compare the clocks, for tenders that the calling process will fork: a guest's clock is of use once they were
/// compared for a millisecond, which a tender that begins with it waits for.
pub fn compare_clocks() {
    clock::begin_anew();
}
