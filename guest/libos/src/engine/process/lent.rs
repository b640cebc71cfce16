//! Files that the tender lent: sockets, pipes, regular files and sets of the host's that the program uses often, so that
//! bytes go through them without asking anybody. A call to the tender takes two changes of process, which is many times what
//! most of these calls take.
//!
//! They are the tender's own open files, so all that a file's state is (what was read, who is connected, whether the host
//! waits: never) is one, whoever makes a call. What is not the host's state is whether the *program* wants to wait, which
//! the tender keeps and says when it lends; who changes it later in a file that others have, too, makes
//! [`abi::port::Port::wishes`] another number for all of them. When a call comes to EAGAIN and the wish is not known any
//! more, or to any other error, it is left to the tender: it is made again, and what belongs to the error (a signal) comes
//! with it.
//!
//! A number here leads to the file that the tender has at that number: whatever changes that passes here first.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::call;
use abi::port::{RUNNING, WAITING};

use super::{host, port, receive};
use crate::errno::{EAGAIN, EFAULT, Result};
use crate::number;
use crate::sync::Local;

#[derive(Clone, Copy)]
enum Slot {
    /// Used so often.
    Used(u8),
    /// The tender does not lend it.
    Never,
    Lent(Lent),
}

#[derive(Clone, Copy)]
struct Lent {
    /// The host's number.
    host: usize,
    /// Whether the program waits for it, as long as [`abi::port::Port::wishes`] is that.
    waits: bool,
    wishes: u32,
}

static SLOTS: Local<Vec<Slot>> = Local::new(Vec::new());

/// A file is lent when it is used for that time: many are used once or twice.
const OFTEN: u8 = 4;

const IN: u16 = 1;
const OUT: u16 = 4;

/// The host lets a process have some thousand, and some are needed otherwise.
const MOST: usize = 480;

/// What the tender would sleep on.
static OWN: AtomicU32 = AtomicU32::new(0);

/// No port begins with that: what is known of a file has to be asked for again.
const NEVER: u32 = u32::MAX;

/// Every so often the tender is let sleep, who sets the clock then.
const DOZES: u32 = 64;
static DOZED: AtomicU32 = AtomicU32::new(0);

/// Makes the call without the tender, if it can be made so.
pub fn directly(number: u32, arguments: [u64; 6]) -> Option<Result> {
    const SET_FLAGS: u64 = 4;
    const SET_NONBLOCKING: u64 = 0x5421;
    let [a, b, c, d, e, f] = arguments.map(|it| it as usize);
    match number {
        number::READ | number::READV => transfer(number, a, [b, c, 0, 0, 0], IN),
        number::WRITE | number::WRITEV => transfer(number, a, [b, c, 0, 0, 0], OUT),
        number::PREAD | number::PWRITE => transfer(number, a, [b, c, d, 0, 0], 0),
        number::LSEEK | number::FSTAT | number::FSYNC | number::FDATASYNC => transfer(number, a, [b, c, 0, 0, 0], 0),
        number::RECVFROM | number::SENDTO => {
            const DONT_WAIT: usize = 0x40;
            const NO_SIGNAL: usize = 0x4000;
            const WAIT_FOR_ALL: usize = 0x100;
            let events = match number {
                _ if d & DONT_WAIT != 0 => 0,
                number::RECVFROM => IN,
                _ => OUT,
            };
            transfer(number, a, [b, c, (d | DONT_WAIT | NO_SIGNAL) & !WAIT_FOR_ALL, e, f], events)
        }
        number::FCNTL if arguments[1] == SET_FLAGS => {
            forget(a);
            None
        }
        number::IOCTL if arguments[1] == SET_NONBLOCKING => {
            forget(a);
            None
        }
        _ => None,
    }
}

/// Moves bytes. If there is nothing to be had, waits for those events, unless the program does not or there are none.
fn transfer(number: u32, descriptor: usize, [b, c, d, e, f]: [usize; 5], events: u16) -> Option<Result> {
    let lent = lent(descriptor)?;
    let make = || host(number, [lent.host, b, c, d, e, f]);
    match make() {
        Ok(done) => {
            if events == IN {
                crate::kept::doubt();
            }
            return Some(Ok(done));
        }
        Err(EAGAIN) => {}
        // Nothing was taken, which the tender could not promise.
        Err(EFAULT) => return Some(Err(EFAULT)),
        Err(_) => return None,
    }
    if events == 0 {
        return Some(Err(EAGAIN));
    }
    if port().wishes.load(Ordering::SeqCst) != lent.wishes {
        // To be lent anew.
        forget(descriptor);
        return None;
    }
    if !lent.waits {
        return Some(Err(EAGAIN));
    }
    let patience = crate::thread::patience(None);
    if patience == 0 || is_the_tenders_turn() {
        return None;
    }
    doze(lent.host, events, patience)?;
    crate::kept::doubt();
    make().ok().map(Ok)
}

