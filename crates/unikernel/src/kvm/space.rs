//! A guest's memory by its own addresses: its page tables are walked as its processor walks them, and what they lead to is
//! checked. The guest writes them; a wrong one is EFAULT. Where those are not the real ones ([`super::locked`]), it is the real
//! ones that are walked.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use abi::layout::kvm::{ADDRESS, LARGE, MOST_WINDOW, PRESENT, WINDOW};
use sys::Errno;
use vm::{Memory, Region, Window};

use super::locked::Locked;

/// A guest's address space.
pub(crate) struct Space {
    tables: u64,
    memory: RwLock<Vec<Arc<Memory>>>,
    windows: RwLock<Vec<(u64, Arc<Window>)>>,
    /// Its real page tables, when they are not the guest's own.
    locked: OnceLock<Arc<Locked>>,
}

/// What memory is reached for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Read,
    Write,
}

const PAGE: u64 = 4096;

impl Space {
    pub(crate) fn new(tables: u64, memory: Vec<Memory>, windows: Vec<Arc<Window>>) -> Arc<Self> {
        let mut at = WINDOW;
        let mut placed = Vec::with_capacity(windows.len());
        for window in windows {
            let length = window.length() as u64;
            placed.push((at, window));
            at += length;
        }
        let memory = RwLock::new(memory.into_iter().map(Arc::new).collect());
        Arc::new(Self { tables, memory, windows: RwLock::new(placed), locked: OnceLock::new() })
    }

    pub(crate) fn memory(&self) -> Vec<Arc<Memory>> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn windows(&self) -> Vec<Arc<Window>> {
        self.windows_by_address().into_iter().map(|it| it.1).collect()
    }

    pub(crate) fn windows_by_address(&self) -> Vec<(u64, Arc<Window>)> {
        self.windows.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where a further window goes.
    pub(crate) fn next_window(&self, length: usize) -> Option<u64> {
        let windows = self.windows.read().unwrap_or_else(PoisonError::into_inner);
        let end = windows.last().map_or(WINDOW, |(at, window)| at + window.length() as u64);
        (end + length as u64 <= WINDOW + MOST_WINDOW).then_some(end)
    }

    pub(crate) fn add_window(&self, physical: u64, window: Arc<Window>) {
        self.windows.write().unwrap_or_else(PoisonError::into_inner).push((physical, window));
    }

    pub(crate) fn add_memory(&self, memory: Arc<Memory>) {
        self.memory.write().unwrap_or_else(PoisonError::into_inner).push(memory);
    }

    /// Its real page tables are those, from its first instruction on.
    pub(super) fn lock(&self, tables: Arc<Locked>) {
        let _ = self.locked.set(tables);
    }

    /// Its real page tables, when they are not the guest's own.
    pub(super) fn locked(&self) -> Option<&Arc<Locked>> {
        self.locked.get()
    }

    /// How much memory there is.
    pub(crate) fn length(&self) -> u64 {
        self.memory().iter().map(|it| it.length() as u64).sum()
    }

    /// The memory that a physical address is in, and where in it.
    pub(crate) fn own(&self, physical: u64) -> Option<(Arc<Memory>, usize)> {
        let mut begin = 0;
        for memory in self.memory.read().unwrap_or_else(PoisonError::into_inner).iter() {
            let length = memory.length() as u64;
            if physical < begin + length {
                return Some((memory.clone(), (physical - begin) as usize));
            }
            begin += length;
        }
        None
    }

    fn region(&self, physical: u64) -> Option<(Arc<dyn Region>, usize)> {
        if let Some((memory, offset)) = self.own(physical) {
            return Some((memory, offset));
        }
        let windows = self.windows.read().unwrap_or_else(PoisonError::into_inner);
        let (at, window) = windows.iter().find(|(at, it)| (*at..at + it.length() as u64).contains(&physical))?;
        Some((window.clone(), (physical - at) as usize))
    }

    /// Where in physical memory an address is.
    fn physical(&self, at: u64, what_for: Use) -> Option<u64> {
        if let Some(locked) = self.locked() {
            return locked.physical(at, what_for);
        }
        let mut table = self.tables;
        for level in (0..4).rev() {
            let index = at >> (12 + 9 * level) & 511;
            let (memory, offset) = self.own(table + index * 8)?;
            let mut entry = [0; 8];
            memory.read(offset, &mut entry)?;
            let entry = u64::from_le_bytes(entry);
            if entry & PRESENT == 0 {
                return None;
            }
            let address = entry & ADDRESS;
            match level {
                0 => return Some(address + at % PAGE),
                1 if entry & LARGE != 0 => return Some((address & !0x1f_ffff) + at % (2 << 20)),
                _ => table = address,
            }
        }
        None
    }

    /// Goes through a part of the address space page by page.
    fn each(
        &self,
        at: u64,
        length: usize,
        what_for: Use,
        mut each: impl FnMut(&dyn Region, usize, std::ops::Range<usize>) -> Option<()>,
    ) -> Result<(), Errno> {
        let mut done = 0;
        while done < length {
            let here = at.checked_add(done as u64).ok_or(Errno::FAULT)?;
            let part = ((PAGE - here % PAGE) as usize).min(length - done);
            let physical = self.physical(here, what_for).ok_or(Errno::FAULT)?;
            let (region, offset) = self.region(physical).ok_or(Errno::FAULT)?;
            each(&*region, offset, done..done + part).ok_or(Errno::FAULT)?;
            done += part;
        }
        Ok(())
    }
}

/// The address space of a member, for its calls.
pub(crate) struct OfGuest(pub(crate) Arc<Space>);

impl crate::memory::Memory for OfGuest {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Errno> {
        self.0.each(at, into.len(), Use::Read, |region, offset, part| region.read(offset, &mut into[part]))
    }

    fn write(&self, at: u64, from: &[u8]) -> Result<(), Errno> {
        self.0.each(at, from.len(), Use::Write, |region, offset, part| region.write(offset, &from[part]))
    }
}
