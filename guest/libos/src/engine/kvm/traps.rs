//! What interrupts a program in a virtual machine: gates, and the way from each to the common one.
//!
//! All gates but two stay in user mode. The two are for what only kernel mode can do: telling the address of a page fault,
//! and forgetting stale translations. They do that and nothing more, and go on in user mode by frames that lie ready: on some
//! hosts each of their instructions is emulated, for most of a microsecond.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use abi::layout::kvm::{CALL_STACK_END, DESCRIPTORS, GATES, TAP, TASK, TRAP_STACK_END, WAYS_BACK};

use crate::entry::{pop_registers, push_registers, save_vectors};
use crate::fault::{self, Fault};
use crate::frame::{Frame, NOT_A_CALL};

/// The exception that led here.
#[unsafe(no_mangle)]
static TRAP_VECTOR: AtomicU8 = AtomicU8::new(0);

/// The address of the latest page fault.
#[unsafe(no_mangle)]
static TRAP_ADDRESS: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    /// Where system call instructions lead, in whichever mode: on to `call_entry`, in user mode.
    pub fn kvm_call_entry();
    /// Forgets stale translations.
    pub fn flush_tables();
    fn trap_13_kernel();
    fn trap_14_kernel();
    fn trap_13_user();
    /// The way of each vector, this many bytes apart.
    static trap_stubs: u8;
}

const STUB: usize = 32;

/// What the processor pushes for an exception with an error, and what it pops for a return from one, in bytes.
const PUSHED: usize = 48;
const FRAME: usize = 40;

global_asm!(
    ".section .text.entry, \"ax\"",
    ".globl kvm_call_entry, flush_tables, trap_13_kernel, trap_14_kernel, trap_13_user, trap_stubs",
    "kvm_call_entry:",
    "mov byte ptr [rip + TRAPPED], 1",
    "mov [rip + SAVED_STACK], rsp",
    "movabs rsp, {call_stack}",
    "push 0x2b",
    "push [rip + SAVED_STACK]",
    "push 0x202",
    "push 0x33",
    "lea r11, [rip + call_entry]",
    "push r11",
    "mov r11d, 0x202",
    "iretq",
    "flush_tables:",
    "invlpg [rsp]",
    "flush_tables_done:",
    "ret",
    // In kernel mode, which is left with the stack as it was entered.
    "trap_13_kernel:",
    "push rax",
    "mov rax, cr3",
    "mov cr3, rax",
    "pop rax",
    "movabs rsp, {protection_back}",
    "iretq",
    "trap_14_kernel:",
    "push rax",
    "mov rax, cr2",
    "mov [rip + TRAP_ADDRESS], rax",
    "pop rax",
    "movabs rsp, {fault_back}",
    "iretq",
    // In user mode, with error, rip, cs, rflags, rsp, ss: whether it was ourselves, who go on behind the instruction.
    "trap_13_user:",
    "push rax",
    "lea rax, [rip + flush_tables]",
    "cmp [rsp + 16], rax",
    "jne 2f",
    "lea rax, [rip + flush_tables_done]",
    "mov [rsp + 16], rax",
    "pop rax",
    "add rsp, 8",
    "iretq",
    "2:",
    "pop rax",
    "jmp trap_stubs + 13 * {stub}",
    ".balign {stub}",
    "trap_stubs:",
    ".set n, 0",
    ".rept 33",
    ".balign {stub}",
    ".if (n == 8) || (n == 10) || (n == 11) || (n == 12) || (n == 13) || (n == 14) || (n == 17) || (n == 21)",
    ".else",
    "push 0",
    ".endif",
    "mov byte ptr [rip + TRAP_VECTOR], n",
    "jmp trap",
    ".set n, n + 1",
    ".endr",
    ".balign 64",
    "trap:",
    push_registers!(),
    "cld",
    // Where it was: fifteen registers and the error are below.
    "mov rax, [rsp + 128]",
    "movabs rcx, {libos}",
    "cmp rax, rcx",
    "jb 2f",
    "lea rcx, [rip + TEXT_END]",
    "cmp rax, rcx",
    "jb 4f",
    // A program: its registers go to its thread's stack.
    "2:",
    "mov rsi, rsp",
    "mov rdi, [rip + STACK_END]",
    "lea rdi, [rdi - 176]",
    "lea rdx, [rdi - 256]",
    "mov ecx, 21",
    "rep movsq",
    "mov rsp, rdx",
    save_vectors!(),
    "mov rdi, rsp",
    "xor ebp, ebp",
    "call {trapped}",
    "jmp leave",
    // We ourselves: a tap is noticed on the way out, anything else is the end.
    "4:",
    "cmp byte ptr [rip + TRAP_VECTOR], {tap}",
    "jne 5f",
    pop_registers!(),
    "add rsp, 8",
    "iretq",
    "5:",
    "mov rdi, rax",
    "and rsp, -16",
    "call {broken}",
    "ud2",
    stub = const STUB,
    call_stack = const CALL_STACK_END,
    fault_back = const WAYS_BACK,
    protection_back = const WAYS_BACK + FRAME,
    libos = const abi::layout::LIBOS,
    tap = const TAP,
    trapped = sym trapped,
    broken = sym broken,
);

