//! Signals: which are pending, what a program does about them, and the way into its handlers and out again.

mod context;
pub mod files;
pub mod pending;

use crate::engine::port;
use crate::errno::{EINTR, EINVAL, ENOMEM, EPERM, ERESTART, ERESTARTNOHAND, Result, to_raw};
use crate::frame::{Frame, NOT_A_CALL};
use crate::sync::Local;
use crate::thread::{self, Wake};
use crate::{engine, port as tender, user};

use pending::{Info, Queue};

pub const SIGKILL: i32 = 9;
pub const SIGSEGV: i32 = 11;
const SIGCHLD: i32 = 17;
const SIGCONT: i32 = 18;
pub const SIGSTOP: i32 = 19;
const LAST: i32 = 64;

/// By default these do nothing: SIGCHLD, SIGCONT, SIGURG, SIGWINCH.
const IGNORED_BY_DEFAULT: u64 = bit(SIGCHLD) | bit(SIGCONT) | bit(23) | bit(28);

/// By default these stop the process: SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU.
const STOPS: u64 = bit(SIGSTOP) | bit(20) | bit(21) | bit(22);

const DEFAULT: u64 = 0;
const IGNORE: u64 = 1;

/// The set of one signal.
pub const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// What a program does about a signal, as it says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Action {
    handler: u64,
    flags: u64,
    restorer: u64,
    mask: u64,
}

mod flag {
    pub const NO_CHILD_STOP: u64 = 1;
    pub const NO_CHILD_WAIT: u64 = 2;
    pub const ONSTACK: u64 = 0x0800_0000;
    pub const RESTART: u64 = 0x1000_0000;
    pub const NODEFER: u64 = 0x4000_0000;
    pub const RESETHAND: u64 = 0x8000_0000;
}

static ACTIONS: Local<[Action; 64]> = Local::new([Action { handler: DEFAULT, flags: 0, restorer: 0, mask: 0 }; 64]);

/// A thread's part.
pub struct ThreadSignals {
    pub mask: u64,
    queue: Queue,
    /// Those that it waits for, blocked or not, to do nothing about them.
    awaited: u64,
    /// What the mask is to be again after the next handler.
    saved_mask: Option<u64>,
    alternate: Stack,
}

/// A stack for handlers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stack {
    base: u64,
    flags: i32,
    size: u64,
}

const STACK_DISABLED: i32 = 2;
const NO_STACK: Stack = Stack { base: 0, flags: STACK_DISABLED, size: 0 };

impl Stack {
    fn holds(&self, address: u64) -> bool {
        self.flags & STACK_DISABLED == 0 && address > self.base && address - self.base <= self.size
    }
}

impl ThreadSignals {
    pub const fn new() -> Self {
        Self { mask: 0, queue: Queue::new(), awaited: 0, saved_mask: None, alternate: NO_STACK }
    }

    /// Those that stay pending with it even where they would be ignored.
    fn keeps(&self) -> u64 {
        self.mask | self.awaited
    }

    /// Whether it has to do something, when those are pending.
    fn acts_on(&self, pending: u64, ignored: u64) -> bool {
        pending & (!self.mask & !ignored | self.awaited) != 0
    }
}

fn ignored() -> u64 {
    let actions = ACTIONS.get();
    let mut set = 0;
    for (index, action) in actions.iter().enumerate() {
        let one = 1u64 << index;
        if action.handler == IGNORE || (action.handler == DEFAULT && IGNORED_BY_DEFAULT & one != 0) {
            set |= one;
        }
    }
    set
}

/// Whether there is a signal that the current thread must act on.
pub fn is_due() -> bool {
    if port().signals.has_news() {
        pending::collect();
    }
    let shared = pending::shared();
    let (own, mask, awaited) = thread::with_current(|it| {
        let it = &it.signals;
        (it.queue.set(), it.mask, it.awaited)
    });
    let candidates = (shared | own) & (!mask | awaited);
    candidates != 0 && candidates & (!ignored() | awaited) != 0
}

/// What has come may concern threads that sleep: each that must act on something is woken, but one alone for what is
/// pending for the process as a whole.
pub fn interrupt_sleepers() {
    pending::collect();
    let (shared, ignored) = (pending::shared(), ignored());
    let mut found = false;
    for number in thread::numbers() {
        let acts = thread::with(number, |it| {
            let it = &it.signals;
            (it.acts_on(it.queue.set(), ignored), it.acts_on(shared, ignored))
        });
        match acts {
            Some((true, _)) => drop(thread::interrupt(number)),
            Some((_, true)) if !found => found = thread::interrupt(number),
            _ => {}
        }
    }
}

/// A signal that the current thread's own instruction caused: it cannot be put off.
pub fn force(signal: i32, code: i32, address: u64, vector: u64) {
    let refused = {
        let mut actions = ACTIONS.get();
        let action = &mut actions[signal as usize - 1];
        let masked = thread::with_current(|it| it.signals.mask & bit(signal) != 0);
        let refused = masked || action.handler == IGNORE;
        if refused {
            action.handler = DEFAULT;
        }
        refused
    };
    thread::with_current(|it| {
        if refused {
            it.signals.mask &= !bit(signal);
        }
        let of = abi::signal::Info { signal, code, first: address, ..abi::signal::Info::default() };
        it.signals.queue.replace(Info { of, vector });
    });
}

