//! Sending signals and waiting for them.

use super::process;
use crate::errno::{EINVAL, ESRCH, Result};
use crate::signal::{self, Info};
use crate::{clock, futex, number, port, thread, user};

const BY_KILL: i32 = 0;
const BY_TKILL: i32 = -6;

fn from_self(signal: i32, code: i32) -> Info {
    Info { signal, code, value: u64::from(process::number()), vector: 0 }
}

/// kill.
pub fn kill(to: i32, signal: i32) -> Result {
    if !(0..=64).contains(&signal) {
        return Err(EINVAL);
    }
    if to == process::number() as i32 {
        if signal == signal::SIGKILL {
            signal::die(signal);
        }
        if signal != 0 {
            signal::send_to_self(from_self(signal, BY_KILL));
        }
        return Ok(0);
    }
    port::call(number::KILL, [to as u64, signal as u64, 0, 0, 0, 0])
}

/// tkill and tgkill.
pub fn kill_thread(to: u32, signal: i32) -> Result {
    if !(0..=64).contains(&signal) {
        return Err(EINVAL);
    }
    if signal == 0 {
        return thread::with(to, |_| 0).ok_or(ESRCH);
    }
    if signal == signal::SIGKILL {
        signal::die(signal);
    }
    if signal::send_to_thread(to, from_self(signal, BY_TKILL)) { Ok(0) } else { Err(ESRCH) }
}

/// rt_sigsuspend.
pub fn suspend(mask: u64) -> Result {
    signal::suspend(Some(user::read(mask)?))
}

/// rt_sigtimedwait.
pub fn wait(set: u64, info: u64, timeout: u64) -> Result {
    let deadline = match timeout {
        0 => None,
        at => Some(clock::monotonic().saturating_add(futex::nanoseconds(at)?)),
    };
    signal::wait_for(set, info, deadline)
}
