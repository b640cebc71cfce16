//! The engine with a virtual machine: the guest is all that there is, in user mode, with page tables that are its own.
//!
//! Nothing is mapped on demand: what a program maps has its pages at once, which costs nothing before they are touched,
//! since the host's memory is there only then. So a page fault is always the program's mistake.

pub mod files;
mod frames;
pub mod streams;
mod tables;
mod traps;

use alloc::vec::Vec;
use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::layout::kvm::{ADDRESS, BELLS, DOORBELL, LARGE, MAGIC, NO_EXECUTE, PRESENT, USED, USER, WRITABLE, bell};
use abi::layout::{LINEAR, PAGE};
use abi::port::CALLED;
use abi::ring::WHOLE;
use abi::{VERSION, call};

use self::frames::FRAMES;
use self::tables::{BORROWED, RESERVED, SHARED};
use super::{Bells, Nest, Part, Room, Source, port};
use crate::errno::{EFAULT, ENOMEM, Result};
use crate::space::Protection;
use crate::string;
use crate::sync::Local;

global_asm!(
    ".section .text.head, \"ax\"",
    ".quad {magic}",
    ".quad {start}",
    ".quad {call}",
    ".quad {patched}",
    magic = const MAGIC,
    start = sym start,
    call = sym traps::kvm_call_entry,
    patched = sym crate::entry::patched_entry,
);

/// The top table.
static TABLES: AtomicU64 = AtomicU64::new(0);

/// Where the tender starts the guest: physical memory is used up to `free`, there is `length` of it, and `tables` is the
/// top table.
extern "C" fn start(free: u64, length: u64, tables: u64) -> ! {
    TABLES.store(tables, Ordering::Relaxed);
    FRAMES.get().begin(free, length);
    traps::install();
    if port().version != VERSION {
        stop();
    }
    crate::begin()
}

pub fn stop() -> ! {
    loop {
        ring();
    }
}

pub fn ring() {
    port().call.state.store(CALLED, Ordering::SeqCst);
    // SAFETY: a page without memory behind it: the processor stops here, and the tender lets it go on behind it.
    unsafe { (DOORBELL as *mut u32).write_volatile(1) };
}

/// A call is about to be made of the tender.
pub fn before(number: u32, arguments: &[u64; 6]) {
    streams::before(number, arguments);
    frames::before(number, arguments);
}

pub fn forget(descriptor: u64) {
    files::forget(descriptor);
    frames::forget(descriptor);
}

pub fn forget_all() {
    files::forget_all();
    frames::forget_all();
}

pub fn fork(purpose: u64) -> Result {
    if purpose != call::FORK_AS_CHILD {
        // A cell of its own, or one that is kept, has its files as the program knows them.
        super::forget_all();
        unmap_stale();
    }
    // The child begins behind the doorbell, with another answer.
    let number = crate::port::call(call::FORK, [purpose, 0, 0, 0, 0, 0]);
    if number == Ok(0) {
        files::forget_all();
    }
    number
}

/// The entry's bits for what may be done with a page.
fn bits(protection: Protection) -> u64 {
    let mut bits = PRESENT | USER | USED;
    if protection.contains(Protection::WRITE) {
        bits |= WRITABLE;
    }
    if !protection.contains(Protection::EXECUTE) {
        bits |= NO_EXECUTE;
    }
    // A page that nothing may be done with keeps its place.
    if protection.is_empty() { bits & !PRESENT | RESERVED } else { bits }
}

fn address_of(physical: u64) -> *mut u8 {
    (LINEAR as u64 + physical) as *mut u8
}

