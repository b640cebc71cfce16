//! Page tables out of a guest's reach, for a family in which no code may come up any more.
//!
//! The guest goes on writing tables in its own memory; no processor looks at them. They say what it wants, and this module
//! makes it so, in tables that lie in memory of their own, **which nothing maps** but the address space of the few
//! instructions that change them (`kvm/aside.rs`). What always holds of the real ones:
//!
//! - They lead to the guest's memory, its windows and the doorbell, and nowhere else.
//! - Code is what was code when the family went on. It is mapped nowhere so that it could be written to, and nothing else is
//!   mapped so that it could be executed.
//! - The descriptor table and the gates are written by nobody, and they and the library operating system stay where they
//!   are: they are the ways into kernel mode.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use abi::layout::kvm::{
    ADDRESS, CONTROL, CONTROL_PAGES, DESCRIPTORS, DOORBELL_PHYSICAL, GATES, LARGE, MOST_TABLES, NO_EXECUTE, PRESENT,
    TABLES, USED, USER, WRITABLE,
};
use abi::layout::{LIBOS, LIBOS_SIZE};
use sys::Errno;
use vm::{Memory, Region};

use super::aside;
use super::space::{Space, Use};
use crate::error::{Error, Result};

const PAGE: u64 = 4096;
const LARGE_PAGE: u64 = 2 << 20;
const LINK: u64 = PRESENT | WRITABLE | USER | USED;
/// User mode has the lower half alone.
const END: u64 = 1 << 47;
/// No guest of ours has more tables.
const MOST_VISITS: usize = 1 << 17;

/// Parts of physical memory.
#[derive(Clone, Debug, Default)]
struct Parts(Vec<Range<u64>>);

impl Parts {
    fn of(mut all: Vec<Range<u64>>) -> Self {
        all.sort_unstable_by_key(|it| it.start);
        let mut merged: Vec<Range<u64>> = Vec::new();
        for it in all {
            match merged.last_mut() {
                Some(last) if last.end >= it.start => last.end = last.end.max(it.end),
                _ => merged.push(it),
            }
        }
        Self(merged)
    }

    /// Those that end behind an address.
    fn behind(&self, at: u64) -> &[Range<u64>] {
        &self.0[self.0.partition_point(|it| it.end <= at)..]
    }

    fn overlap(&self, at: u64, length: u64) -> bool {
        self.behind(at).first().is_some_and(|it| it.start < at.saturating_add(length))
    }

    fn contain(&self, at: u64, length: u64) -> bool {
        self.behind(at).first().is_some_and(|it| it.start <= at && at.saturating_add(length) <= it.end)
    }
}

/// The real tables of a machine.
pub(crate) struct Locked {
    memory: Arc<Memory>,
    /// Where the next table goes.
    next: Mutex<u64>,
    /// What is executed.
    code: Parts,
    /// What nobody writes to: code, and what leads into kernel mode.
    fixed: Parts,
}

/// An entry of the real tables that is to become another, by its physical address.
pub(super) type Change = [u64; 2];

impl Locked {
    /// Real tables for a guest whose own begin there, which is not running.
    pub(super) fn of(space: &Space, own: u64) -> Result<Arc<Self>> {
        let damaged = |_| Error::Damaged("its page tables lead nowhere");
        let mut code = Vec::new();
        let mut gates = Vec::new();
        leaves(space, own, |at, entry, size| {
            let address = address(entry, size);
            if entry & NO_EXECUTE == 0 {
                code.push(address..address + size);
            }
            if [DESCRIPTORS as u64, GATES as u64].contains(&at) {
                gates.push(address..address + size);
            }
        })
        .map_err(damaged)?;
        gates.extend(code.iter().cloned());
        let memory = Memory::new(MOST_TABLES as usize).map_err(Error::Machine)?;
        aside::build(&memory).ok_or(Error::Damaged("there is no room for its page tables"))?;
        let (code, fixed) = (Parts::of(code), Parts::of(gates));
        let new = Self { memory: Arc::new(memory), next: Mutex::new(aside::ROOT + PAGE), code, fixed };
        let changes = Pass::new(&new, space, When::Beginning).carry_out(own, 0..END).map_err(damaged)?;
        debug_assert!(changes.is_empty(), "there was nothing before");
        Ok(Arc::new(new))
    }

