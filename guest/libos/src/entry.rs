//! The ways from a program into the library operating system and back.
//!
//! All lead to a [`Frame`] at the top of the current thread's stack. The program's own stack is never written to: it may
//! be anything, and below it is the red zone.

use core::arch::global_asm;
use core::sync::atomic::AtomicUsize;

use crate::frame::Frame;

/// The end of the current thread's stack in here.
#[unsafe(no_mangle)]
pub static STACK_END: AtomicUsize = AtomicUsize::new(0);

/// Where the program's stack pointer waits for a few instructions.
#[unsafe(no_mangle)]
static SAVED_STACK: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" {
    /// Comes from a system call: the return address in rcx, the flags in r11, all else as the program left it.
    pub fn call_entry();
    /// The same from a copy of code, which leaves the flags to this.
    pub fn patched_entry();
    /// Comes with a complete [`Frame`] but for its vector registers at the stack pointer.
    pub fn fault_entry();
    /// Goes to the program as the frame that the stack pointer points to says.
    pub fn leave();
    /// The first address behind the text.
    static TEXT_END: u8;
}

/// Puts a program's general registers where a [`Frame`] has them, below what the way in has put there. **This order is the
/// frame's**; so is that of the other three.
macro_rules! push_registers {
    () => {
        concat!(
            "push rax\n",
            "push rcx\n",
            "push r11\n",
            "push rdi\n",
            "push rsi\n",
            "push rdx\n",
            "push r8\n",
            "push r9\n",
            "push r10\n",
            "push rbx\n",
            "push rbp\n",
            "push r12\n",
            "push r13\n",
            "push r14\n",
            "push r15\n",
        )
    };
}
pub(crate) use push_registers;

/// Takes them back.
macro_rules! pop_registers {
    () => {
        concat!(
            "pop r15\n",
            "pop r14\n",
            "pop r13\n",
            "pop r12\n",
            "pop rbp\n",
            "pop rbx\n",
            "pop r10\n",
            "pop r9\n",
            "pop r8\n",
            "pop rdx\n",
            "pop rsi\n",
            "pop rdi\n",
            "pop r11\n",
            "pop rcx\n",
            "pop rax\n",
        )
    };
}
pub(crate) use pop_registers;

/// Fills in the vector registers of the [`Frame`] at the stack pointer.
macro_rules! save_vectors {
    () => {
        ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\nmovaps [rsp + 16*\\n], xmm\\n\n.endr"
    };
}
pub(crate) use save_vectors;

/// Loads them from there.
macro_rules! restore_vectors {
    () => {
        ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\nmovaps xmm\\n, [rsp + 16*\\n]\n.endr"
    };
}

global_asm!(
    ".section .text.entry, \"ax\"",
    ".globl call_entry, patched_entry, fault_entry, leave",
    "patched_entry:",
    "mov r11d, 0x202",
    "jmp call_entry",
    ".balign 64",
    "call_entry:",
    "mov [rip + SAVED_STACK], rsp",
    "mov rsp, [rip + STACK_END]",
    "push 0",
    "push 0x2b",
    "push [rip + SAVED_STACK]",
    "push r11",
    "push 0x33",
    "push rcx",
    "push rax",
    push_registers!(),
    "cld",
    "sub rsp, 256",
    save_vectors!(),
    "mov rdi, rsp",
    "xor ebp, ebp",
    "call {call}",
    // As it came, unless something made of the frame more than a call's answer.
    "cmp qword ptr [rsp + 376], -1",
    "je leave",
    restore_vectors!(),
    "add rsp, 256",
    pop_registers!(),
    "mov rsp, [rsp + 32]",
    "jmp rcx",
    "leave:",
    restore_vectors!(),
    "add rsp, 256",
    pop_registers!(),
    "add rsp, 8",
    "iretq",
    ".balign 64",
    "fault_entry:",
    "cld",
    "mov rdi, rsp",
    save_vectors!(),
    "xor ebp, ebp",
    "call {fault}",
    "jmp leave",
    call = sym crate::syscall::entered,
    fault = sym crate::fault::entered,
);

/// Whether that is an address of our own text.
pub fn is_ours(address: u64) -> bool {
    let end = &raw const TEXT_END as u64;
    (abi::layout::LIBOS as u64..end).contains(&address)
}

/// Goes to the program. The frame is copied to the top of the current thread's stack, where the next entry will put its
/// own.
pub fn leave_to(frame: &Frame) -> ! {
    let at = crate::thread::frame_of_current();
    // SAFETY: the top of the current thread's stack is where its frame belongs; nothing that is still needed is there,
    // since nothing returns from here.
    unsafe {
        if !core::ptr::eq(at, frame) {
            core::ptr::copy(frame, at, 1);
        }
        core::arch::asm!("mov rsp, {at}", "jmp {leave}", at = in(reg) at, leave = sym leave, options(noreturn));
    }
}
