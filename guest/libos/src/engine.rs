//! What differs between the engines: how memory is mapped, how the tender is called, how a process is made twice.
//!
//! Everything else is the same program, whichever executes it.

pub mod kvm;
pub mod process;

use core::sync::atomic::Ordering;

use abi::layout::PORT;
use abi::port::{Engine, Port};
use abi::ring::Ring;

use crate::errno::Result;
use crate::space::Protection;

/// The page shared with the tender.
pub fn port() -> &'static Port {
    // SAFETY: each engine maps it before anything else runs; all that changes in it is atomic.
    unsafe { &*(PORT as *const Port) }
}

/// Where mapped memory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Zeroes, of this process alone.
    Anonymous,
    /// A part of a file of the tender's; writes stay with this process.
    Private(Part),
    /// The same; writes are the file's.
    Shared { descriptor: i32, offset: u64 },
}

/// A part of a file, from an offset on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub descriptor: i32,
    pub offset: u64,
    /// So many bytes behind it will be mapped next.
    pub ahead: usize,
}

/// Whether there is room for so many bytes at an address.
pub type Room<'a> = &'a dyn Fn(usize, usize) -> bool;

/// Where trampolines are, and how many bytes of them.
pub type Nest = (usize, usize);

/// Whether the guest has page tables of its own.
fn has_tables() -> bool {
    port().engine == Engine::Kvm as u32
}

/// Maps whole pages over whatever is there.
/// Says which memory a shared mapping is of, or 0.
pub fn map(at: usize, length: usize, protection: Protection, source: Source) -> Result<u64> {
    if has_tables() { kvm::map(at, length, protection, source) } else { process::map(at, length, protection, source) }
}

/// Maps a part of a file that is code, for which a copy with calls that are jumps will do. Gives where the trampolines of those
/// are; where there is no room for them, there are none, and it is the file itself that is mapped.
pub fn map_code(at: usize, length: usize, protection: Protection, file: Part, room: Room<'_>) -> Result<Option<Nest>> {
    if has_tables() {
        kvm::map_code(at, length, protection, file, room)
    } else {
        process::map_code(at, length, protection, file, room)
    }
}

/// Removes whole pages.
pub fn unmap(at: usize, length: usize) -> Result<()> {
    if has_tables() { kvm::unmap(at, length) } else { process::unmap(at, length) }
}

/// Changes what may be done with mapped pages.
pub fn protect(at: usize, length: usize, protection: Protection) -> Result<()> {
    if has_tables() { kvm::protect(at, length, protection) } else { process::protect(at, length, protection) }
}

/// Writes into a page of a program's code, of this process alone, with which may be done what `rights` says. For a while it
/// may be executed as it was.
pub fn rewrite(at: usize, bytes: &[u8], rights: Protection) -> Result<()> {
    if has_tables() { kvm::rewrite(at, bytes) } else { process::rewrite(at, bytes, rights) }
}

/// Moves mapped pages elsewhere, over whatever is there. Further ones, zero and with that protection, follow them.
pub fn relocate(from: usize, length: usize, to: usize, new_length: usize, protection: Protection) -> Result<()> {
    if has_tables() {
        kvm::relocate(from, length, to, new_length, protection)
    } else {
        process::relocate(from, length, to, new_length)
    }
}

/// Makes mapped pages zero.
pub fn discard(at: usize, length: usize) -> Result<()> {
    if has_tables() { kvm::discard(at, length) } else { process::discard(at, length) }
}

/// Hands the call in the port to the tender and returns when it is answered.
pub fn ring() {
    if has_tables() { kvm::ring() } else { process::ring() }
}

/// Makes the call without the tender, if the file is one for which that can be done and there is something to be had.
pub fn directly(number: u32, arguments: [u64; 6]) -> Option<Result> {
    if has_tables() {
        kvm::streams::directly(number, arguments).or_else(|| kvm::files::directly(number, arguments))
    } else {
        process::lent::directly(number, arguments)
    }
}

