//! The program's address space: what is mapped where, and what may be done with it.
//!
//! The engine does the mapping; this keeps the account, from which places are chosen and by which every address that a
//! program hands over is checked before it is touched. **The account and the engine's mappings agree at all times.**

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use abi::layout::{LOWEST, MAPPINGS_END, PAGE, PROGRAM_END};
use bitflags::bitflags;

use crate::engine::{self, Source};
use crate::errno::{EEXIST, EFAULT, EINVAL, ENOMEM, Result};
use crate::sync::Local;

bitflags! {
    /// What may be done with a page, in the numbers of mmap.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Protection: u8 {
        const READ = 1;
        const WRITE = 2;
        const EXECUTE = 4;
    }
}

/// What a part of the address space is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Area {
    end: usize,
    protection: Protection,
    sharing: Sharing,
    /// Which memory it is that others share, or 0.
    memory: u64,
    /// What an address in it is away from its place in that memory.
    ahead: usize,
}

/// Who sees what is written there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// This process.
    Private,
    /// Everybody who mapped the same.
    Shared,
}

/// Where a mapping shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Anywhere; there, if it is free.
    Anywhere(usize),
    /// There, in place of whatever is there.
    At(usize),
    /// There, or nowhere.
    AtFree(usize),
}

/// The address space.
pub struct Space {
    /// By their beginnings; they do not overlap.
    areas: BTreeMap<usize, Area>,
    /// Below this, mappings are placed.
    top: usize,
    heap_begin: usize,
    heap_end: usize,
}

/// The only one.
pub static SPACE: Local<Space> = Local::new(Space::empty());

impl Space {
    const fn empty() -> Self {
        Self { areas: BTreeMap::new(), top: MAPPINGS_END, heap_begin: 0, heap_end: 0 }
    }

    /// Unmaps everything, and chooses where mappings will be placed from here on.
    pub fn reset(&mut self, random: usize) -> Result<()> {
        let areas = core::mem::take(&mut self.areas);
        for (begin, area) in areas {
            engine::unmap(begin, area.end - begin)?;
        }
        self.top = MAPPINGS_END - (random & 0xff_ffff) * PAGE;
        (self.heap_begin, self.heap_end) = (0, 0);
        Ok(())
    }

    /// Maps whole pages.
    pub fn map(&mut self, place: Place, length: usize, protection: Protection, source: Source) -> Result {
        let length = whole_pages(length)?;
        let at = match place {
            Place::At(at) => at,
            Place::AtFree(at) if self.is_free(at, length) => at,
            Place::AtFree(_) => return Err(EEXIST),
            Place::Anywhere(hint) if hint % PAGE == 0 && in_program(hint, length) && self.is_free(hint, length) => hint,
            Place::Anywhere(_) => self.gap(length).ok_or(ENOMEM)?,
        };
        if at % PAGE != 0 || !in_program(at, length) {
            return Err(if at % PAGE != 0 { EINVAL } else { ENOMEM });
        }
        let (memory, nest) = match source {
            Source::Private(part) if is_code(protection) => {
                let room = |at, length| in_program(at, length) && self.is_free(at, length);
                (0, engine::map_code(at, length, protection, part, &room)?)
            }
            _ => (engine::map(at, length, protection, source)?, None),
        };
        self.forget(at, at + length);
        if let Some((begin, length)) = nest {
            let protection = Protection::READ | Protection::EXECUTE;
            let area = Area { end: begin + length, protection, sharing: Sharing::Private, memory: 0, ahead: 0 };
            self.record(begin, area);
        }
        let (sharing, ahead) = match source {
            Source::Shared { offset, .. } => (Sharing::Shared, at.wrapping_sub(offset as usize)),
            Source::Anonymous | Source::Private(_) => (Sharing::Private, 0),
        };
        self.record(at, Area { end: at + length, protection, sharing, memory, ahead });
        Ok(at)
    }

    /// Removes whole pages.
    pub fn unmap(&mut self, at: usize, length: usize) -> Result<()> {
        let length = whole_pages(length)?;
        if at % PAGE != 0 || at.checked_add(length).is_none_or(|end| end > PROGRAM_END) {
            return Err(EINVAL);
        }
        engine::unmap(at, length)?;
        self.forget(at, at + length);
        Ok(())
    }

