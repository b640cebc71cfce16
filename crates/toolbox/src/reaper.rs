//! The steward's life once its program runs: it hands on signals, reaps what is orphaned, and ends what is left.

use container::{Failure, Stage};
use rustix::process::{Pid, WaitOptions, WaitStatus};
use sys::Errno;
use sys::capability::{self, CapabilitySet};
use sys::exec;
use sys::signal::{self, SignalSet};

use crate::inside::read_file;

/// Asks the steward to end its session: nobody else sends it that, as it blocks what the kernel would do.
pub(crate) const HANGUP: i32 = 1;

/// What is left of the steward once the program runs: it may signal its own, and nothing else. Fork-safe.
pub(crate) fn drop_privileges() -> std::result::Result<(), Failure> {
    const KILL: CapabilitySet = CapabilitySet(1 << 5);
    let fail = |errno| Stage::Capabilities.fail(errno);
    capability::bound(CapabilitySet(0)).map_err(fail)?;
    capability::set(KILL).map_err(fail)?;
    exec::hide().map_err(fail)?;
    exec::no_new_privileges().map_err(|errno| Stage::NewPrivileges.fail(errno))
}

/// Hands signals on to the program until it ends, then ends whatever else belongs to the session. The program's exit code,
/// or 128 and the signal that ended it.
pub(crate) fn serve(program: u32) -> u8 {
    let program = i32::try_from(program).ok().and_then(Pid::from_raw);
    let code = loop {
        if let Some(code) = reap(program) {
            break code;
        }
        match signal::wait(SignalSet::ALL) {
            Ok(SIGCHLD) | Err(_) => {}
            Ok(HANGUP) => break 128 + HANGUP as u8,
            Ok(number) => {
                if let (Some(program), Ok(number)) = (program, signal::named(number)) {
                    // Fails only when the program just ended, which the next round sees.
                    let _ = rustix::process::kill_process(program, number);
                }
            }
        }
    };
    end_session();
    code
}

const SIGCHLD: i32 = 17;

/// Reaps every child that ended; how the program ended when it is among them.
fn reap(program: Option<Pid>) -> Option<u8> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if Some(pid) == program => return Some(code_of(status)),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return None,
            // It has no child any more, so there is no program.
            Err(_) => return Some(125),
        }
    }
}

fn code_of(status: WaitStatus) -> u8 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code as u8,
        (None, signal) => 128u8.wrapping_add(signal.unwrap_or(9) as u8),
    }
}

/// Kills children, which hands their own children to the steward, until there is none. A program that forks faster than it
/// is killed is held by the target's limit on processes.
fn end_session() {
    loop {
        let mut text = [0; 4096];
        // A list that is longer than the buffer is read anew when those at its beginning are gone.
        let Ok(length) = read_file(c"/proc/thread-self/children", &mut text) else { return };
        kill_each(text.get(..length).unwrap_or_default());
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Kills the processes of a list of numbers, each followed by a space; a last number that is not was cut off.
fn kill_each(list: &[u8]) {
    let mut number = Some(0i32);
    for byte in list {
        match byte {
            b'0'..=b'9' => {
                number = number.and_then(|it| it.checked_mul(10)?.checked_add(i32::from(byte - b'0')));
            }
            _ => {
                // Process 1 is the target's own, and what is below stands for many at once.
                if let Some(pid) = number.filter(|it| *it > 1).and_then(Pid::from_raw) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
                number = Some(0);
            }
        }
    }
}
