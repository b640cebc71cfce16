//! What differs between the engines: how memory is mapped, how the tender is called, how a process is made twice.
//!
//! Everything else is the same program, whichever executes it.

pub mod process;

use abi::layout::PORT;
use abi::port::Port;

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
    /// A file of the tender's, from that offset; writes stay with this process.
    Private { descriptor: i32, offset: u64 },
    /// The same; writes are the file's.
    Shared { descriptor: i32, offset: u64 },
}

/// Maps whole pages over whatever is there.
pub fn map(at: usize, length: usize, protection: Protection, source: Source) -> Result<()> {
    process::map(at, length, protection, source)
}

/// Removes whole pages.
pub fn unmap(at: usize, length: usize) -> Result<()> {
    process::unmap(at, length)
}

/// Changes what may be done with mapped pages.
pub fn protect(at: usize, length: usize, protection: Protection) -> Result<()> {
    process::protect(at, length, protection)
}

/// Moves mapped pages elsewhere, over whatever is there.
pub fn relocate(from: usize, length: usize, to: usize, new_length: usize) -> Result<()> {
    process::relocate(from, length, to, new_length)
}

/// Passes on what a program says of its use of pages.
pub fn advise(at: usize, length: usize, advice: i32) -> Result<()> {
    process::advise(at, length, advice)
}

/// Hands the call in the port to the tender and returns when it is answered.
pub fn ring() {
    process::ring();
}

/// Makes the process twice. Gives the child's number to the parent and 0 to the child, whose port is another page at the
/// same address.
pub fn fork() -> Result {
    process::fork()
}

/// There is nothing more to execute.
pub fn stop() -> ! {
    process::stop()
}
