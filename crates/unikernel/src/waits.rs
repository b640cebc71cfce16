//! What a member waits for while none of its threads can run.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use sys::Errno;

use crate::calls::{IN, Reply};
use crate::copying::Exchange;
use crate::error::{Error, Result};
use crate::files::File;

/// A member's sleep.
pub(crate) struct Waits {
    epoll: OwnedFd,
    bell: OwnedFd,
    child_changed: AtomicBool,
    watches: Mutex<Watches>,
}

#[derive(Default)]
struct Watches {
    /// Duplicates, so that a file can be watched for several threads at once, and watches survive its closing.
    files: BTreeMap<u64, Watched>,
    children: Vec<u64>,
    /// Those of files that are always ready.
    ready: Vec<u64>,
}

/// A file that is watched.
struct Watched {
    copy: OwnedFd,
    file: Arc<File>,
    events: u32,
}

/// What a member waits for.
pub(crate) struct Awaited {
    /// Cookies, each with its file and events.
    pub(crate) files: Vec<(u64, Arc<File>, u32)>,
    /// Cookies that children give.
    pub(crate) children: Vec<u64>,
    /// Cookies that are due at once.
    pub(crate) ready: Vec<u64>,
}

/// The event that is the bell.
const BELL: u64 = u64::MAX;

/// The event that is the link: whoever sleeps takes the frames.
const LINK: u64 = u64::MAX - 1;

/// More at once than a guest takes.
const MOST: usize = 32;

/// No guest waits for more: what it asks for beyond that, it is not told.
pub(crate) const MOST_AWAITED: usize = 64 << 10;

/// Notes a cookie among those that wait to be given.
fn note(list: &mut Vec<u64>, cookie: u64) {
    if list.len() < MOST_AWAITED {
        list.push(cookie);
    }
}

impl Waits {
    pub(crate) fn new() -> Result<Self> {
        let host = Error::host("making what a guest sleeps on");
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(&host)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(&host)?;
        epoll::add(&epoll, &bell, EventData::new_u64(BELL), EventFlags::IN).map_err(&host)?;
        Ok(Self { epoll, bell, child_changed: AtomicBool::new(false), watches: Mutex::default() })
    }

    fn watches(&self) -> std::sync::MutexGuard<'_, Watches> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends each sleep when a frame comes. Once is enough.
    pub(crate) fn watch_link(&self, link: BorrowedFd<'_>) -> std::result::Result<(), Errno> {
        epoll::add(&self.epoll, link, EventData::new_u64(LINK), EventFlags::IN)
    }

