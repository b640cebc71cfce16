//! What befell a program, and what befell us.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::frame::Frame;
use crate::sync::Local;
use crate::{port, signal, thread};

/// Why a program was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It did what cannot be done: it gets that signal.
    Signal { signal: i32, code: i32, address: u64, vector: u64 },
    /// It did nothing; somebody wants it to look at its port.
    Interrupt,
}

static LATEST: Local<Fault> = Local::new(Fault::Interrupt);

/// Notes what happened. What led here leads to [`entered`] next.
pub fn note(fault: Fault) {
    *LATEST.get() = fault;
}

/// Comes from the program's instruction that faulted, or before which it was interrupted.
pub extern "C" fn entered(frame: &mut Frame) {
    let fault = *LATEST.get();
    match fault {
        Fault::Signal { signal, code, address, vector } => signal::force(signal, code, address, vector),
        Fault::Interrupt => {
            crate::patch::note_interruption(frame.rip);
            thread::take_turns();
        }
    }
    crate::syscall::process::copy_if_wanted();
    crate::library::stand_still_if_wanted();
    signal::deliver(frame);
}

static DYING: AtomicU64 = AtomicU64::new(0);

/// A fault of ours ends the guest: there is nobody to repair anything.
pub fn in_our_own(signal: i32, at: u64, address: u64) -> ! {
    if DYING.fetch_add(1, Ordering::Relaxed) == 0 {
        port::log(&alloc::format!(
            "the library operating system faulted: signal {signal} at {at:#x}, address {address:#x}"
        ));
        let _ = port::call(abi::call::EXIT, [signal as u64, 0, 0, 0, 0, 0]);
    }
    crate::engine::stop()
}

#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    const SIGABRT: u64 = 6;
    if DYING.fetch_add(1, Ordering::Relaxed) == 0 {
        port::log(&alloc::format!("the library operating system failed: {info}"));
        let _ = port::call(abi::call::EXIT, [SIGABRT, 0, 0, 0, 0, 0]);
    }
    crate::engine::stop()
}

/// The standard library's precompiled parts name these two, and never call them: a panic ends the guest.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    crate::engine::stop()
}
