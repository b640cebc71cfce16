//! Calls to the tender.

use core::sync::atomic::Ordering;

use crate::errno::{EAGAIN, Result, from_raw};
use crate::{engine, kept};

/// What the tender answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub result: Result,
    /// With an EAGAIN: the events to wait for before trying again, for a program that wants to wait.
    pub wait: u32,
    /// For how long at most, in nanoseconds; 0 for ever.
    pub limit: u64,
}

/// Makes a call and returns what came of it, with what to wait for. `number` is Linux's or one of [`abi::call`];
/// addresses are the program's or our own. The answer may take so many nanoseconds: see [`crate::thread::patience`].
pub fn ask(number: u32, arguments: [u64; 6], patience: u64) -> Answer {
    kept::before(number, &arguments);
    engine::before(number, &arguments);
    let call = &engine::port().call;
    call.number.store(number, Ordering::Relaxed);
    for (slot, argument) in call.arguments.iter().zip(arguments) {
        slot.store(argument, Ordering::Relaxed);
    }
    call.wait.store(0, Ordering::Relaxed);
    call.patience.store(patience, Ordering::Relaxed);
    engine::ring();
    engine::after(number);
    kept::answered(number);
    let result = from_raw(call.result.load(Ordering::Relaxed));
    let wait = if result == Err(EAGAIN) { call.wait.load(Ordering::Relaxed) } else { 0 };
    Answer { result, wait, limit: call.limit.load(Ordering::Relaxed) }
}

/// Makes a call for which there is nothing to wait.
pub fn call(number: u32, arguments: [u64; 6]) -> Result {
    ask(number, arguments, 0).result
}

/// A line for whoever looks for a fault in here.
pub fn log(text: &str) {
    let _ = call(abi::call::LOG, [text.as_ptr() as u64, text.len() as u64, 0, 0, 0, 0]);
}
