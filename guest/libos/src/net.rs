//! The program's sockets of the internet, where they are of a stack in here ([`abi::port::Port::stack`]): then the tender moves
//! frames, and makes no socket for the program.
//!
//! A socket has a number that the tender gives, as all descriptors have, and what stands there is a socket that leads
//! nowhere. What it is, is here, and **whatever the program asks of that number passes here first**.
//!
//! A process has two networks: itself, with 127.0.0.0/8 and its own address, and the cell's, when the cell has one and no other
//! process of it has it already. The stack is turned when the program asks for something, before the process sleeps and
//! after it did; a sleep ends when a frame comes or the stack has something to do. A thread that waits for a socket is
//! woken when any has changed, and looks. **Nobody holds the stack while others run.**
//!
//! A process that was forked has none of its maker's sockets: they are of one memory, and only one can go on with them. It
//! finds each of them broken, with ENETDOWN.

mod calls;
mod datagrams;
mod descriptors;
mod life;
mod link;
mod messages;
mod options;
mod sets;
mod side;
mod socket;
mod stream;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use smoltcp::socket::tcp;
use smoltcp::time::{Duration, Instant};

pub use self::calls::answer;
pub use self::life::{adopt, end, executed, go_on, park};
pub use self::sets::{fired, poll, wait};

use self::link::Link;
use self::sets::Set;
use self::side::{Place, Side, Which};
use self::socket::Socket;
use crate::errno::{EBADF, Result};
use crate::sync::Local;
use crate::thread::{self, Wake};
use crate::{clock, engine, number, port};

/// A descriptor.
#[derive(Clone, Copy)]
struct Open {
    what: What,
    closes_on_exec: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Socket(u32),
    Set(u32),
}

/// A connection that the program has closed, which says goodbye until then at most.
struct Leaving {
    place: Place,
    until: Instant,
}

struct Stack {
    inside: Side,
    outside: Option<Side>,
    sockets: BTreeMap<u32, Socket>,
    sets: BTreeMap<u32, Set>,
    open: Vec<Option<Open>>,
    next: u32,
    /// Threads that wait for a change.
    waiting: Vec<u32>,
    leaving: Vec<Leaving>,
    /// Something was asked for that the other side does not know yet.
    is_due: bool,
    /// When there is something to do.
    due: Option<Instant>,
    seed: u64,
}

static STACK: Local<Option<Box<Stack>>> = Local::new(None);

/// Whether there is one.
static ON: AtomicBool = AtomicBool::new(false);

/// How long a connection that was closed may take to end.
const GOODBYE: Duration = Duration::from_secs(60);

/// Whether the program's sockets are in here.
pub fn is_wanted() -> bool {
    engine::port().stack.load(Ordering::Relaxed) != 0
}

/// Whether there are any.
fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

fn now() -> Instant {
    Instant::from_micros((clock::monotonic() / 1000) as i64)
}

/// Does something with the stack, which there is from then on.
fn with<T>(act: impl FnOnce(&mut Stack) -> T) -> T {
    if !is_on() {
        begin();
    }
    match STACK.get().as_deref_mut() {
        Some(stack) => act(stack),
        None => unreachable!("it was just made, and stays"),
    }
}

/// Whether a thread waits for a socket.
pub fn is_waited_for() -> bool {
    is_on() && with(|it| !it.waiting.is_empty())
}

/// Makes it. It is large on its way to where it stays, and every thread's own stack is small: so nobody does this in passing.
#[cold]
#[inline(never)]
fn begin() {
    let stack = Box::new(Stack::new());
    *STACK.get() = Some(stack);
    ON.store(true, Ordering::Relaxed);
}

/// Turns the stack if there is anything to turn it for. Says whether that woke somebody.
pub fn attend() -> bool {
    is_on() && with(|it| it.has_something()) && turn()
}

/// Turns it. Says whether that woke somebody.
fn turn() -> bool {
    let woke = is_on() && with(Stack::turn);
    send_off();
    woke
}

/// When the process slept last, or had its frames carried, by [`clock::monotonic`].
static SEEN: AtomicU64 = AtomicU64::new(0);

/// The tender has just seen to the frames.
pub fn note_seen() {
    SEEN.store(clock::monotonic(), Ordering::Relaxed);
}

/// Who has not slept for some time is not looked after by himself: what he sends is brought to the tender's notice.
fn send_off() {
    const LONGEST: u64 = 10_000_000;
    let has_link = is_on() && with(|it| it.outside.is_some());
    if has_link && link::is_loaded() && clock::monotonic().saturating_sub(SEEN.load(Ordering::Relaxed)) > LONGEST {
        let _ = port::call(abi::call::CHECK, [0; 6]);
        note_seen();
    }
}

