//! Runs generated code: finds or makes the block where a processor is, and calls it.

#![expect(unsafe_code, reason = "generated code is called with a pointer to its processor")]

use std::sync::atomic::Ordering;

use isa::{Isa, Register};

use super::callbacks::{Run, interpret, load, store, touch};
use super::generate::{self, Counting, Site, TooBig};
use super::kept::{Extent, Place};
use super::specialise::{self, Effort, Fetch};
use super::{Key, NO_LINK, PAGE, sets};
use crate::board::Board;
use crate::processor::Processor;
use crate::state::head;
use crate::tlb::{Access, Reach};

/// Every exception masked, no flag set, rounding to the nearest.
pub(super) const PLAIN_CONTROL: u32 = 0x1f80;

/// Instructions of a page.
pub(super) struct Reader<'r> {
    processor: &'r mut Processor,
    isa: &'r Isa,
    /// Its physical address.
    page: u64,
    /// That of the page behind it, where an instruction may end that begins here: then it is a block of its own.
    behind: Option<u64>,
    /// What was read.
    extents: Vec<Extent>,
}

impl<'r> Reader<'r> {
    /// Instructions of a page alone.
    pub(super) fn of(processor: &'r mut Processor, isa: &'r Isa, page: u64) -> Reader<'r> {
        Reader { processor, isa, page, behind: None, extents: Vec::new() }
    }
}

impl Fetch for Reader<'_> {
    fn fetch(&mut self, at: u32) -> Option<(usize, u32)> {
        let room = PAGE - u64::from(at);
        let code = &self.processor.ram.peers().code;
        code.mark(self.page + u64::from(at), 4);
        if let (2, Some(behind)) = (room, self.behind) {
            code.mark(behind, 2);
            let low = self.processor.ram.read(self.page + u64::from(at), 16)? as u32;
            let word = low | (self.processor.ram.read(behind, 16)? as u32) << 16;
            return self.processor.decode(self.isa, word).map(|number| (number, word));
        }
        let address = self.page + u64::from(at);
        let width = if room >= 4 { 32 } else { 16 };
        if room < 2 {
            return None;
        }
        let word = self.processor.ram.read(address, width)? as u32;
        let number = self.processor.decode(self.isa, word)?;
        let instruction = &self.isa.instructions[number];
        let word = if instruction.size == 2 { word & 0xffff } else { word };
        let size = instruction.size;
        if u64::from(size) > room {
            return None;
        }
        let end = |(begin, length): &Extent| u32::from(*begin) + u32::from(*length);
        if !self.extents.iter().any(|it| (it.0.into()..end(it)).contains(&at)) {
            match self.extents.last_mut() {
                Some(it) if end(it) == at => it.1 += u16::from(size),
                _ => self.extents.push((at as u16, size.into())),
            }
        }
        Some((number, word))
    }
}

impl Processor {
    /// Runs generated code from where the processor is, until somebody may want something else.
    pub(crate) fn run_translated(&mut self, isa: &Isa, board: &mut dyn Board) {
        let mut link = 0;
        let mut is_stale = false;
        self.take_regions();
        loop {
            let known = if is_stale { None } else { self.known(link) };
            let Some(address) = known.or_else(|| self.find(isa, board, link)) else { return };
            is_stale = false;
            match self.call(isa, board, address) {
                0 => return,
                head::INTERPRET_NEXT => {
                    self.count_next(isa);
                    self.step(isa, board);
                    return;
                }
                head::STALE => {
                    link = 0;
                    is_stale = true;
                }
                head::HOT => {
                    link = 0;
                    is_stale = true;
                    self.make_anew(isa, board);
                }
                head::MODES_CHANGED => {
                    link = 0;
                    self.update_key();
                    // Whoever changes modes synchronises.
                    if self.state.head(head::PENDING) != 0 || self.attention.load(Ordering::Acquire) != 0 {
                        return;
                    }
                }
                number => {
                    link = number as u32;
                    self.take_link(link);
                    if self.attention.load(Ordering::Acquire) != 0 {
                        return;
                    }
                }
            }
        }
    }

