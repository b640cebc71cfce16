//! The program's threads, on one processor. A thread runs until it sleeps, yields or is interrupted; it sleeps with all of
//! its calls in here on a stack of its own, and goes on where it stopped.

mod registers;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use self::registers::switch;
pub use self::registers::{set_thread_pointer, thread_pointer};
use crate::entry::{STACK_END, leave};
use crate::extended::Extended;
use crate::frame::Frame;
use crate::signal::ThreadSignals;
use crate::sync::Local;
use crate::{clock, engine, port, signal};

const STACK_SIZE: usize = 24 << 10;

#[repr(C, align(16))]
struct Stack([u8; STACK_SIZE]);

/// A thread of the program.
pub struct Thread {
    pub number: u32,
    stack: Box<Stack>,
    /// Where its calls in here are, while it does not run.
    saved: usize,
    /// The program's thread pointer.
    pointer: u64,
    extended: Extended,
    pub signals: ThreadSignals,
    /// Zeroed, and its waiters woken, when it ends.
    pub clear_at_end: u64,
    /// Its list of held robust futexes.
    pub robust_list: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    Asleep(Option<u64>),
    Woken(Wake),
}

/// Why a thread no longer sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Somebody woke it.
    Up,
    /// Its time is over.
    Timeout,
    /// There is a signal for it.
    Signal,
}

struct Threads {
    all: BTreeMap<u32, Thread>,
    ready: VecDeque<u32>,
    /// Those that sleep for a time, by when it is over.
    deadlines: BTreeSet<(u64, u32)>,
    current: u32,
    /// Those that wait for something of the tender's, by cookie.
    watches: BTreeMap<u64, u32>,
    next_cookie: u64,
    /// Ended, but its stack was still in use.
    ended: Option<Thread>,
}

static THREADS: Local<Threads> = Local::new(Threads {
    all: BTreeMap::new(),
    ready: VecDeque::new(),
    deadlines: BTreeSet::new(),
    current: 0,
    watches: BTreeMap::new(),
    next_cookie: 1,
    ended: None,
});

impl Threads {
    fn current(&mut self) -> &mut Thread {
        let current = self.current;
        self.all.get_mut(&current).expect("the current thread is there")
    }

    fn wake(&mut self, number: u32, why: Wake) -> bool {
        let Some(thread) = self.all.get_mut(&number) else { return false };
        let State::Asleep(deadline) = thread.state else { return false };
        thread.state = State::Woken(why);
        if let Some(deadline) = deadline {
            self.deadlines.remove(&(deadline, number));
        }
        self.ready.push_back(number);
        true
    }

    fn wake_late(&mut self, now: u64) {
        while let Some(&(deadline, number)) = self.deadlines.first()
            && deadline <= now
        {
            self.wake(number, Wake::Timeout);
        }
    }
}

/// Where the current thread's registers are, or will be at the next entry.
pub fn frame_of_current() -> *mut Frame {
    (STACK_END.load(Ordering::Relaxed) - size_of::<Frame>()) as *mut Frame
}

/// The current thread's number.
pub fn current() -> u32 {
    THREADS.get().current
}

/// Looks at or changes the current thread.
pub fn with_current<T>(look: impl FnOnce(&mut Thread) -> T) -> T {
    look(THREADS.get().current())
}

/// The same with any thread.
pub fn with<T>(number: u32, look: impl FnOnce(&mut Thread) -> T) -> Option<T> {
    THREADS.get().all.get_mut(&number).map(look)
}

/// Does that with every thread.
pub fn each(look: impl FnMut(&mut Thread)) {
    THREADS.get().all.values_mut().for_each(look);
}

/// Whether it is so of any thread.
pub fn any(look: impl Fn(&Thread) -> bool) -> bool {
    THREADS.get().all.values().any(look)
}

/// Whether any thread but the current one will go on in there.
pub fn is_any_other_within(addresses: &core::ops::Range<u64>) -> bool {
    let threads = THREADS.get();
    threads.all.values().filter(|it| it.number != threads.current).any(|it| {
        let frame = (it.stack_end() - size_of::<Frame>()) as *const Frame;
        // SAFETY: a thread that does not run has its program's registers there.
        addresses.contains(unsafe { &(*frame).rip })
    })
}

/// Every thread's registers and thread pointer, at a moment when none of them runs its program.
pub fn places() -> Vec<(Frame, u64)> {
    let threads = THREADS.get();
    let place = |it: &Thread| {
        let frame = (it.stack_end() - size_of::<Frame>()) as *const Frame;
        let pointer = if it.number == threads.current { thread_pointer() } else { it.pointer };
        // SAFETY: a thread that does not run has its program's registers there.
        (unsafe { (*frame).clone() }, pointer)
    };
    threads.all.values().map(place).collect()
}

/// Every thread's number.
pub fn numbers() -> Vec<u32> {
    THREADS.get().all.keys().copied().collect()
}

