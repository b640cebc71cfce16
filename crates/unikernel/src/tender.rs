//! Running a family from its first process to its end.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::process::{Pid, WaitOptions};
use sys::signal::{By, Received, SignalSet};

use crate::desk;
use crate::error::{Error, Result};
use crate::family::{FIRST, Family};
use crate::jail;
use crate::kvm::Machines;
use crate::link::Stack;
use crate::neighbours::{self, Board, Ipc, Seen};
use crate::patched::{Copies, Patched};
use crate::seal::Seal;
use crate::snapshot::Snapshot;
use crate::start::Starter;

/// What a family begins as.
#[derive(Debug)]
pub struct Guest {
    /// Its program.
    pub command: Command,
    /// Its standard input, output and error.
    pub streams: [OwnedFd; 3],
    /// How many files a process of it may have open.
    pub open_files: usize,
    /// What executes it.
    pub engine: Engine,
    /// What it goes on from, in the place of beginning with the program.
    pub snapshot: Option<Snapshot>,
    /// What it may do, when that is not everything.
    pub seal: Option<Seal>,
    /// Who sees its tender.
    pub visibility: Visibility,
    /// What its programs have their sockets of.
    pub stack: Stack,
    /// With whom it shares its messages and memory.
    pub ipc: Ipc,
    /// Copies of code that it will execute, in which system calls are jumps.
    pub patched: Vec<Patched>,
    /// The socket on which it takes orders, from [`crate::control::Line::listen`].
    pub control: Option<OwnedFd>,
}

/// A program to begin with.
#[derive(Debug)]
pub struct Command {
    /// The program's path, as execve takes it.
    pub path: PathBuf,
    /// Its arguments, the first of them its name.
    pub arguments: Vec<String>,
    /// Its environment, `NAME=value`.
    pub environment: Vec<String>,
    /// Where it begins.
    pub directory: PathBuf,
    /// Who it is, by its own account.
    pub user: u32,
    /// Its group.
    pub group: u32,
    /// Its further groups.
    pub groups: Vec<u32>,
}

/// Who may look at the tender from outside of its cell, and enter the cell where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Only root, who needs no leave.
    Root,
    /// Also the ordinary user whose cell it is. Nothing of a guest's can.
    Owner,
}

/// What executes a family's members.
#[derive(Debug)]
pub enum Engine {
    /// Processes of the host.
    Process,
    /// Virtual machines.
    Kvm(Machines),
}

/// How a family ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The wait status of the first process, as wait(2) gives it.
    pub status: i32,
    /// System calls that its programs made and nothing implements: number, and how often.
    pub unknown: Vec<(u32, u64)>,
    /// How many system calls of its programs came by a trap.
    pub traps: u64,
}

/// As many files as a process of Linux can have open by default, if it may.
const MOST_FILES: u64 = 1 << 20;

/// Runs a family until its first process ends, which ends all others. Makes threads, and waits for any child of the calling
/// process: for a process that does nothing else, and is in [`jail`] from here on.
pub fn run(guest: Guest) -> Result<Outcome> {
    crate::clock::begin();
    crate::identity::begin();
    let host = Error::host("blocking signals");
    // Each thread leaves them to the one that passes them on.
    sys::signal::block(SignalSet::ALL).map_err(host)?;
    // The files of all members are this process's, and a pipe between them takes six.
    let _ = sys::limit::raise(rustix::process::Resource::Nofile, MOST_FILES);
    let kind = match guest.engine {
        Engine::Process => jail::Kind::Processes,
        Engine::Kvm(_) => jail::Kind::Machines,
    };
    jail::enter(kind, guest.seal.as_ref(), guest.visibility)?;
    let board = Board::of(guest.ipc).map_err(Error::host("meeting the cells that share its IPC"))?.map(Arc::new);
    let seen = board.as_ref().map(|it| Seen::all(it));
    let copies = Copies::new(guest.patched);
    let family = Arc::new(Family::new(guest.seal.as_ref(), guest.stack, copies, board.clone()));
    let starter = Starter::new(guest.engine, guest.open_files);
    let number = match guest.snapshot {
        None => starter.first(&family, guest.command, guest.streams)?,
        Some(snapshot) => starter.go_on(&family, snapshot, guest.streams)?,
    };
    debug_assert_eq!(number, FIRST);
    if let (Some(board), Some(seen)) = (board, seen) {
        let family = family.clone();
        thread("neighbours", move || neighbours::listen(&family, &board, seen))?;
    }
    if kind == jail::Kind::Processes {
        let reaped = family.clone();
        thread("reaper", move || reap(&reaped))?;
    }
    let signalled = family.clone();
    thread("signals", move || pass_signals_on(&signalled))?;
    if let Some(control) = guest.control {
        let family = family.clone();
        thread("desk", move || desk::serve(&control, &family, &starter))?;
    }
    let status = family.wait_for_first();
    family.tell_last_news();
    let unknown = family.unknown().into_iter().collect();
    Ok(Outcome { status, unknown, traps: family.traps() })
}

pub(crate) fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    /// None of them calls anything deep.
    const STACK: usize = 256 << 10;
    let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(STACK);
    // Whoever makes it, it is the tender's.
    let body = || {
        crate::identity::be_tender();
        body();
    };
    thread.spawn(body).map(drop).map_err(|_| Error::host("making a thread")(sys::Errno::AGAIN))
}

/// Signals for the tender are meant for its guest's first process.
fn pass_signals_on(family: &Family) {
    const SIGCHLD: i32 = 17;
    loop {
        match sys::signal::wait_for_one(SignalSet::ALL) {
            // Being frozen interrupts it, too.
            Ok(Received { signal: SIGCHLD, .. }) | Err(sys::Errno::INTR) => {}
            Ok(Received { by: By::Queue(number), .. }) => {
                if let Some((process, info)) = family.notices.take(number) {
                    family.signal_by_nobody(process, info);
                }
            }
            Ok(Received { signal, by: By::Kernel, .. }) => family.signal_foreground(FIRST, signal),
            Ok(Received { signal, .. }) => family.signal_first(signal),
            Err(_) => return,
        }
    }
}

/// Takes note of the host's processes that end. Runs until there are none.
fn reap(family: &Family) {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) => family.host_ended(pid, status.as_raw()),
            Err(sys::Errno::INTR) | Ok(None) => {}
            Err(_) => return,
        }
    }
}

impl Family {
    /// A process of the host has ended: unless its member said so before, it was killed.
    fn host_ended(&self, pid: Pid, status: i32) {
        if let Some(living) = self.by_host(pid) {
            living.handle.set_pid(None);
            // By its thread, which closes its files before anybody hears of it.
            living.handle.set_ended(status);
            living.port.disturb();
            living.waits.ring();
        }
    }
}
