//! Signals: masks, descriptors that read them, waiting for them.

#![expect(unsafe_code, reason = "signal masks and signalfd are raw calls on plain data")]

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::Signal;

use crate::{Errno, Result, check, last_error};

/// A signal by its number, real-time ones included.
pub fn named(number: i32) -> Result<Signal> {
    if !(1..=64).contains(&number) {
        return Err(Errno::INVAL);
    }
    // SAFETY: any number in the kernel's range is a valid signal to send; the two that the C library keeps for itself
    // only matter to handlers inside this process, and this value is for sending to others.
    Ok(unsafe { Signal::from_raw_unchecked(number) })
}

/// A set of signals, as the kernel takes it: bit `n - 1` stands for signal `n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalSet(u64);

impl SignalSet {
    /// Every signal.
    pub const ALL: Self = Self(u64::MAX);
    /// No signal.
    pub const NONE: Self = Self(0);

    /// The set of those numbers; numbers outside 1 to 64 are left out.
    pub fn of(numbers: &[i32]) -> Self {
        let bits = numbers.iter().filter(|it| (1..=64).contains(*it)).fold(0, |set, it| set | 1u64 << (it - 1));
        Self(bits)
    }
}

impl SignalSet {
    /// Every signal but those.
    pub fn all_but(numbers: &[i32]) -> Self {
        Self(!Self::of(numbers).0)
    }
}

/// Blocks exactly these signals in the calling thread and returns what was blocked before. Fork-safe.
pub fn block(set: SignalSet) -> Result<SignalSet> {
    change_mask(libc::SIG_SETMASK, set)
}

fn change_mask(how: libc::c_int, set: SignalSet) -> Result<SignalSet> {
    let mut old = 0u64;
    // SAFETY: both point to 8 bytes, the size of the kernel's signal set, which is given.
    check(unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, &raw const set.0, &raw mut old, size_of::<u64>()) })?;
    Ok(SignalSet(old))
}

/// The kernel's `sigaction`. All zero: the default action, no flags, nothing masked.
#[repr(C)]
struct DefaultAction([u64; 4]);

/// Puts the handler of each signal back to the default one, so that a program that is executed starts with none ignored.
/// Fork-safe.
pub fn reset_handlers() {
    let action = DefaultAction([0; 4]);
    for number in 1..=64 {
        let (none, size) = (std::ptr::null::<u8>(), size_of::<u64>());
        // SAFETY: the structure has the kernel's layout and size, and the default action runs no code of ours. (The C
        // library's function leaves two signals out.) It fails for SIGKILL and SIGSTOP, which are always default.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, number, &raw const action, none, size) };
    }
}

/// Ends the process as that signal does by default.
pub fn die_of(signal: i32) -> ! {
    reset_handlers();
    let _ = block(SignalSet::NONE);
    // SAFETY: sends a signal to this process; whatever comes of it, the process ends below.
    unsafe { libc::syscall(libc::SYS_kill, libc::getpid(), signal) };
    // Process 1 of a namespace is spared, as is whoever names what ends nobody.
    crate::fork::exit_now(128u8.wrapping_add(signal as u8))
}

/// Has the kernel reap the children of this process when they end. Nobody can wait for them any more: how one ended must
/// be told in another way.
pub fn reap_automatically() -> Result<()> {
    const SA_NOCLDWAIT: u64 = 2;
    // The kernel's structure: handler, flags, restorer, mask.
    let action = DefaultAction([0, SA_NOCLDWAIT, 0, 0]);
    let (none, size) = (std::ptr::null::<u8>(), size_of::<u64>());
    // SAFETY: as in `reset_handlers`: the default action runs no code of ours.
    check(unsafe { libc::syscall(libc::SYS_rt_sigaction, libc::SIGCHLD, &raw const action, none, size) }).map(drop)
}

/// Takes one of the (blocked) signals in `set`, waiting until there is one. Fork-safe.
pub fn wait(set: SignalSet) -> Result<i32> {
    let none = std::ptr::null::<u8>();
    // SAFETY: the set is 8 bytes as the size given says; no information and no time limit are asked for.
    let number =
        check(unsafe { libc::syscall(libc::SYS_rt_sigtimedwait, &raw const set.0, none, none, size_of::<u64>()) })?;
    Ok(number as i32)
}

