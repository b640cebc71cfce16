//! The memory of a link's rings, as the tender sees it.

#![expect(unsafe_code, reason = "memory that a guest changes: counters are atomic, and bytes are copied")]

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;

use abi::link::{CAME, CAME_SIZE, GOES, GOES_SIZE, HEADER, Length, Link as Page};
use net::Link;
use sys::Errno;

use crate::fixed::Mapped;

/// A link's memory, in which nobody has been.
pub(super) fn new(link: &Link) -> Result<Mapped<Page>, Errno> {
    Mapped::new(|page: &mut Page| {
        page.hardware[..6].copy_from_slice(&link.hardware);
        page.address = link.address.octets();
        page.gateway = link.gateway.octets();
        page.prefix = u32::from(link.prefix);
    })
}

impl Mapped<Page> {
    fn length(&self, ring: usize, size: usize, place: usize) -> &Length {
        assert!(place.is_multiple_of(HEADER) && place + HEADER <= size, "a place in the ring");
        // SAFETY: it is within the mapping and aligned, and the word is atomic.
        unsafe { &*self.bytes().add(ring + place).cast::<Length>() }
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
            let from = self.bytes().add(GOES + place);
            std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len());
        }
    }

    /// Receives a frame into a place. Gives how long it is, also where it is longer than there is room.
    pub(super) fn receive(&self, socket: &OwnedFd, place: usize, room: usize) -> Result<usize, Errno> {
        assert!(place + room <= CAME_SIZE, "a place in the ring");
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        // SAFETY: the kernel writes within the mapping.
        let length = unsafe {
            let into = self.bytes().add(CAME + place);
            libc::recv(socket.as_raw_fd(), into.cast(), room, flags)
        };
        usize::try_from(length)
            .map_err(|_| Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)))
    }
}