/// Sends bytes of ours, as many as there is room for.
pub fn send(descriptor: u64, bytes: &[u8]) -> Option<usize> {
    let lent = lent(descriptor as usize)?;
    host(number::WRITE, [lent.host, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0]).ok()
}

/// What is ready of a set, after so many nanoseconds at most. Nothing when the tender must say.
pub fn events([set, into, most]: [u64; 3], patience: u64) -> Option<usize> {
    let set = lent(set as usize)?.host;
    let look = || host(number::EPOLL_WAIT, [set, into as usize, most as usize, 0, 0, 0]).ok();
    let found = look()?;
    crate::kept::doubt();
    if found > 0 || patience == 0 {
        return Some(found);
    }
    if is_the_tenders_turn() {
        return None;
    }
    doze(set, IN, patience)?;
    look()
}

pub(super) fn is_the_tenders_turn() -> bool {
    DOZED.fetch_add(1, Ordering::Relaxed) % DOZES == DOZES - 1
}

/// Sleeps until the file has one of those events, or there is something for [`call::WAIT`], which is left there.
pub(super) fn doze(file: usize, events: u16, nanoseconds: u64) -> Option<()> {
    #[repr(C)]
    struct Asked {
        descriptor: i32,
        events: u16,
        found: u16,
    }
    let mut own = OWN.load(Ordering::Relaxed) as usize;
    if own == 0 {
        own = borrow(u64::MAX)?.host;
        OWN.store(own as u32, Ordering::Relaxed);
    }
    let mut asked =
        [(file, events), (own, IN)].map(|(file, events)| Asked { descriptor: file as i32, events, found: 0 });
    let time = [nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000];
    let timeout = if nanoseconds == u64::MAX { 0 } else { time.as_ptr() as usize };
    let port = port();
    port.state.store(WAITING, Ordering::SeqCst);
    // A signal from before this is seen here; one from after it makes `own` ready.
    if !port.signals.has_news() {
        let _ = host(number::PPOLL, [asked.as_mut_ptr() as usize, 2, timeout, 0, 8, 0]);
    }
    port.state.store(RUNNING, Ordering::SeqCst);
    Some(())
}

/// The file at that number, if it is lent or can be now.
fn lent(descriptor: usize) -> Option<Lent> {
    if descriptor >= MOST {
        return None;
    }
    {
        let mut slots = SLOTS.get();
        if slots.len() <= descriptor {
            slots.resize(descriptor + 1, Slot::Used(0));
        }
        match &mut slots[descriptor] {
            Slot::Lent(lent) => return Some(*lent),
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
        Some(lent) => Slot::Lent(lent),
        None => Slot::Never,
    };
    got
}

fn borrow(descriptor: u64) -> Option<Lent> {
    // Before the wish is asked for.
    let wishes = port().wishes.load(Ordering::SeqCst);
    let waits = crate::port::call(call::LEND, [descriptor, 0, 0, 0, 0, 0]).ok()?;
    let [host] = receive().ok()?;
    Some(Lent { host, waits: waits == 1, wishes })
}

/// What is at that number is about to change.
pub fn forget(descriptor: usize) {
    if let Some(slot) = SLOTS.get().get_mut(descriptor)
        && let Slot::Lent(lent) = core::mem::replace(slot, Slot::Used(0))
    {
        let _ = host(number::CLOSE, [lent.host, 0, 0, 0, 0, 0]);
    }
}

/// Everything may have changed.
pub fn forget_all() {
    let all = core::mem::take(&mut *SLOTS.get());
    for slot in all {
        if let Slot::Lent(lent) = slot {
            let _ = host(number::CLOSE, [lent.host, 0, 0, 0, 0, 0]);
        }
    }
}

/// A new process has a thread of the tender's of its own, and a port whose numbers begin anew.
pub fn adopt() {
    for slot in SLOTS.get().iter_mut() {
        if let Slot::Lent(lent) = slot {
            lent.wishes = NEVER;
        }
    }
    let own = OWN.swap(0, Ordering::Relaxed) as usize;
    if own != 0 {
        let _ = host(number::CLOSE, [own, 0, 0, 0, 0, 0]);
    }
}
