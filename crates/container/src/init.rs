//! Process 1 of a cell when the image brings none: a reaper of a few system calls.
//!
//! It is forked, not executed, so it costs no memory of its own beyond what it touches. It hands every signal on to the
//! program, reaps whatever is orphaned, and ends when the program does; the kernel then kills what is left in the cell.

use rustix::process::{Pid, WaitOptions, WaitStatus};
use sys::Errno;
use sys::signal::{self, SignalSet};

/// Serves as process 1 until `program` (a child of the caller) ends; its wait status. Fork-safe.
///
/// All signals must be blocked.
pub(crate) fn serve(program: u32) -> i32 {
    let program = i32::try_from(program).ok().and_then(Pid::from_raw);
    loop {
        if let Some(status) = reap(program) {
            return status;
        }
        match signal::wait(SignalSet::ALL) {
            Ok(libc_signal::SIGCHLD) | Err(_) => {}
            Ok(number) => {
                if let (Some(program), Ok(number)) = (program, signal::named(number)) {
                    // Fails only when the program just ended, which the next round sees.
                    let _ = rustix::process::kill_process(program, number);
                }
            }
        }
    }
}

mod libc_signal {
    /// A child changed its state.
    pub(super) const SIGCHLD: i32 = 17;
}

/// Reaps every child that ended; the program's wait status when it is among them.
fn reap(program: Option<Pid>) -> Option<i32> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if Some(pid) == program => return Some(raw(status)),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

fn raw(status: WaitStatus) -> i32 {
    status.as_raw()
}