pub fn map(at: usize, length: usize, protection: Protection, source: Source) -> Result<u64> {
    unmap(at, length)?;
    match source {
        // Whoever reserves room may never use it.
        Source::Anonymous if protection.is_empty() => Ok(0),
        Source::Anonymous => {
            fill(at, length, bits(protection))?;
            tables::settle().map(|()| 0)
        }
        Source::Private(Part { descriptor, offset, ahead }) => {
            let physical = borrow_to_read(descriptor, offset, [length, ahead], protection)?;
            let readable = protection - Protection::WRITE | Protection::READ;
            tables::map(at, physical, length, bits(readable) | BORROWED)?;
            if protection.contains(Protection::WRITE) {
                own(at, length, bits(protection))?;
            } else if protection.is_empty() {
                tables::change(at, length, |entry| entry.with(bits(protection) | BORROWED));
            }
            tables::settle().map(|()| 0)
        }
        Source::Shared { descriptor, offset } => {
            let how = u64::from(protection.bits()) | call::MAP_SHARED;
            let (physical, memory) = borrow(descriptor, offset, length, how)?;
            frames::borrowed(physical, length);
            tables::map(at, physical, length, bits(protection) | BORROWED | SHARED)?;
            tables::settle().map(|()| memory)
        }
    }
}

/// The copy, if there is one and room for its trampolines; else the file.
pub fn map_code(at: usize, length: usize, protection: Protection, file: Part, room: Room<'_>) -> Result<Option<Nest>> {
    if frames::is_known_without_copy(file.descriptor) {
        return map(at, length, protection, Source::Private(file)).map(|_| None);
    }
    let how = u64::from(protection.bits()) | call::MAP_CODE;
    let arguments = [file.descriptor as u64, file.offset, length as u64, how, file.ahead as u64, 0];
    let answer = crate::port::ask(call::MAP, arguments, 0);
    let (physical, word) = (answer.result? as u64, answer.limit);
    let nest = abi::patched::Nest::of(word).map(|it| (it.beside(at), it.length()));
    frames::borrowed(physical, length + nest.map_or(0, |it| it.1));
    match nest {
        None => frames::note_latest(physical, length.saturating_add(file.ahead), word, file.descriptor, file.offset),
        Some((there, size)) if !room(there, size) => {
            frames::give_back(physical, length + size, BORROWED);
            frames::release();
            return map(at, length, protection, Source::Private(file)).map(|_| None);
        }
        Some((there, size)) => {
            let rights = bits(Protection::READ | Protection::EXECUTE);
            tables::map(there, physical + length as u64, size, rights | BORROWED)?;
        }
    }
    unmap(at, length)?;
    tables::map(at, physical, length, bits(protection) | BORROWED)?;
    tables::settle().map(|()| nest)
}

/// In a sealed guest the tender is asked each time that something shall be executed.
fn borrow_to_read(descriptor: i32, offset: u64, lengths: [usize; 2], protection: Protection) -> Result<u64> {
    let [length, ahead] = lengths;
    let is_sealed = port().sealed.load(Ordering::Relaxed) != 0;
    if !is_sealed && let Some(physical) = frames::borrow_again(descriptor, offset, length) {
        return Ok(physical);
    }
    let whole = length.next_multiple_of(PAGE).saturating_add(ahead);
    let (physical, word) = borrow(descriptor, offset, whole, u64::from(protection.bits()))?;
    frames::borrowed(physical, length);
    frames::note_latest(physical, whole, word, descriptor, offset);
    Ok(physical)
}

/// Has a part of a file mapped: where it is, and what else the tender says of it ([`call::MAP`]).
fn borrow(descriptor: i32, offset: u64, length: usize, how: u64) -> Result<(u64, u64)> {
    let answer = crate::port::ask(call::MAP, [descriptor as u64, offset, length as u64, how, 0, 0], 0);
    Ok((answer.result? as u64, answer.limit))
}

/// Gives pages that have none zeroed frames of their own.
fn fill(at: usize, length: usize, bits: u64) -> Result<()> {
    let mut done = 0;
    while done < length {
        let (physical, part) = frames::take(length - done, at + done)?;
        tables::map(at + done, physical, part, bits)?;
        done += part;
    }
    Ok(())
}

