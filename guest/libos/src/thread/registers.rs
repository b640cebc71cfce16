//! The registers that a switch of threads changes by itself.

use core::arch::{asm, naked_asm};

/// Leaves the stack in use for another, and comes back when somebody leaves for this one: where it was goes to `from`.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn switch(from: *mut usize, to: usize) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi], rsp",
        "mov rsp, rsi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

/// The program's thread pointer.
pub fn thread_pointer() -> u64 {
    let pointer;
    // SAFETY: reads a register.
    unsafe { asm!("rdfsbase {}", out(reg) pointer, options(nomem, nostack, preserves_flags)) };
    pointer
}

/// Sets it.
pub fn set_thread_pointer(pointer: u64) {
    // SAFETY: nothing in here uses it.
    unsafe { asm!("wrfsbase {}", in(reg) pointer, options(nomem, nostack, preserves_flags)) };
}
