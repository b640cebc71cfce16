//! A guest's memory, which can be frozen and had twice.
//!
//! It is a file of memory, mapped. As long as nobody else has it, the guest writes to the file itself. [`Memory::freeze`]
//! makes what is there a base that nobody writes to any more: the guest goes on with a private mapping of it, and so does
//! every copy, so that a fork costs neither copying nor page tables. What a guest has written since the base was made is
//! copied when it is frozen again: into a file of the differences, which is laid over the base, page by page. All else
//! stays mapped as it was: a guest that finds its whole memory mapped anew takes a fault for each page that it uses, five
//! microseconds each, which was most of what a second fork took.

#![expect(unsafe_code, reason = "memory that a guest changes at any moment is only ever copied from and to")]

use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{MemfdFlags, OFlags, SealFlags, SeekFrom};
use rustix::fs::{fcntl_add_seals, fcntl_getfl, ftruncate, memfd_create, seek};
use rustix::io::pwrite;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use sys::Errno;
use sys::pagemap;

use crate::error::{Error, Result};

const PAGE: usize = 4096;
/// Where so much is written at once, its pages are asked for at once: else each is a fault.
const MANY: usize = 1 << 20;

/// A guest's memory.
#[derive(Debug)]
pub struct Memory {
    /// Where it is mapped.
    room: Arc<Room>,
    at: NonNull<u8>,
    length: usize,
    content: Mutex<Content>,
}

/// Addresses at which there is nothing yet. A machine can have them as its memory before it is known what will be there.
#[derive(Debug)]
pub struct Room {
    at: NonNull<u8>,
    length: usize,
    /// What comes before that is something else, and stays it.
    begin: usize,
}

// SAFETY: it owns its addresses, at which it neither reads nor writes.
unsafe impl Send for Room {}
// SAFETY: the same.
unsafe impl Sync for Room {}

impl Room {
    /// Reserves them.
    pub fn new(length: usize) -> Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping.
        let at = unsafe { mmap_anonymous(std::ptr::null_mut(), length, ProtFlags::empty(), flags) };
        Ok(Self { at: address(at)?, length, begin: 0 })
    }

    /// The same, with the page of a file that is shared in the place of the first page of memory. A machine takes as long
    /// to be given a page of its own as to be given all of its memory.
    pub fn behind(page: &OwnedFd, length: usize) -> Result<Self> {
        let mut room = Self::new(length)?;
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: replaces the first page of a mapping of ours.
        unsafe { mmap(room.at.as_ptr().cast(), PAGE, RIGHTS, flags, page, 0) }
            .map_err(Error::host("mapping a guest's memory"))?;
        room.begin = PAGE;
        Ok(room)
    }

    /// Maps all of a file there, in the place of whatever was.
    fn map(&self, file: &OwnedFd, sharing: MapFlags) -> Result<()> {
        self.map_part(0, self.length, file, 0, sharing)
    }

    /// Maps a part of a file there, but for what is something else.
    fn map_part(&self, offset: usize, length: usize, file: &OwnedFd, from: u64, sharing: MapFlags) -> Result<()> {
        let host = Error::host("mapping a guest's memory");
        let skipped = self.begin.saturating_sub(offset).min(length);
        let end = offset.checked_add(length).filter(|end| *end <= self.length).ok_or_else(|| host(Errno::INVAL))?;
        if skipped == length {
            return Ok(());
        }
        let flags = sharing | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: inside the reservation, whose end the part does not pass.
        let at = unsafe { self.at.as_ptr().add(offset + skipped) }.cast();
        // SAFETY: replaces a part of a mapping of ours.
        unsafe { mmap(at, end - offset - skipped, RIGHTS, flags, file, from + skipped as u64) }.map(drop).map_err(host)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // SAFETY: it is ours, and no reference to it exists.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), self.length) };
    }
}

impl Region for Room {
    fn address(&self) -> u64 {
        self.at.as_ptr() as u64
    }

    fn length(&self) -> usize {
        self.length
    }

    fn read(&self, _offset: usize, _into: &mut [u8]) -> Option<()> {
        None
    }

    fn write(&self, _offset: usize, _from: &[u8]) -> Option<()> {
        None
    }
}

/// Where its content is.
#[derive(Debug)]
enum Content {
    /// In a file of its own.
    Own(OwnedFd),
    /// In a private mapping of what was frozen.
    Over(Frozen),
}

/// Memory as it was at a moment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Frozen {
    length: usize,
    base: Arc<OwnedFd>,
    /// Which parts are elsewhere, in order.
    over: Arc<Vec<Laid>>,
}

