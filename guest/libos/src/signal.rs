//! Signals: which are pending, what a program does about them, and the way into its handlers and out again.

mod context;

use core::sync::atomic::Ordering;

use abi::port::CHILD_ENDED;

use crate::engine::port;
use crate::errno::{EINTR, EINVAL, ENOMEM, EPERM, ERESTART, ERESTARTNOHAND, Result, to_raw};
use crate::frame::{Frame, NOT_A_CALL};
use crate::sync::Local;
use crate::thread::{self, Wake};
use crate::{engine, port as tender, user};

pub const SIGKILL: i32 = 9;
pub const SIGSEGV: i32 = 11;
const SIGCHLD: i32 = 17;
const SIGSTOP: i32 = 19;
const LAST: i32 = 64;

/// By default these do nothing: SIGCHLD, SIGCONT, SIGURG, SIGWINCH; and those that would stop the process, which has
/// nobody to let it go on.
const IGNORED_BY_DEFAULT: u64 = bit(17) | bit(18) | bit(23) | bit(28) | bit(19) | bit(20) | bit(21) | bit(22);

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
    pub const ONSTACK: u64 = 0x0800_0000;
    pub const RESTART: u64 = 0x1000_0000;
    pub const NODEFER: u64 = 0x4000_0000;
    pub const RESETHAND: u64 = 0x8000_0000;
}

static ACTIONS: Local<[Action; 64]> = Local::new([Action { handler: DEFAULT, flags: 0, restorer: 0, mask: 0 }; 64]);

/// What is known of a signal beside its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Info {
    pub signal: i32,
    pub code: i32,
    /// The sender's process and user, or the address that faulted.
    pub value: u64,
    /// The processor's exception, for faults.
    pub vector: u64,
}

/// A thread's part.
pub struct ThreadSignals {
    pub mask: u64,
    pending: u64,
    infos: [Info; 4],
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
        const NOTHING: Info = Info { signal: 0, code: 0, value: 0, vector: 0 };
        Self { mask: 0, pending: 0, infos: [NOTHING; 4], saved_mask: None, alternate: NO_STACK }
    }

    fn add(&mut self, info: Info) {
        self.pending |= bit(info.signal);
        if let Some(slot) = self.infos.iter_mut().find(|it| it.signal == 0) {
            *slot = info;
        }
    }

    fn take(&mut self, signal: i32) -> Option<Info> {
        if self.pending & bit(signal) == 0 {
            return None;
        }
        self.pending &= !bit(signal);
        let known = self.infos.iter_mut().find(|it| it.signal == signal);
        Some(known.map_or(Info { signal, code: -6, value: 0, vector: 0 }, core::mem::take))
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
    let shared = port().pending.load(Ordering::Relaxed);
    let (pending, mask) = thread::with_current(|it| (it.signals.pending, it.signals.mask));
    let candidates = (shared | pending) & !mask;
    candidates != 0 && candidates & !ignored() != 0
}

/// Finds a sleeping thread that may act on what is pending for the whole process.
pub fn interrupt_a_sleeper() {
    let pending = port().pending.load(Ordering::Relaxed);
    if pending == 0 {
        return;
    }
    let pending = pending & !ignored();
    for number in thread::numbers() {
        let takes = thread::with(number, |it| pending & !it.signals.mask != 0);
        if takes == Some(true) && thread::interrupt(number) {
            return;
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
        it.signals.add(Info { signal, code, value: address, vector });
    });
}

/// A signal for one thread of this process.
pub fn send_to_thread(number: u32, info: Info) -> bool {
    let found = thread::with(number, |it| {
        it.signals.add(info);
        it.signals.mask
    });
    let Some(mask) = found else { return false };
    if bit(info.signal) & !mask & !ignored() != 0 {
        thread::interrupt(number);
    }
    true
}

