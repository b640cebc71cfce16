//! The memory functions that compiled code calls by name. The processor's string instructions are as fast as anything for
//! what is copied here, and leave the vector registers alone, which are the program's.

use core::arch::{asm, global_asm};

global_asm!(
    ".globl memcpy, memmove, memset, memcmp, bcmp, strlen",
    "memcpy:",
    "mov rax, rdi",
    "mov rcx, rdx",
    "rep movsb",
    "ret",
    "memmove:",
    "mov rax, rdi",
    "mov rcx, rdi",
    "sub rcx, rsi",
    "cmp rcx, rdx",
    "mov rcx, rdx",
    "jb 2f",
    "rep movsb",
    "ret",
    // The destination begins inside the source: from the end.
    "2:",
    "lea rdi, [rdi + rcx - 1]",
    "lea rsi, [rsi + rcx - 1]",
    "std",
    "rep movsb",
    "cld",
    "ret",
    "memset:",
    "mov r8, rdi",
    "mov eax, esi",
    "mov rcx, rdx",
    "rep stosb",
    "mov rax, r8",
    "ret",
    "bcmp:",
    "memcmp:",
    "xor eax, eax",
    "mov rcx, rdx",
    "test rcx, rcx",
    "jz 3f",
    "repe cmpsb",
    "je 3f",
    "movzx eax, byte ptr [rdi - 1]",
    "movzx ecx, byte ptr [rsi - 1]",
    "sub ecx, eax",
    "mov eax, ecx",
    "3: ret",
    "strlen:",
    "xor eax, eax",
    "4: cmp byte ptr [rdi + rax], 0",
    "je 5f",
    "inc rax",
    "jmp 4b",
    "5: ret",
);

/// Zeroes memory that the compiler knows nothing of.
///
/// # Safety
/// It is mapped, writable, and no reference to it exists.
pub unsafe fn zero(address: usize, length: usize) {
    // SAFETY: the caller's.
    unsafe {
        asm!("rep stosb", inout("rdi") address => _, inout("rcx") length => _, in("al") 0u8, options(nostack, preserves_flags));
    }
}
