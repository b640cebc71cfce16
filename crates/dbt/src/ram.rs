//! A machine's memory, as processors read and write it.
//!
//! **Invariant: no access leaves it.** Each is checked against its length, here, and nothing else turns a guest's address
//! into one of ours.
//!
//! What a device brings ([`Ram::deliver`]) is told to processors that translated what was there before (`peers`).

#![expect(unsafe_code, reason = "memory that several processors change at once is accessed by pointers alone")]

use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use isa::plan::Atomic;
use vm::{Memory, Region as _};

use crate::peers::Peers;

/// Memory at a physical address.
#[derive(Debug, Clone)]
pub struct Ram {
    memory: Arc<Memory>,
    base: u64,
    /// In its midst, where there is none. An empty one begins at nothing.
    hole: Range<u64>,
    peers: Arc<Peers>,
}

/// Where the host has no instruction for it, sixteen bytes are changed as one by one processor at a time.
static WIDE: Mutex<()> = Mutex::new(());

impl Ram {
    /// The memory begins at physical address `base`. One processor is going to use it.
    pub fn new(memory: Arc<Memory>, base: u64) -> Ram {
        Ram::shared(memory, base, 1)
    }

    /// The same, of so many processors.
    pub fn shared(memory: Arc<Memory>, base: u64, processors: usize) -> Ram {
        let peers = Arc::new(Peers::new(processors, base, memory.length() as u64));
        Ram { memory, base, hole: 0..0, peers }
    }

    /// Memory from address zero on with a hole in it, which may be behind its end, for so many processors that translate
    /// nothing. What would be in the hole is never touched, and takes nothing.
    pub fn with_hole(memory: Arc<Memory>, hole: Range<u64>, processors: usize) -> Ram {
        let hole = if hole.start < memory.length() as u64 { hole } else { 0..0 };
        Ram { memory, base: 0, hole, peers: Arc::new(Peers::new(processors, 0, 0)) }
    }

    /// How many processors use it.
    pub fn processors(&self) -> usize {
        self.peers.count()
    }

    /// Sets one of its processors, by its number, to look at its board. See [`crate::Processor::attention`].
    pub fn attention(&self, processor: usize) -> Arc<AtomicU32> {
        self.peers.attention(processor)
    }

    /// Its processors.
    #[inline]
    pub(crate) fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    /// Where it begins.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// How many bytes there are.
    pub fn length(&self) -> u64 {
        self.memory.length() as u64 - (self.hole.end - self.hole.start)
    }

    /// The place of `size` bytes at a physical address.
    #[inline]
    fn place(&self, address: u64, size: u64) -> Option<*mut u8> {
        let (offset, length) = (address.wrapping_sub(self.base), self.memory.length() as u64);
        if offset >= length || length - offset < size || offset < self.hole.end && offset + size > self.hole.start {
            return None;
        }
        Some((self.memory.address() + offset) as *mut u8)
    }

    /// Where the page with a physical address is in our memory.
    pub(crate) fn host_page(&self, address: u64) -> Option<u64> {
        let page = address >> crate::tlb::PAGE_BITS << crate::tlb::PAGE_BITS;
        self.place(page, 1 << crate::tlb::PAGE_BITS).map(|at| at as u64)
    }

    /// The physical address of what is at an address of ours, in our memory.
    pub(crate) fn physical(&self, host: u64) -> u64 {
        host.wrapping_sub(self.memory.address()).wrapping_add(self.base)
    }

    /// Whether there is memory at a physical address.
    pub fn holds(&self, address: u64) -> bool {
        self.place(address, 1).is_some()
    }

    /// `width` bits at a physical address.
    #[inline]
    pub fn read(&self, address: u64, width: u8) -> Option<u128> {
        let at = self.place(address, u64::from(width / 8))?;
        // SAFETY: the place was checked; a whole value that another processor changes at once is some value of that width.
        unsafe {
            Some(match width {
                8 => at.read_volatile().into(),
                16 => at.cast::<u16>().read_unaligned().into(),
                32 => at.cast::<u32>().read_unaligned().into(),
                64 => at.cast::<u64>().read_unaligned().into(),
                _ => at.cast::<u128>().read_unaligned(),
            })
        }
    }

