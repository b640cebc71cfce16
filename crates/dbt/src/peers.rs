//! What the processors of a machine tell each other.
//!
//! Each has a thread, registers, a TLB and translated code of its own, which nobody else touches: generated code has no
//! locks, and no thread changes code that another executes. What they share is memory, and this: a mailbox for each, and a
//! map of where translated code came from.
//!
//! **What is told.** A page is somewhere else (`Forget`): told by whoever was asked to by its guest, and settled before that
//! guest's barrier is over. Code was overwritten: told by whoever wrote it, before anything that it writes later, so that a
//! processor which sees the later and then synchronises has heard of the former. A page is going to have code: told, and
//! settled, before a byte of it is read, so that from then on each who writes there is noticed.
//!
//! **When it is heard.** A processor looks into its mailbox when it leaves generated code, which `attention` has it do at
//! the next jump back or elsewhere; where its guest synchronises; and before it goes on after it was not there. Whoever
//! settles waits until each other processor has heard, or is not there: it waits for an interrupt, for a device, for others,
//! or stands still. While one settles it is not there itself, so that two who do wait for nobody.
//!
//! **The map.** A page's state says whether it has code; its lines (of 64 bytes) were read by a translator. Who reads a line
//! marks it first, who writes one looks for marks afterwards, with a fence between on either side: one of the two notices
//! the other. A write into a marked line clears the page and tells everybody, whose blocks of that page end then; what was
//! marked meanwhile ends with them.
//!
//! A mailbox that nobody looks into stays small: news beyond some of a kind become one of all.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::tlb::PAGE_BITS;

const PAGE: u64 = 1 << PAGE_BITS;
/// News of a kind that a mailbox holds one by one; those of code are dearer to make up for.
const MOST: usize = 64;
const MOST_CHANGED: usize = 1024;
/// So often one who waits looks before it lets others run, and so often before it sleeps.
const SPINS: u32 = 200;
const YIELDS: u32 = 400;
const NAP: Duration = Duration::from_micros(50);

/// What a processor has to forget, because another's guest says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forget {
    /// Where all pages are.
    Everything,
    /// Where one page is.
    Page(u64),
    /// Where pages of an address space are.
    Space(u32),
    /// Instructions that it has read and not done.
    Code,
}

/// What a processor tells another.
#[derive(Debug, Clone, Copy)]
pub(crate) enum News {
    Forget(Forget),
    /// The page at this physical address was written where it had code.
    Changed(u64),
    /// The page at this physical address is going to have code.
    Protected(u64),
}

/// What came.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    /// How many news there have been, with these.
    count: u64,
    pub(crate) flushes_all: bool,
    pub(crate) pages: Vec<u64>,
    pub(crate) spaces: Vec<u32>,
    pub(crate) protected: Vec<u64>,
    pub(crate) changed: Vec<u64>,
    /// More of its code was changed than is listed.
    pub(crate) changes_all: bool,
}

impl Mail {
    fn add(&mut self, news: News) {
        self.count += 1;
        match news {
            News::Forget(Forget::Everything) => self.flushes_all = true,
            News::Forget(Forget::Page(page)) => self.flushes_all |= !keep(&mut self.pages, page, MOST),
            News::Forget(Forget::Space(space)) => self.flushes_all |= !keep(&mut self.spaces, space, MOST),
            News::Forget(Forget::Code) => {}
            // Who knows of no page writes to none.
            News::Protected(page) => self.flushes_all |= !keep(&mut self.protected, page, MOST),
            News::Changed(page) => self.changes_all |= !keep(&mut self.changed, page, MOST_CHANGED),
        }
    }
}

/// Adds what was not added last, if there is room.
fn keep<T: PartialEq>(list: &mut Vec<T>, it: T, most: usize) -> bool {
    let has_room = list.len() < most;
    if has_room && list.last() != Some(&it) {
        list.push(it);
    }
    has_room
}

/// Where a processor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Switched off: it will know nothing when it is switched on.
    Absent,
    /// Between two instructions, and will look into its mailbox before the next.
    Outside,
    /// The same, in the midst of an instruction, for a device.
    Away,
    /// At work.
    Inside,
}

