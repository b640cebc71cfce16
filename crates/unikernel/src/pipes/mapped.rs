//! The counters of a pipe's ring, as the tender sees them. The bytes behind them it reads by system calls.

#![expect(unsafe_code, reason = "memory that guests change, of which every field is atomic")]

use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use abi::ring::{BYTES, LIVE, Ring, WHOLE};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use sys::Errno;

/// A ring, and the memory that it is in.
#[derive(Debug)]
pub(super) struct Mapped {
    ring: NonNull<Ring>,
    file: OwnedFd,
}

// SAFETY: all of it is atomic.
unsafe impl Send for Mapped {}
// SAFETY: the same.
unsafe impl Sync for Mapped {}

impl Mapped {
    pub(super) fn new() -> Result<Self, Errno> {
        let file = memfd_create("ring", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, WHOLE as u64)?;
        // Nobody can make it shorter under our hands.
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, of a file of more than that size.
        let at = unsafe { mmap(std::ptr::null_mut(), BYTES, rights, MapFlags::SHARED, &file, 0) }?;
        let ring = Self { ring: NonNull::new(at.cast()).ok_or(Errno::FAULT)?, file };
        ring.state.store(LIVE, std::sync::atomic::Ordering::SeqCst);
        Ok(ring)
    }

    /// The memory, for guests to map.
    pub(super) fn file(&self) -> &OwnedFd {
        &self.file
    }
}

impl Deref for Mapped {
    type Target = Ring;

    fn deref(&self) -> &Ring {
        // SAFETY: it is mapped as long as this lives, and all of it is atomic.
        unsafe { self.ring.as_ref() }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: it was mapped with that size, and no reference outlives this.
        let _ = unsafe { munmap(self.ring.as_ptr().cast(), BYTES) };
    }
}
