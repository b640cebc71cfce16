//! The processor's extended state: vector registers and floating point, beyond what a [`crate::frame::Frame`] holds.

use alloc::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use core::arch::asm;
use core::arch::x86_64::__cpuid_count;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Room for one thread's.
pub struct Extended(*mut u8);

static SIZE: AtomicUsize = AtomicUsize::new(0);

/// How much there is of it, in bytes. What a thread has never touched takes no time to save.
pub fn size() -> usize {
    match SIZE.load(Ordering::Relaxed) {
        0 => {
            let size = (__cpuid_count(0xd, 0).ebx as usize).clamp(576, 16384).next_multiple_of(64);
            SIZE.store(size, Ordering::Relaxed);
            size
        }
        size => size,
    }
}

/// Which parts of the state the system lets programs use.
fn enabled() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a register.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) };
    u64::from(low) | u64::from(high) << 32
}

fn layout() -> Layout {
    Layout::from_size_align(size(), 64).expect("a multiple of its alignment")
}

impl Extended {
    pub fn new() -> Self {
        // SAFETY: the size is not zero.
        let room = unsafe { alloc_zeroed(layout()) };
        if room.is_null() {
            handle_alloc_error(layout());
        }
        // What a program finds at its beginning: exceptions masked.
        // SAFETY: inside the room, and aligned.
        unsafe {
            room.cast::<u16>().write(0x37f);
            room.add(24).cast::<u32>().write(0x1f80);
        }
        Self(room)
    }

    /// Saves the processor's.
    pub fn save(&mut self) {
        // SAFETY: the room is as large as the processor says, and aligned.
        unsafe { save_to(self.0) };
    }

    /// Copies what a program says that its registers were, and mends all that the processor would refuse.
    pub fn fill(&mut self, from: usize) {
        const CONTROL: usize = 24;
        const HEADER: usize = 512;
        // SAFETY: the caller knows that so much is readable there; offsets are inside the room.
        unsafe {
            core::ptr::copy_nonoverlapping(from as *const u8, self.0, size());
            let control = self.0.add(CONTROL).cast::<u32>();
            control.write(control.read() & 0xffff);
            let header = self.0.add(HEADER).cast::<u64>();
            header.write(header.read() & enabled());
            // Neither compacted nor of any other format than the standard one.
            header.add(1).write_bytes(0, 7);
        }
    }

    /// Loads the processor's.
    pub fn restore(&self) {
        // SAFETY: it was saved there.
        unsafe { restore_from(self.0) };
    }
}

impl Drop for Extended {
    fn drop(&mut self) {
        // SAFETY: it was allocated with that layout.
        unsafe { dealloc(self.0, layout()) };
    }
}

/// Saves the processor's extended state there.
///
/// # Safety
/// [`size`] bytes are writable there, and aligned to 64.
pub unsafe fn save_to(at: *mut u8) {
    // SAFETY: the caller's.
    unsafe {
        asm!("xsave64 [{}]", in(reg) at, in("eax") u32::MAX, in("edx") u32::MAX, options(nostack, preserves_flags))
    };
}

/// Loads the processor's extended state from there.
///
/// # Safety
/// What is there was saved by the processor, but for the values of its registers.
pub unsafe fn restore_from(at: *const u8) {
    // SAFETY: the caller's. The vector registers that are loaded are nobody's in here: a function keeps none of them over
    // a call, and this is one.
    unsafe { restore(at) };
}

#[unsafe(naked)]
unsafe extern "C" fn restore(at: *const u8) {
    core::arch::naked_asm!("mov eax, -1", "mov edx, -1", "xrstor64 [rdi]", "ret")
}