/// How far the others have to have heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// What they do next they do by the news.
    Pages,
    /// The same, and they do not go on with code that they had begun.
    Code,
}

#[derive(Debug)]
struct Member {
    attention: Arc<AtomicU32>,
    presence: AtomicU8,
    has_mail: AtomicBool,
    mail: Mutex<Mail>,
    posted: AtomicU64,
    /// How many news it has heard of, and how many before it last left a block.
    heard: AtomicU64,
    clean: AtomicU64,
}

impl Default for Member {
    fn default() -> Member {
        Member {
            attention: Arc::default(),
            presence: AtomicU8::new(Presence::Outside as u8),
            has_mail: AtomicBool::default(),
            mail: Mutex::default(),
            posted: AtomicU64::default(),
            heard: AtomicU64::default(),
            clean: AtomicU64::default(),
        }
    }
}

impl Member {
    fn is(&self, presence: Presence) -> bool {
        self.presence.load(Ordering::SeqCst) == presence as u8
    }

    fn post(&self, news: News) {
        if self.is(Presence::Absent) {
            return;
        }
        let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        mail.add(news);
        self.posted.store(mail.count, Ordering::SeqCst);
        self.has_mail.store(true, Ordering::SeqCst);
        drop(mail);
        self.attention.store(1, Ordering::SeqCst);
    }

    fn has_heard(&self, count: u64, what: Heard) -> bool {
        match what {
            _ if self.is(Presence::Absent) || self.is(Presence::Outside) => true,
            Heard::Pages => self.is(Presence::Away) || self.heard.load(Ordering::SeqCst) >= count,
            Heard::Code => self.clean.load(Ordering::SeqCst) >= count,
        }
    }
}

/// The processors of a machine.
#[derive(Debug)]
pub(crate) struct Peers {
    members: Box<[Member]>,
    joined: AtomicUsize,
    /// Who has pages protected does so alone.
    protecting: Mutex<()>,
    pub(crate) code: CodeMap,
}

impl Peers {
    /// So many processors, and so many bytes of memory from an address on.
    pub(crate) fn new(count: usize, base: u64, length: u64) -> Peers {
        Peers {
            members: (0..count.max(1)).map(|_| Member::default()).collect(),
            joined: AtomicUsize::default(),
            protecting: Mutex::default(),
            code: CodeMap::new(base, length),
        }
    }

    /// The number of a processor that is made now.
    pub(crate) fn join(&self) -> usize {
        self.joined.fetch_add(1, Ordering::Relaxed) % self.members.len()
    }

    pub(crate) fn count(&self) -> usize {
        self.members.len()
    }

    /// Whether there is one only.
    #[inline]
    pub(crate) fn is_alone(&self) -> bool {
        self.members.len() == 1
    }

    pub(crate) fn attention(&self, number: usize) -> Arc<AtomicU32> {
        Arc::clone(&self.members[number].attention)
    }

    pub(crate) fn set_presence(&self, number: usize, presence: Presence) {
        self.members[number].presence.store(presence as u8, Ordering::SeqCst);
    }

    #[inline]
    pub(crate) fn has_mail(&self, number: usize) -> bool {
        self.members[number].has_mail.load(Ordering::Acquire)
    }

    /// What came since the last time, and how many news that were in all.
    pub(crate) fn take_mail(&self, number: usize) -> (Mail, u64) {
        let member = &self.members[number];
        member.has_mail.store(false, Ordering::SeqCst);
        let mut mail = member.mail.lock().unwrap_or_else(PoisonError::into_inner);
        let count = mail.count;
        (std::mem::replace(&mut *mail, Mail { count, ..Mail::default() }), count)
    }

    /// A processor has done what so many news say.
    pub(crate) fn has_heard(&self, number: usize, count: u64) {
        self.members[number].heard.store(count, Ordering::SeqCst);
    }