    /// Changes what may be done with pages, all of which must be mapped.
    pub fn protect(&mut self, at: usize, length: usize, protection: Protection) -> Result<()> {
        if at % PAGE != 0 {
            return Err(EINVAL);
        }
        if length == 0 {
            return Ok(());
        }
        let length = whole_pages(length)?;
        if !self.is_mapped(at, length, Protection::empty()) {
            return Err(ENOMEM);
        }
        engine::protect(at, length, protection)?;
        for (begin, area) in self.cut(at, at + length) {
            self.record(begin, Area { protection, ..area });
        }
        Ok(())
    }

    /// Makes a mapping longer or shorter, elsewhere if it may and must.
    pub fn resize(&mut self, at: usize, old: usize, new: usize, place: Resize) -> Result {
        let new = whole_pages(new)?;
        // Linux makes a second mapping of shared pages of which the old length is nothing. Nobody is known to need it.
        let old = whole_pages(old)?;
        if at % PAGE != 0 {
            return Err(EINVAL);
        }
        if let Resize::Here | Resize::Anywhere = place
            && new <= old
            && self.is_mapped(at, old, Protection::empty())
        {
            if new < old {
                self.unmap(at + new, old - new)?;
            }
            return Ok(at);
        }
        let Some(area) = self.area(at).filter(|it| it.end >= at + old) else { return Err(EFAULT) };
        if let Resize::To(to) = place {
            if to % PAGE != 0 || !in_program(to, new) || (to < at + old && at < to + new) {
                return Err(EINVAL);
            }
            return self.relocate(at, old, to, new, area);
        }
        if area.end == at + old && in_program(at, new) && self.is_free(at + old, new - old) {
            return self.relocate(at, old, at, new, area);
        }
        if place == Resize::Here {
            return Err(ENOMEM);
        }
        let to = self.gap(new).ok_or(ENOMEM)?;
        self.relocate(at, old, to, new, area)
    }

    fn relocate(&mut self, at: usize, old: usize, to: usize, new: usize, area: Area) -> Result {
        engine::relocate(at, old, to, new, area.protection)?;
        self.forget(at, at + old);
        self.forget(to, to + new);
        let ahead = area.ahead.wrapping_add(to).wrapping_sub(at);
        self.record(to, Area { end: to + new, ahead, ..area });
        Ok(to)
    }

    /// Where the program's heap begins: behind the program, and whatever else is there.
    pub fn begin_heap(&mut self, mut at: usize) {
        while let Some(area) = self.area(at) {
            at = area.end;
        }
        (self.heap_begin, self.heap_end) = (at, at);
    }

    /// Moves the end of the heap, if that can be. Gives where it is then.
    pub fn set_heap(&mut self, end: usize) -> usize {
        let page = |it: usize| it.next_multiple_of(PAGE);
        if end < self.heap_begin || end > PROGRAM_END {
            return self.heap_end;
        }
        let (old, new) = (page(self.heap_end), page(end));
        let moved = if new > old {
            let rights = Protection::READ | Protection::WRITE;
            match self.is_free(old, new - old) {
                true => self.map(Place::At(old), new - old, rights, Source::Anonymous).map(drop),
                false => Err(ENOMEM),
            }
        } else if new < old {
            self.unmap(new, old - new)
        } else {
            Ok(())
        };
        if moved.is_ok() {
            self.heap_end = end;
        }
        self.heap_end
    }

    /// Whether all of that may be so used.
    pub fn is_mapped(&self, at: usize, length: usize, rights: Protection) -> bool {
        let Some(end) = at.checked_add(length) else { return false };
        let mut reached = at;
        while reached < end {
            match self.area(reached) {
                Some(area) if area.protection.contains(rights) => reached = area.end,
                _ => return false,
            }
        }
        true
    }

    /// What may be done with the page at an address.
    pub fn rights(&self, at: usize) -> Option<Protection> {
        self.area(at).map(|it| it.protection)
    }