    /// Generated code was left by a link: the processor is where that leads.
    fn take_link(&mut self, link: u32) {
        if let Some(link) = self.translator.as_ref().and_then(|it| it.links.get(link as usize)) {
            self.pc = self.state.head(head::PAGE).wrapping_add_signed(link.plus.into());
        }
    }

    /// Counts the instruction at hand.
    fn count_next(&mut self, isa: &Isa) {
        let physical = self.tlb.look(Access::Fetch, self.pc, self.key, self.space());
        let word = physical.and_then(|at| self.ram.read(at, 32));
        if let Some(number) = word.and_then(|word| self.decode(isa, word as u32)) {
            self.counts[number] += 1;
        }
    }

    /// Floating-point operations have left these flags in the host's control word.
    pub(super) fn add_float_flags(&mut self, control: u32) {
        if control & 0x3d == 0 {
            return;
        }
        let Some(offset) = self.float_flags else { return };
        // Invalid, (denormal operand), division by zero, overflow, underflow, inexact.
        let flags = control & 1 | control >> 1 & 0x1e;
        self.state.set_narrow(offset, self.state.narrow(offset) | u64::from(flags));
    }

    /// Calls generated code.
    fn call(&mut self, isa: &Isa, board: &mut dyn Board, address: u64) -> u64 {
        let mut run = Run { processor: self, board, isa };
        // SAFETY: as long as generated code runs, nobody but what it calls uses the processor.
        let reason = unsafe {
            let processor = run.processor;
            (*processor).state.set_head(head::RUN, &raw mut run as u64);
            let state = (*processor).state.address();
            match &(*processor).translator {
                Some(translator) => translator.cache.call(translator.shared.enter, state, address),
                None => 0,
            }
        };
        self.pc = self.state.head(head::PC);
        let control = self.state.head(head::FLOAT_LEFT) as u32;
        self.add_float_flags(control);
        reason
    }

    /// Code for where the processor is, if it ran here lately.
    fn known(&mut self, link: u32) -> Option<u64> {
        let (pc, key, space) = (self.pc, self.key, self.space());
        let translator = self.translator.as_mut()?;
        let set = translator.sets.find(key, space);
        let set = translator.sets.get(set);
        let address = set.jump(pc)?;
        // A link is made by whoever finds more than the address. (Who is wanted leaves by one that is made, too.)
        if translator.links.get(link as usize).is_some_and(|it| link != NO_LINK && !it.is_straight) {
            return None;
        }
        let set = &raw mut *set as u64;
        self.state.set_head(head::PAGE, pc & !(PAGE - 1));
        self.state.set_head(head::SET, set);
        Some(address)
    }