    /// Writes `width` bits at a physical address.
    #[inline]
    pub fn write(&self, address: u64, width: u8, value: u128) -> Option<()> {
        let at = self.place(address, u64::from(width / 8))?;
        // SAFETY: the place was checked, and nobody has a reference into it.
        unsafe {
            match width {
                8 => at.write_volatile(value as u8),
                16 => at.cast::<u16>().write_unaligned(value as u16),
                32 => at.cast::<u32>().write_unaligned(value as u32),
                64 => at.cast::<u64>().write_unaligned(value as u64),
                _ => at.cast::<u128>().write_unaligned(value),
            }
        }
        Some(())
    }

    /// Copies from it.
    pub fn copy_out(&self, address: u64, into: &mut [u8]) -> Option<()> {
        self.place(address, into.len() as u64)?;
        self.memory.read((address - self.base) as usize, into)
    }

    /// Whether these bytes are there.
    pub(crate) fn is(&self, address: u64, bytes: &[u8]) -> bool {
        const AT_ONCE: usize = 256;
        let mut there = [0; AT_ONCE];
        let parts = bytes.chunks(AT_ONCE).zip((address..).step_by(AT_ONCE));
        parts.into_iter().all(|(part, at)| {
            let there = &mut there[..part.len()];
            self.copy_out(at, there).is_some() && there == part
        })
    }

    /// Copies into it.
    pub fn copy_in(&self, address: u64, from: &[u8]) -> Option<()> {
        self.place(address, from.len() as u64)?;
        self.memory.write((address - self.base) as usize, from)
    }

    /// Copies into it what a device brings. Processors hear of it: what they translated of that does not hold any more.
    pub fn deliver(&self, address: u64, from: &[u8]) -> Option<()> {
        self.copy_in(address, from)?;
        self.peers.delivered(address, from.len() as u64);
        Some(())
    }

    /// Makes whole pages zero, and gives back to the host what they took. Processors hear of it.
    pub fn discard(&self, address: u64, size: u64) -> Option<()> {
        self.place(address, size)?;
        self.memory.discard((address - self.base) as usize, size as usize)?;
        self.peers.delivered(address, size);
        Some(())
    }

    /// What is there now, for others to have too. Nothing may be at work in it.
    pub fn freeze(&self) -> vm::Result<vm::Frozen> {
        self.memory.freeze()
    }

    /// Whether all of `size` bytes at a physical address are there.
    pub fn holds_all(&self, address: u64, size: u64) -> bool {
        self.place(address, size).is_some()
    }

    /// Puts `new` there if `old` is there, as one; gives what was there. The address is a multiple of the size.
    pub fn compare_and_swap(&self, address: u64, width: u8, old: u128, new: u128) -> Option<u128> {
        let at = self.place(address, u64::from(width / 8))?;
        if width == 128 && is_x86_feature_detected!("cmpxchg16b") && (at as usize).is_multiple_of(16) {
            // SAFETY: the host has it; the place was checked and is aligned; every access to it is by a pointer.
            return Some(unsafe { exchange_sixteen(at.cast(), old, new) });
        }
        if width == 128 {
            let _one = WIDE.lock().unwrap_or_else(PoisonError::into_inner);
            let found = self.read(address, 128)?;
            if found == old {
                self.write(address, 128, new)?;
            }
            return Some(found);
        }
        if !(at as usize).is_multiple_of(usize::from(width / 8)) {
            return None;
        }
        let order = Ordering::SeqCst;
        // SAFETY: the place was checked and is aligned; every access to it is by a pointer.
        let found = unsafe {
            match width {
                8 => AtomicU8::from_ptr(at)
                    .compare_exchange(old as u8, new as u8, order, order)
                    .map_or_else(u64::from, u64::from),
                16 => AtomicU16::from_ptr(at.cast())
                    .compare_exchange(old as u16, new as u16, order, order)
                    .map_or_else(u64::from, u64::from),
                32 => AtomicU32::from_ptr(at.cast())
                    .compare_exchange(old as u32, new as u32, order, order)
                    .map_or_else(u64::from, u64::from),
                _ => AtomicU64::from_ptr(at.cast())
                    .compare_exchange(old as u64, new as u64, order, order)
                    .unwrap_or_else(|found| found),
            }
        };
        Some(found.into())
    }

