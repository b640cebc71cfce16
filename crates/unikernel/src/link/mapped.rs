//! The memory of a link's rings, as the tender sees it.

#![expect(unsafe_code, reason = "memory that a guest changes: counters are atomic, and bytes are copied")]

use std::ops::Deref;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use abi::link::{CAME, CAME_SIZE, GOES, GOES_SIZE, HEADER, Length, Link as Page, WHOLE};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use sys::Errno;

use super::Link;

/// The rings, and the memory that they are in.
#[derive(Debug)]
pub(super) struct Mapped {
    page: NonNull<Page>,
    file: OwnedFd,
}

// SAFETY: what is referred to is atomic, or written once before anybody else sees it.
unsafe impl Send for Mapped {}
// SAFETY: the same.
unsafe impl Sync for Mapped {}

impl Mapped {
    pub(super) fn new(link: &Link) -> Result<Self, Errno> {
        let file = memfd_create("link", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, WHOLE as u64)?;
        // Nobody can make it shorter under our hands.
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, of a file of that size.
        let at = unsafe { mmap(std::ptr::null_mut(), WHOLE, rights, MapFlags::SHARED, &file, 0) }?;
        let page = NonNull::new(at.cast::<Page>()).ok_or(Errno::FAULT)?;
        let [a, b, c, d, e, f] = link.hardware;
        // SAFETY: nobody else has it yet.
        unsafe {
            (&raw mut (*page.as_ptr()).hardware).write([a, b, c, d, e, f, 0, 0]);
            (&raw mut (*page.as_ptr()).address).write(link.address.octets());
            (&raw mut (*page.as_ptr()).gateway).write(link.gateway.octets());
            (&raw mut (*page.as_ptr()).prefix).write(u32::from(link.prefix));
        }
        Ok(Self { page, file })
    }

    /// The memory, for a guest to map.
    pub(super) fn file(&self) -> &OwnedFd {
        &self.file
    }

    fn length(&self, ring: usize, size: usize, place: usize) -> &Length {
        assert!(place.is_multiple_of(HEADER) && place + HEADER <= size, "a place in the ring");
        // SAFETY: it is within the mapping and aligned, and the word is atomic.
        unsafe { &*self.page.as_ptr().cast::<u8>().add(ring + place).cast::<Length>() }
    }

    /// What stands there in the place of a length.
    pub(super) fn length_to_go(&self, place: usize) -> u32 {
        self.length(GOES, GOES_SIZE, place).load(Ordering::Relaxed)
    }

    /// Notes a length.
    pub(super) fn set_length_that_came(&self, place: usize, length: u32) {
        self.length(CAME, CAME_SIZE, place).store(length, Ordering::Relaxed);
    }

    /// Copies bytes of a frame that goes.
    pub(super) fn copy_to_go(&self, place: usize, into: &mut [u8]) {
        assert!(place + into.len() <= GOES_SIZE, "a place in the ring");
        // SAFETY: it is within the mapping. The guest may change it meanwhile: whatever is read is bytes.
        unsafe {
            let from = self.page.as_ptr().cast::<u8>().add(GOES + place);
            std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len());
        }
    }

    /// Receives a frame into a place. Gives how long it is, also where it is longer than there is room.
    pub(super) fn receive(&self, socket: &OwnedFd, place: usize, room: usize) -> Result<usize, Errno> {
        assert!(place + room <= CAME_SIZE, "a place in the ring");
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        // SAFETY: the kernel writes within the mapping.
        let length = unsafe {
            let into = self.page.as_ptr().cast::<u8>().add(CAME + place);
            libc::recv(socket.as_raw_fd(), into.cast(), room, flags)
        };
        usize::try_from(length)
            .map_err(|_| Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)))
    }
}

impl Deref for Mapped {
    type Target = Page;

    fn deref(&self) -> &Page {
        // SAFETY: it is mapped as long as this lives, and all of it that changes is atomic.
        unsafe { self.page.as_ref() }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: it was mapped with that size, and no reference outlives this.
        let _ = unsafe { munmap(self.page.as_ptr().cast(), WHOLE) };
    }
}