/// Gives pages of files frames of their own with the same content.
fn own(at: usize, length: usize, bits: u64) -> Result<()> {
    own_without_flush(at, length, bits)?;
    tables::flush();
    Ok(())
}

/// The same for somebody who has old translations forgotten later: until then some may lead to the file's pages.
fn own_without_flush(at: usize, length: usize, bits: u64) -> Result<()> {
    for page in (at..at + length).step_by(PAGE) {
        let Some(entry) = tables::entry(page) else { continue };
        if entry.0 & BORROWED == 0 {
            tables::change(page, PAGE, |entry| entry.with(bits));
            continue;
        }
        let (physical, _) = frames::take(PAGE, page)?;
        // SAFETY: a frame of nobody else's; and a page that is mapped readable.
        unsafe { core::ptr::copy_nonoverlapping(page as *const u8, address_of(physical), PAGE) };
        frames::give_back(entry.physical(), PAGE, BORROWED);
        tables::map(page, physical, PAGE, bits)?;
    }
    Ok(())
}

pub fn unmap(at: usize, length: usize) -> Result<()> {
    let mut any = false;
    tables::take(at, length, |entry, size| {
        any = true;
        if entry.0 & BORROWED != 0 || entry.can_be_reused() {
            frames::give_back(entry.physical(), size, entry.0 & BORROWED);
        }
    })?;
    if any {
        tables::flush();
        frames::release();
    }
    Ok(())
}

pub fn protect(at: usize, length: usize, protection: Protection) -> Result<()> {
    let bits = bits(protection);
    let (mut missing, mut borrowed) = (false, false);
    tables::change(at, length, |entry| {
        missing |= entry.is_nothing();
        borrowed |= entry.0 & BORROWED != 0;
        entry
    });
    if !missing && !borrowed {
        tables::split_ends(at, length)?;
        tables::change(at, length, |entry| entry.with(bits | entry.0 & LARGE));
        tables::flush();
        return Ok(());
    }
    tables::split_ends(at, length)?;
    let mut page = at;
    while page < at + length {
        match tables::entry(page) {
            None if protection.is_empty() => page += PAGE,
            None => {
                let hole = tables::hole(page, at + length - page);
                fill(page, hole, bits)?;
                page += hole;
            }
            Some(entry) if entry.0 & BORROWED != 0 && protection.contains(Protection::WRITE) && !entry.is_shared() => {
                if entry.0 & PRESENT == 0 {
                    tables::change(page, PAGE, |entry| entry.with(self::bits(Protection::READ) | BORROWED));
                    tables::flush();
                }
                own_without_flush(page, PAGE, bits)?;
                page += PAGE;
            }
            Some(entry) => {
                let size = entry.size();
                tables::change(page, size, |entry| entry.with(bits | entry.0 & (LARGE | BORROWED)));
                page += size;
            }
        }
    }
    tables::flush();
    Ok(())
}

/// Through the linear map: the page stays mapped as it is, and nothing is forgotten for it, which costs as much as a hundred
/// calls; but for the first time in a page of a file, which has another frame from then on.
pub fn rewrite(at: usize, bytes: &[u8]) -> Result<()> {
    let mut entry = tables::entry(at).filter(|it| !it.is_shared() && it.0 & PRESENT != 0).ok_or(EFAULT)?;
    if entry.0 & BORROWED != 0 {
        own(at - at % PAGE, PAGE, entry.0 & !(ADDRESS | BORROWED))?;
        entry = tables::entry(at).ok_or(EFAULT)?;
    }
    let to = address_of(entry.physical() + (at % entry.size()) as u64);
    for (offset, byte) in bytes.iter().enumerate() {
        // SAFETY: a frame of this mapping, and no code of ours.
        unsafe { to.add(offset).write_volatile(*byte) };
    }
    Ok(())
}