    /// Wakes the member if it sleeps or is about to.
    pub(crate) fn ring(&self) {
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    /// What the member waits for with that cookie is there.
    pub(crate) fn give(&self, cookie: u64) {
        note(&mut self.watches().ready, cookie);
        self.ring();
    }

    /// One of the member's children has changed.
    pub(crate) fn note_child(&self) {
        self.child_changed.store(true, Ordering::SeqCst);
        self.ring();
    }

    /// The member is about to look at its children: what comes from here on is news.
    pub(crate) fn forget_child(&self) {
        self.child_changed.store(false, Ordering::SeqCst);
    }

    pub(crate) fn watch(&self, file: &Arc<File>, events: u32, cookie: u64) -> std::result::Result<(), Errno> {
        let ring = file.end().filter(|it| it.is_ring());
        let (watched, events) = match ring.map(|it| it.bell()).transpose()? {
            Some(Some(bell)) => (bell, IN),
            Some(None) => {
                note(&mut self.watches().ready, cookie);
                return Ok(());
            }
            None => (file.as_fd(), events),
        };
        let copy = rustix::io::fcntl_dupfd_cloexec(watched, 0)?;
        let flags = EventFlags::from_bits_truncate(events & 0x1fff) | EventFlags::ONESHOT;
        let mut watches = self.watches();
        match epoll::add(&self.epoll, &copy, EventData::new_u64(cookie), flags) {
            Ok(()) => drop(watches.files.insert(cookie, Watched { copy, file: file.clone(), events })),
            // A regular file.
            Err(Errno::PERM) => note(&mut watches.ready, cookie),
            Err(errno) => return Err(errno),
        }
        Ok(())
    }

    pub(crate) fn watch_children(&self, cookie: u64) {
        note(&mut self.watches().children, cookie);
    }

    pub(crate) fn unwatch(&self, cookie: u64) {
        let mut watches = self.watches();
        if let Some(file) = watches.files.remove(&cookie) {
            let _ = epoll::delete(&self.epoll, &file.copy);
        }
        watches.children.retain(|it| *it != cookie);
        watches.ready.retain(|it| *it != cookie);
    }

    /// What a sleep is on.
    pub(crate) fn set(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Sleeps until the file has one of those events or there is something for [`Waits::sleep`], for which it is left.
    /// Says whether the file has.
    pub(crate) fn doze(&self, file: BorrowedFd<'_>, events: u32, nanoseconds: u64) -> bool {
        {
            let watches = self.watches();
            let child = self.child_changed.load(Ordering::SeqCst) && !watches.children.is_empty();
            if child || !watches.ready.is_empty() {
                return false;
            }
        }
        let timeout = timeout(nanoseconds);
        let mut both = [
            PollFd::from_borrowed_fd(file, PollFlags::from_bits_truncate(events as u16)),
            PollFd::from_borrowed_fd(self.epoll.as_fd(), PollFlags::IN),
        ];
        let _ = poll(&mut both, timeout.as_ref());
        !both[0].revents().is_empty()
    }

    /// Sleeps until the bell rings; what else there is is left for [`Waits::sleep`].
    pub(crate) fn pause(&self) {
        /// In case it rang a moment too early.
        const LONGEST: u64 = 200_000_000;
        let mut asked = [PollFd::from_borrowed_fd(self.bell.as_fd(), PollFlags::IN)];
        let _ = poll(&mut asked, timeout(LONGEST).as_ref());
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
    }

    /// Waits for what another does, whose process this one's is a copy of, on files of its own.
    pub(crate) fn copy(&self, other: &Self, exchange: &Exchange) -> std::result::Result<(), Errno> {
        let others = other.watches();
        for (cookie, it) in &others.files {
            self.watch(&exchange.of(&it.file), it.events, *cookie)?;
        }
        let mut watches = self.watches();
        // The copy has no children, and whoever waits for some shall hear that at once.
        watches.ready = others.ready.iter().chain(&others.children).copied().collect();
        Ok(())
    }

    /// All that is waited for.
    pub(crate) fn all(&self) -> Awaited {
        let watches = self.watches();
        let files = watches.files.iter().map(|(cookie, it)| (*cookie, it.file.clone(), it.events)).collect();
        Awaited { files, children: watches.children.clone(), ready: watches.ready.clone() }
    }

    /// Gives these cookies at once.
    pub(crate) fn be_ready(&self, cookies: &[u64]) {
        self.watches().ready.extend(cookies);
        self.ring();
    }

    /// Sleeps until something is ready, the bell rings or the time is over; gives the cookies of what is ready.
    pub(crate) fn sleep(&self, nanoseconds: u64) -> Vec<u64> {
        let mut cookies = std::mem::take(&mut self.watches().ready);
        if self.child_changed.load(Ordering::SeqCst) {
            cookies.append(&mut self.watches().children);
        }
        let nanoseconds = if cookies.is_empty() { nanoseconds } else { 0 };
        let timeout = timeout(nanoseconds);
        let mut events = Vec::with_capacity(MOST);
        // Interrupted or late: there are no events.
        let _ = epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref());
        let mut watches = self.watches();
        for event in events {
            match event.data.u64() {
                BELL => {
                    let _ = rustix::io::read(&self.bell, &mut [0; 8]);
                }
                LINK => {}
                cookie => {
                    if let Some(file) = watches.files.remove(&cookie) {
                        let _ = epoll::delete(&self.epoll, &file.copy);
                        cookies.push(cookie);
                    }
                }
            }
        }
        if self.child_changed.load(Ordering::SeqCst) {
            cookies.append(&mut watches.children);
        }
        cookies.append(&mut watches.ready);
        let more = cookies.split_off(cookies.len().min(MOST));
        watches.ready.extend(more);
        cookies
    }
}

fn timeout(nanoseconds: u64) -> Option<Timespec> {
    (nanoseconds != u64::MAX).then_some(Timespec {
        tv_sec: (nanoseconds / 1_000_000_000) as i64,
        tv_nsec: (nanoseconds % 1_000_000_000) as i64,
    })
}

/// Which descriptor to wait for, and for what, when that came of a call and it is a wait for one file.
pub(crate) fn is_for(number: u32, reply: Reply, arguments: [u64; 6]) -> Option<(u64, u32)> {
    match reply {
        Reply::Later { events, argument } => Some((*arguments.get(argument as usize)?, events)),
        Reply::Done(Ok(0)) if number == libc::SYS_epoll_wait as u32 => Some((arguments[0], IN)),
        _ => None,
    }
}

#[cfg(test)]
mod properties {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Give(u64),
        GiveMany(u64),
        Watch(u64),
        Child,
        Forget(u64),
        Sleep,
    }