/// A signal of this process for itself as a whole.
pub fn send_to_self(info: Info) {
    let slot = &port().senders[info.signal as usize - 1];
    slot.store(info.value, Ordering::Relaxed);
    port().pending.fetch_or(bit(info.signal), Ordering::Relaxed);
    interrupt_a_sleeper();
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

/// Why a signal for the process came: of a child's end, of nobody in particular, of another process.
fn code_of(signal: i32, sender: u64) -> i32 {
    const OF_KERNEL: i32 = 0x80;
    const EXITED: i32 = 1;
    const KILLED: i32 = 2;
    match (signal, sender) {
        (SIGCHLD, _) if sender & CHILD_ENDED != 0 && sender >> 32 & 0x7f == 0 => EXITED,
        (SIGCHLD, _) if sender & CHILD_ENDED != 0 => KILLED,
        (_, 0) => OF_KERNEL,
        _ => 0,
    }
}

fn next() -> Option<Info> {
    let shared = port().pending.load(Ordering::Relaxed);
    thread::with_current(|it| {
        let signals = &mut it.signals;
        let candidates = (shared | signals.pending) & !signals.mask;
        if candidates == 0 {
            return None;
        }
        // What the instruction itself caused comes first.
        const FAULTS: u64 = bit(4) | bit(5) | bit(7) | bit(8) | bit(11);
        let first = if candidates & FAULTS & signals.pending != 0 { candidates & FAULTS } else { candidates };
        let signal = first.trailing_zeros() as i32 + 1;
        signals.take(signal).or_else(|| {
            port().pending.fetch_and(!bit(signal), Ordering::Relaxed);
            let value = port().senders[signal as usize - 1].load(Ordering::Relaxed);
            Some(Info { signal, code: code_of(signal, value), value, vector: 0 })
        })
    })
}

/// On the way back to the program: acts on what is pending.
pub fn deliver(frame: &mut Frame) {
    while let Some(info) = next() {
        let action = ACTIONS.get()[info.signal as usize - 1];
        match action.handler {
            IGNORE => {}
            DEFAULT if IGNORED_BY_DEFAULT & bit(info.signal) != 0 => {}
            DEFAULT => die(info.signal),
            _ => {
                restart(frame, Some(&action));
                if action.flags & flag::RESETHAND != 0 {
                    ACTIONS.get()[info.signal as usize - 1].handler = DEFAULT;
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
            forget(signal);
        }
        let [handler, flags, restorer, mask]: [u64; 4] = user::read(new)?;
        ACTIONS.get()[index] = Action { handler, flags, restorer, mask: mask & !bit(SIGKILL) & !bit(SIGSTOP) };
        if ignored() & bit(signal) != 0 {
            forget(signal);
        }
        if signal == SIGCHLD {
            tell_of_children();
        }
    }
    user::write_if(old, [before.handler, before.flags, before.restorer, before.mask])?;
    Ok(0)
}

/// What is ignored does not stay pending.
fn forget(signal: i32) {
    port().pending.fetch_and(!bit(signal), Ordering::Relaxed);
    for number in thread::numbers() {
        let _ = thread::with(number, |it| it.signals.take(signal));
    }
}

/// Tells the tender whether the ends of children are of interest: when they are not, nobody need wait for them.
fn tell_of_children() {
    const RT_SIGACTION: u32 = 13;
    const NO_CHILD_WAIT: u64 = 2;
    let action = ACTIONS.get()[SIGCHLD as usize - 1];
    let unwanted = action.handler == IGNORE || action.flags & NO_CHILD_WAIT != 0;
    let _ = tender::call(RT_SIGACTION, [SIGCHLD as u64, u64::from(unwanted), 0, 0, 0, 0]);
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
    let own = thread::with_current(|it| it.signals.pending & it.signals.mask);
    let mask = thread::with_current(|it| it.signals.mask);
    user::write(set, own | port().pending.load(Ordering::Relaxed) & mask)?;
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

/// rt_sigtimedwait: takes one of the set, and does nothing about it.
pub fn wait_for(set: u64, info: u64, deadline: Option<u64>) -> Result {
    let set: u64 = user::read(set)?;
    loop {
        // While it waits, they are not blocked: else nobody would wake it.
        let mask = thread::with_current(|it| core::mem::replace(&mut it.signals.mask, !set));
        let found = next();
        let why = if found.is_none() { Some(thread::sleep(deadline)) } else { None };
        let found = found.or_else(next);
        thread::with_current(|it| it.signals.mask = mask);
        if let Some(found) = found {
            if info != 0 {
                context::write_info(info, &found)?;
            }
            return Ok(found.signal as usize);
        }
        match why {
            Some(Wake::Timeout) => return Err(crate::errno::EAGAIN),
            Some(Wake::Signal) => return Err(EINTR),
            _ => {}
        }
    }
}

/// A new program handles no signals; what the old one ignored stays ignored.
pub fn reset() {
    for action in ACTIONS.get().iter_mut() {
        let handler = if action.handler == IGNORE { IGNORE } else { DEFAULT };
        *action = Action { handler, ..Action::default() };
    }
    thread::with_current(|it| it.signals.alternate = NO_STACK);
}

/// A new process has no pending signals.
pub fn forget_pending() {
    thread::with_current(|it| it.signals.pending = 0);
}

/// rt_sigreturn: the program comes back from a handler.
pub fn leave_handler(frame: &mut Frame) {
    if context::leave(frame).is_err() {
        die(SIGSEGV);
    }
}
