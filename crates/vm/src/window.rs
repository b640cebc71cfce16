//! A part of a guest's physical address space in which parts of files appear.
//!
//! The room is reserved once and given to the machine once; what is in it changes under the machine's hands, by mapping
//! over it. Nothing in it is ever touched by the tender itself: a file may become shorter at any time.

#![expect(unsafe_code, reason = "maps files over a reservation of its own")]

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use sys::Errno;

use crate::error::{Error, Result};
use crate::memory::Region;

const PAGE: usize = 4096;

/// Whether what is written to a mapped file is seen by others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// It cannot be written to.
    ReadOnly,
    /// It is.
    Shared,
}

/// A part of a file in the window.
#[derive(Clone, Debug)]
pub struct Part {
    /// The file.
    pub file: Arc<OwnedFd>,
    /// Where in the file it begins.
    pub offset: u64,
    /// Up to the end of the file, in whole pages. Behind it are zeroes.
    pub length: usize,
    /// How much of the window it takes, in whole pages.
    pub room: usize,
    /// Whether what is written to it is seen by others.
    pub sharing: Sharing,
}

/// The window.
#[derive(Debug)]
pub struct Window {
    at: NonNull<u8>,
    length: usize,
    parts: Mutex<BTreeMap<usize, Part>>,
}

// SAFETY: it owns its mapping, which nothing here reads or writes but by system calls.
unsafe impl Send for Window {}
// SAFETY: the same.
unsafe impl Sync for Window {}

impl Window {
    /// Reserves room.
    pub fn new(length: usize) -> Result<Self> {
        let host = Error::host("reserving room for a guest's files");
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping.
        let at = unsafe { mmap_anonymous(std::ptr::null_mut(), length, ProtFlags::empty(), flags) };
        let at = NonNull::new(at.map_err(&host)?.cast()).ok_or_else(|| host(Errno::FAULT))?;
        Ok(Self { at, length, parts: Mutex::default() })
    }

    /// What is in it, by where that is.
    pub fn content(&self) -> BTreeMap<usize, Part> {
        self.parts().clone()
    }

    /// One with that in it. Nothing when a part is not inside or two lie over each other.
    pub fn of_parts(length: usize, parts: BTreeMap<usize, Part>) -> Result<Option<Self>> {
        let window = Self::new(length)?;
        Ok(window.fill(parts)?.map(|()| window))
    }

    /// Puts that into one in which there is nothing yet. Nothing when a part is not inside or two lie over each other.
    pub fn fill(&self, parts: BTreeMap<usize, Part>) -> Result<Option<()>> {
        let mut end = 0;
        for (at, part) in &parts {
            let whole = at.checked_add(part.room).filter(|it| *it <= self.length);
            let aligned = (at | part.length | part.room).is_multiple_of(PAGE);
            match whole {
                Some(after) if aligned && *at >= end && part.length <= part.room && part.room > 0 => end = after,
                _ => return Ok(None),
            }
            self.place(*at, part)?;
        }
        *self.parts() = parts;
        Ok(Some(()))
    }

    fn parts(&self) -> MutexGuard<'_, BTreeMap<usize, Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Maps a part of a file where there is room. Gives where, or nothing when there is none.
    pub fn map(&self, file: BorrowedFd<'_>, offset: u64, length: usize, sharing: Sharing) -> Result<Option<usize>> {
        let host = Error::host("mapping a guest's file");
        let size = rustix::fs::fstat(file).map_err(&host)?.st_size.unsigned_abs();
        let there = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let room = length.next_multiple_of(PAGE);
        let file = Arc::new(rustix::io::fcntl_dupfd_cloexec(file, 0).map_err(&host)?);
        let part = Part { file, offset, length: there.min(room).next_multiple_of(PAGE), room, sharing };
        let Some(at) = self.gap(room) else { return Ok(None) };
        self.place(at, &part)?;
        self.parts().insert(at, part);
        Ok(Some(at))
    }

    fn gap(&self, room: usize) -> Option<usize> {
        let mut at = 0;
        for (begin, part) in self.parts().iter() {
            if begin - at >= room {
                return Some(at);
            }
            at = begin + part.room;
        }
        (self.length - at >= room).then_some(at)
    }

    fn place(&self, at: usize, part: &Part) -> Result<()> {
        let host = Error::host("mapping a guest's file");
        let rights = match part.sharing {
            Sharing::ReadOnly => ProtFlags::READ,
            Sharing::Shared => ProtFlags::READ | ProtFlags::WRITE,
        };
        // SAFETY: inside the reservation, which is ours.
        let place = |offset: usize| unsafe { self.at.as_ptr().add(at + offset) }.cast();
        if part.length > 0 {
            let flags = if part.sharing == Sharing::Shared { MapFlags::SHARED } else { MapFlags::PRIVATE };
            // SAFETY: replaces a part of the reservation.
            unsafe { mmap(place(0), part.length, rights, flags | MapFlags::FIXED, &*part.file, part.offset) }
                .map_err(&host)?;
        }
        if part.room > part.length {
            let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
            // SAFETY: the same.
            unsafe { mmap_anonymous(place(part.length), part.room - part.length, rights, flags) }.map_err(&host)?;
        }
        Ok(())
    }

    /// Has zeroes where files have become shorter than they were. Says whether any has.
    pub fn mend(&self) -> bool {
        let mut mended = false;
        for (at, part) in self.parts().iter_mut() {
            let Ok(status) = rustix::fs::fstat(&*part.file) else { continue };
            let there = usize::try_from(status.st_size.unsigned_abs().saturating_sub(part.offset));
            let there = there.unwrap_or(usize::MAX).min(part.room).next_multiple_of(PAGE);
            if there < part.length {
                part.length = there;
                mended |= self.place(*at, part).is_ok();
            }
        }
        mended
    }

    /// How much room the part that begins there has.
    pub fn room(&self, at: usize) -> Option<usize> {
        self.parts().get(&at).map(|it| it.room)
    }

    /// Gives up a part.
    pub fn release(&self, at: usize) {
        let Some(part) = self.parts().remove(&at) else { return };
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        // SAFETY: replaces a part of the reservation.
        let _ = unsafe { mmap_anonymous(self.at.as_ptr().add(at).cast(), part.room, ProtFlags::empty(), flags) };
    }
}

impl Region for Window {
    fn address(&self) -> u64 {
        self.at.as_ptr() as u64
    }

    fn length(&self) -> usize {
        self.length
    }

    fn read(&self, offset: usize, into: &mut [u8]) -> Option<()> {
        let (at, part) = self.parts().range(..=offset).next_back().map(|(at, part)| (*at, part.clone()))?;
        let inside = offset - at;
        if inside + into.len() > part.room {
            return None;
        }
        into.fill(0);
        // By the file: touching what is mapped would be our end if the file became shorter.
        rustix::io::pread(&*part.file, into, part.offset + inside as u64).ok().map(drop)
    }

    fn write(&self, offset: usize, from: &[u8]) -> Option<()> {
        let (at, part) = self.parts().range(..=offset).next_back().map(|(at, part)| (*at, part.clone()))?;
        let inside = offset - at;
        if part.sharing == Sharing::ReadOnly || inside + from.len() > part.length {
            return None;
        }
        rustix::io::pwrite(&*part.file, from, part.offset + inside as u64).ok().map(drop)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: it is ours, and no reference to it exists.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), self.length) };
    }
}