/// Makes the first thread, current.
pub fn begin(number: u32) {
    let thread = Thread::new(number);
    STACK_END.store(thread.stack_end(), Ordering::Relaxed);
    let mut threads = THREADS.get();
    threads.current = number;
    threads.all.insert(number, thread);
}

impl Thread {
    fn new(number: u32) -> Self {
        Self {
            number,
            // SAFETY: bytes may be zero.
            stack: unsafe { Box::<Stack>::new_zeroed().assume_init() },
            saved: 0,
            pointer: 0,
            extended: Extended::new(),
            signals: ThreadSignals::new(),
            clear_at_end: 0,
            robust_list: 0,
            state: State::Ready,
        }
    }

    fn stack_end(&self) -> usize {
        &raw const *self.stack as usize + STACK_SIZE
    }
}

/// Makes a thread that begins with these registers and that thread pointer; it has the current one's signal mask.
pub fn spawn(number: u32, frame: &Frame, pointer: Option<u64>) {
    let mut thread = Thread::new(number);
    let at = thread.stack_end() - size_of::<Frame>();
    // SAFETY: it is the new stack's end, which nobody uses yet. Below the frame is what `switch` takes from a stack that
    // it comes to: six registers and where to go.
    unsafe {
        (at as *mut Frame).write(frame.clone());
        ((at - 8) as *mut usize).write(leave as *const () as usize);
    }
    thread.saved = at - 8 - 6 * 8;
    thread.pointer = pointer.unwrap_or_else(thread_pointer);
    thread.extended.save();
    let mut threads = THREADS.get();
    thread.signals.mask = threads.current().signals.mask;
    threads.all.insert(number, thread);
    threads.ready.push_back(number);
    engine::port().threads.store(threads.all.len() as u32, Ordering::Relaxed);
}

/// Lets others run, if there are any.
pub fn yield_now() {
    {
        let mut threads = THREADS.get();
        if !threads.deadlines.is_empty() {
            threads.wake_late(clock::monotonic());
        }
        if threads.ready.is_empty() {
            return;
        }
        let current = threads.current;
        threads.ready.push_back(current);
    }
    run_next();
}

/// Sleeps until somebody calls [`wake`], a signal comes, or it is that late by [`clock::monotonic`].
pub fn sleep(deadline: Option<u64>) -> Wake {
    let number = current();
    fall_asleep(number, deadline);
    // What is pending came before it slept, and nobody else will wake it.
    if signal::is_due() {
        THREADS.get().wake(number, Wake::Signal);
    }
    loop {
        run_next();
        let mut threads = THREADS.get();
        let State::Woken(why) = threads.current().state else { continue };
        threads.current().state = State::Ready;
        if why != Wake::Signal {
            return why;
        }
        drop(threads);
        // Who is only stopped goes on sleeping afterwards.
        if signal::stop_only() {
            return why;
        }
        fall_asleep(number, deadline);
    }
}

fn fall_asleep(number: u32, deadline: Option<u64>) {
    let mut threads = THREADS.get();
    threads.current().state = State::Asleep(deadline);
    if let Some(deadline) = deadline {
        threads.deadlines.insert((deadline, number));
    }
}

/// For how long the whole process may sleep in a call of the current thread's that is over at that time: not at all when
/// another thread can run or a signal is due.
pub fn patience(deadline: Option<u64>) -> u64 {
    // What came is not to wait for that call.
    if crate::net::attend() {
        return 0;
    }
    let first = {
        let threads = THREADS.get();
        if !threads.ready.is_empty() {
            return 0;
        }
        threads.deadlines.first().map(|it| it.0)
    };
    if signal::is_due() {
        return 0;
    }
    if let Some(patience) = crate::net::patience() {
        if patience == 0 {
            return 0;
        }
        let until = clock::monotonic().saturating_add(patience);
        return until
            .min(deadline.unwrap_or(u64::MAX))
            .min(first.unwrap_or(u64::MAX))
            .saturating_sub(clock::monotonic());
    }
    match (deadline, first) {
        (None, None) => u64::MAX,
        (Some(one), Some(other)) => one.min(other).saturating_sub(clock::monotonic()),
        (Some(one), None) | (None, Some(one)) => one.saturating_sub(clock::monotonic()),
    }
}

/// Wakes a sleeping thread. Says whether there was one.
pub fn wake(number: u32) -> bool {
    THREADS.get().wake(number, Wake::Up)
}

/// Wakes a sleeping thread because of a signal.
pub fn interrupt(number: u32) -> bool {
    THREADS.get().wake(number, Wake::Signal)
}

/// A cookie with which the tender can wake the current thread.
pub fn expect() -> u64 {
    let mut threads = THREADS.get();
    let (cookie, current) = (threads.next_cookie, threads.current);
    threads.next_cookie += 1;
    threads.watches.insert(cookie, current);
    cookie
}

/// It will not be woken with it.
pub fn expect_no_more(cookie: u64) {
    THREADS.get().watches.remove(&cookie);
}

