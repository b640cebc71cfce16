//! A processor among others: how it hears of what they tell it, and has them hear.

use std::sync::atomic::Ordering;

use crate::board::Board;
use crate::peers::{Forget, Heard, Mail, News, Presence};
use crate::processor::Processor;
use crate::state::head;
use crate::tlb::PAGE_BITS;
use crate::translate::Dropped;

const PAGE: u64 = 1 << PAGE_BITS;

impl Processor {
    /// It begins to work: between two instructions.
    pub(crate) fn come(&mut self) {
        self.ram.peers().set_presence(self.number, Presence::Inside);
        self.hear_between();
    }

    /// It does not work until it comes again.
    pub(crate) fn go(&mut self) {
        self.ram.peers().set_presence(self.number, Presence::Outside);
    }

    /// It is switched off. Nobody tells it anything; what it knows does not hold when it is switched on.
    pub(crate) fn be_absent(&mut self) {
        self.ram.peers().set_presence(self.number, Presence::Absent);
    }

    /// Hears what there is to hear, between two instructions and outside of any block.
    pub(crate) fn hear_between(&mut self) {
        self.hear();
        if self.must_forget {
            self.must_forget = false;
            if let Some(translator) = &mut self.translator {
                translator.forget_all();
            }
        }
        if self.has_dropped || !self.ram.peers().is_alone() {
            self.has_dropped = false;
            self.ram.peers().is_clean(self.number);
        }
    }

    /// Hears what there is to hear. Code that was dropped is left as soon as it may be.
    pub(crate) fn hear(&mut self) {
        if !self.ram.peers().has_mail(self.number) {
            return;
        }
        let (mail, count) = self.ram.peers().take_mail(self.number);
        self.obey(&mail);
        self.ram.peers().has_heard(self.number, count);
    }

    fn obey(&mut self, mail: &Mail) {
        if mail.flushes_all {
            self.flush();
        }
        mail.pages.iter().for_each(|page| self.flush_page(*page));
        mail.spaces.iter().for_each(|space| self.flush_space(*space));
        mail.protected.iter().for_each(|page| self.protect(*page));
        mail.changed.iter().for_each(|page| self.drop_code(*page));
        if mail.changes_all {
            self.must_forget = true;
            self.leave_block();
        }
    }

    fn protect(&mut self, page: u64) {
        if let (Some(translator), Some(host)) = (&mut self.translator, self.ram.host_page(page)) {
            translator.protect(host);
        }
    }

    fn drop_code(&mut self, page: u64) {
        if let Some(translator) = &mut self.translator {
            translator.drop_page(page);
            self.leave_block();
        }
    }

    /// The block that is being done may be of code that is not there any more.
    fn leave_block(&mut self) {
        self.has_dropped = true;
        self.attention.store(1, Ordering::SeqCst);
    }

    /// Memory was written, so many bytes of one page: what was translated of it does not hold any more.
    #[inline]
    pub(crate) fn wrote(&mut self, physical: u64, size: u64) {
        self.note_written(physical, size);
        let peers = self.ram.peers();
        if self.translator.is_none() || peers.code.is_plain(physical) {
            return;
        }
        if peers.is_alone() {
            self.wrote_alone(physical, size);
            return;
        }
        if !peers.code.is_hit(physical, size) {
            return;
        }
        let page = physical & !(PAGE - 1);
        peers.code.clear(page);
        peers.tell_others(self.number, News::Changed(page));
        self.drop_code(page);
    }

    /// The same, where nobody else has code of that page.
    fn wrote_alone(&mut self, physical: u64, size: u64) {
        let page = physical & !(PAGE - 1);
        let lines = self.ram.peers().code.unmark(physical, size);
        let dropped = self.translator.as_mut().map_or(Dropped::Nothing, |it| it.wrote(page, lines));
        if dropped == Dropped::All {
            self.ram.peers().code.clear(page);
        }
        if dropped != Dropped::Nothing {
            self.leave_block();
        }
    }

    /// Has a device do something, which may take its time.
    pub(crate) fn away<T>(&mut self, board: &mut dyn Board, what: impl FnOnce(&mut dyn Board) -> T) -> T {
        if self.ram.peers().is_alone() {
            let done = what(board);
            self.hear();
            return done;
        }
        self.ram.peers().set_presence(self.number, Presence::Away);
        let done = what(board);
        self.ram.peers().set_presence(self.number, Presence::Inside);
        self.hear();
        done
    }

    /// All others forget, by the time that this one has settled.
    pub(crate) fn have_others_forget(&mut self, what: Forget) {
        if !self.ram.peers().is_alone() {
            self.ram.peers().tell_others(self.number, News::Forget(what));
            self.state.set_head(head::UNSETTLED, 1);
        }
    }

    /// Waits until the others have heard what they were told. Whoever calls leaves its block if that is of code that was dropped
    /// meanwhile.
    pub(crate) fn settle(&mut self, what: Heard) {
        let peers = self.ram.peers();
        if peers.is_alone() {
            return;
        }
        peers.set_presence(self.number, Presence::Outside);
        peers.wait_for_others(self.number, what);
        peers.set_presence(self.number, Presence::Inside);
        self.state.set_head(head::UNSETTLED, 0);
        self.hear();
    }

    /// Lets others of the host's threads run, of which one may be what is waited for.
    pub(crate) fn relax(&mut self) {
        let peers = self.ram.peers();
        if !peers.is_alone() {
            peers.set_presence(self.number, Presence::Outside);
            std::thread::yield_now();
            peers.set_presence(self.number, Presence::Inside);
            self.hear();
        }
    }

    /// Sees to it that from now on whoever writes to these pages is noticed. Says whether that was so before: if not, the
    /// processor was not inside meanwhile, and where pages are has to be asked again.
    pub(crate) fn protect_pages(&mut self, pages: &[u64]) -> bool {
        let peers = std::sync::Arc::clone(self.ram.peers());
        if pages.iter().all(|page| peers.code.is_protected(*page)) {
            return true;
        }
        if peers.is_alone() {
            for page in pages {
                peers.code.end_protecting(*page);
                self.protect(*page);
            }
            return true;
        }
        peers.set_presence(self.number, Presence::Outside);
        let only_me = peers.protect_alone();
        for page in pages.iter().filter(|page| !peers.code.is_protected(**page)) {
            peers.code.begin_protecting(*page);
            peers.tell_others(self.number, News::Protected(*page));
            peers.wait_for_others(self.number, Heard::Pages);
            peers.code.end_protecting(*page);
        }
        drop(only_me);
        peers.set_presence(self.number, Presence::Inside);
        self.hear_between();
        // Its own it forgets here.
        pages.iter().for_each(|page| self.protect(*page));
        false
    }
}