/// The same, with where it came from. Fork-safe.
pub fn wait_for_one(set: SignalSet) -> Result<Received> {
    let (none, size) = (std::ptr::null::<u8>(), size_of::<u64>());
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: the set is 8 bytes as the size given says, and there is room for what is told; no time limit is asked for.
    let number =
        check(unsafe { libc::syscall(libc::SYS_rt_sigtimedwait, &raw const set.0, info.as_mut_ptr(), none, size) })?;
    // SAFETY: all-zero bytes are a valid value of this plain structure, so it is initialised whatever was told.
    let info = unsafe { info.assume_init() };
    // SAFETY: numbers, whichever kind of signal it was.
    let (pid, value) = unsafe { (info.si_pid(), info.si_value()) };
    Ok(Received { signal: number as i32, pid: pid as u32, by: By::code(info.si_code, value.sival_ptr as u64) })
}

/// A descriptor that polls readable when one of the signals in `set` is pending. Non-blocking. The signals are blocked in
/// the calling thread from here on: one that is not does what it does by default and never shows here.
pub fn descriptor(set: SignalSet) -> Result<OwnedFd> {
    change_mask(libc::SIG_BLOCK, set)?;
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: the set is 8 bytes as the size given says; -1 asks for a new descriptor.
    let fd = check(unsafe { libc::syscall(libc::SYS_signalfd4, -1, &raw const set.0, size_of::<u64>(), flags) })?;
    // SAFETY: the kernel just made it; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// What a signal descriptor tells of one signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its number.
    pub signal: i32,
    /// The process that sent it, or the child it is about.
    pub pid: u32,
    /// Where it came from.
    pub by: By,
}

/// Where a signal came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The kernel, as when a key of a terminal is struck.
    Kernel,
    /// A message queue, with the value that [`tell_of_message`] was given.
    Queue(u64),
    /// Somebody.
    Others,
}

impl By {
    fn code(code: i32, value: u64) -> Self {
        match code {
            libc::SI_KERNEL => Self::Kernel,
            libc::SI_MESGQ => Self::Queue(value),
            _ => Self::Others,
        }
    }
}

/// Has the kernel send this process a signal with that value, once, when a message comes into the empty queue; or does not
/// any more, when there is none. Whether the process is told or not, nobody else can be.
pub fn tell_of_message(queue: BorrowedFd<'_>, how: Option<(Telling, u64)>) -> Result<()> {
    // The kernel's `struct sigevent`: the value, the signal, how.
    let event = how.map(|(telling, value)| {
        let (signal, way) = match telling {
            Telling::BySignal(signal) => (signal, libc::SIGEV_SIGNAL),
            Telling::Nobody => (0, libc::SIGEV_NONE),
        };
        [value, u64::from(signal as u32) | u64::from(way as u32) << 32, 0, 0, 0, 0, 0, 0]
    });
    let at = event.as_ref().map_or(std::ptr::null(), |it| it.as_ptr());
    // SAFETY: the structure is as long as the kernel's, or there is none.
    check(unsafe { libc::syscall(libc::SYS_mq_notify, queue.as_raw_fd(), at) }).map(drop)
}

/// How [`tell_of_message`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// With that signal.
    BySignal(i32),
    /// Not at all: it only keeps others from being told.
    Nobody,
}

/// The next pending signal of a descriptor made by [`descriptor`], if there is one.
pub fn next(descriptor: BorrowedFd<'_>) -> Result<Option<Received>> {
    let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
    let size = size_of::<libc::signalfd_siginfo>();
    // SAFETY: the buffer is writable and `size` bytes long.
    let read = unsafe { libc::read(descriptor.as_raw_fd(), info.as_mut_ptr().cast(), size) };
    if read < 0 {
        return match last_error() {
            Errno::AGAIN => Ok(None),
            error => Err(error),
        };
    }
    // SAFETY: all-zero bytes are a valid value of this plain structure, so it is initialised whatever was read.
    let info = unsafe { info.assume_init() };
    Ok(Some(Received { signal: info.ssi_signo as i32, pid: info.ssi_pid, by: By::code(info.ssi_code, info.ssi_ptr) }))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_signal_comes_out_of_the_descriptor_and_does_nothing_else() {
        let before = block(SignalSet::NONE).unwrap();
        let fd = descriptor(SignalSet::of(&[libc::SIGUSR1])).unwrap();
        assert_eq!(next(fd.as_fd()).unwrap(), None);
        // SAFETY: sends a signal to this very thread, which the descriptor has block it.
        unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR1) };
        let received = next(fd.as_fd()).unwrap().unwrap();
        assert_eq!((received.signal, received.pid), (libc::SIGUSR1, std::process::id()));
        block(before).unwrap();
    }

    #[test]
    fn numbers_outside_the_range_are_no_signals() {
        for wrong in [i32::MIN, -1, 0, 65] {
            assert_eq!(named(wrong), Err(Errno::INVAL));
        }
        assert_eq!(SignalSet::of(&[1, 64, 0, 99]), SignalSet(1 | 1 << 63));
    }
}