/// For how many nanoseconds there is nothing to do unless something comes; nothing for ever.
pub fn patience() -> Option<u64> {
    if !is_on() {
        return None;
    }
    with(|it| {
        if it.is_due || it.outside.is_some() && link::is_loaded() {
            return Some(0);
        }
        let wait = it.due? - now();
        Some(if it.due? <= now() { 0 } else { wait.total_micros() * 1000 })
    })
}

/// Until when a sleep may be, by [`clock::monotonic`].
pub fn deadline() -> Option<u64> {
    if !is_on() {
        return None;
    }
    with(|it| if it.is_due { Some(0) } else { it.due.map(|it| it.total_micros() as u64 * 1000) })
}

/// Waits until something has changed.
fn pause(deadline: Option<u64>) -> Wake {
    let current = thread::current();
    with(|it| it.waiting.push(current));
    let why = thread::sleep(deadline);
    with(|it| it.waiting.retain(|it| *it != current));
    why
}

/// The program has closed a descriptor, or it is about to be another.
fn close(descriptor: u64) {
    if let Some(cookie) = with(|it| it.close(descriptor)) {
        thread::unwatch(cookie);
    }
}

impl Stack {
    fn new() -> Self {
        let mut seed = 0u64;
        let _ = port::call(number::GETRANDOM, [&raw mut seed as u64, 8, 0, 0, 0, 0]);
        Self {
            inside: Side::inside(seed, now()),
            outside: None,
            sockets: BTreeMap::new(),
            sets: BTreeMap::new(),
            open: Vec::new(),
            next: 1,
            waiting: Vec::new(),
            leaving: Vec::new(),
            is_due: false,
            due: None,
            seed,
        }
    }

    fn has_something(&self) -> bool {
        self.is_due
            || self.inside.has_frames()
            || self.outside.as_ref().is_some_and(Side::has_frames)
            || self.due.is_some_and(|it| it <= now())
    }

    /// Moves what can be moved. Says whether that woke somebody.
    #[inline(never)]
    fn turn(&mut self) -> bool {
        /// What a process says to itself may have answers without end.
        const MOST: u32 = 64;
        self.is_due = false;
        for _ in 0..MOST {
            let now = now();
            let Self { inside, outside, sockets, .. } = self;
            let mut any = inside.turn(now, |set, full| socket::refill(sockets, Which::Inside, set, full));
            if let Some(side) = outside {
                any |= side.turn(now, |set, full| socket::refill(sockets, Which::Outside, set, full));
            }
            if !any {
                break;
            }
        }
        self.see_off();
        let now = now();
        let outside = self.outside.as_mut().and_then(|it| it.next(now));
        self.due = [self.inside.next(now), outside].into_iter().flatten().min();
        self.note()
    }

    /// Looks at what has become of each socket, and wakes who waits if anything has.
    fn note(&mut self) -> bool {
        let mut any = false;
        let mut sockets = core::mem::take(&mut self.sockets);
        for socket in sockets.values_mut() {
            any |= socket.note(self);
        }
        self.sockets = sockets;
        if any {
            self.wake();
        }
        any
    }

    fn wake(&mut self) {
        core::mem::take(&mut self.waiting).into_iter().for_each(|it| {
            thread::wake(it);
        });
    }

    /// Forgets connections that have said goodbye.
    fn see_off(&mut self) {
        let now = now();
        let mut leaving = core::mem::take(&mut self.leaving);
        leaving.retain(|it| {
            let socket = self.tcp(it.place);
            let is_over = matches!(socket.state(), tcp::State::Closed | tcp::State::TimeWait);
            // Who still sends is told that nobody reads it.
            if !is_over && (it.until <= now || socket.recv_queue() > 0) {
                socket.abort();
                self.is_due = true;
                return true;
            }
            if is_over {
                self.remove(it.place);
            }
            !is_over
        });
        self.leaving = leaving;
    }

    /// How many connections that are closed have something to send still, and how many wait for the other side to know.
    fn unfinished(&mut self) -> (usize, usize) {
        let places: Vec<Place> = self.leaving.iter().map(|it| it.place).collect();
        let (mut unsent, mut unknown) = (0, 0);
        for place in places.into_iter().filter(|it| it.0 == Which::Outside) {
            let socket = self.tcp(place);
            match socket.state() {
                tcp::State::FinWait2 => {}
                _ if socket.send_queue() > 0 => unsent += 1,
                _ => unknown += 1,
            }
        }
        (unsent, unknown)
    }