pub fn relocate(from: usize, length: usize, to: usize, new_length: usize, protection: Protection) -> Result<()> {
    if to != from {
        unmap(to, new_length)?;
        let mut at = 0;
        while at < length.min(new_length) {
            let next = match tables::entry(from + at) {
                None => tables::hole(from + at, length.min(new_length) - at),
                Some(entry) => {
                    let offset = (from + at) as u64 % entry.size() as u64;
                    tables::map(to + at, entry.physical() + offset, PAGE, entry.0 & !(ADDRESS | LARGE))?;
                    PAGE
                }
            };
            at += next;
        }
        tables::take(from, length, |entry, size| {
            let _ = (entry, size);
        })?;
        tables::flush();
    }
    if new_length > length && !protection.is_empty() {
        fill(to + length, new_length - length, bits(protection))?;
    }
    tables::settle()
}

pub fn discard(at: usize, length: usize) -> Result<()> {
    let mut page = at;
    while page < at + length {
        match tables::entry(page) {
            None => page += tables::hole(page, at + length - page),
            Some(entry) => {
                if entry.0 & BORROWED == 0 {
                    let inside = page as u64 % entry.size() as u64;
                    let part = (entry.size() - inside as usize).min(at + length - page);
                    // SAFETY: frames of this mapping, all of which the program gave up.
                    unsafe { string::zero(address_of(entry.physical() + inside) as usize, part) };
                    page += part;
                } else {
                    page += PAGE;
                }
            }
        }
    }
    Ok(())
}

/// Maps a pipe's ring.
pub fn take_ring(physical: u64, at: usize) -> Result<Bells> {
    take_shared(physical, at, WHOLE)?;
    Ok(Bells([0; 2]))
}

/// Maps memory that all members have.
pub fn take_counters(at: usize, length: usize) -> Result<()> {
    let physical = crate::port::call(call::FUTEX_COUNTERS, [0; 6])?;
    take_shared(physical as u64, at, length)
}

/// Maps the link to the cell's network.
pub fn take_link(at: usize, length: usize) -> Result<()> {
    let physical = crate::port::call(call::LINK, [0; 6])?;
    take_shared(physical as u64, at, length)
}

fn take_shared(physical: u64, at: usize, length: usize) -> Result<()> {
    unmap(at, length)?;
    frames::borrowed(physical, length);
    let bits = bits(Protection::READ | Protection::WRITE);
    tables::map(at, physical, length, bits | BORROWED | SHARED)?;
    tables::settle()
}

/// Rings that were given up and are mapped still: to unmap one costs as much as to unmap some.
static STALE: Local<Vec<usize>> = Local::new(Vec::new());

/// Gives it up.
pub fn drop_ring(at: usize) {
    /// Fewer than there are places, so that none is taken again before it was unmapped.
    const MOST: usize = 16;
    let is_full = {
        let mut stale = STALE.get();
        stale.push(at);
        stale.len() >= MOST
    };
    if is_full {
        unmap_stale();
    }
}

/// Unmaps the rings that were given up.
fn unmap_stale() {
    let all = core::mem::take(&mut *STALE.get());
    for at in all {
        let taken = tables::take(at, WHOLE, |entry, size| {
            frames::give_back(entry.physical(), size, BORROWED);
        });
        debug_assert!(taken.is_ok(), "rings have small pages");
    }
    tables::flush();
    frames::release();
}

/// Wakes who sleeps on a side of a ring: by its bell, once the tender has given the machine one.
pub fn wake_ring(descriptor: u64, bells: &mut Bells, side: usize) {
    match bells.0[side] {
        0 => {
            let number = crate::port::call(call::RING_WAKE, [descriptor, side as u64, 0, 0, 0, 0]);
            bells.0[side] = number.unwrap_or(0).min(BELLS - 1) as u32;
        }
        // SAFETY: behind the doorbell, in the same page.
        number => unsafe { ((DOORBELL + bell(number as usize)) as *mut u32).write_volatile(1) },
    }
}

/// There are no frames left.
const NO_FRAMES: crate::errno::Errno = ENOMEM;