    /// Code for where the processor is. Nothing if that was interpreted instead.
    fn find(&mut self, isa: &Isa, board: &mut dyn Board, link: u32) -> Option<u64> {
        let physical = match self.translate(isa, board, Access::Fetch, self.pc, 0) {
            Ok(physical) => physical,
            Err(_) => {
                // It throws again.
                self.step(isa, board);
                return None;
            }
        };
        let (key, space) = (self.key, self.space());
        let behind = if self.is_across(isa, physical) {
            self.translate(isa, board, Access::Fetch, self.pc.wrapping_add(2), 0).ok()
        } else {
            None
        };
        let found = Key { physical, behind, modes: key };
        let translator = self.translator.as_mut()?;
        let epoch = translator.epoch;
        let number = match translator.blocks.get(&found).copied() {
            Some(number) => number,
            None => {
                let place = self.place(found);
                let is_kept = place.is_some_and(|place| self.may_be_kept(place));
                let translator = self.translator.as_mut()?;
                let counted = translator.visits.count(found);
                let Some(effort) = counted.or(is_kept.then_some(Effort::Some)) else {
                    self.walk(isa, board, physical);
                    return None;
                };
                if !self.protect_pages(&found.pages()) {
                    // Where these are may be forgotten by now: all of it is looked for again.
                    return None;
                }
                self.make(isa, found, place, effort)?
            }
        };
        let pc = self.pc;
        let reach = match (behind, self.tlb.found(Access::Fetch, pc, key, space)) {
            (None, Some((_, reach))) => reach,
            _ => Reach::Space,
        };
        let translator = self.translator.as_mut()?;
        let Some(code) = translator.list[number as usize].code else {
            self.count_next(isa);
            self.step(isa, board);
            return None;
        };
        let set = translator.sets.find(key, space);
        let address = translator.cache.address(code);
        translator.sets.get(set).keep_jump(pc, address, reach);
        if link != 0 && behind.is_none() && epoch == translator.epoch {
            // Whoever came here by a link that is there still can come straight from now on.
            if translator.lead(link, number).is_some() {
                translator.cache.direct(translator.links[link as usize].at, code);
            }
        }
        let set = &raw mut *translator.sets.get(set) as u64;
        let head_values = [
            (head::PAGE, pc & !(PAGE - 1)),
            (head::SET, set),
            (head::LEAVE, translator.cache.address(translator.shared.leave)),
            (head::UNKNOWN, translator.cache.address(translator.shared.unknown)),
            (head::LOAD, load as *const () as u64),
            (head::STORE, store as *const () as u64),
            (head::INTERPRET, interpret as *const () as u64),
            (head::TOUCH, touch as *const () as u64),
            (head::CLOCK_MULTIPLIER, self.clock.multiplier),
            (head::CLOCK_OFFSET, self.clock.offset()),
            (head::FLOAT_CONTROL, PLAIN_CONTROL.into()),
            (head::ATTENTION, self.attention.as_ptr() as u64),
        ];
        head_values.into_iter().for_each(|(word, value)| self.state.set_head(word, value));
        for (word, at) in &translator.shared.errands {
            self.state.set_head(*word, translator.cache.address(*at));
        }
        Some(address)
    }

    /// Interprets up to where a block would end, or somebody wants something. (Who posts mail asks for attention, too.)
    ///
    /// As long as nothing is forgotten and the page is the same, the next instruction is behind the last.
    fn walk(&mut self, isa: &Isa, board: &mut dyn Board, mut physical: u64) {
        /// About as long as blocks are.
        const STEPS: u32 = 32;
        let given = |it: &Processor| (it.key, it.space(), it.tlb.forgotten());
        let before = given(self);
        for _ in 0..STEPS {
            let pc = self.pc;
            match self.fetch_at(isa, physical) {
                Some(fetched) => self.step_fetched(isa, board, fetched),
                None => self.step(isa, board),
            }
            let size = self.pc.wrapping_sub(pc);
            let is_same_page = self.pc & !(PAGE - 1) == pc & !(PAGE - 1);
            let goes_on = matches!(size, 2 | 4) && is_same_page && given(self) == before;
            if !goes_on || self.must_attend || self.is_waiting || self.attention.load(Ordering::Acquire) != 0 {
                return;
            }
            physical += size;
        }
    }

    /// The instruction at a physical address, by its number, and its bits, if all of it is on that page.
    fn fetch_at(&mut self, isa: &Isa, physical: u64) -> Option<(usize, u32)> {
        if physical & (PAGE - 1) > PAGE - 4 {
            return None;
        }
        let word = self.ram.read(physical, 32)? as u32;
        let number = self.decode(isa, word)?;
        Some((number, if isa.instructions[number].size == 2 { word & 0xffff } else { word }))
    }

    /// Whether an instruction begins there that may end on the next page.
    fn is_across(&self, isa: &Isa, physical: u64) -> bool {
        isa.unit == 16 && physical & (PAGE - 1) == PAGE - 2
    }

    /// The block where the processor is runs often: more effort is made for it.
    ///
    /// Its counter begins anew first: whatever becomes of this, the block that is there runs on.
    fn make_anew(&mut self, isa: &Isa, board: &mut dyn Board) {
        let Ok(physical) = self.translate(isa, board, Access::Fetch, self.pc, 0) else { return };
        let (key, space) = (self.key, self.space());
        let found = Key { physical, behind: None, modes: key };
        let Some(translator) = &mut self.translator else { return };
        let Some(number) = translator.blocks.get(&found).copied() else { return };
        let set = translator.sets.find(key, space);
        let is_for_region = translator.list[number as usize].effort != Effort::Some;
        // Whoever turns back here does so for the region, when it is there.
        translator.sets.get(set).count_anew(physical, if is_for_region { i32::MAX } else { sets::TURNS });
        if !self.protect_pages(&found.pages()) {
            // Its code was written meanwhile, and where it is may be forgotten.
            return;
        }
        let Some(translator) = &mut self.translator else { return };
        if is_for_region {
            self.order_region(isa, found);
            return;
        }
        translator.forget(found);
        let place = self.place(found);
        self.make(isa, found, place, Effort::All);
    }