/// A part of memory that is in another file.
#[derive(Clone, Debug)]
pub struct Laid {
    /// Where in memory it begins, in bytes.
    pub offset: usize,
    /// Its length in bytes.
    pub length: usize,
    /// The file. Nobody writes to it.
    pub file: Arc<OwnedFd>,
    /// Where in the file it begins.
    pub from: u64,
}

impl Frozen {
    /// How many bytes there are.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Where it is: a file for all of it, and the parts that are laid over that, one over the other.
    pub fn layers(&self) -> (&Arc<OwnedFd>, &[Laid]) {
        (&self.base, &self.over)
    }

    /// What those layers were of. Nothing when a part is not of whole pages, not inside, or longer than its file.
    pub fn of_layers(length: usize, base: Arc<OwnedFd>, over: Vec<Laid>) -> Result<Option<Self>> {
        let size = |it: &OwnedFd| rustix::fs::fstat(it).map(|it| it.st_size.unsigned_abs());
        let host = Error::host("finding what is in a guest's memory");
        let mut is_sound = length > 0 && length.is_multiple_of(PAGE) && size(&base).map_err(&host)? >= length as u64;
        for it in &over {
            let is_aligned = (it.offset | it.length).is_multiple_of(PAGE) && it.from.is_multiple_of(PAGE as u64);
            let is_inside = it.offset.checked_add(it.length).is_some_and(|end| end <= length) && it.length > 0;
            let end = it.from.checked_add(it.length as u64);
            is_sound &= is_aligned && is_inside && end.is_some_and(|end| size(&it.file).is_ok_and(|it| it >= end));
        }
        Ok(is_sound.then(|| Self { length, base, over: Arc::new(over) }))
    }

    /// Memory of zeroes, to lay parts over.
    pub fn nothing(length: usize) -> Result<Arc<OwnedFd>> {
        file(length).map(Arc::new)
    }

    /// Has nobody be able to write to its files or to make them shorter, whoever is given them.
    pub fn seal(&self) -> Result<()> {
        let seals = SealFlags::FUTURE_WRITE | SealFlags::SHRINK | SealFlags::GROW;
        for file in std::iter::once(&self.base).chain(self.over.iter().map(|it| &it.file)) {
            let host = Error::host("sealing a guest's memory");
            // A file on a disk is open for reading alone, and its owner says who may do more.
            if fcntl_getfl(file).map_err(&host)?.intersects(OFlags::RDWR | OFlags::WRONLY) {
                fcntl_add_seals(file, seals).map_err(host)?;
            }
        }
        Ok(())
    }

    /// Memory that is zero but for these parts, in order, each of whole pages and inside. Nothing when they are not.
    pub fn of_parts(length: usize, parts: Vec<Laid>) -> Result<Option<Self>> {
        let mut end = 0;
        for it in &parts {
            let aligned = (it.offset | it.length).is_multiple_of(PAGE) && it.from.is_multiple_of(PAGE as u64);
            if !aligned || it.length == 0 || it.offset < end {
                return Ok(None);
            }
            end = match it.offset.checked_add(it.length) {
                Some(end) if end <= length => end,
                _ => return Ok(None),
            };
        }
        Ok(Some(Self { length, base: Arc::new(file(length)?), over: Arc::new(parts) }))
    }
}

// SAFETY: it owns its mapping; copying to and from it is what the guest's own processor does at the same time, and every
// value that comes of that is one.
unsafe impl Send for Memory {}
// SAFETY: the same.
unsafe impl Sync for Memory {}

/// When so many parts lie over a base, a new base is made.
const MOST_PARTS: usize = 256;

fn file(length: usize) -> Result<OwnedFd> {
    let host = Error::host("making a guest's memory");
    let file = memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(&host)?;
    ftruncate(&file, length as u64).map_err(&host)?;
    Ok(file)
}

/// Where there is anything in a file of memory: `(offset, length)`, in order.
fn data(file: &OwnedFd, end: usize) -> Result<Vec<(usize, usize)>> {
    let host = Error::host("finding what is in a guest's memory");
    let mut parts = Vec::new();
    let mut at = 0;
    while at < end as u64 {
        let begin = match seek(file, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(host(errno)),
        };
        at = seek(file, SeekFrom::Hole(begin)).map_err(&host)?.min(end as u64);
        parts.push((begin as usize, (at - begin) as usize));
    }
    Ok(parts)
}

const RIGHTS: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

impl Memory {
    /// Zeroes, of which none is there before it is touched.
    pub fn new(length: usize) -> Result<Self> {
        Self::new_in(Arc::new(Room::new(length)?))
    }

