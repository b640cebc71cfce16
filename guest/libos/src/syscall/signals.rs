//! Sending signals and waiting for them.

use core::sync::atomic::{AtomicU64, Ordering};

use abi::signal::{BY_KILL, BY_TKILL, Info};

use super::process;
use crate::errno::{EINVAL, EPERM, ESRCH, Result};
use crate::signal;
use crate::{clock, futex, number, port, thread, user};

/// The process's user, once it was asked for.
static USER: AtomicU64 = AtomicU64::new(UNKNOWN);
const UNKNOWN: u64 = u64::MAX;

/// The process may have become somebody else.
pub fn forget_user() {
    USER.store(UNKNOWN, Ordering::Relaxed);
}

fn user_of_self() -> u32 {
    if USER.load(Ordering::Relaxed) == UNKNOWN {
        USER.store(port::call(number::GETUID, [0; 6]).unwrap_or_default() as u64, Ordering::Relaxed);
    }
    USER.load(Ordering::Relaxed) as u32
}

fn from_self(signal: i32, code: i32) -> Info {
    let user = user_of_self();
    Info { signal, code, thread: 0, first: Info::from(process::number(), user), second: 0 }
}

fn check(signal: i32) -> Result<()> {
    if (0..=64).contains(&signal) { Ok(()) } else { Err(EINVAL) }
}

/// Sends this process a signal, for a thread or for all; number 0 only asks whether one could.
fn send_to_self(info: Info) -> Result {
    match info.signal {
        0 if info.thread == 0 => Ok(0),
        0 => thread::with(info.thread, |_| 0).ok_or(ESRCH),
        signal::SIGKILL if info.thread == 0 || thread::with(info.thread, |_| ()).is_some() => {
            signal::die(signal::SIGKILL)
        }
        _ if signal::send(info) => Ok(0),
        _ => Err(ESRCH),
    }
}

/// kill.
pub fn kill(to: i32, signal: i32) -> Result {
    check(signal)?;
    if to == process::number() as i32 {
        return send_to_self(from_self(signal, BY_KILL));
    }
    port::call(number::KILL, [to as u64, signal as u64, 0, 0, 0, 0])
}

/// tkill and tgkill: of this process or of another.
pub fn kill_thread(process: Option<i32>, to: i32, signal: i32) -> Result {
    check(signal)?;
    if to <= 0 || process.is_some_and(|it| it <= 0) {
        return Err(EINVAL);
    }
    let own = process::number() as i32;
    let is_here = thread::with(to as u32, |_| ()).is_some();
    match process {
        None if is_here => {}
        Some(process) if process == own => {}
        None => return port::call(number::TGKILL, [to as u64, to as u64, signal as u64, 0, 0, 0]),
        Some(process) => return port::call(number::TGKILL, [process as u64, to as u64, signal as u64, 0, 0, 0]),
    }
    send_to_self(Info { thread: to as u32, ..from_self(signal, BY_TKILL) })
}

/// What a program says of a signal that it sends.
fn said(at: u64, signal: i32, of_itself: bool) -> Result<Info> {
    let [_, code, first, second]: [u64; 4] = user::read(at)?;
    check(signal)?;
    let code = code as u32 as i32;
    // To others nobody speaks as the kernel does.
    if (code >= 0 || code == BY_TKILL) && !of_itself {
        return Err(EPERM);
    }
    Ok(Info { signal, code, thread: 0, first, second })
}

/// rt_sigqueueinfo.
pub fn queue(to: i32, signal: i32, at: u64) -> Result {
    let of_itself = to == process::number() as i32;
    let info = said(at, signal, of_itself)?;
    if of_itself {
        return send_to_self(info);
    }
    let words = [to as u64, signal as u64, info.code as u64, info.first, info.second, 0];
    port::call(number::RT_SIGQUEUEINFO, words)
}

/// rt_tgsigqueueinfo.
pub fn queue_for_thread(process: i32, to: i32, signal: i32, at: u64) -> Result {
    if process <= 0 || to <= 0 {
        return Err(EINVAL);
    }
    let of_itself = process == process::number() as i32;
    let info = Info { thread: to as u32, ..said(at, signal, of_itself)? };
    if of_itself {
        return send_to_self(info);
    }
    let words = [process as u64, signal as u64, info.code as u64, info.first, info.second, u64::from(info.thread)];
    port::call(number::RT_TGSIGQUEUEINFO, words)
}

/// signalfd and signalfd4.
pub fn file(number: u32, arguments: [u64; 6]) -> Result {
    let [file, set, size, flags, ..] = arguments;
    if size != 8 {
        return Err(EINVAL);
    }
    let set: u64 = user::read(set)?;
    let set = set & !signal::bit(signal::SIGKILL) & !signal::bit(signal::SIGSTOP);
    let flags = if number == number::SIGNALFD4 { flags } else { 0 };
    let made = port::call(number::SIGNALFD4, [file, set, 0, flags, 0, 0])?;
    signal::pending::tell_from_now_on();
    Ok(made)
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