    /// A connection that is not the program's any more.
    fn leave(&mut self, place: Place, how: Goodbye) {
        let socket = self.tcp(place);
        match how {
            Goodbye::Orderly => socket.close(),
            Goodbye::AtOnce => socket.abort(),
        }
        self.leaving.push(Leaving { place, until: now() + GOODBYE });
        self.is_due = true;
    }

    fn tcp(&mut self, Place(which, handle): Place) -> &mut tcp::Socket<'static> {
        match (which, &mut self.outside) {
            (Which::Outside, Some(side)) => side.sockets.get_mut(handle),
            _ => self.inside.sockets.get_mut(handle),
        }
    }

    fn udp(&mut self, Place(which, handle): Place) -> &mut smoltcp::socket::udp::Socket<'static> {
        match (which, &mut self.outside) {
            (Which::Outside, Some(side)) => side.sockets.get_mut(handle),
            _ => self.inside.sockets.get_mut(handle),
        }
    }

    fn remove(&mut self, Place(which, handle): Place) {
        match (which, &mut self.outside) {
            (Which::Outside, Some(side)) => drop(side.sockets.remove(handle)),
            _ => drop(self.inside.sockets.remove(handle)),
        }
    }

    /// Takes up the cell's network if there is one to be had.
    #[inline(never)]
    fn take_up_link(&mut self, link: Result<Link>) {
        if let (None, Ok(link)) = (&self.outside, link) {
            let side = Side::outside(link, self.seed ^ 0x5bd1_e995, now());
            if let Some(address) = side.address() {
                self.inside.add_address(address);
            }
            self.outside = Some(side);
        }
    }

    /// Its own address on the cell's network.
    fn address(&self) -> Option<Ipv4Addr> {
        self.outside.as_ref().and_then(Side::address)
    }

    /// Which network an address is on.
    fn side_of(&self, address: Ipv4Addr) -> Which {
        let is_own = address.is_loopback() || address.is_unspecified() || Some(address) == self.address();
        if is_own { Which::Inside } else { Which::Outside }
    }

    /// None of its sockets is any more. Says whether it had the cell's network.
    #[inline(never)]
    fn give_up(&mut self) -> bool {
        let had_link = self.outside.take().is_some();
        self.sockets.values_mut().for_each(Socket::break_down);
        self.sets.values_mut().for_each(|it| _ = it.forget_watch());
        self.leaving.clear();
        self.waiting.clear();
        self.inside = Side::inside(self.seed, now());
        (self.due, self.is_due) = (None, false);
        had_link
    }

    fn what(&self, descriptor: u64) -> Option<Open> {
        *self.open.get(descriptor as u32 as usize)?
    }

    /// The socket at that number.
    fn socket_at(&self, descriptor: u64) -> Option<u32> {
        match self.what(descriptor)?.what {
            What::Socket(id) => Some(id),
            What::Set(_) => None,
        }
    }

    /// The socket at that number, away from the stack, for [`Stack::put`].
    fn take(&mut self, id: u32) -> Result<Socket> {
        self.sockets.remove(&id).ok_or(EBADF)
    }

    fn put(&mut self, id: u32, socket: Socket) {
        self.sockets.insert(id, socket);
    }

    /// A descriptor for that.
    fn enter(&mut self, descriptor: u64, what: What, closes_on_exec: bool) {
        let at = descriptor as u32 as usize;
        if self.open.len() <= at {
            self.open.resize(at + 1, None);
        }
        self.open[at] = Some(Open { what, closes_on_exec });
    }

    fn add(&mut self, descriptor: u64, socket: Socket, closes_on_exec: bool) {
        let id = self.next;
        self.next += 1;
        self.sockets.insert(id, socket);
        self.enter(descriptor, What::Socket(id), closes_on_exec);
    }

    /// Gives a cookie back that nobody waits for any more.
    fn close(&mut self, descriptor: u64) -> Option<u64> {
        let open = self.open.get_mut(descriptor as u32 as usize)?.take()?;
        if self.open.iter().flatten().any(|it| it.what == open.what) {
            return None;
        }
        match open.what {
            What::Socket(id) => {
                self.sets.values_mut().for_each(|it| it.forget(id));
                if let Some(socket) = self.sockets.remove(&id) {
                    socket.close(self);
                }
                // Whoever waits for it hears so.
                self.wake();
                self.turn();
                None
            }
            What::Set(id) => self.sets.remove(&id)?.forget_watch(),
        }
    }
}

/// How a connection is left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Goodbye {
    /// What was sent arrives.
    Orderly,
    /// The other side is told that something is lost.
    AtOnce,
}

/// Has the link, if the process has none yet and may.
fn want_link() {
    let has = with(|it| it.outside.is_some());
    if !has {
        let link = Link::take_up();
        with(|it| it.take_up_link(link));
    }
}
