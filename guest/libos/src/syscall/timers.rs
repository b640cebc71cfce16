//! Timers of POSIX. They run with the tender; how often one was too early is known where its signals are taken.

use alloc::collections::BTreeMap;

use abi::signal::Info;

use crate::errno::{EINVAL, Result};
use crate::sync::Local;
use crate::{number, port, thread, user};

/// How often each timer was too early before its latest signal was taken.
static OVERRUNS: Local<BTreeMap<u32, u32>> = Local::new(BTreeMap::new());

/// timer_create. Which threads there are is known here.
pub fn create(arguments: [u64; 6]) -> Result {
    const THREAD: u32 = 4;
    let event = arguments[1];
    if event != 0 {
        let [_, how, thread]: [u64; 3] = user::read(event)?;
        if (how >> 32) as u32 & THREAD != 0 && thread::with(thread as u32, |_| ()).is_none() {
            return Err(EINVAL);
        }
    }
    let made = port::call(number::TIMER_CREATE, arguments)?;
    OVERRUNS.get().retain(|it, _| *it != made as u32);
    user::write(arguments[2], made as u32).map(|()| 0)
}

/// A timer's signal was taken.
pub fn note_overrun(info: &Info) {
    OVERRUNS.get().insert(info.first as u32, (info.first >> 32) as u32);
}

/// timer_getoverrun.
pub fn overrun(timer: u64) -> Result {
    // Whether there is one, the tender knows.
    port::call(number::TIMER_GETOVERRUN, [timer, 0, 0, 0, 0, 0])?;
    Ok(OVERRUNS.get().get(&(timer as u32)).copied().unwrap_or(0) as usize)
}

/// A new process has none, nor has a new program.
pub fn forget_all() {
    OVERRUNS.get().clear();
}