    /// Which memory that others share is at an address, and where in it.
    pub fn shared(&self, at: usize) -> Option<(u64, u64)> {
        let area = self.area(at).filter(|it| it.memory != 0)?;
        Some((area.memory, at.wrapping_sub(area.ahead) as u64))
    }

    /// What is mapped, in order: `(begin, end, protection, sharing)`.
    pub fn areas(&self) -> impl Iterator<Item = (usize, usize, Protection, Sharing)> {
        self.areas.iter().map(|(&begin, it)| (begin, it.end, it.protection, it.sharing))
    }

    fn area(&self, at: usize) -> Option<Area> {
        let (_, area) = self.areas.range(..=at).next_back()?;
        (area.end > at).then_some(*area)
    }

    fn is_free(&self, at: usize, length: usize) -> bool {
        let before = self.areas.range(..at + length).next_back();
        before.is_none_or(|(_, area)| area.end <= at)
    }

    /// A free place, as high as there is one.
    fn gap(&self, length: usize) -> Option<usize> {
        let slack = if length >= LARGE_PAGE { LARGE_PAGE } else { 0 };
        let mut end = self.top;
        for (&begin, area) in self.areas.range(..self.top).rev() {
            if area.end <= end && end - area.end >= length + slack {
                break;
            }
            end = end.min(begin);
        }
        let at = end.checked_sub(length)?;
        // So that large pages fit.
        let at = if length >= LARGE_PAGE { at - at % LARGE_PAGE } else { at };
        (at >= LOWEST && self.is_free(at, length)).then_some(at)
    }

    /// A free place below an address, and no farther from it than that.
    pub fn gap_below(&self, at: usize, length: usize, farthest: usize) -> Option<usize> {
        let mut end = at;
        for (&begin, area) in self.areas.range(..=at).rev() {
            if area.end <= end && end - area.end >= length {
                break;
            }
            end = end.min(begin);
        }
        let place = end.checked_sub(length)?;
        (place >= LOWEST && at - place < farthest && self.is_free(place, length)).then_some(place)
    }

    /// Takes out of the account whatever is between, and gives it.
    fn cut(&mut self, begin: usize, end: usize) -> Vec<(usize, Area)> {
        let mut overlapping = Vec::new();
        let first = self.areas.range(..begin).next_back().filter(|(_, area)| area.end > begin).map(|(&at, _)| at);
        let inside = self.areas.range(begin..end).map(|(&at, _)| at);
        for at in first.into_iter().chain(inside) {
            overlapping.push(at);
        }
        let mut cut = Vec::with_capacity(overlapping.len());
        for at in overlapping {
            let Some(area) = self.areas.remove(&at) else { continue };
            if at < begin {
                self.areas.insert(at, Area { end: begin, ..area });
            }
            if area.end > end {
                self.areas.insert(end, area);
            }
            cut.push((at.max(begin), Area { end: area.end.min(end), ..area }));
        }
        cut
    }

    fn forget(&mut self, begin: usize, end: usize) {
        drop(self.cut(begin, end));
    }

    /// Adds to the account what is in nobody's way, as one with its like before it.
    fn record(&mut self, begin: usize, area: Area) {
        if let Some((&before, previous)) = self.areas.range(..begin).next_back()
            && previous.end == begin
            && (previous.protection, previous.sharing) == (area.protection, area.sharing)
            && area.sharing == Sharing::Private
        {
            self.areas.insert(before, area);
        } else {
            self.areas.insert(begin, area);
        }
    }
}

/// Where a mapping that changes its size may be afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// Where it is.
    Here,
    /// Anywhere.
    Anywhere,
    /// There.
    To(usize),
}

const LARGE_PAGE: usize = 2 << 20;

/// Whether a part of a file that is so mapped is code as it stands.
fn is_code(protection: Protection) -> bool {
    protection.contains(Protection::EXECUTE) && !protection.contains(Protection::WRITE)
}

fn in_program(at: usize, length: usize) -> bool {
    at >= LOWEST && at.checked_add(length).is_some_and(|end| end <= PROGRAM_END)
}

fn whole_pages(length: usize) -> Result {
    if length == 0 || length > PROGRAM_END {
        return Err(if length == 0 { EINVAL } else { ENOMEM });
    }
    Ok(length.next_multiple_of(PAGE))
}
