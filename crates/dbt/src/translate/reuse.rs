//! Taking what other machines have translated, and keeping for them what this one has.
//!
//! **Nothing is taken whose bytes are not there**: each block is compared with memory, whose lines are marked before they
//! are read, so that whoever changes one afterwards has the block dropped. Who looks for one block of a page takes all of
//! that page that are kept for his modes: they come into the cache by one copy, and find each other without being asked.

use std::sync::Arc;

use super::batch::Batch;
use super::generate::Compiled;
use super::kept::{Extent, Made, PRINTED, PageName, Place, Record, print};
use super::specialise::{Effort, Sharing};
use super::{Key, PAGE, Translator};
use crate::processor::Processor;

impl Processor {
    pub(super) fn sharing(&self) -> Sharing {
        if self.ram.peers().is_alone() { Sharing::Alone } else { Sharing::Shared }
    }

    /// What a block is looked for by among those that are kept. Nothing if none are, or it would not be.
    pub(super) fn place(&self, key: Key) -> Option<Place> {
        let begin = key.physical & (PAGE - 1);
        let is_kept = self.translator.as_ref().is_some_and(|it| it.kept.is_some());
        if !is_kept || key.behind.is_some() || begin > PAGE - 4 {
            return None;
        }
        let mut bytes = [0; PRINTED];
        let bytes = &mut bytes[..PRINTED.min((PAGE - begin) as usize)];
        self.ram.copy_out(key.physical, bytes)?;
        Some(Place { modes: key.modes, begin: begin as u16, sharing: self.sharing(), print: print(bytes) })
    }

    /// Whether another machine may have translated the block of a place.
    pub(super) fn may_be_kept(&self, place: Place) -> bool {
        self.translator.as_ref().and_then(|it| it.kept.as_ref()).is_some_and(|kept| kept.may_have(place))
    }

    /// Takes a block that another machine has translated, if it was made of what is there now, and others of its page with
    /// it. Its pages are protected.
    pub(super) fn take_kept(&mut self, key: Key, place: Place, least: Effort) -> Option<u32> {
        let kept = Arc::clone(self.translator.as_ref()?.kept.as_ref()?);
        let page = key.physical & !(PAGE - 1);
        let (record, name) = kept.find(place, least, |record| self.is_there(page, record))?;
        let mut batch = std::mem::take(&mut self.translator.as_mut()?.batch);
        batch.clear();
        batch.add_kept(key, &record);
        for (begin, record) in kept.of_page(name, place.modes, place.sharing) {
            let other = Key { physical: page + u64::from(begin), ..key };
            let is_new = |it: &Translator| !it.blocks.contains_key(&other) && !batch.has(other);
            if self.translator.as_ref().is_some_and(is_new) && self.is_there(page, &record) && record.is_whole() {
                batch.add_kept(other, &record);
            }
        }
        let translator = self.translator.as_mut()?;
        translator.names.insert(page, name);
        translator.install_with(batch)
    }

    /// Whether what a block was made of is in a page. Lines are marked where it seems to be: others may be written often.
    fn is_there(&self, page: u64, record: &Record<'_>) -> bool {
        let is = |change: &dyn Fn(u64, u64)| {
            let mut source = record.source;
            record.extents().all(|(at, length)| {
                let address = page + u64::from(at);
                change(address, length.into());
                source.split_off(..usize::from(length)).is_some_and(|it| self.ram.is(address, it))
            })
        };
        is(&|_, _| ()) && is(&|address, length| self.ram.peers().code.mark(address, length))
    }

    /// Keeps a block for other machines.
    pub(super) fn keep(&mut self, key: Key, place: Option<Place>, effort: Effort, of: (&[Extent], &Compiled)) {
        // Regions, and what may become some, are each machine's own.
        let Some(place) = place.filter(|_| of.1.seams.turns.is_empty()) else { return };
        let (page, (extents, compiled)) = (key.physical & !(PAGE - 1), of);
        let mut source = vec![0; extents.iter().map(|(_, length)| usize::from(*length)).sum()];
        let mut rest = &mut *source;
        for (at, length) in extents {
            let Some(part) = rest.split_off_mut(..usize::from(*length)) else { return };
            if self.ram.copy_out(page + u64::from(*at), part).is_none() {
                return;
            }
        }
        let Some(name) = self.name_of(page) else { return };
        let Some(kept) = self.translator.as_ref().and_then(|it| it.kept.as_ref()) else { return };
        let Compiled { bytes: code, seams } = compiled;
        kept.add(place, name, &Made { effort, extents, source: &source, code, seams });
    }

    /// What a page is called: as those have called it who kept code of it, or by what is there.
    fn name_of(&mut self, page: u64) -> Option<PageName> {
        if let Some(name) = self.translator.as_ref()?.names.get(&page) {
            return Some(*name);
        }
        let mut bytes = [0; PAGE as usize];
        self.ram.copy_out(page, &mut bytes)?;
        let name = PageName(print(&bytes));
        self.translator.as_mut()?.names.insert(page, name);
        Some(name)
    }
}

impl Translator {
    /// Installs a batch, of which the room is used again.
    fn install_with(&mut self, mut batch: Batch) -> Option<u32> {
        let first = self.install(&mut batch);
        self.batch = batch;
        first
    }

    /// A block that was made now is there from now on; gives its number. Nothing if there is no room for it.
    pub(super) fn install_made(
        &mut self,
        key: Key,
        effort: Effort,
        extents: &[Extent],
        compiled: &Compiled,
    ) -> Option<u32> {
        let mut batch = std::mem::take(&mut self.batch);
        batch.clear();
        batch.add(key, effort, extents, compiled);
        self.install_with(batch)
    }
}