/// What was posted is done before anybody hears of what comes next past the tender.
pub fn settle() {
    if port().posts.count.load(Ordering::Relaxed) != 0 {
        let _ = crate::port::call(abi::call::CHECK, [0; 6]);
    }
}

/// Sends bytes of ours, if the file is one for which that can be done without the tender.
pub fn send(descriptor: u64, bytes: &[u8]) -> Option<usize> {
    if has_tables() { kvm::streams::send(descriptor, bytes) } else { process::lent::send(descriptor, bytes) }
}

/// A call is about to be made of the tender.
pub fn before(number: u32, arguments: &[u64; 6]) {
    if has_tables() {
        kvm::before(number, arguments);
    }
}

/// The tender has answered a call.
pub fn after(number: u32) {
    if has_tables() {
        kvm::streams::after(number);
        kvm::files::after(number);
    }
}

/// What is ready of a set that was lent (the set, where events go, how many at most), after so many nanoseconds at most.
pub fn events(arguments: [u64; 3], patience: u64) -> Option<usize> {
    if has_tables() { None } else { process::lent::events(arguments, patience) }
}

/// What the sides of a ring ([`crate::pipe`]) sleep on: numbers of the engine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bells(pub [u32; 2]);

/// Maps a ring that the tender has handed over; `place` is what it said of it.
pub fn take_ring(place: u64, at: usize) -> Result<Bells> {
    if has_tables() { kvm::take_ring(place, at) } else { process::rings::take(at) }
}

/// Maps the counters of sleepers.
pub fn take_counters(at: usize, length: usize) -> Result<()> {
    if has_tables() { kvm::take_counters(at, length) } else { process::rings::take_counters(at, length) }
}

/// Maps the link to the cell's network.
pub fn take_link(at: usize, length: usize) -> Result<()> {
    if has_tables() { kvm::take_link(at, length) } else { process::rings::take_link(at, length) }
}

/// Gives it up.
pub fn drop_ring(at: usize, bells: Bells) {
    if has_tables() { kvm::drop_ring(at) } else { process::rings::drop(at, bells) }
}

/// Wakes who sleeps on a side of the descriptor's ring.
pub fn wake_ring(descriptor: u64, bells: &mut Bells, side: usize) {
    if has_tables() { kvm::wake_ring(descriptor, bells, side) } else { process::rings::wake(*bells, side) }
}

/// Sleeps on a side of the descriptor's ring, or until there is something else to do.
pub fn doze_on_ring(ring: &Ring, descriptor: u64, bells: Bells, side: usize, nanoseconds: u64) {
    if has_tables() {
        let _ = crate::port::call(abi::call::RING_SLEEP, [descriptor, nanoseconds, 0, 0, 0, 0]);
    } else {
        process::rings::doze(ring, bells, side, nanoseconds);
    }
}

/// What a copy of the process makes of its maker's.
pub fn adopt_bells(bells: Bells) -> Bells {
    // A machine has bells of its own.
    if has_tables() { Bells([0; 2]) } else { bells }
}

/// What a descriptor leads to is about to change: nothing that is known of it holds for what it will be.
pub fn forget(descriptor: u64) {
    crate::pipe::forget(descriptor);
    if has_tables() { kvm::forget(descriptor) } else { process::lent::forget(descriptor as usize) }
}

/// The same of all.
pub fn forget_all() {
    crate::pipe::forget_all();
    if has_tables() { kvm::forget_all() } else { process::lent::forget_all() }
}

/// Makes the process twice. Gives the child's number to the parent and 0 to the child, whose port is another page at the
/// same address. `purpose` is one of [`abi::call::FORK_AS_CHILD`] and [`abi::call::FORK_AS_CELL`].
pub fn fork(purpose: u64) -> Result {
    if has_tables() { kvm::fork(purpose) } else { process::fork(purpose) }
}

/// There is nothing more to execute.
pub fn stop() -> ! {
    if has_tables() { kvm::stop() } else { process::stop() }
}