/// Fills in the descriptor table, the task state and the gates, at whose addresses the processor looks already.
pub fn install() {
    const KERNEL_CODE: u64 = 0x00af_9b00_0000_ffff;
    const KERNEL_DATA: u64 = 0x00cf_9300_0000_ffff;
    const USER_DATA: u64 = 0x00cf_f300_0000_ffff;
    const USER_CODE: u64 = 0x00af_fb00_0000_ffff;
    const TASK_LENGTH: u64 = 0x67;
    let task = TASK as u64;
    let task_low = 0x0000_8b00_0000_0000 | TASK_LENGTH | (task & 0xff_ffff) << 16 | (task >> 24 & 0xff) << 56;
    let put = |offset: usize, value: u64| {
        // SAFETY: the control pages are there and nobody else's.
        unsafe { ((DESCRIPTORS + offset) as *mut u64).write_unaligned(value) };
    };
    put(0x10, KERNEL_CODE);
    put(0x18, KERNEL_DATA);
    put(0x28, USER_DATA);
    put(0x30, USER_CODE);
    put(0x40, task_low);
    put(0x48, task >> 32);
    // The stack for kernel mode and the first of the interrupt stacks are one: whichever gate is taken begins there.
    for offset in [4, 36] {
        put(TASK - DESCRIPTORS + offset, TRAP_STACK_END as u64);
    }
    let stubs = &raw const trap_stubs as usize;
    way_back(WAYS_BACK, stubs + 14 * STUB);
    way_back(WAYS_BACK + FRAME, trap_13_user as *const () as usize);
    for vector in 0..=usize::from(TAP) {
        let (handler, selector) = match vector {
            13 => (trap_13_kernel as *const () as usize, 0x10),
            14 => (trap_14_kernel as *const () as usize, 0x10),
            _ => (stubs + vector * STUB, 0x33),
        };
        gate(vector, handler as u64, selector);
    }
}

/// Has a return from kernel mode lead to that place, with the stack as the processor left it when it came. **Who can write
/// there chooses what kernel mode is left for**: in a sealed guest nobody can.
fn way_back(at: usize, to: usize) {
    let frame = [to, 0x33, 0x202, TRAP_STACK_END - PUSHED, 0x2b];
    for (index, word) in frame.into_iter().enumerate() {
        // SAFETY: the control pages are there and nobody else's.
        unsafe { (at as *mut usize).add(index).write(word) };
    }
}

/// A trap gate, which leaves interrupts enabled: user mode could not enable them again. Open to user mode.
fn gate(vector: usize, handler: u64, selector: u64) {
    const TRAP: u64 = 0xef << 40;
    const FIRST_STACK: u64 = 1 << 32;
    let low = handler & 0xffff | selector << 16 | FIRST_STACK | TRAP | (handler >> 16 & 0xffff) << 48;
    // SAFETY: the page of gates is there and nobody else's.
    unsafe {
        ((GATES + 16 * vector) as *mut u64).write(low);
        ((GATES + 16 * vector + 8) as *mut u64).write(handler >> 32);
    }
}

/// Linux's signal for each exception, and its code.
fn signal_of(vector: u8, error: u64) -> (i32, i32) {
    const PRESENT: u64 = 1;
    match vector {
        0 => (8, 1),
        1 => (5, 2),
        3 => (5, 1),
        4 | 5 => (11, 0x80),
        6 => (4, 2),
        14 if error & PRESENT != 0 => (11, 2),
        14 => (11, 1),
        16 | 19 => (8, 7),
        17 => (7, 1),
        _ => (11, 0x80),
    }
}

extern "C" fn trapped(frame: &mut Frame) {
    let vector = TRAP_VECTOR.load(Ordering::Relaxed);
    let error = core::mem::replace(&mut frame.call, NOT_A_CALL);
    fault::note(if vector == TAP {
        Fault::Interrupt
    } else {
        let (signal, code) = signal_of(vector, error);
        let address = if vector == 14 { TRAP_ADDRESS.load(Ordering::Relaxed) } else { frame.rip };
        Fault::Signal { signal, code, address, vector: u64::from(vector) }
    });
    fault::entered(frame);
}

extern "C" fn broken(at: u64) -> ! {
    let vector = TRAP_VECTOR.load(Ordering::Relaxed);
    let (signal, _) = signal_of(vector, 0);
    fault::in_our_own(signal, at, TRAP_ADDRESS.load(Ordering::Relaxed))
}
