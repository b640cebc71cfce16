//! Regular files that are read and written here and there, as databases do it: they are mapped for the library operating
//! system itself, and what the program reads and writes at a place goes through its own memory.
//!
//! Who else has such a file sees at once what is written within it, and we what they write. What makes it longer is posted
//! ([`abi::post`]), unless the program shares memory with others, who might hear there of what they cannot see yet. **How
//! long a file is is told after each stop**, and between two stops nobody can have told the program otherwise.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use abi::call;
use abi::layout::PAGE;
use abi::layout::kvm::{FILE_ROOM, FILES};
use abi::post::{LONGEST_WRITE, MOST, MOST_SIZES, TRUST, WRITE};

use super::port;
use super::streams::{self, post};
use crate::engine::Source;
use crate::errno::{EFAULT, Result};
use crate::space::{Protection, SPACE, Sharing};
use crate::sync::Local;
use crate::{clock, number, user};

/// A file that is mapped.
struct Mapped {
    descriptor: u64,
    /// Which of the port's sizes is its, and which of the places.
    place: usize,
    /// How it was opened.
    access: Access,
    /// How much of it is mapped, from its begin, in bytes.
    length: u64,
    /// In how many pieces.
    pieces: usize,
    /// What may be done with what is mapped.
    rights: Protection,
    /// How often something behind that was wanted since.
    missed: u8,
    /// How long it is with what was posted.
    end: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    ReadWrite,
}

struct Files {
    mapped: Vec<Mapped>,
    /// How often a descriptor was used, by its number.
    used: Vec<u8>,
    /// Until when it may be posted, by [`clock::monotonic`].
    until: u64,
}

static ALL: Local<Files> = Local::new(Files { mapped: Vec::new(), used: Vec::new(), until: 0 });

/// A file is mapped when it was used that often.
const OFTEN: u8 = 8;
/// It cannot be mapped.
const NEVER: u8 = u8::MAX;

/// When a file has grown by so much, the rest of it is mapped, too.
const STEP: u64 = 256 << 10;
/// And when the rest was wanted so often: by then it has cost more stops than mapping it does.
const PATIENCE: u8 = 4;
/// In so many pieces at most, before it is mapped as one.
const MOST_PIECES: usize = 64;

/// Makes the call without the tender, if it can be made so.
pub fn directly(number: u32, [a, b, c, d, ..]: [u64; 6]) -> Option<Result> {
    if !matches!(number, number::PREAD | number::PWRITE) || c == 0 || d > i64::MAX as u64 {
        return None;
    }
    let at = find(a)?;
    if number == number::PREAD { read(at, b, c, d) } else { write(at, b, c, d) }
}

/// The tender has answered a call: everything that was posted is done.
pub fn after(number: u32) {
    if number >= call::BOOT {
        // Among them those of memory that is taken in here.
        return;
    }
    let mut files = ALL.get();
    if files.mapped.is_empty() {
        return;
    }
    files.until = clock::monotonic().saturating_add(TRUST);
    files.mapped.iter_mut().for_each(|it| it.end = size_of(it));
}

/// The files are a new process's, to whom nobody tells their sizes yet.
pub fn forget_all() {
    while let Some(it) = { ALL.get().mapped.pop() } {
        unmap(&it);
    }
    ALL.get().used.clear();
}

/// What is at that number is about to change.
pub fn forget(descriptor: u64) {
    if let Some(used) = ALL.get().used.get_mut(descriptor as usize) {
        *used = 0;
    }
    let at = ALL.get().mapped.iter().position(|it| it.descriptor == descriptor);
    if let Some(it) = at.map(|at| ALL.get().mapped.swap_remove(at)) {
        unmap(&it);
    }
}

fn unmap(it: &Mapped) {
    port().sizes[it.place].of.store(0, Ordering::Relaxed);
    let _ = super::unmap(address(it.place), it.length as usize);
}

fn address(place: usize) -> usize {
    FILES + place * FILE_ROOM
}

fn size_of(it: &Mapped) -> u64 {
    port().sizes[it.place].size.load(Ordering::Relaxed)
}

