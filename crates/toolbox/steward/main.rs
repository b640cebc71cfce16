//! The steward of a session, and for a moment its program: a freestanding program of a few kilobytes that is executed
//! from a file in memory which nobody can write to ([`steward`](../src/steward.rs) says with what).
//!
//! It begins outside the target's pid namespace, confined as its target is, and makes the process that is born inside. So
//! **what those in the target can see of a session has never had more privileges than they have** (but to signal), holds
//! no memory of the caller's, and its file is this one, and not skep's own.
//!
//! Born inside, it makes the program, gives up its privileges, hands on signals, reaps what is orphaned, and **ends every
//! process of the session before it ends itself**, also when its caller is gone.

#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "there is no library below it: system calls, and what lies on the stack at the start")]

mod kernel;
mod plan;
mod reaper;

use kernel::{Errno, call};
use plan::Plan;

const SIGHUP: usize = 1;
const SIGKILL: usize = 9;
const SIGCHLD: usize = 17;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    kernel::exit(101)
}

/// Where the kernel lets it begin: what it was executed with lies on the stack.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn _start() -> ! {
    core::arch::naked_asm!("xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call {begin}", "ud2", begin = sym begin)
}

/// How a process of this program ends: with a failure that is told first, or with a code.
type Done<T> = Result<T, Failure>;

/// What went wrong: a step, by the number that the caller gave it, and the kernel's answer.
struct Failure {
    step: u8,
    errno: Errno,
}

unsafe extern "C" fn begin(stack: *const usize) -> ! {
    // SAFETY: this is the stack as the kernel made it.
    let Some(plan) = (unsafe { Plan::read(stack) }) else { kernel::exit(125) };
    match lead_in(&plan) {
        Ok(code) => kernel::exit(code),
        Err(failure) => {
            plan.tell_failure(&failure);
            kernel::exit(125)
        }
    }
}

/// Outside: makes the one who is born inside, as the caller's child, and tells the caller.
fn lead_in(plan: &Plan) -> Done<u8> {
    let fork = |errno| Failure { step: plan.steps.fork, errno };
    kernel::hide();
    // Executing it may have made the kernel forget it.
    kernel::signal_with_parent(SIGKILL);
    if plan.caller_is_gone() {
        return Ok(125);
    }
    const CLONE_PARENT: usize = 0x8000;
    const CLONE_PIDFD: usize = 0x1000;
    let mut pidfd = 0i32;
    match call(kernel::CLONE, [CLONE_PARENT | CLONE_PIDFD, 0, &raw mut pidfd as usize, 0, 0, 0]).map_err(fork)? {
        0 => live_inside(plan),
        pid => {
            plan.tell_made(pid as u32, pidfd);
            Ok(0)
        }
    }
}

/// Inside: the steward's life. The code that it ends with.
fn live_inside(plan: &Plan) -> Done<u8> {
    let handshake = |errno| Failure { step: plan.steps.handshake, errno };
    call(kernel::SETSID, [0; 6]).map_err(handshake)?;
    // Not to be killed with its caller, but to end its session then.
    kernel::signal_with_parent(SIGHUP);
    // No number tells: a caller in another pid namespace has none here.
    if plan.caller_is_gone() {
        return Ok(128 + SIGHUP as u8);
    }
    kernel::adopt_orphans().map_err(handshake)?;
    let steward = call(kernel::GETPID, [0; 6]).map_err(handshake)?;
    let program =
        call(kernel::CLONE, [SIGCHLD, 0, 0, 0, 0, 0]).map_err(|errno| Failure { step: plan.steps.fork, errno })?;
    if program == 0 {
        return become_program(plan, steward);
    }
    reaper::drop_privileges().map_err(|errno| Failure { step: plan.steps.capabilities, errno })?;
    // SAFETY: neither strings nor descriptors are used from here on, but for the one.
    unsafe { plan.forget() };
    let code = reaper::serve(program);
    plan.tell_end(code);
    Ok(code)
}

/// The program: gives up what it has for the steward's sake alone, and executes.
fn become_program(plan: &Plan, steward: usize) -> Done<u8> {
    let failed = |step| move |errno| Failure { step, errno };
    kernel::signal_with_parent(SIGKILL);
    if call(kernel::GETPPID, [0; 6]) != Ok(steward) {
        return Ok(125);
    }
    call(kernel::SETSID, [0; 6]).map_err(failed(plan.steps.terminal))?;
    if plan.terminal {
        const TIOCSCTTY: usize = 0x540e;
        call(kernel::IOCTL, [0, TIOCSCTTY, 0, 0, 0, 0]).map_err(failed(plan.steps.terminal))?;
    }
    plan.request_label().map_err(failed(plan.steps.label))?;
    let capabilities = failed(plan.steps.capabilities);
    if plan.ambient >> reaper::KILL & 1 == 0 {
        kernel::lower_ambient(reaper::KILL).map_err(capabilities)?;
    }
    kernel::set_capabilities(plan.effective, plan.effective, plan.inheritable).map_err(capabilities)?;
    plan.close_on_exec().map_err(failed(plan.steps.handshake))?;
    kernel::block_signals(0).map_err(failed(plan.steps.handshake))?;
    plan.install_filters().map_err(failed(plan.steps.seccomp))?;
    Err(plan.execute())
}
