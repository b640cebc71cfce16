//! The page that a guest and its tender share: the call in progress, and what the tender has to tell unasked.
//!
//! A guest has one processor, so there is one call at a time: the guest fills in [`Call`], sets its state to
//! [`CALLED`], and gets the attention of the tender in the manner of its engine. **No call waits**: what cannot be done
//! at once is answered with EAGAIN and what to wait for, and the guest asks to be told when it can ([`crate::call::WATCH`]), so that
//! its other threads go on meanwhile. Only [`crate::call::WAIT`] sleeps, and a call of a guest that has nothing else to do
//! until it is answered, which says so ([`Call::patience`]): one call is made instead of four.
//!
//! A virtual machine gets the tender's attention by stopping, which costs some thirty microseconds. So it does much at one
//! stop: what it writes to connections waits for the next one, and what it will read from them came with the last
//! ([`crate::post`]).

use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64};

use crate::kept;
use crate::post::{Ahead, MOST_SIZES, Posts, Released, Size};
use crate::signal::Queue;

/// The call's slot is the guest's to fill.
pub const IDLE: u32 = 0;
/// The call is the tender's to answer.
pub const CALLED: u32 = 1;
/// The tender sleeps, or is about to: it must be woken.
pub const DOZING: u32 = 2;

/// The shared page.
#[repr(C, align(4096))]
pub struct Port {
    /// [`crate::VERSION`], written by the tender.
    pub version: u32,
    /// Which engine runs the guest, written by the tender: an [`Engine`] as a number.
    pub engine: u32,
    /// The call in progress.
    pub call: Call,
    /// Signals that the guest has not taken yet.
    pub signals: Queue,
    /// The state of the guest's processor as the guest last declared it: see [`RUNNING`] and [`WAITING`].
    pub state: AtomicU32,
    /// Another number whenever a process of the family changed whether a file waits that others have, too: what the guest
    /// knows of the files that were lent to it ([`crate::call::LEND`]) holds as long as this is the same.
    pub wishes: AtomicU32,
    /// How often the guest is to make its process again with [`crate::call::FORK`] and [`crate::call::FORK_AS_CELL`], as
    /// soon as it looks here. The tender counts down.
    pub copies: AtomicU32,
    /// How many threads the program has, as the guest says: with more than one, each gets its turn by being interrupted.
    pub threads: AtomicU32,
    /// Not 0 when no new executable memory may come up any more.
    pub sealed: AtomicU32,
    /// Not 0 when the guest is to stand still for a change of its libraries: [`crate::library`].
    pub libraries: AtomicU32,
    /// Not 0 when the program's sockets are of a stack in the guest: [`crate::link`].
    pub stack: AtomicU32,
    /// How many system calls of the program came by a trap.
    pub traps: AtomicU32,
    /// Keeps the clock's fields apart from what changes often.
    pub reserved: [u32; 8],
    /// How to tell the time without asking.
    pub clock: Clock,
    /// Files that the guest keeps for when the program opens them again: see [`crate::kept`].
    pub kept: [AtomicU32; kept::MOST],
    /// Calls that wait for the next stop. Only of a virtual machine.
    pub posts: Posts,
    /// What the tender need not keep mapped any more. Only for a virtual machine.
    pub released: Released,
    /// How long the files are that the guest has mapped to write to them. Only for a virtual machine.
    pub sizes: [Size; MOST_SIZES],
    /// What came with the last set of files that was waited for. Only for a virtual machine.
    pub ahead: Ahead,
}

/// A call.
#[repr(C, align(64))]
pub struct Call {
    /// [`IDLE`], [`CALLED`] or [`DOZING`].
    pub state: AtomicU32,
    /// A Linux system call's number, or one of [`crate::call`].
    pub number: AtomicU32,
    /// Its arguments.
    pub arguments: [AtomicU64; 6],
    /// What it gave: as in Linux, errors are small negative numbers.
    pub result: AtomicI64,
    /// With an EAGAIN: the events after which to try again (`POLLIN`…), when the program wants to wait. Else 0.
    pub wait: AtomicU32,
    /// Set by the guest when it sleeps until [`Call::state`] changes.
    pub sleeping: AtomicU32,
    /// How many nanoseconds the tender may sleep before it says EAGAIN (`u64::MAX`: any number).
    pub patience: AtomicU64,
    /// Set by the tender with what to wait for: for how long at most, in nanoseconds; 0 for ever.
    pub limit: AtomicU64,
}

/// How the processor's time stamp counter relates to the clocks of the host, written by the tender before the guest runs.
#[repr(C)]
pub struct Clock {
    /// Ticks at the moment of which the next two tell.
    pub ticks: AtomicU64,
    /// Nanoseconds of CLOCK_MONOTONIC at that moment.
    pub monotonic: AtomicU64,
    /// What to add to get CLOCK_REALTIME, in nanoseconds.
    pub wall: AtomicI64,
    /// Nanoseconds a tick, times 2^32.
    pub scale: AtomicU64,
}

/// The guest executes instructions: an interrupt is needed to make it look at [`Port::signals`].
pub const RUNNING: u32 = 0;
/// The guest is in [`crate::call::WAIT`] or [`crate::call::STOP`].
pub const WAITING: u32 = 1;

/// What executes the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Engine {
    /// A process of the host that may make hardly any system call.
    Process = 1,
    /// A virtual processor, all in its user mode.
    Kvm = 2,
}

const _: () = assert!(size_of::<Port>() == 4096, "the port is one page");
