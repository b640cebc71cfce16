//! Memory of a fixed length that guests map as well as the tender: nobody can make it shorter under the others' hands.

#![expect(unsafe_code, reason = "memory that guests change, of which every field that changes is atomic")]

use std::fmt;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use abi::port::Port;
use abi::{link, ring};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use sys::Errno;

use crate::neighbours;

/// Zeroes, for whoever is given the descriptor.
pub(crate) fn memory(name: &str, length: u64) -> Result<OwnedFd, Errno> {
    let file = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&file, length)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

/// What such memory begins with.
///
/// # Safety
/// Zeroes are one; what changes of it after others have it is atomic; and it is no longer than [`Layout::MAPPED`], which is no
/// longer than [`Layout::WHOLE`].
pub(crate) unsafe trait Layout {
    /// What the memory is called.
    const NAME: &str;
    /// How long the memory is, in bytes.
    const WHOLE: usize;
    /// How much of that the tender maps.
    const MAPPED: usize;
}

// SAFETY: atomic but for what the tender writes before a guest has it, as the next two.
unsafe impl Layout for Port {
    const NAME: &str = "port";
    const WHOLE: usize = size_of::<Self>();
    const MAPPED: usize = Self::WHOLE;
}

// SAFETY: the same. The bytes behind it the tender reads by system calls.
unsafe impl Layout for ring::Ring {
    const NAME: &str = "ring";
    const WHOLE: usize = ring::WHOLE;
    const MAPPED: usize = ring::BYTES;
}

// SAFETY: the same.
unsafe impl Layout for link::Link {
    const NAME: &str = "link";
    const WHOLE: usize = link::WHOLE;
    const MAPPED: usize = link::WHOLE;
}

// SAFETY: all of it is atomic.
unsafe impl Layout for neighbours::Counters {
    const NAME: &str = "board";
    const WHOLE: usize = size_of::<Self>();
    const MAPPED: usize = Self::WHOLE;
}

/// Such memory, mapped.
pub(crate) struct Mapped<T: Layout> {
    at: NonNull<T>,
    file: OwnedFd,
}

// SAFETY: what is referred to is atomic, or written once before anybody else sees it.
unsafe impl<T: Layout> Send for Mapped<T> {}
// SAFETY: the same.
unsafe impl<T: Layout> Sync for Mapped<T> {}

impl<T: Layout> Mapped<T> {
    /// Makes it; `begin` gets the zeroes before anybody else has them.
    pub(crate) fn new(begin: impl FnOnce(&mut T)) -> Result<Self, Errno> {
        let mut it = Self::of(memory(T::NAME, T::WHOLE as u64)?)?;
        // SAFETY: zeroes are one, and nobody else has it yet.
        begin(unsafe { it.at.as_mut() });
        Ok(it)
    }

    /// Maps what somebody else made, who is believed nothing.
    pub(crate) fn of(file: OwnedFd) -> Result<Self, Errno> {
        let is_whole = rustix::fs::fstat(&file)?.st_size == T::WHOLE as i64;
        if !is_whole || !rustix::fs::fcntl_get_seals(&file)?.contains(SealFlags::SHRINK) {
            return Err(Errno::INVAL);
        }
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, of a file of at least that size, which stays so.
        let at = unsafe { mmap(std::ptr::null_mut(), T::MAPPED, rights, MapFlags::SHARED, &file, 0) }?;
        let at = NonNull::new(at.cast::<T>()).ok_or(Errno::FAULT)?;
        Ok(Self { at, file })
    }

    /// The memory, for guests to map.
    pub(crate) fn file(&self) -> &OwnedFd {
        &self.file
    }

    /// Where it begins: [`Layout::MAPPED`] bytes, which guests may be changing.
    pub(crate) fn bytes(&self) -> *mut u8 {
        self.at.as_ptr().cast()
    }
}

impl<T: Layout> fmt::Debug for Mapped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(T::NAME).field("file", &self.file).finish_non_exhaustive()
    }
}

impl<T: Layout> Deref for Mapped<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: it is mapped as long as this lives, and all of it that changes is atomic.
        unsafe { self.at.as_ref() }
    }
}

impl<T: Layout> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: it was mapped with that size, and no reference outlives this.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), T::MAPPED) };
    }
}
