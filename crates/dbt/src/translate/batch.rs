//! Blocks on their way into the cache: many at once, linked among each other before any of them runs.

use std::ops::Range;

use super::generate::{Compiled, Link};
use super::kept::{Extent, Record};
use super::specialise::Effort;
use super::{Key, NO_LINK, PAGE, Translated, Translator, sets};
use crate::peers::lines_of;

/// Blocks behind one another.
#[derive(Default)]
pub(super) struct Batch {
    code: Vec<u8>,
    blocks: Vec<Placed>,
    /// Of all of them: offsets in `code`.
    links: Vec<Link>,
}

struct Placed {
    key: Key,
    /// Where it begins in the batch, and code that leaves because it does not hold any more.
    at: usize,
    stale: usize,
    lines: u64,
    effort: Effort,
    links: Range<usize>,
}

/// The lines of its page that a block was made of. One of two pages goes with anything of either.
fn lines(key: Key, extents: impl Iterator<Item = Extent>) -> u64 {
    if key.behind.is_some() {
        return u64::MAX;
    }
    extents.fold(0, |lines, (at, length)| lines | lines_of(at.into(), length.into()))
}

/// Blocks begin at multiples of so many bytes, as the cache's do.
const ALIGNMENT: usize = 16;

impl Batch {
    /// None.
    pub(super) fn clear(&mut self) {
        self.code.clear();
        self.blocks.clear();
        self.links.clear();
    }

    pub(super) fn has(&self, key: Key) -> bool {
        self.blocks.iter().any(|it| it.key == key)
    }

    /// A block that was made now.
    pub(super) fn add(&mut self, key: Key, effort: Effort, extents: &[Extent], Compiled { bytes, seams }: &Compiled) {
        let lines = lines(key, extents.iter().copied());
        let counts = seams.counter.map(|at| (at, key.physical)).into_iter();
        let page = key.physical & !(PAGE - 1);
        let counts = counts.chain(seams.turns.iter().map(|it| (it.at, page + u64::from(it.plus))));
        self.put(key, effort, bytes, (lines, seams.stale), counts, seams.links.iter().copied());
    }

    /// One that another machine has made.
    pub(super) fn add_kept(&mut self, key: Key, record: &Record<'_>) {
        let lines = lines(key, record.extents());
        let counts = record.counter.map(|at| (at, key.physical)).into_iter();
        self.put(key, record.effort, record.code, (lines, record.stale), counts, record.links());
    }

    fn put(
        &mut self,
        key: Key,
        effort: Effort,
        code: &[u8],
        (lines, stale): (u64, u32),
        counts: impl Iterator<Item = (u32, u64)>,
        links: impl Iterator<Item = Link>,
    ) {
        let at = self.code.len().next_multiple_of(ALIGNMENT);
        self.code.resize(at, 0);
        self.code.extend_from_slice(code);
        let first = self.links.len();
        let moved = |it: Link| Link { jump: it.jump + at as u32, number: it.number + at as u32, ..it };
        self.links.extend(links.map(moved));
        for (place, physical) in counts {
            self.write(at + place as usize, sets::counter(physical) as u32);
        }
        let stale = at + stale as usize;
        self.blocks.push(Placed { key, effort, at, stale, lines, links: first..self.links.len() });
    }

    /// The four bytes at `at` become a number.
    fn write(&mut self, at: usize, number: u32) {
        if let Some(bytes) = self.code.get_mut(at..at + 4) {
            bytes.copy_from_slice(&number.to_le_bytes());
        }
    }
}

impl Translator {
    /// The code of these is there from now on; gives the number of the first, which is its own. Nothing if there is no room
    /// for it.
    pub(super) fn install(&mut self, batch: &mut Batch) -> Option<u32> {
        let base = self.cache.room(batch.code.len())?;
        let first = self.list.len();
        // All are there before anything leads to one of them.
        for placed in &batch.blocks {
            let (code, stale) = (Some(base + placed.at), base + placed.stale);
            let Placed { lines, effort, .. } = *placed;
            self.keep(placed.key, Translated { code, effort, stale, lines, incoming: NO_LINK });
        }
        for at in 0..batch.blocks.len() {
            let Placed { key, links: Range { start, end }, .. } = batch.blocks[at];
            for link in start..end {
                self.link(base, batch, key, link);
            }
        }
        self.cache.add(&batch.code)?;
        Some(first as u32)
    }

    /// A link of a block is there, and leads where it will, if that is there.
    fn link(&mut self, base: usize, batch: &mut Batch, of: Key, number: usize) {
        let Link { jump, number: place, plus } = batch.links[number];
        let link = self.add_link(base + jump as usize, plus);
        batch.write(place as usize, link);
        let Some(offset) = u64::try_from(plus).ok().filter(|it| *it < PAGE) else { return };
        let to = Key { physical: (of.physical & !(PAGE - 1)) + offset, behind: None, modes: of.modes };
        if let Some(code) = self.blocks.get(&to).copied().and_then(|to| self.lead(link, to)) {
            batch.write(jump as usize, (code as i64 - (base as i64 + i64::from(jump) + 4)) as i32 as u32);
        }
    }
}
