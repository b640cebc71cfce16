//! Files that the tender lent: sockets, pipes and sets of the host's that the program uses often, so that bytes go through
//! them without asking anybody. A call to the tender takes two changes of process, which is many times what most of these
//! calls take.
//!
//! They are the tender's own open files, so all that a file's state is (what was read, who is connected, whether the host
//! waits: never) is one, whoever makes a call. What is not the host's state is whether the *program* wants to wait, which
//! the tender keeps; so what comes to EAGAIN is left to the tender, unless it said that the program does not wait and
//! nobody else has the file, who could change that. Any other error is left to it, too: the call is made again, and what
//! belongs to the error (a signal) comes with it.
//!
//! A number here leads to the file that the tender has at that number: whatever changes that passes here first.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::call;
use abi::port::{RUNNING, WAITING};

use super::{host, number, port, receive};
use crate::errno::{EAGAIN, Result};
use crate::sync::Local;
use crate::user;

#[derive(Clone, Copy)]
enum Slot {
    /// Used so often.
    Used(u8),
    /// The tender does not lend it.
    Never,
    /// The host's number; and whether it is known that the program does not wait for it.
    Lent { host: usize, tells: bool },
}

static SLOTS: Local<Vec<Slot>> = Local::new(Vec::new());

/// A file is lent when it is used for that time: many are used once or twice.
const OFTEN: u8 = 4;

/// The host lets a process have some thousand, and some are needed otherwise.
const MOST: usize = 480;

/// What the tender would sleep on.
static OWN: AtomicU32 = AtomicU32::new(0);

/// Every so often the tender is let sleep, who sets the clock then.
const DOZES: u32 = 64;
static DOZED: AtomicU32 = AtomicU32::new(0);

/// Makes the call without the tender, if it can be made so.
pub fn directly(number: u32, arguments: [u64; 6]) -> Option<Result> {
    const CLOSE: usize = 3;
    const IOCTL: usize = 16;
    const DUP: usize = 32;
    const DUP2: usize = 33;
    const SENDMSG: usize = 46;
    const FCNTL: usize = 72;
    const DUP3: usize = 292;
    const SENDMMSG: usize = 307;
    const CLOSE_RANGE: usize = 436;
    const SET_FLAGS: u64 = 4;
    const SET_NONBLOCKING: u64 = 0x5421;
    let [a, b, c, d, e, f] = arguments.map(|it| it as usize);
    match number as usize {
        number::READ | number::WRITE | number::READV | number::WRITEV => transfer(number, a, [b, c, 0, 0, 0]),
        number::RECVFROM | number::SENDTO => {
            const DONT_WAIT: usize = 0x40;
            const NO_SIGNAL: usize = 0x4000;
            const WAIT_FOR_ALL: usize = 0x100;
            transfer(number, a, [b, c, (d | DONT_WAIT | NO_SIGNAL) & !WAIT_FOR_ALL, e, f])
        }
        CLOSE => forget(a),
        DUP2 | DUP3 if a == b => None,
        DUP2 | DUP3 => {
            doubt(a);
            forget(b)
        }
        DUP => doubt(a),
        FCNTL if arguments[1] == SET_FLAGS => forget(a),
        FCNTL => doubt(a),
        IOCTL if arguments[1] == SET_NONBLOCKING => forget(a),
        CLOSE_RANGE => {
            forget_all();
            None
        }
        // It may carry descriptors.
        SENDMMSG => {
            share();
            None
        }
        SENDMSG => {
            const CONTROL: usize = 4;
            if user::read::<[u64; 7]>(arguments[1]).is_ok_and(|it| it[CONTROL] != 0) {
                share();
            }
            None
        }
        _ => None,
    }
}

fn transfer(number: u32, descriptor: usize, [b, c, d, e, f]: [usize; 5]) -> Option<Result> {
    let (lent, tells) = lent(descriptor)?;
    match host(number as usize, [lent, b, c, d, e, f]) {
        Ok(done) => Some(Ok(done)),
        Err(EAGAIN) if tells => Some(Err(EAGAIN)),
        Err(_) => None,
    }
}