/// A signal of this process's for itself. Says whether the thread that it is for is there.
pub fn send(info: abi::signal::Info) -> bool {
    let there = pending::accept(info);
    interrupt_sleepers();
    there
}

/// Ends the process as that signal does.
pub fn die(signal: i32) -> ! {
    const HANG_UP: i32 = 1;
    const INTERRUPT: i32 = 2;
    const TERMINATE: i32 = 15;
    // Where it stands is not known of the others.
    if matches!(signal, HANG_UP | INTERRUPT | TERMINATE) {
        crate::net::end();
    }
    let _ = tender::call(abi::call::EXIT, [signal as u64, 0, 0, 0, 0, 0]);
    engine::stop()
}

/// A signal that the current thread does not block.
fn next() -> Option<Info> {
    if port().signals.has_news() {
        pending::collect();
    }
    let mask = thread::with_current(|it| it.signals.mask);
    pending::take(!mask)
}

/// The signal stops the process, unless it may go on already: this returns when it may.
fn stop(signal: i32) {
    let taken = port().signals.taken.load(core::sync::atomic::Ordering::Relaxed);
    let _ = tender::call(abi::call::STOP, [signal as u64, u64::from(taken), 0, 0, 0, 0]);
}

/// Of a thread that was woken by signals: acts on those that only stop the process. Says whether there are others, which
/// the thread must act on before it sleeps again.
pub fn stop_only() -> bool {
    let stops = {
        let actions = ACTIONS.get();
        (19..=22).filter(|it| actions[*it as usize - 1].handler == DEFAULT).fold(0, |set, it| set | bit(it))
    };
    while is_due() {
        let kept = thread::with_current(|it| it.signals.keeps());
        match pending::take(stops & !kept) {
            Some(info) => stop(info.signal()),
            None => return is_due(),
        }
    }
    false
}

/// On the way back to the program: acts on what is pending.
pub fn deliver(frame: &mut Frame) {
    while let Some(info) = next() {
        let signal = info.signal();
        let action = ACTIONS.get()[signal as usize - 1];
        match action.handler {
            IGNORE => {}
            DEFAULT if IGNORED_BY_DEFAULT & bit(signal) != 0 => {}
            DEFAULT if STOPS & bit(signal) != 0 => stop(signal),
            DEFAULT => die(signal),
            _ => {
                restart(frame, Some(&action));
                if action.flags & flag::RESETHAND != 0 {
                    ACTIONS.get()[signal as usize - 1].handler = DEFAULT;
                }
                if context::enter(frame, &info, &action).is_err() {
                    die(SIGSEGV);
                }
            }
        }
    }
    restart(frame, None);
    // A mask that was only for the time of sleeping.
    thread::with_current(|it| {
        if let Some(mask) = it.signals.saved_mask.take() {
            it.signals.mask = mask;
        }
    });
}

/// What becomes of an interrupted call: made again, or failed.
fn restart(frame: &mut Frame, handler: Option<&Action>) {
    if frame.call == NOT_A_CALL {
        return;
    }
    let outcome = frame.rax;
    let again = if outcome == to_raw(Err(ERESTART)) {
        handler.is_none_or(|it| it.flags & flag::RESTART != 0)
    } else if outcome == to_raw(Err(ERESTARTNOHAND)) {
        handler.is_none()
    } else {
        return;
    };
    if again {
        // The instruction is still there, also where a jump was put before it.
        frame.rax = frame.call;
        frame.rip -= 2;
    } else {
        frame.rax = to_raw(Err(EINTR));
    }
    frame.call = NOT_A_CALL;
}

fn valid(signal: i32) -> Result<usize> {
    if (1..=LAST).contains(&signal) { Ok(signal as usize - 1) } else { Err(EINVAL) }
}

/// rt_sigaction.
pub fn set_action(signal: i32, new: u64, old: u64, size: u64) -> Result {
    let index = valid(signal)?;
    if size != 8 || (new != 0 && matches!(signal, SIGKILL | SIGSTOP)) {
        return Err(EINVAL);
    }
    let before = ACTIONS.get()[index];
    if new != 0 {
        let mask = thread::with_current(|it| it.signals.mask);
        if ignored() & !mask & bit(signal) != 0 {
            pending::forget(bit(signal));
        }
        let [handler, flags, restorer, mask]: [u64; 4] = user::read(new)?;
        ACTIONS.get()[index] = Action { handler, flags, restorer, mask: mask & !bit(SIGKILL) & !bit(SIGSTOP) };
        // What is ignored does not stay pending.
        if ignored() & bit(signal) != 0 {
            pending::forget(bit(signal));
        }
        if signal == SIGCHLD {
            tell_of_children();
        }
    }
    user::write_if(old, [before.handler, before.flags, before.restorer, before.mask])?;
    Ok(0)
}