    /// The same for a copy of the guest.
    pub(super) fn copy(&self) -> Result<Arc<Self>> {
        let memory = Memory::new(MOST_TABLES as usize).map_err(Error::Machine)?;
        let next = *self.next();
        let mut page = vec![0; PAGE as usize];
        for at in (0..next).step_by(PAGE as usize) {
            let copied = self.memory.read(at as usize, &mut page).and_then(|()| memory.write(at as usize, &page));
            copied.ok_or(Error::Damaged("its page tables ended early"))?;
        }
        let (code, fixed) = (self.code.clone(), self.fixed.clone());
        Ok(Arc::new(Self { memory: Arc::new(memory), next: Mutex::new(next), code, fixed }))
    }

    fn next(&self) -> MutexGuard<'_, u64> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The physical address of the top table.
    pub(super) fn root(&self) -> u64 {
        TABLES + aside::ROOT
    }

    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Whether any of that is what nobody writes to: it is not zeroed and does not become another file's either.
    pub(super) fn holds(&self, physical: u64, length: u64) -> bool {
        self.fixed.overlap(physical, length)
    }

    /// What of the real tables becomes what, so that in a part of the address space there is what the guest's own say. What
    /// nothing was at before is there already.
    pub(super) fn follow(
        &self,
        space: &Space,
        own: u64,
        at: u64,
        length: u64,
    ) -> std::result::Result<Vec<Change>, Errno> {
        let end = at.checked_add(length).filter(|it| *it <= END).ok_or(Errno::INVAL)?;
        if !(at | length).is_multiple_of(PAGE) {
            return Err(Errno::INVAL);
        }
        let control = (CONTROL as u64, (CONTROL + CONTROL_PAGES * PAGE as usize) as u64);
        let stays = [control, (LIBOS as u64, (LIBOS + LIBOS_SIZE) as u64)];
        if stays.iter().any(|it| at < it.1 && it.0 < end) {
            return Err(Errno::PERM);
        }
        Pass::new(self, space, When::Running).carry_out(own, at..end)
    }

    /// Whether the guest's own tables have no more code than the real ones can have.
    pub(super) fn agrees(&self, space: &Space, own: u64) -> bool {
        let mut more = false;
        let walked = leaves(space, own, |_, entry, size| {
            more |= entry & NO_EXECUTE == 0 && !self.code.contain(address(entry, size), size);
        });
        walked.is_ok() && !more
    }

    /// Where in physical memory an address is, for that use.
    pub(super) fn physical(&self, at: u64, what_for: Use) -> Option<u64> {
        let mut table = self.root();
        for level in (0..4).rev() {
            let entry = self.entry(table + (at >> (12 + 9 * level) & 511) * 8)?;
            if entry & PRESENT == 0 || (what_for == Use::Write && entry & WRITABLE == 0) {
                return None;
            }
            match level {
                0 => return Some((entry & ADDRESS) + at % PAGE),
                1 if entry & LARGE != 0 => return Some(address(entry, LARGE_PAGE) + at % LARGE_PAGE),
                _ => table = entry & ADDRESS,
            }
        }
        None
    }

    fn entry(&self, slot: u64) -> Option<u64> {
        let mut entry = [0; 8];
        self.memory.read((slot - TABLES) as usize, &mut entry)?;
        Some(u64::from_le_bytes(entry))
    }

    fn table(&self, at: u64) -> Option<Table> {
        read_table(&self.memory, (at - TABLES) as usize)
    }

    fn take(&self) -> std::result::Result<u64, Errno> {
        let mut next = self.next();
        let new = *next;
        if new + PAGE > MOST_TABLES {
            return Err(Errno::NOMEM);
        }
        *next += PAGE;
        Ok(TABLES + new)
    }
}