/// What is ready of a set, after so many nanoseconds at most. Nothing when the tender must say.
pub fn events([set, into, most]: [u64; 3], patience: u64) -> Option<usize> {
    let (lent, _) = lent(set as usize)?;
    let look = || host(number::EPOLL_WAIT, [lent, into as usize, most as usize, 0, 0, 0]).ok();
    let found = look()?;
    if found > 0 || patience == 0 {
        return Some(found);
    }
    if DOZED.fetch_add(1, Ordering::Relaxed) % DOZES == DOZES - 1 {
        return None;
    }
    doze(lent, patience)?;
    look()
}

/// Sleeps until the set has something, or there is something for [`call::WAIT`], which is left there.
fn doze(set: usize, nanoseconds: u64) -> Option<()> {
    #[repr(C)]
    struct Asked {
        descriptor: i32,
        events: u16,
        found: u16,
    }
    const IN: u16 = 1;
    let mut own = OWN.load(Ordering::Relaxed) as usize;
    if own == 0 {
        own = borrow(u64::MAX)?.0;
        OWN.store(own as u32, Ordering::Relaxed);
    }
    let mut asked = [set, own].map(|it| Asked { descriptor: it as i32, events: IN, found: 0 });
    let time = [nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000];
    let timeout = if nanoseconds == u64::MAX { 0 } else { time.as_ptr() as usize };
    let port = port();
    port.state.store(WAITING, Ordering::SeqCst);
    // A signal from before this is seen here; one from after it makes `own` ready.
    if port.pending.load(Ordering::SeqCst) == 0 {
        let _ = host(number::PPOLL, [asked.as_mut_ptr() as usize, 2, timeout, 0, 8, 0]);
    }
    port.state.store(RUNNING, Ordering::SeqCst);
    Some(())
}

/// The host's number of a file that is lent, or is now; and whether it tells that there is nothing.
fn lent(descriptor: usize) -> Option<(usize, bool)> {
    if descriptor >= MOST {
        return None;
    }
    {
        let mut slots = SLOTS.get();
        if slots.len() <= descriptor {
            slots.resize(descriptor + 1, Slot::Used(0));
        }
        match &mut slots[descriptor] {
            Slot::Lent { host, tells } => return Some((*host, *tells)),
            Slot::Used(times) if *times < OFTEN => {
                *times += 1;
                return None;
            }
            Slot::Used(_) => {}
            Slot::Never => return None,
        }
    }
    let got = borrow(descriptor as u64);
    SLOTS.get()[descriptor] = match got {
        Some((host, tells)) => Slot::Lent { host, tells },
        None => Slot::Never,
    };
    got
}

fn borrow(descriptor: u64) -> Option<(usize, bool)> {
    let tells = crate::port::call(call::LEND, [descriptor, 0, 0, 0, 0, 0]).ok()?;
    let [host] = receive().ok()?;
    Some((host, tells == 1))
}

/// What is at that number is about to change.
fn forget(descriptor: usize) -> Option<Result> {
    if let Some(slot) = SLOTS.get().get_mut(descriptor)
        && let Slot::Lent { host: lent, .. } = core::mem::replace(slot, Slot::Used(0))
    {
        let _ = host(number::CLOSE, [lent, 0, 0, 0, 0, 0]);
    }
    None
}

/// Somebody else may change whether the program waits for that.
fn doubt(descriptor: usize) -> Option<Result> {
    if let Some(Slot::Lent { tells, .. }) = SLOTS.get().get_mut(descriptor) {
        *tells = false;
    }
    None
}

/// Somebody else may change whether the program waits for anything that it has.
pub fn share() {
    for slot in SLOTS.get().iter_mut() {
        if let Slot::Lent { tells, .. } = slot {
            *tells = false;
        }
    }
}

/// Everything may have changed.
pub fn forget_all() {
    let all = core::mem::take(&mut *SLOTS.get());
    for slot in all {
        if let Slot::Lent { host: lent, .. } = slot {
            let _ = host(number::CLOSE, [lent, 0, 0, 0, 0, 0]);
        }
    }
}

/// A new process has a tender of its own to sleep on.
pub fn adopt() {
    let own = OWN.swap(0, Ordering::Relaxed) as usize;
    if own != 0 {
        let _ = host(number::CLOSE, [own, 0, 0, 0, 0, 0]);
    }
}
