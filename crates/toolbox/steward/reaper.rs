//! The steward's life once its program runs: it hands on signals, reaps what is orphaned, and ends what is left.

use crate::kernel::{self, Errno, INTR, call};

/// Asks the steward to end its session: nobody else sends it that, as it blocks what the kernel would do.
const HANGUP: usize = 1;
const SIGKILL: usize = 9;
const SIGCHLD: usize = 17;
const WNOHANG: usize = 1;

/// The number of the capability to signal anybody.
pub(crate) const KILL: usize = 5;

/// What is left of the steward once the program runs: it may signal its own, and nothing else.
pub(crate) fn drop_privileges() -> Result<(), Errno> {
    kernel::set_capabilities(1 << KILL, 1 << KILL, 0)?;
    kernel::no_new_privileges()
}

/// Hands signals on to the program until it ends, then ends whatever else belongs to the session. The program's exit code,
/// or 128 and the signal that ended it.
pub(crate) fn serve(program: usize) -> u8 {
    let all = u64::MAX;
    let code = loop {
        if let Some(code) = reap(program) {
            break code;
        }
        match call(kernel::RT_SIGTIMEDWAIT, [&raw const all as usize, 0, 0, size_of::<u64>(), 0, 0]) {
            Ok(SIGCHLD) | Err(_) => {}
            Ok(HANGUP) => break 128 + HANGUP as u8,
            // Fails only when the program just ended, which the next round sees.
            Ok(number) => drop(call(kernel::KILL, [program, number, 0, 0, 0, 0])),
        }
    };
    end_session();
    code
}

/// Reaps every child that ended; how the program ended when it is among them.
fn reap(program: usize) -> Option<u8> {
    loop {
        let mut status = 0i32;
        match call(kernel::WAIT4, [usize::MAX, &raw mut status as usize, WNOHANG, 0, 0, 0]) {
            Ok(0) => return None,
            Ok(pid) if pid == program => return Some(code_of(status)),
            Ok(_) | Err(INTR) => {}
            // It has no child any more, so there is no program.
            Err(_) => return Some(125),
        }
    }
}

const fn code_of(status: i32) -> u8 {
    match status & 0x7f {
        0 => (status >> 8) as u8,
        signal => 128u8.wrapping_add(signal as u8),
    }
}

/// Kills children, which hands their own children to the steward, until there is none. A program that forks faster than it
/// is killed is held by the target's limit on processes.
fn end_session() {
    loop {
        let mut text = [0; 4096];
        // A list that is longer than the buffer is read anew when those at its beginning are gone.
        let Ok(length) = children(&mut text) else { return };
        kill_each(text.get(..length).unwrap_or_default());
        match call(kernel::WAIT4, [usize::MAX, 0, 0, 0, 0, 0]) {
            Ok(_) | Err(INTR) => {}
            Err(_) => return,
        }
    }
}

fn children(text: &mut [u8]) -> Result<usize, Errno> {
    const AT_FDCWD: usize = -100isize as usize;
    const O_CLOEXEC: usize = 0o2_000_000;
    let path = c"/proc/thread-self/children".as_ptr() as usize;
    let file = call(kernel::OPENAT, [AT_FDCWD, path, O_CLOEXEC, 0, 0, 0])?;
    let length = kernel::read(file, text);
    let _ = call(kernel::CLOSE, [file, 0, 0, 0, 0, 0]);
    length
}

/// Kills the processes of a list of numbers, each followed by a space; a last number that is not was cut off.
fn kill_each(list: &[u8]) {
    let mut number = Some(0usize);
    for byte in list {
        match byte {
            b'0'..=b'9' => number = number.and_then(|it| it.checked_mul(10)?.checked_add(usize::from(byte - b'0'))),
            _ => {
                // Process 1 is the target's own, and what is below stands for many at once.
                if let Some(pid) = number.filter(|it| (2..1 << 30).contains(it)) {
                    let _ = call(kernel::KILL, [pid, SIGKILL, 0, 0, 0, 0]);
                }
                number = Some(0);
            }
        }
    }
}