type Table = [u64; 512];

fn read_table(memory: &Memory, at: usize) -> Option<Table> {
    let mut bytes = [0; PAGE as usize];
    memory.read(at, &mut bytes)?;
    let mut table = [0; 512];
    for (entry, bytes) in table.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *entry = u64::from_le_bytes(*bytes);
    }
    Some(table)
}

/// One of the guest's own.
fn own_table(space: &Space, at: u64) -> std::result::Result<Table, Errno> {
    let (memory, offset) = space.own(at).ok_or(Errno::FAULT)?;
    read_table(&memory, offset).ok_or(Errno::FAULT)
}

fn address(entry: u64, size: u64) -> u64 {
    entry & ADDRESS & !(size - 1)
}

/// Hands over every page of the guest's own tables: address, entry, size.
fn leaves(space: &Space, own: u64, mut each: impl FnMut(u64, u64, u64)) -> std::result::Result<(), Errno> {
    let mut left = vec![(own, 3u32, 0u64)];
    let mut visits = 0;
    while let Some((table, level, base)) = left.pop() {
        visits += 1;
        if visits > MOST_VISITS {
            return Err(Errno::NOMEM);
        }
        let half = if level == 3 { 256 } else { 512 };
        for (index, entry) in own_table(space, table)?.into_iter().take(half).enumerate() {
            let at = base + ((index as u64) << (12 + 9 * level));
            match level {
                _ if entry & PRESENT == 0 => {}
                0 => each(at, entry, PAGE),
                1 if entry & LARGE != 0 => each(at, entry, LARGE_PAGE),
                _ => left.push((entry & ADDRESS, level - 1, at)),
            }
        }
    }
    Ok(())
}

/// When real tables are made to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// Before the guest goes on: what is code is so from now on, and is not written to any more.
    Beginning,
    /// The guest asks for it.
    Running,
}

/// Making real tables follow the guest's own in a part of the address space.
struct Pass<'a> {
    locked: &'a Locked,
    space: &'a Space,
    when: When,
    /// Where a page may lead.
    inside: Vec<Range<u64>>,
    changes: Vec<Change>,
    visits: usize,
}

impl<'a> Pass<'a> {
    fn new(locked: &'a Locked, space: &'a Space, when: When) -> Self {
        let windows = space.windows_by_address().into_iter().map(|(at, it)| at..at + it.length() as u64);
        let doorbell = DOORBELL_PHYSICAL..DOORBELL_PHYSICAL + PAGE;
        let inside = [0..space.length(), doorbell].into_iter().chain(windows).collect();
        Self { locked, space, when, inside, changes: Vec::new(), visits: 0 }
    }

    fn carry_out(mut self, own: u64, range: Range<u64>) -> std::result::Result<Vec<Change>, Errno> {
        self.level(3, Some(own), self.locked.root(), 0, &range)?;
        Ok(self.changes)
    }

    /// A table of each kind, for the addresses from `base` on.
    fn level(
        &mut self,
        level: u32,
        own: Option<u64>,
        real: u64,
        base: u64,
        range: &Range<u64>,
    ) -> std::result::Result<(), Errno> {
        self.visits += 1;
        if self.visits > MOST_VISITS {
            return Err(Errno::NOMEM);
        }
        let wishes = own.map_or(Ok([0; 512]), |it| own_table(self.space, it))?;
        let haves = self.locked.table(real).ok_or(Errno::FAULT)?;
        let step = 1u64 << (12 + 9 * level);
        let first = range.start.saturating_sub(base) / step;
        let last = (range.end - base).div_ceil(step).min(512);
        for index in first..last {
            let (at, slot) = (base + index * step, real + index * 8);
            let wish = Some(wishes[index as usize]).filter(|it| it & PRESENT != 0);
            let have = haves[index as usize];
            match level {
                0 => {
                    let new = wish.map_or(Ok(0), |it| self.leaf(it, PAGE))?;
                    self.put(slot, have, new)?;
                }
                _ if wish.is_some_and(|it| it & LARGE != 0) => {
                    self.large(level, wish.unwrap_or_default(), [slot, have], at, range)?;
                }
                _ => self.small(level, wish, [slot, have], at, range)?,
            }
        }
        Ok(())
    }