    /// Translates the block at a physical address. Its pages are protected, or were, in which case there is mail.
    ///
    /// An instruction that ends on another page is a block that only holds as long as that page is behind this one: it is
    /// found through the tables of its address space alone, which forget it when either page is somewhere else.
    fn make(&mut self, isa: &Isa, key: Key, place: Option<Place>, effort: Effort) -> Option<u32> {
        if let Some(number) = place.and_then(|place| self.take_kept(key, place, effort)) {
            return Some(number);
        }
        if effort == Effort::Region {
            return self.make_region(isa, key).or_else(|| self.make(isa, key, place, Effort::All));
        }
        let Key { physical, behind, .. } = key;
        let page = physical & !(PAGE - 1);
        let modes = self.mode_values(isa);
        let begin = (physical & (PAGE - 1)) as u32;
        let questions = std::mem::take(&mut self.questions);
        let sharing = self.sharing();
        let given = specialise::Given { isa, modes: &modes, questions: &questions, sharing, effort };
        let mut room =
            self.translator.as_mut().map(|translator| std::mem::take(&mut translator.room)).unwrap_or_default();
        let mut reader = Reader { processor: self, isa, page, behind, extents: Vec::new() };
        let block = specialise::block(&given, begin, &mut reader, &mut room);
        let extents = reader.extents;
        self.questions = questions;
        let translator = self.translator.as_mut()?;
        translator.made += 1;
        translator.room = room;
        if block.instructions == 0 {
            return Some(translator.give_up(key));
        }
        // One that is found by two pages is not found again by one.
        let counting = match effort {
            _ if behind.is_some() => Counting::Nothing,
            Effort::Some => Counting::Visits,
            Effort::All if translator.workshop.is_some() => Counting::Turns,
            Effort::All | Effort::Less | Effort::Region => Counting::Nothing,
        };
        let site = Site { alignment: translator.alignment, counting };
        let compiled = generate::generate(&block, site, &mut translator.generating);
        translator.room.take_back(block);
        let compiled = match compiled {
            Ok(compiled) => compiled,
            Err(TooBig) if effort == Effort::All => return self.make(isa, key, place, Effort::Less),
            Err(TooBig) => return Some(translator.give_up(key)),
        };
        if let Some(number) = translator.install_made(key, effort, &extents, &compiled) {
            self.keep(key, place, effort, (&extents, &compiled));
            if let Some(translator) = &mut self.translator {
                translator.generating.take_back(compiled);
            }
            return Some(number);
        }
        translator.forget_all();
        if self.ram.peers().is_alone() {
            self.ram.peers().code.clear_all();
            self.protect_pages(&key.pages());
        }
        self.make(isa, key, place, effort)
    }

    pub(super) fn mode_values(&self, isa: &Isa) -> Vec<u64> {
        let value = |register: &Register| if register.is_mode { self.state.narrow(register.offset) } else { 0 };
        isa.registers.iter().map(value).collect()
    }

    /// The next access to a page finds it by itself, if it may. Says whether.
    pub(super) fn remember(&mut self, address: u64, access: Access, how: u8) -> bool {
        let (key, space) = (self.key, self.space());
        let Some((physical, reach)) = self.tlb.found(access, address, self.key_of(how), space) else { return false };
        let Some(host) = self.ram.host_page(physical) else { return false };
        if access == Access::Write {
            self.note_writable(physical);
            if !self.ram.peers().code.is_plain(physical) {
                return false;
            }
        }
        let Some(translator) = &mut self.translator else { return false };
        let set = translator.sets.find(key, space);
        translator.sets.get(set).keep(access, how, address, host, reach);
        true
    }
}