/// Where in the list a file is, which is mapped if it has been used often.
fn find(descriptor: u64) -> Option<usize> {
    const HIGHEST: usize = 4096;
    {
        let mut files = ALL.get();
        if let Some(at) = files.mapped.iter().position(|it| it.descriptor == descriptor) {
            return Some(at);
        }
        let index = usize::try_from(descriptor).ok().filter(|it| *it < HIGHEST)?;
        if files.used.len() <= index {
            files.used.resize(index + 1, 0);
        }
        let used = &mut files.used[index];
        if *used == NEVER {
            return None;
        }
        *used += 1;
        if *used < OFTEN {
            return None;
        }
        *used = NEVER;
    }
    let mapped = map(descriptor)?;
    let mut files = ALL.get();
    files.mapped.push(mapped);
    Some(files.mapped.len() - 1)
}

/// Maps a file, if it is one of those for which that can be done.
fn map(descriptor: u64) -> Option<Mapped> {
    const GET_FLAGS: u64 = 3;
    const HOW: usize = 3;
    /// O_APPEND, O_DSYNC, O_DIRECT, O_SYNC.
    const PARTICULAR: usize = 0o2000 | 0o10_000 | 0o40_000 | 0o4_000_000;
    let flags = crate::port::call(number::FCNTL, [descriptor, GET_FLAGS, 0, 0, 0, 0]).ok()?;
    let access = match flags & HOW {
        0 => Access::Read,
        2 => Access::ReadWrite,
        _ => return None,
    };
    let status = Status::of(descriptor).filter(|it| it.is_regular && flags & PARTICULAR == 0)?;
    let sizes = &port().sizes;
    let place = (0..MOST_SIZES).find(|at| sizes[*at].of.load(Ordering::Relaxed) == 0)?;
    sizes[place].of.store(descriptor as u32 + 1, Ordering::Relaxed);
    sizes[place].size.store(status.size, Ordering::Relaxed);
    let rights = Protection::READ;
    let mut mapped = Mapped { descriptor, place, access, length: 0, pieces: 0, rights, missed: 0, end: status.size };
    extend(&mut mapped);
    Some(mapped)
}

/// What matters of a file's status.
struct Status {
    is_regular: bool,
    size: u64,
    /// Whether it has no holes. What is written into a hole may find the disk full, when it is too late to say so.
    is_whole: bool,
}

impl Status {
    fn of(descriptor: u64) -> Option<Self> {
        const REGULAR: u32 = 0o100_000;
        const KIND: u32 = 0o170_000;
        // Mode, size and blocks of 512 bytes are the fourth, seventh and ninth word.
        let mut status = [0u64; 18];
        crate::port::call(number::FSTAT, [descriptor, status.as_mut_ptr() as u64, 0, 0, 0, 0]).ok()?;
        let (mode, size, blocks) = (status[3] as u32, status[6], status[8]);
        Some(Self { is_regular: mode & KIND == REGULAR, size, is_whole: blocks.saturating_mul(512) >= size })
    }
}

/// Maps what is not mapped of a file; all of it anew, if something else may be done with it by now.
fn extend(it: &mut Mapped) -> Option<()> {
    let status = Status::of(it.descriptor)?;
    let length = status.size.checked_next_multiple_of(PAGE as u64)?;
    if length <= it.length || length > FILE_ROOM as u64 {
        return None;
    }
    let rights = match it.access {
        Access::ReadWrite if status.is_whole => Protection::READ | Protection::WRITE,
        _ => Protection::READ,
    };
    if it.length > 0 && (rights != it.rights || it.pieces >= MOST_PIECES) {
        let _ = super::unmap(address(it.place), it.length as usize);
        (it.length, it.pieces) = (0, 0);
    }
    let source = Source::Shared { descriptor: it.descriptor as i32, offset: it.length };
    let at = address(it.place) + it.length as usize;
    super::map(at, (length - it.length) as usize, rights, source).ok()?;
    (it.length, it.rights) = (length, rights);
    it.pieces += 1;
    Some(())
}