    /// Changes memory as one; gives what was there. The address is a multiple of the size.
    pub fn change(&self, address: u64, width: u8, kind: Atomic, value: u128) -> Option<u128> {
        loop {
            let old = self.read(address, width)?;
            if self.compare_and_swap(address, width, old, changed(kind, width, old, value))? == old {
                return Some(old);
            }
        }
    }
}

/// Puts `new` there if `old` is there, as one; gives what was there.
///
/// # Safety
/// The host has the instruction; the place is valid and a multiple of sixteen.
unsafe fn exchange_sixteen(at: *mut u128, old: u128, new: u128) -> u128 {
    let (low, high): (u64, u64);
    // SAFETY: the caller says so. The compiler keeps rbx for itself, so it is put back.
    unsafe {
        std::arch::asm!(
            "xchg rsi, rbx",
            "lock cmpxchg16b [rdi]",
            "mov rbx, rsi",
            in("rdi") at,
            inout("rsi") new as u64 => _,
            in("rcx") (new >> 64) as u64,
            inout("rax") old as u64 => low,
            inout("rdx") (old >> 64) as u64 => high,
            options(nostack),
        );
    }
    u128::from(high) << 64 | u128::from(low)
}

/// What memory holds after a change.
pub fn changed(kind: Atomic, width: u8, old: u128, value: u128) -> u128 {
    use isa::ops::{mask, signed};
    let of = |is: bool| if is { value } else { old };
    mask(width)
        & match kind {
            Atomic::Swap => value,
            Atomic::Add => old.wrapping_add(value),
            Atomic::And => old & value,
            Atomic::Or => old | value,
            Atomic::Xor => old ^ value,
            Atomic::SignedMax => of(signed(value, width) > signed(old, width)),
            Atomic::SignedMin => of(signed(value, width) < signed(old, width)),
            Atomic::UnsignedMax => of(value > old),
            Atomic::UnsignedMin => of(value < old),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_access_touches_a_hole() {
        let ram = |length: usize, hole| Ram::with_hole(Arc::new(Memory::new(length).unwrap()), hole, 1);
        let holed = ram(0x5000, 0x2000..0x4000);
        assert_eq!(holed.length(), 0x3000);
        for (address, size, is_there) in [
            (0, 0x2000, true),
            (0, 0x2001, false),
            (0x1ff8, 8, true),
            (0x1ff9, 8, false),
            (0x2000, 1, false),
            (0x3fff, 1, false),
            (0x3ffc, 8, false),
            (0x4000, 8, true),
            (0x4000, 0x1000, true),
            (0x4000, 0x1001, false),
            (0x5000, 1, false),
            (u64::MAX, 8, false),
            (1, u64::MAX, false),
        ] {
            assert_eq!(holed.holds_all(address, size), is_there, "{address:#x}, {size:#x}");
            let mut bytes = vec![0; size.min(0x6000) as usize];
            if bytes.len() as u64 == size {
                assert_eq!(holed.copy_out(address, &mut bytes).is_some(), is_there, "{address:#x}, {size:#x}");
                assert_eq!(holed.deliver(address, &bytes).is_some(), is_there, "{address:#x}, {size:#x}");
            }
        }
        let small = ram(0x2000, 0x2000..0x4000);
        assert_eq!((small.length(), small.holds_all(0, 0x2000), small.holds(0x2000)), (0x2000, true, false));
    }
}
