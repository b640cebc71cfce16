//! The first machine of a family, made by a thread of its own while the tender gives up what it does not need.
//!
//! A machine takes the kernel a millisecond, the library operating system half of one to its first call, and entering a cell
//! and its jail takes the tender as long; neither asks for anything of the other. (One after the other, this was 1.7 of the
//! 12.9 ms that a static hello took as a whole cell.)
//! **The thread is over before there is a guest that could ask for anything**, since what it makes is the first; and it reads
//! nothing that came from outside.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use sys::signal::SignalSet;
use vm::{Exit, Host, Layout, Memory};

use super::{Shell, build, failed};
use crate::error::{Error, Result};

/// The host's virtual machines, and the first of them, which may still be in the making.
pub struct Machines {
    pub(super) host: Arc<Host>,
    pub(super) first: Option<Coming>,
}

/// A machine in the making.
pub(super) struct Coming(JoinHandle<Result<First>>);

impl fmt::Debug for Machines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machines").field("host", &self.host).finish_non_exhaustive()
    }
}

/// What a family's first machine will begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// The library operating system, which loads a program.
    Program,
    /// What is in a snapshot.
    Snapshot,
}

/// A machine, and what is in it already.
pub(super) enum First {
    /// Nothing.
    Empty(Shell),
    /// The library operating system, which asks in its first call what it shall be.
    Asking { shell: Shell, memory: Memory, layout: Layout },
}

impl First {
    pub(super) fn new(host: &Host, beginning: Beginning) -> Result<Self> {
        let mut shell = Shell::new(host)?;
        if beginning == Beginning::Snapshot {
            return Ok(Self::Empty(shell));
        }
        let memory = Memory::new_in(shell.room.clone()).map_err(failed)?;
        let build::Built { layout, start } = build::build(&memory)?;
        let machine = &mut shell.machine;
        machine.begin(&layout, &start).map_err(failed)?;
        machine.adopt().map_err(failed)?;
        // What comes before that call is our own, and has heard nothing from anybody.
        while !shell.port.is_called() {
            match machine.run() {
                Exit::Doorbell | Exit::Interrupted => {}
                Exit::NoMemory | Exit::Broken(_) => return Err(Error::Image),
            }
        }
        Ok(Self::Asking { shell, memory, layout })
    }
}

impl Machines {
    /// Begins to make the first, with the handle from [`crate::open_kvm`]. Signals wait from here on: they are the guest's.
    pub fn begin(kvm: OwnedFd, beginning: Beginning) -> Self {
        let _ = sys::signal::block(SignalSet::ALL);
        crate::clock::begin();
        let host = Arc::new(Host::from(kvm));
        let with = host.clone();
        let thread = std::thread::Builder::new().name("first".to_owned());
        // Without a thread it is made when it is needed.
        let first = thread.spawn(move || First::new(&with, beginning)).ok();
        // While that waits for the kernel (measured on two processors: 0.35 ms of a start).
        host.look();
        Self { host, first: first.map(Coming) }
    }
}

impl Coming {
    /// Waits for it.
    pub(super) fn wait(self) -> Result<First> {
        let lost = |_| Err(Error::host("making the first machine")(sys::Errno::IO));
        self.0.join().unwrap_or_else(lost)
    }
}