/// Asks the tender to wake the current thread when there is something to be had of the descriptor. The cookie is what
/// [`unwatch`] takes.
pub fn watch(descriptor: u64, events: u32) -> Result<u64, crate::errno::Errno> {
    let cookie = expect();
    match port::call(abi::call::WATCH, [descriptor, u64::from(events), cookie, 0, 0, 0]) {
        Ok(_) => Ok(cookie),
        Err(errno) => {
            THREADS.get().watches.remove(&cookie);
            Err(errno)
        }
    }
}

/// The same for whoever waits then: [`crate::net::fired`] hears of it.
pub fn watch_for_all(descriptor: u64, events: u32) -> Result<u64, crate::errno::Errno> {
    let cookie = watch(descriptor, events)?;
    THREADS.get().watches.insert(cookie, NOBODY);
    Ok(cookie)
}

/// No thread has that number.
const NOBODY: u32 = 0;

/// Forgets a watch, which may have had its event.
pub fn unwatch(cookie: u64) {
    if THREADS.get().watches.remove(&cookie).is_some() {
        let _ = port::call(abi::call::UNWATCH, [cookie, 0, 0, 0, 0, 0]);
    }
}

/// Runs whoever is next, perhaps the caller; returns when the caller is.
fn run_next() {
    let next = loop {
        {
            let mut threads = THREADS.get();
            if !threads.deadlines.is_empty() {
                threads.wake_late(clock::monotonic());
            }
            if let Some(next) = threads.ready.pop_front() {
                break next;
            }
        }
        idle();
    };
    switch_to(next);
}

/// Nobody can run: sleeps until somebody can.
fn idle() {
    if crate::net::attend() {
        return;
    }
    let own = THREADS.get().deadlines.first().map(|it| it.0);
    let deadline = [own, crate::net::deadline()].into_iter().flatten().min();
    look(deadline.map_or(u64::MAX, |it| it.saturating_sub(clock::monotonic())));
}

/// Wakes those whose event is there, or comes within that time.
fn look(nanoseconds: u64) {
    let mut cookies = [0u64; 32];
    crate::syscall::process::copy_if_wanted();
    crate::library::stand_still_if_wanted();
    signal::pending::tell();
    let woken = port::call(abi::call::WAIT, [cookies.as_mut_ptr() as u64, 32, nanoseconds, 0, 0, 0]).unwrap_or(0);
    for cookie in &cookies[..woken.min(32)] {
        let number = THREADS.get().watches.remove(cookie);
        match number {
            Some(NOBODY) => crate::net::fired(*cookie),
            Some(number) => drop(wake(number)),
            None => {}
        }
    }
    crate::net::note_seen();
    crate::net::attend();
    signal::interrupt_sleepers();
}

fn switch_to(next: u32) {
    let (from, to) = {
        let mut threads = THREADS.get();
        if threads.current == next {
            return;
        }
        let current = threads.current;
        if let Some(thread) = threads.all.get_mut(&current) {
            thread.pointer = thread_pointer();
            thread.extended.save();
        }
        threads.current = next;
        let thread = threads.current();
        set_thread_pointer(thread.pointer);
        thread.extended.restore();
        STACK_END.store(thread.stack_end(), Ordering::Relaxed);
        let to = thread.saved;
        let from: *mut usize = match threads.all.get_mut(&current) {
            Some(thread) => &raw mut thread.saved,
            None => &raw mut NOWHERE,
        };
        (from, to)
    };
    // SAFETY: `to` was saved by `switch` or made by `spawn`; `from` lives as long as the map's node, and nothing changes
    // the map before it is written.
    unsafe { switch(from, to) };
    // On another stack than a moment ago: one that ended is used no longer.
    let ended = THREADS.get().ended.take();
    drop(ended);
}

/// Where the stack of a thread that ended is saved to.
static mut NOWHERE: usize = 0;

/// Ends the current thread. Gives control back only when it is the last one.
pub fn end_current() {
    {
        let mut threads = THREADS.get();
        if threads.all.len() == 1 {
            return;
        }
        let current = threads.current;
        let thread = threads.all.remove(&current);
        threads.watches.retain(|_, it| *it != current);
        threads.ended = thread;
        engine::port().threads.store(threads.all.len() as u32, Ordering::Relaxed);
    }
    run_next();
}

/// Forgets every thread but the current one, which gets that number: what a new process has, and a new program.
pub fn keep_current_only(number: u32) {
    let mut threads = THREADS.get();
    let current = threads.current;
    threads.all.retain(|it, _| *it == current);
    threads.ready.clear();
    threads.deadlines.clear();
    threads.watches.clear();
    if let Some(mut thread) = threads.all.remove(&current) {
        thread.number = number;
        thread.state = State::Ready;
        threads.all.insert(number, thread);
    }
    threads.current = number;
    engine::port().threads.store(1, Ordering::Relaxed);
}

/// Hears of what is there by now.
pub fn listen() {
    look(0);
}

/// The tender thinks that the current thread has run for long enough: whoever waits for something that is there by now
/// runs before it goes on.
pub fn take_turns() {
    if !THREADS.get().watches.is_empty() || crate::net::is_waited_for() {
        look(0);
    }
    yield_now();
}
