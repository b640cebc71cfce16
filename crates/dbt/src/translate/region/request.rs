//! A processor has a loop compiled, and takes what was compiled.

use isa::Isa;
use rustc_hash::FxHashSet;

use super::super::generate::{Compiled, Counting, Site};
use super::super::run::Reader;
use super::super::specialise::{self, Effort, Fetch};
use super::super::{Key, PAGE, Translator, kept};
use super::form::{Extent, form};
use super::workshop::Order;
use crate::processor::Processor;

/// What a region is made of, as far as who writes there goes: its page.
const WHOLE: [kept::Extent; 1] = [(0, PAGE as u16)];

/// Instructions up to where other blocks begin.
struct Bounded<'b, 'r> {
    reader: &'b mut Reader<'r>,
    begin: u32,
    ends: &'b FxHashSet<u32>,
}

impl Fetch for Bounded<'_, '_> {
    fn fetch(&mut self, at: u32) -> Option<(usize, u32)> {
        if at != self.begin && self.ends.contains(&at) { None } else { self.reader.fetch(at) }
    }
}

impl Translator {
    fn install_region(&mut self, key: Key, compiled: &Compiled) -> Option<u32> {
        self.made += 1;
        self.regions += 1;
        self.install_made(key, Effort::Region, &WHOLE, compiled)
    }
}

impl Processor {
    /// The innermost loop that a block is in is compiled, and takes the place of the block that is its head when it is done.
    pub(in crate::translate) fn order_region(&mut self, isa: &Isa, key: Key) {
        let attention = self.attention();
        let Some(order) = self.region(isa, key, Extent::Loop) else { return };
        if let Some(translator) = &mut self.translator {
            let block = translator.blocks.get(&order.key).map(|number| &translator.list[*number as usize]);
            if block.is_none_or(|it| it.effort != Effort::Region)
                && let Some(workshop) = &mut translator.workshop
            {
                workshop.order(order, &attention);
            }
        }
    }

    /// All that is reached from a block is compiled now. Nothing if that can't be.
    pub(in crate::translate) fn make_region(&mut self, isa: &Isa, key: Key) -> Option<u32> {
        let order = self.region(isa, key, Extent::Everything)?;
        let translator = self.translator.as_mut()?;
        let compiled = translator.workshop.as_mut()?.make(&order)?;
        translator.install_region(key, &compiled)
    }

    /// Regions that were compiled meanwhile are there from now on.
    pub(in crate::translate) fn take_regions(&mut self) {
        while let Some(made) = self.translator.as_mut().and_then(|it| it.workshop.as_mut()?.take()) {
            let (Some(compiled), Some(translator)) = (made.compiled, &mut self.translator) else { continue };
            translator.forget(made.key);
            // Without room, everything is forgotten soon.
            translator.install_region(made.key, &compiled);
        }
    }

    fn region(&mut self, isa: &Isa, key: Key, extent: Extent) -> Option<Order> {
        if key.behind.is_some() {
            return None;
        }
        let page = key.physical & !(PAGE - 1);
        let modes = self.mode_values(isa);
        let questions = std::mem::take(&mut self.questions);
        let translator = self.translator.as_mut()?;
        let mut room = std::mem::take(&mut translator.room);
        let blocks = std::mem::take(&mut translator.blocks);
        let alignment = translator.alignment;
        let is_known = |begin: u32| {
            extent == Extent::Everything || blocks.contains_key(&Key { physical: page + u64::from(begin), ..key })
        };
        let given = specialise::Given {
            isa,
            modes: &modes,
            questions: &questions,
            sharing: self.sharing(),
            effort: Effort::Region,
        };
        let mut reader = Reader::of(self, isa, page);
        let region = form((key.physical - page) as u32, extent, &is_known, &mut |begin, ends| {
            let mut bounded = Bounded { reader: &mut reader, begin, ends };
            specialise::block(&given, begin, &mut bounded, &mut room)
        });
        self.questions = questions;
        let translator: &mut Translator = self.translator.as_mut()?;
        translator.room = room;
        translator.blocks = blocks;
        let region = region?;
        let key = Key { physical: page + u64::from(region.blocks[0].begin), ..key };
        Some(Order { key, region, site: Site { alignment, counting: Counting::Nothing } })
    }
}