/// Tells the tender whether the ends of children are of interest: when they are not, nobody need wait for them; and
/// whether their being stopped is.
fn tell_of_children() {
    let action = ACTIONS.get()[SIGCHLD as usize - 1];
    let unwanted = action.handler == IGNORE || action.flags & flag::NO_CHILD_WAIT != 0;
    let quiet = action.flags & flag::NO_CHILD_STOP != 0;
    let words = [SIGCHLD as u64, u64::from(unwanted), u64::from(quiet), 0, 0, 0];
    let _ = tender::call(crate::number::RT_SIGACTION, words);
}

/// rt_sigprocmask.
pub fn set_mask(how: u64, new: u64, old: u64, size: u64) -> Result {
    if size != 8 {
        return Err(EINVAL);
    }
    let before = thread::with_current(|it| it.signals.mask);
    if new != 0 {
        let set: u64 = user::read(new)?;
        let mask = match how {
            0 => before | set,
            1 => before & !set,
            2 => set,
            _ => return Err(EINVAL),
        };
        thread::with_current(|it| it.signals.mask = mask & !bit(SIGKILL) & !bit(SIGSTOP));
    }
    user::write_if(old, before)?;
    Ok(0)
}

/// rt_sigpending.
pub fn pending(set: u64) -> Result {
    pending::collect();
    let (own, mask) = thread::with_current(|it| (it.signals.queue.set(), it.signals.mask));
    user::write(set, (own | pending::shared()) & mask)?;
    Ok(0)
}

/// sigaltstack.
pub fn set_stack(new: u64, old: u64, stack_pointer: u64) -> Result {
    const LEAST: u64 = 2048;
    const IN_USE: u64 = 1;
    let before = thread::with_current(|it| it.signals.alternate);
    let on_it = before.holds(stack_pointer);
    let flags = if on_it { IN_USE } else { before.flags as u64 };
    if new != 0 {
        let [base, flags, size]: [u64; 3] = user::read(new)?;
        if on_it {
            return Err(EPERM);
        }
        // Another flag disarms the stack while a handler runs on it, which here happens by itself.
        const KNOWN: u64 = 1 << 31 | STACK_DISABLED as u64 | IN_USE;
        if flags & 0xffff_ffff & !KNOWN != 0 {
            return Err(EINVAL);
        }
        let stack = match flags as i32 & STACK_DISABLED {
            0 if size < LEAST => return Err(ENOMEM),
            0 => Stack { base, flags: 0, size },
            _ => NO_STACK,
        };
        thread::with_current(|it| it.signals.alternate = stack);
    }
    user::write_if(old, [before.base, flags, before.size])?;
    Ok(0)
}

/// Makes a mask hold until a handler has run or the call is over.
pub fn mask_for_now(mask: u64) {
    thread::with_current(|it| {
        let before = it.signals.mask;
        it.signals.saved_mask.get_or_insert(before);
        it.signals.mask = mask & !bit(SIGKILL) & !bit(SIGSTOP);
    });
}

/// rt_sigsuspend and pause.
pub fn suspend(mask: Option<u64>) -> Result {
    if let Some(mask) = mask {
        mask_for_now(mask);
    }
    while thread::sleep(None) != Wake::Signal {}
    Err(ERESTARTNOHAND)
}

/// Sleeps until one of those is pending, or another signal, or it is late.
fn sleep_for(set: u64, deadline: Option<u64>) -> Wake {
    thread::with_current(|it| it.signals.awaited = set);
    let why = thread::sleep(deadline);
    thread::with_current(|it| it.signals.awaited = 0);
    why
}

/// rt_sigtimedwait: takes one of the set, and does nothing about it.
pub fn wait_for(set: u64, info: u64, deadline: Option<u64>) -> Result {
    let set = user::read::<u64>(set)? & !bit(SIGKILL) & !bit(SIGSTOP);
    let mut why = Wake::Up;
    loop {
        pending::collect();
        if let Some(found) = pending::take(set) {
            pending::tell();
            if info != 0 {
                context::write_info(info, &found)?;
            }
            return Ok(found.signal() as usize);
        }
        match why {
            Wake::Timeout => return Err(crate::errno::EAGAIN),
            Wake::Signal => return Err(EINTR),
            Wake::Up => why = sleep_for(set, deadline),
        }
    }
}

/// A new program handles no signals; what the old one ignored stays ignored.
pub fn reset() {
    let told = ACTIONS.get()[SIGCHLD as usize - 1] != Action::default();
    for action in ACTIONS.get().iter_mut() {
        let handler = if action.handler == IGNORE { IGNORE } else { DEFAULT };
        *action = Action { handler, ..Action::default() };
    }
    thread::with_current(|it| it.signals.alternate = NO_STACK);
    if told {
        tell_of_children();
    }
}

/// rt_sigreturn: the program comes back from a handler.
pub fn leave_handler(frame: &mut Frame) {
    if context::leave(frame).is_err() {
        die(SIGSEGV);
    }
}