    fn step() -> impl Strategy<Value = Step> {
        let cookie = prop_oneof![0..8u64, any::<u64>(), Just(BELL)];
        prop_oneof![
            4 => cookie.clone().prop_map(Step::Give),
            1 => (1..50u64).prop_map(Step::GiveMany),
            2 => cookie.clone().prop_map(Step::Watch),
            1 => Just(Step::Child),
            1 => cookie.prop_map(Step::Forget),
            2 => Just(Step::Sleep),
        ]
    }

    proptest! {
        #[test]
        fn each_cookie_is_given_once_for_each_time(steps in prop::collection::vec(step(), 0..120)) {
            let waits = Waits::new().unwrap();
            let (mut due, mut children, mut changed) = (Vec::new(), Vec::new(), false);
            for step in steps.into_iter().chain([Step::Sleep; 120]) {
                match step {
                    Step::Give(cookie) => {
                        waits.give(cookie);
                        due.push(cookie);
                    }
                    Step::GiveMany(count) => {
                        (0..count).for_each(|it| waits.give(it));
                        due.extend(0..count);
                    }
                    Step::Watch(cookie) => {
                        waits.watch_children(cookie);
                        children.push(cookie);
                    }
                    Step::Child => {
                        waits.note_child();
                        changed = true;
                    }
                    Step::Forget(cookie) => {
                        waits.unwatch(cookie);
                        due.retain(|it| *it != cookie);
                        children.retain(|it| *it != cookie);
                    }
                    Step::Sleep => {
                        let given = waits.sleep(0);
                        prop_assert!(given.len() <= MOST);
                        if changed {
                            due.append(&mut children);
                        }
                        prop_assert_eq!(given.len(), due.len().min(MOST));
                        for cookie in given {
                            let at = due.iter().position(|it| *it == cookie);
                            prop_assert!(at.is_some(), "{cookie} was given twice");
                            at.map(|it| due.swap_remove(it));
                        }
                    }
                }
            }
            prop_assert!(due.is_empty(), "{due:?} were lost");
        }
    }

    #[test]
    fn nobody_waits_for_more_than_the_most() {
        let waits = Waits::new().unwrap();
        for cookie in 0..MOST_AWAITED as u64 + 100 {
            waits.give(cookie);
            waits.watch_children(cookie);
        }
        let all = waits.all();
        assert_eq!((all.ready.len(), all.children.len()), (MOST_AWAITED, MOST_AWAITED));
    }
}