    /// A further table, or nothing.
    fn small(
        &mut self,
        level: u32,
        wish: Option<u64>,
        [slot, have]: [u64; 2],
        at: u64,
        range: &Range<u64>,
    ) -> std::result::Result<(), Errno> {
        let below = wish.map(|it| it & ADDRESS);
        let is_large = have & LARGE != 0;
        match (below, have) {
            (None, 0) => Ok(()),
            (None, _) if is_large => self.put(slot, have, 0),
            (below, _) if have != 0 && !is_large => self.level(level - 1, below, have & ADDRESS, at, range),
            (below, _) => {
                let new = self.locked.take()?;
                // A large page's place is taken as a whole.
                let whole = at..at + (1u64 << (12 + 9 * level));
                self.level(level - 1, below, new, at, if is_large { &whole } else { range })?;
                self.put(slot, have, new | LINK)
            }
        }
    }

    /// A large page: in pieces where there are pieces already, or where some of it is not to be written to.
    fn large(
        &mut self,
        level: u32,
        wish: u64,
        [slot, have]: [u64; 2],
        at: u64,
        range: &Range<u64>,
    ) -> std::result::Result<(), Errno> {
        if level != 1 {
            return Err(Errno::INVAL);
        }
        let begin = address(wish, LARGE_PAGE);
        let has_pieces = have != 0 && have & LARGE == 0;
        let is_mixed = wish & WRITABLE != 0 && self.locked.fixed.overlap(begin, LARGE_PAGE);
        if !has_pieces && !is_mixed {
            let new = self.leaf(wish, LARGE_PAGE)?;
            return self.put(slot, have, new);
        }
        let table = if has_pieces { have & ADDRESS } else { self.locked.take()? };
        let pieces = self.locked.table(table).ok_or(Errno::FAULT)?;
        for (index, piece) in (0u64..).zip(pieces) {
            let here = at + index * PAGE;
            if has_pieces && !range.contains(&here) {
                continue;
            }
            let new = self.leaf((begin + index * PAGE) | wish & (PRESENT | WRITABLE | NO_EXECUTE), PAGE)?;
            self.put(table + index * 8, piece, new)?;
        }
        if has_pieces { Ok(()) } else { self.put(slot, have, table | LINK) }
    }

    /// What a page of the guest's becomes.
    fn leaf(&self, wish: u64, size: u64) -> std::result::Result<u64, Errno> {
        let at = address(wish, size);
        if !self.inside.iter().any(|it| it.start <= at && at + size <= it.end) {
            return Err(Errno::FAULT);
        }
        let large = if size == LARGE_PAGE { LARGE } else { 0 };
        let page = at | PRESENT | USER | USED | large;
        let is_begun = self.when == When::Running;
        if wish & NO_EXECUTE == 0 {
            return if is_begun && !self.locked.code.contain(at, size) { Err(Errno::PERM) } else { Ok(page) };
        }
        if wish & WRITABLE == 0 || (!is_begun && self.locked.fixed.overlap(at, size)) {
            return Ok(page | NO_EXECUTE);
        }
        if self.locked.fixed.overlap(at, size) { Err(Errno::PERM) } else { Ok(page | NO_EXECUTE | WRITABLE) }
    }

    /// An entry becomes another. One that nothing was at no processor knows of.
    fn put(&mut self, slot: u64, have: u64, new: u64) -> std::result::Result<(), Errno> {
        if have == new {
            return Ok(());
        }
        if have & PRESENT != 0 {
            self.changes.push([slot, new]);
            return Ok(());
        }
        self.locked.memory.write((slot - TABLES) as usize, &new.to_le_bytes()).ok_or(Errno::FAULT)
    }
}

#[cfg(test)]
mod tests;