/// Sees to it that so much of a file is mapped, which is not longer than `size`, if that is worth it.
fn reach(at: usize, end: u64, size: u64) -> Option<()> {
    let mut it = {
        let mut files = ALL.get();
        let it = files.mapped.get_mut(at)?;
        if end <= it.length {
            return Some(());
        }
        it.missed += 1;
        if size < it.length + (it.length / 2).max(STEP) && it.missed < PATIENCE {
            return None;
        }
        it.missed = 0;
        files.mapped.swap_remove(at)
    };
    let extended = extend(&mut it).filter(|()| end <= it.length);
    let mut files = ALL.get();
    files.mapped.push(it);
    let last = files.mapped.len() - 1;
    files.mapped.swap(at, last);
    extended
}

/// Some bytes of a file, which are mapped.
fn bytes(place: usize, offset: u64, length: usize) -> *mut u8 {
    debug_assert!(length <= FILE_ROOM);
    (address(place) + offset as usize) as *mut u8
}

fn read(at: usize, into: u64, length: u64, offset: u64) -> Option<Result> {
    let (place, size, end) = {
        let files = ALL.get();
        let it = files.mapped.get(at)?;
        (it.place, size_of(it), it.end)
    };
    let wanted = offset.saturating_add(length);
    if end > size && wanted > size {
        // Some of it may be posted.
        return None;
    }
    if offset >= size {
        return Some(Ok(0));
    }
    let length = (wanted.min(size) - offset) as usize;
    reach(at, offset + length as u64, size)?;
    // SAFETY: it is mapped and readable. Others may write there, as anybody may to a file that is being read.
    let from = unsafe { core::slice::from_raw_parts(bytes(place, offset, length), length) };
    Some(user::write_all(into, from).map(|()| length))
}

fn write(at: usize, from: u64, length: u64, offset: u64) -> Option<Result> {
    let (place, descriptor, size, end, access) = {
        let files = ALL.get();
        let it = files.mapped.get(at)?;
        (it.place, it.descriptor, size_of(it), it.end, it.access)
    };
    if access == Access::Read || length > LONGEST_WRITE as u64 {
        return None;
    }
    let inside = length.min(size.saturating_sub(offset));
    if inside > 0 {
        reach(at, offset + inside, size)?;
        if !ALL.get().mapped.get(at)?.rights.contains(Protection::WRITE) {
            return None;
        }
    }
    if inside < length {
        // A hole is made by the host; and what is posted is not written over here.
        let begin = offset + inside;
        if begin != end || clock::monotonic() > ALL.get().until || is_memory_shared() {
            return None;
        }
        let room = streams::room((length - inside) as usize)?;
        if user::read_into(from + inside, room).is_err() {
            return Some(Err(EFAULT));
        }
        post_writing(descriptor, begin, room)?;
        ALL.get().mapped.get_mut(at)?.end = offset + length;
    }
    // SAFETY: it is mapped and writable, and nothing in here has a reference to it.
    let to = unsafe { core::slice::from_raw_parts_mut(bytes(place, offset, inside as usize), inside as usize) };
    Some(user::read_into(from, to).map(|()| length as usize))
}

/// Whether others have memory of the program's.
fn is_memory_shared() -> bool {
    SPACE.get().areas().any(|(_, _, rights, sharing)| sharing == Sharing::Shared && rights.contains(Protection::WRITE))
}

fn post_writing(descriptor: u64, offset: u64, bytes: &[u8]) -> Option<()> {
    let posts = &port().posts;
    let posted = posts.count.load(Ordering::Relaxed) as usize;
    let address = bytes.as_ptr() as u64;
    // What follows on the last is written with it.
    if let Some(last) = posted.checked_sub(1).map(|it| &posts.all[it])
        && last.kind.load(Ordering::Relaxed) == WRITE
        && u64::from(last.descriptor.load(Ordering::Relaxed)) == descriptor
    {
        let length = last.length.load(Ordering::Relaxed);
        let follows = last.offset.load(Ordering::Relaxed) + u64::from(length) == offset
            && last.at.load(Ordering::Relaxed) + u64::from(length) == address;
        if follows {
            last.length.store(length + bytes.len() as u32, Ordering::Relaxed);
            streams::use_room(bytes.len());
            return Some(());
        }
    }
    if posted >= MOST {
        return None;
    }
    posts.all[posted].offset.store(offset, Ordering::Relaxed);
    post(posted, WRITE, descriptor, bytes.len(), 0, address as usize);
    streams::use_room(bytes.len());
    Some(())
}