    /// It has left what it was doing before them.
    pub(crate) fn is_clean(&self, number: usize) {
        let member = &self.members[number];
        member.clean.store(member.heard.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Tells one.
    pub(crate) fn tell(&self, number: usize, news: News) {
        if let Some(member) = self.members.get(number) {
            member.post(news);
        }
    }

    /// Tells all but one.
    pub(crate) fn tell_others(&self, own: usize, news: News) {
        let others = self.members.iter().enumerate().filter(|(number, _)| *number != own);
        others.for_each(|(_, member)| member.post(news));
    }

    /// Waits until all but one have heard what they were told until now. That one must not be inside.
    pub(crate) fn wait_for_others(&self, own: usize, what: Heard) {
        for (_, member) in self.members.iter().enumerate().filter(|(number, _)| *number != own) {
            let count = member.posted.load(Ordering::SeqCst);
            let mut turns = 0;
            while !member.has_heard(count, what) {
                turns += 1;
                match turns {
                    0..SPINS => std::hint::spin_loop(),
                    SPINS..YIELDS => std::thread::yield_now(),
                    _ => std::thread::sleep(NAP),
                }
            }
        }
    }

    /// Only one at a time has pages protected. That one must not be inside.
    pub(crate) fn protect_alone(&self) -> MutexGuard<'_, ()> {
        self.protecting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A device has written memory: processors that have translated what was there hear of it.
    pub(crate) fn delivered(&self, address: u64, size: u64) {
        if !self.is_alone() {
            fence(Ordering::SeqCst);
        }
        let mut at = address;
        while at < address + size {
            let end = ((at & !(PAGE - 1)) + PAGE).min(address + size);
            if self.code.is_hit(at, end - at) {
                self.code.clear(at);
                self.members.iter().for_each(|member| member.post(News::Changed(at & !(PAGE - 1))));
            }
            at = end;
        }
    }
}

/// Whether a page has code.
mod page {
    pub(super) const PLAIN: u8 = 0;
    /// Somebody is telling the others.
    pub(super) const CHANGING: u8 = 1;
    /// Nobody writes there without looking at the lines.
    pub(super) const PROTECTED: u8 = 2;
}

/// Which memory code was made of.
#[derive(Debug)]
pub(crate) struct CodeMap {
    base: u64,
    states: Box<[AtomicU8]>,
    lines: Box<[AtomicU64]>,
}

impl CodeMap {
    fn new(base: u64, length: u64) -> CodeMap {
        let pages = length.div_ceil(PAGE);
        CodeMap {
            base,
            states: (0..pages).map(|_| AtomicU8::default()).collect(),
            lines: (0..pages).map(|_| AtomicU64::default()).collect(),
        }
    }

    #[inline]
    fn number(&self, address: u64) -> usize {
        (address.wrapping_sub(self.base) >> PAGE_BITS) as usize
    }

    fn state(&self, address: u64) -> u8 {
        self.states.get(self.number(address)).map_or(page::PLAIN, |state| state.load(Ordering::SeqCst))
    }

    /// Whether whoever writes to a page need not look.
    #[inline]
    pub(crate) fn is_plain(&self, address: u64) -> bool {
        self.state(address) == page::PLAIN
    }

    /// Whether whoever writes to a page looks.
    pub(crate) fn is_protected(&self, address: u64) -> bool {
        // Where there is no memory nobody writes.
        self.number(address) >= self.states.len() || self.state(address) == page::PROTECTED
    }

    /// Nobody new writes to a page without looking.
    pub(crate) fn begin_protecting(&self, address: u64) {
        if let Some(state) = self.states.get(self.number(address)) {
            state.store(page::CHANGING, Ordering::SeqCst);
        }
    }

    /// Nobody at all does.
    pub(crate) fn end_protecting(&self, address: u64) {
        if let Some(state) = self.states.get(self.number(address)) {
            state.store(page::PROTECTED, Ordering::SeqCst);
        }
    }

    /// The lines of so many bytes of a page are going to be read for their code.
    pub(crate) fn mark(&self, address: u64, size: u64) {
        let wanted = lines_of(address, size);
        if let Some(lines) = self.lines.get(self.number(address))
            && lines.load(Ordering::Relaxed) & wanted != wanted
        {
            lines.fetch_or(wanted, Ordering::SeqCst);
        }
    }

    /// Whether code was made of what has just been written: so many bytes of a page.
    #[inline]
    pub(crate) fn is_hit(&self, address: u64, size: u64) -> bool {
        if self.is_plain(address) {
            return false;
        }
        // Who marks reads afterwards, and who looks has written before: here, and not where most pages are plain.
        fence(Ordering::SeqCst);
        self.lines.get(self.number(address)).is_some_and(|it| it.load(Ordering::SeqCst) & lines_of(address, size) != 0)
    }

    /// No code is of these lines any more: for the only processor there is. Gives those of which there may have been.
    pub(crate) fn unmark(&self, address: u64, size: u64) -> u64 {
        let Some(lines) = self.lines.get(self.number(address)) else { return 0 };
        let marked = lines.load(Ordering::Relaxed);
        let gone = marked & lines_of(address, size);
        if gone != 0 {
            lines.store(marked & !gone, Ordering::Relaxed);
        }
        gone
    }

    /// A page has no code any more. Whoever says so tells everybody.
    pub(crate) fn clear(&self, address: u64) {
        let number = self.number(address);
        if let (Some(lines), Some(state)) = (self.lines.get(number), self.states.get(number)) {
            // In this order: what is marked after the page was made plain is not cleared.
            lines.store(0, Ordering::SeqCst);
            state.store(page::PLAIN, Ordering::SeqCst);
        }
    }

    /// No page has code: for the only processor there is.
    pub(crate) fn clear_all(&self) {
        self.lines.iter().for_each(|lines| lines.store(0, Ordering::Relaxed));
        self.states.iter().for_each(|state| state.store(page::PLAIN, Ordering::Relaxed));
    }
}

/// The lines of a page that some of its bytes are of: a bit of each.
pub(crate) fn lines_of(address: u64, size: u64) -> u64 {
    let first = (address & (PAGE - 1)) >> 6;
    let last = ((address & (PAGE - 1)) + size.max(1) - 1).min(PAGE - 1) >> 6;
    u64::MAX >> (63 - (last - first)) << first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_that_bytes_are_of() {
        assert_eq!(lines_of(0x1000, 1), 1);
        assert_eq!(lines_of(0x103f, 2), 3);
        assert_eq!(lines_of(0x1ffc, 4), 1 << 63);
        assert_eq!(lines_of(0x1000, 4096), u64::MAX);
        assert_eq!(lines_of(0x1fff, 100), 1 << 63, "of its page alone");
    }

    #[test]
    fn a_write_into_a_marked_line_is_a_hit_until_the_page_is_cleared() {
        let peers = Peers::new(2, 0x8000, 0x4000);
        peers.code.mark(0x9040, 8);
        assert!(!peers.code.is_hit(0x9040, 4), "nobody was told that it is protected");
        peers.code.begin_protecting(0x9000);
        assert!(!peers.code.is_plain(0x9000) && !peers.code.is_protected(0x9000));
        peers.code.end_protecting(0x9000);
        assert!(peers.code.is_hit(0x9047, 1) && !peers.code.is_hit(0x9080, 4));
        peers.delivered(0x8ff0, 0x60);
        assert!(peers.code.is_plain(0x9000));
        let (mail, count) = peers.take_mail(1);
        assert_eq!((mail.changed, count), (vec![0x9000], 1));
        assert!(!peers.code.is_hit(0x2_0000, 4), "there is no memory");
    }

    #[test]
    fn a_mailbox_that_nobody_looks_into_stays_small() {
        let peers = Peers::new(2, 0, 0x1000);
        for number in 0..2000 {
            peers.tell_others(0, News::Forget(Forget::Page(number << 12)));
            peers.tell_others(0, News::Changed(number << 12));
        }
        let (mail, count) = peers.take_mail(1);
        assert!(mail.pages.len() <= MOST && mail.changed.len() <= MOST_CHANGED);
        assert_eq!((mail.flushes_all, mail.changes_all, count), (true, true, 4000));
        assert!(!peers.has_mail(0));
        peers.set_presence(1, Presence::Absent);
        peers.tell_others(0, News::Forget(Forget::Everything));
        assert!(!peers.has_mail(1), "it will know nothing anyway");
        peers.wait_for_others(0, Heard::Code);
    }
}
