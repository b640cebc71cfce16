//! The host's signals: a trapped system call, a fault of the program, the tender's tap on the shoulder. Each handler
//! changes where the process goes on, and returns: nothing is done on the signal's stack.

use core::arch::global_asm;

use super::host;
use crate::entry::{call_entry, fault_entry, is_ours};
use crate::errno::Result;
use crate::fault::{self, Fault};
use crate::frame::{CODE, DATA, Frame, NOT_A_CALL};
use crate::number;

const SIGILL: i32 = 4;
const SIGTRAP: i32 = 5;
const SIGBUS: i32 = 7;
const SIGFPE: i32 = 8;
const SIGSEGV: i32 = 11;
/// The tender wants the guest to look at its port. By default it does nothing, so it may come before the handler is there.
const SIGURG: i32 = 23;
const SIGSYS: i32 = 31;

const HANDLED: [i32; 7] = [SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGURG, SIGSYS];

#[repr(C)]
struct Action {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

#[repr(C)]
struct Stack {
    base: usize,
    flags: i32,
    size: usize,
}

#[repr(align(16))]
struct Room([u8; 65536]);

/// Where the handlers run, since the program's stack may be anything.
static mut ROOM: Room = Room([0; 65536]);

pub fn install() -> Result<()> {
    const SIGINFO: u64 = 4;
    const RESTORER: u64 = 0x0400_0000;
    const ONSTACK: u64 = 0x0800_0000;
    let stack = Stack { base: &raw mut ROOM as usize, flags: 0, size: size_of::<Room>() };
    host(number::SIGALTSTACK, [&raw const stack as usize, 0, 0, 0, 0, 0])?;
    for signal in HANDLED {
        let action = Action {
            handler: on_signal as *const () as usize,
            flags: SIGINFO | RESTORER | ONSTACK,
            restorer: host_return as *const () as usize,
            mask: u64::MAX,
        };
        host(number::RT_SIGACTION, [signal as usize, &raw const action as usize, 0, 8, 0, 0])?;
    }
    Ok(())
}

global_asm!(".globl host_return, host_return_end", "host_return:", "mov eax, 15", "syscall", "host_return_end:", "ud2");

unsafe extern "C" {
    /// How the handlers return to what they interrupted.
    fn host_return();
    /// Only its address counts: the one from which that passes the filter.
    pub static host_return_end: u8;
}

/// What the kernel saved of the interrupted process: `struct ucontext` as far as it is needed.
#[repr(C)]
struct Context {
    flags: u64,
    link: u64,
    stack: [u64; 3],
    r8: u64,
    r9: u64,
    r10: u64,
    r11: u64,
    r12: u64,
    r13: u64,
    r14: u64,
    r15: u64,
    rdi: u64,
    rsi: u64,
    rbp: u64,
    rbx: u64,
    rdx: u64,
    rax: u64,
    rcx: u64,
    rsp: u64,
    rip: u64,
    rflags: u64,
    selectors: u64,
    error: u64,
    vector: u64,
    mask: u64,
    address: u64,
}

#[repr(C)]
struct Info {
    signal: i32,
    errno: i32,
    code: i32,
}

unsafe extern "C" fn on_signal(signal: i32, info: *const Info, context: *mut Context) {
    // SAFETY: the kernel put both on this stack for this handler.
    let (info, context) = unsafe { (&*info, &mut *context) };
    match signal {
        SIGSYS if !is_ours(context.rip) => {
            context.rcx = context.rip;
            context.r11 = context.rflags;
            context.rip = call_entry as *const () as u64;
            crate::patch::TRAPPED.store(true, core::sync::atomic::Ordering::Relaxed);
        }
        // What is pending is looked for on the way out.
        SIGURG if is_ours(context.rip) => {}
        _ if is_ours(context.rip) => fault::in_our_own(signal, context.rip, context.address),
        _ => {
            fault::note(match signal {
                SIGURG => Fault::Interrupt,
                _ => Fault::Signal { signal, code: info.code, address: context.address, vector: context.vector },
            });
            let frame = crate::thread::frame_of_current();
            // SAFETY: the program runs, so the top of its thread's stack in here is unused.
            unsafe { frame.write(frame_of(context)) };
            context.rsp = frame as u64;
            context.rip = fault_entry as *const () as u64;
        }
    }
}

fn frame_of(it: &Context) -> Frame {
    Frame {
        xmm: [0; 16],
        r15: it.r15,
        r14: it.r14,
        r13: it.r13,
        r12: it.r12,
        rbp: it.rbp,
        rbx: it.rbx,
        r10: it.r10,
        r9: it.r9,
        r8: it.r8,
        rdx: it.rdx,
        rsi: it.rsi,
        rdi: it.rdi,
        r11: it.r11,
        rcx: it.rcx,
        rax: it.rax,
        call: NOT_A_CALL,
        rip: it.rip,
        cs: CODE,
        rflags: it.rflags,
        rsp: it.rsp,
        ss: DATA,
        padding: 0,
    }
}