    /// The same at these addresses.
    pub fn new_in(room: Arc<Room>) -> Result<Self> {
        let (at, length, file) = (room.at, room.length, file(room.length)?);
        room.map(&file, MapFlags::SHARED)?;
        Ok(Self { at, length, room, content: Mutex::new(Content::Own(file)) })
    }

    /// A copy of what was frozen.
    pub fn thaw(frozen: &Frozen) -> Result<Self> {
        Self::thaw_in(Arc::new(Room::new(frozen.length)?), frozen)
    }

    /// The same at these addresses, of which there are as many.
    pub fn thaw_in(room: Arc<Room>, frozen: &Frozen) -> Result<Self> {
        if room.length != frozen.length {
            return Err(Error::host("mapping a guest's memory")(Errno::INVAL));
        }
        room.map(&frozen.base, MapFlags::PRIVATE)?;
        let (at, length) = (room.at, room.length);
        let memory = Self { room, at, length, content: Mutex::new(Content::Over(frozen.clone())) };
        memory.lay(&frozen.over)?;
        Ok(memory)
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes its content what it was then.
    pub fn reset(&self, frozen: &Frozen) -> Result<()> {
        self.room.map(&frozen.base, MapFlags::PRIVATE)?;
        self.lay(&frozen.over)?;
        *self.content() = Content::Over(frozen.clone());
        Ok(())
    }

    fn lay(&self, parts: &[Laid]) -> Result<()> {
        let laid = |it: &Laid| self.room.map_part(it.offset, it.length, &it.file, it.from, MapFlags::PRIVATE);
        parts.iter().try_for_each(laid)
    }

    /// Makes what is there now something that others can have, too. The guest must stand still.
    pub fn freeze(&self) -> Result<Frozen> {
        let mut content = self.content();
        let frozen = match &*content {
            Content::Own(file) => {
                let base = rustix::io::fcntl_dupfd_cloexec(file, 0).map_err(Error::host("freezing a guest"))?;
                Frozen { length: self.length, base: Arc::new(base), over: Arc::default() }
            }
            Content::Over(before) => {
                let host = Error::host("finding what a guest has written");
                let written = pagemap::written(self.at.as_ptr() as usize, self.length).map_err(host)?;
                if written.is_empty() {
                    return Ok(before.clone());
                }
                let frozen = self.differ(before, &written)?;
                if frozen.over.len() <= MOST_PARTS {
                    self.lay(&frozen.over[frozen.over.len() - written.len()..])?;
                    *content = Content::Over(frozen.clone());
                    return Ok(frozen);
                }
                self.flatten(before, &written)?
            }
        };
        drop(content);
        self.reset(&frozen)?;
        Ok(frozen)
    }

    /// What is there, as what was there before with the differences over it.
    fn differ(&self, before: &Frozen, written: &[(usize, usize)]) -> Result<Frozen> {
        let new = Arc::new(file(self.length)?);
        let hidden = |offset, length| written.iter().any(|it| it.0 <= offset && offset + length <= it.0 + it.1);
        let mut over: Vec<_> = before.over.iter().filter(|it| !hidden(it.offset, it.length)).cloned().collect();
        for &(offset, length) in written {
            self.copy_out(&new, offset, length)?;
            over.push(Laid { offset, length, file: new.clone(), from: offset as u64 });
        }
        Ok(Frozen { length: self.length, base: before.base.clone(), over: Arc::new(over) })
    }

    /// What is there, in one file. What this mapping never touched is not in its page tables, but may be in what lies below.
    fn flatten(&self, before: &Frozen, written: &[(usize, usize)]) -> Result<Frozen> {
        let new = file(self.length)?;
        let over = before.over.iter().map(|it| (it.offset, it.length));
        for (offset, length) in data(&before.base, self.length)?.into_iter().chain(over).chain(written.iter().copied())
        {
            self.copy_out(&new, offset, length)?;
        }
        Ok(Frozen { length: self.length, base: Arc::new(new), over: Arc::default() })
    }

    fn copy_out(&self, file: &OwnedFd, offset: usize, length: usize) -> Result<()> {
        let mut done = 0;
        while done < length {
            let part = offset + done;
            // SAFETY: inside the mapping; the guest stands still, and the bytes only go to the kernel.
            let bytes = unsafe { std::slice::from_raw_parts(self.at.as_ptr().add(part), length - done) };
            done += rustix::io::pwrite(file.as_fd(), bytes, part as u64).map_err(Error::host("freezing a guest"))?;
        }
        Ok(())
    }

    /// Where there may be anything but zeroes: `(offset, length)`, in order, not touching each other.
    pub fn used(&self) -> Result<Vec<(usize, usize)>> {
        let mut parts = match &*self.content() {
            Content::Own(file) => data(file, self.length)?,
            Content::Over(below) => {
                let host = Error::host("finding what a guest has written");
                let mut parts = pagemap::written(self.at.as_ptr() as usize, self.length).map_err(host)?;
                parts.extend(below.over.iter().map(|it| (it.offset, it.length)));
                parts.extend(data(&below.base, self.length)?);
                parts
            }
        };
        parts.sort_unstable();
        let mut merged: Vec<(usize, usize)> = Vec::with_capacity(parts.len());
        for (offset, length) in parts {
            match merged.last_mut() {
                Some(last) if last.0 + last.1 >= offset => last.1 = last.1.max(offset + length - last.0),
                _ => merged.push((offset, length)),
            }
        }
        Ok(merged)
    }

    /// Says that about that much will be written there soon, which is cheaper than to notice it page by page: 0.3 ms of a
    /// start were faults of the first hundred pages. Where it cannot be said nothing is lost.
    pub fn expect(&self, offset: usize, length: usize) {
        if let Some(at) = self.inside(offset, length) {
            // SAFETY: inside the mapping, whose pages stay what they are.
            let _ = unsafe { madvise(at.cast(), length, Advice::LinuxPopulateWrite) };
        }
    }

    /// Makes whole pages zero, and gives back what they took.
    pub fn discard(&self, offset: usize, length: usize) -> Option<()> {
        let at = self.inside(offset, length).filter(|_| (offset | length).is_multiple_of(PAGE))?;
        let done = match &*self.content() {
            Content::Own(file) => {
                let mode = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(file, mode, offset as u64, length as u64)
            }
            Content::Over(_) => {
                // What lies below would be seen again.
                // SAFETY: inside the mapping, to which no reference exists.
                unsafe { std::ptr::write_bytes(at, 0, length) };
                Ok(())
            }
        };
        done.ok()
    }

    /// Writes so much that it is worth a call: pages that are not there yet need not be made zero first, and are mapped many
    /// at a time. Says whether all of it is written.
    fn write_many(&self, offset: usize, from: &[u8]) -> bool {
        let Content::Own(file) = &*self.content() else { return false };
        if offset < self.room.begin {
            return false;
        }
        let mut done = 0;
        while done < from.len() {
            match pwrite(file, &from[done..], (offset + done) as u64) {
                Ok(count) if count > 0 => done += count,
                _ => return false,
            }
        }
        let begin = offset / PAGE * PAGE;
        let length = (offset + from.len()).next_multiple_of(PAGE).min(self.length) - begin;
        // SAFETY: whole pages of the mapping. Nothing is lost if it fails.
        let _ = unsafe { madvise(self.at.as_ptr().add(begin).cast(), length, Advice::LinuxPopulateRead) };
        true
    }

    fn inside(&self, offset: usize, length: usize) -> Option<*mut u8> {
        let end = offset.checked_add(length)?;
        // SAFETY: the offset is inside.
        (end <= self.length).then(|| unsafe { self.at.as_ptr().add(offset) })
    }
}

fn address(at: std::result::Result<*mut std::ffi::c_void, Errno>) -> Result<NonNull<u8>> {
    let host = Error::host("mapping a guest's memory");
    NonNull::new(at.map_err(&host)?.cast()).ok_or_else(|| host(Errno::FAULT))
}

/// Something of the host's that can be a guest's memory, as long as it lives.
pub trait Region: Send + Sync {
    /// Where it is mapped.
    fn address(&self) -> u64;

    /// Its length in bytes.
    fn length(&self) -> usize;

    /// Copies from there. Nothing when that is not all inside, or not readable.
    fn read(&self, offset: usize, into: &mut [u8]) -> Option<()>;

    /// Copies to there. Nothing when that is not all inside, or not writable.
    fn write(&self, offset: usize, from: &[u8]) -> Option<()>;
}

impl Region for Memory {
    fn address(&self) -> u64 {
        self.at.as_ptr() as u64
    }

    fn length(&self) -> usize {
        self.length
    }

    fn read(&self, offset: usize, into: &mut [u8]) -> Option<()> {
        let at = self.inside(offset, into.len())?;
        // SAFETY: inside the mapping; the guest may be writing, and any bytes are bytes.
        unsafe { std::ptr::copy_nonoverlapping(at, into.as_mut_ptr(), into.len()) };
        Some(())
    }

    fn write(&self, offset: usize, from: &[u8]) -> Option<()> {
        let at = self.inside(offset, from.len())?;
        if from.len() >= MANY && self.write_many(offset, from) {
            return Some(());
        }
        // SAFETY: inside the mapping, to which no reference exists.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), at, from.len()) };
        Some(())
    }
}
