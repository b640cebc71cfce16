//! A socket as the program knows it: what it is now, what it has for the program, and what it was told.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};

use smoltcp::iface::SocketSet;
use smoltcp::socket::tcp;

use super::options::Options;
use super::side::{self, Place, Which};
use super::{Goodbye, Stack};
use crate::errno::{ECONNREFUSED, ECONNRESET, EINVAL, ENETDOWN, ENOTCONN, EPIPE, ETIMEDOUT, Errno, Result};

pub const IN: u32 = 0x41;
pub const OUT: u32 = 0x104;
pub const ERROR: u32 = 8;
pub const HUNG_UP: u32 = 0x10;
pub const OTHER_HUNG_UP: u32 = 0x2000;

/// A socket.
pub struct Socket {
    pub kind: Kind,
    /// Where it was bound; port 0 if it was not.
    pub local: SocketAddrV4,
    /// Whether the program waits for it.
    pub waits: bool,
    pub options: Options,
    /// What went wrong, for who asks first.
    pub error: Option<Errno>,
    /// Another number whenever it has something new.
    pub edge: u64,
    /// What it had when it was looked at last.
    seen: Has,
}

/// What it is.
pub enum Kind {
    /// A stream that is nothing yet.
    Fresh,
    Listening(Listener),
    Connected(Connection),
    Datagrams(Datagrams),
    /// Its maker's, who goes on with it.
    Broken,
}

/// What waits for connections.
pub struct Listener {
    pub backlog: usize,
    /// The stack's sockets: those that wait, and those that have a connection which nobody has accepted.
    pub places: Vec<Place>,
}

/// A stream with another end.
pub struct Connection {
    pub place: Place,
    pub peer: SocketAddrV4,
    pub stage: Stage,
    /// The program reads no more.
    pub is_deaf: bool,
    /// The program writes no more.
    pub is_mute: bool,
    /// The other end writes no more.
    pub is_at_end: bool,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The other end has not answered.
    Begun,
    There,
    Over,
}

/// What datagrams go through.
pub struct Datagrams {
    /// The stack's sockets, once it is bound.
    pub places: Vec<Place>,
    pub peer: Option<SocketAddrV4>,
    /// The program reads or writes no more.
    pub shut: [bool; 2],
}

/// What a socket has: events, and how much there is to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Has {
    pub events: u32,
    pub queue: usize,
}

pub const NOWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);

impl Socket {
    pub fn new(kind: Kind, waits: bool) -> Self {
        Self { kind, local: NOWHERE, waits, options: Options::default(), error: None, edge: 1, seen: Has::default() }
    }

    pub fn is_stream(&self) -> bool {
        !matches!(self.kind, Kind::Datagrams(_))
    }

    /// The process that has it is not the one that made it.
    pub fn break_down(&mut self) {
        self.kind = Kind::Broken;
        self.edge += 1;
    }

    /// What went wrong, once.
    pub fn take_error(&mut self) -> Result<()> {
        match (&self.kind, self.error.take()) {
            (Kind::Broken, _) => Err(ENETDOWN),
            (_, Some(errno)) => Err(errno),
            (_, None) => Ok(()),
        }
    }

    /// What it has for the program.
    pub fn has(&self, stack: &mut Stack) -> Has {
        let none = |events| Has { events, queue: 0 };
        let has = match &self.kind {
            Kind::Broken => none(IN | OUT | ERROR | HUNG_UP | OTHER_HUNG_UP),
            Kind::Fresh => none(OUT | HUNG_UP),
            Kind::Listening(it) => {
                let queue = it.places.iter().filter(|it| is_established(stack.tcp(**it))).count();
                Has { events: if queue > 0 { IN } else { 0 }, queue }
            }
            Kind::Connected(it) => it.has(stack),
            Kind::Datagrams(it) => {
                let queue = it.places.iter().map(|it| stack.udp(*it).recv_queue()).sum();
                let full = !it.places.iter().all(|it| stack.udp(*it).can_send());
                let events = if queue > 0 || it.shut[0] { IN } else { 0 } | if full { 0 } else { OUT };
                Has { events, queue }
            }
        };
        let error = if self.error.is_some() { ERROR } else { 0 };
        Has { events: has.events | error, ..has }
    }

    /// Looks at what became of it. Says whether it has something new.
    pub fn note(&mut self, stack: &mut Stack) -> bool {
        if let Kind::Connected(it) = &mut self.kind
            && let Some(errno) = it.note(stack)
        {
            self.error = Some(errno);
        }
        let has = self.has(stack);
        let is_new = has.events & !self.seen.events != 0 || has.queue > self.seen.queue;
        self.edge += u64::from(is_new);
        self.seen = has;
        is_new
    }

    /// The program has taken or given something: what comes from here on is news.
    pub fn look(&mut self, stack: &mut Stack) {
        self.seen = self.has(stack);
    }

    /// The program has closed it.
    pub fn close(self, stack: &mut Stack) {
        let lingers = self.options.linger != Some(0);
        match self.kind {
            Kind::Fresh | Kind::Broken => {}
            Kind::Listening(it) => it.places.into_iter().for_each(|place| {
                if stack.tcp(place).is_listening() {
                    stack.remove(place);
                } else {
                    stack.leave(place, Goodbye::AtOnce);
                }
            }),
            Kind::Connected(it) => {
                let is_unread = stack.tcp(it.place).recv_queue() > 0;
                stack.leave(it.place, if lingers && !is_unread { Goodbye::Orderly } else { Goodbye::AtOnce });
            }
            Kind::Datagrams(it) => {
                // What was sent goes out first.
                stack.turn();
                it.places.into_iter().for_each(|place| stack.remove(place));
            }
        }
    }

    /// Its own address as the other end sees it.
    pub fn name(&self, stack: &mut Stack) -> SocketAddrV4 {
        let Kind::Connected(it) = &self.kind else { return self.local };
        match stack.tcp(it.place).local_endpoint() {
            Some(it) => SocketAddrV4::new(address_of(it.addr), it.port),
            None => self.local,
        }
    }

    pub fn peer(&self) -> Result<SocketAddrV4> {
        match &self.kind {
            Kind::Connected(it) if it.stage == Stage::There => Ok(it.peer),
            Kind::Datagrams(it) => it.peer.ok_or(ENOTCONN),
            Kind::Broken => Err(ENETDOWN),
            _ => Err(ENOTCONN),
        }
    }

    /// Begins to wait for connections, for so many at a time.
    pub fn listen(&mut self, stack: &mut Stack, backlog: i32) -> Result<()> {
        const MOST: usize = 1024;
        let backlog = usize::try_from(backlog).unwrap_or(MOST).clamp(1, MOST);
        match &mut self.kind {
            Kind::Listening(it) => {
                it.backlog = backlog;
                return Ok(());
            }
            Kind::Fresh => {}
            Kind::Broken => return Err(ENETDOWN),
            _ => return Err(EINVAL),
        }
        if self.local.port() == 0 {
            self.local = SocketAddrV4::new(*self.local.ip(), stack.free_port(true)?);
        }
        self.kind = Kind::Listening(Listener { backlog, places: Vec::new() });
        self.fill(stack);
        Ok(())
    }

    /// Has the stack's sockets wait that are to.
    pub fn fill(&mut self, stack: &mut Stack) {
        let Kind::Listening(it) = &mut self.kind else { return };
        let sides = [Which::Inside, Which::Outside];
        for which in sides {
            it.fill(self.local, which, stack);
        }
        self.look(stack);
    }
}

impl Listener {
    fn fill(&mut self, local: SocketAddrV4, which: Which, stack: &mut Stack) {
        match (which, &mut stack.outside) {
            (Which::Inside, _) => self.refill(local, which, &mut stack.inside.sockets),
            (Which::Outside, Some(side)) => self.refill(local, which, &mut side.sockets),
            (Which::Outside, None) => false,
        };
    }

    /// Sees to it that one waits, unless there are as many connections as there may be: says whether there are.
    fn refill(&mut self, local: SocketAddrV4, which: Which, sockets: &mut SocketSet<'static>) -> bool {
        let address = Some(*local.ip()).filter(|it| !it.is_unspecified());
        if address.is_some_and(|it| it.is_loopback()) && which == Which::Outside {
            return false;
        }
        let (mut waiting, mut taken) = (0, 0);
        self.places.retain(|it| {
            if it.0 != which {
                return true;
            }
            let socket = sockets.get::<tcp::Socket<'_>>(it.1);
            match socket.state() {
                tcp::State::Closed | tcp::State::TimeWait => {
                    sockets.remove(it.1);
                    return false;
                }
                tcp::State::Listen => waiting += 1,
                _ => taken += 1,
            }
            true
        });
        if waiting == 0 && taken <= self.backlog {
            self.places.push(Place(which, side::listen(sockets, address, local.port())));
            waiting = 1;
        }
        waiting == 0
    }
}

/// Sees to all that listen on one side. Notes which ports have no room.
pub fn refill(sockets: &mut BTreeMap<u32, Socket>, which: Which, set: &mut SocketSet<'static>, full: &mut Vec<u16>) {
    full.clear();
    for socket in sockets.values_mut() {
        let local = socket.local;
        if let Kind::Listening(it) = &mut socket.kind
            && it.refill(local, which, set)
        {
            full.push(local.port());
        }
    }
}

impl Connection {
    fn has(&self, stack: &mut Stack) -> Has {
        let socket = stack.tcp(self.place);
        if self.stage == Stage::Begun && socket.state() != tcp::State::Closed {
            return Has::default();
        }
        let queue = socket.recv_queue();
        let ends = !socket.may_recv() || self.is_at_end && queue == 0;
        let mut events = 0;
        if queue > 0 || ends || self.is_deaf {
            events |= IN;
        }
        if ends || self.is_deaf || self.is_at_end {
            events |= OTHER_HUNG_UP;
        }
        // Little room is none, as on Linux: a writer is not woken for each segment.
        let room = socket.send_capacity() - socket.send_queue();
        if !socket.may_send() || room >= socket.send_capacity() / 3 {
            events |= OUT;
        }
        if ends && !socket.may_send() {
            events |= HUNG_UP;
        }
        Has { events, queue }
    }

    /// Notes how far it is. Gives what went wrong, when that is new.
    fn note(&mut self, stack: &mut Stack) -> Option<Errno> {
        let socket = stack.tcp(self.place);
        let state = socket.state();
        use tcp::State::{CloseWait, Closed, Closing, LastAck, SynReceived, SynSent, TimeWait};
        self.is_at_end |= matches!(state, CloseWait | Closing | LastAck | TimeWait);
        match (self.stage, state) {
            (Stage::Over, _) | (Stage::Begun, SynSent | SynReceived) => None,
            (Stage::Begun, Closed) => {
                self.stage = Stage::Over;
                // It is closed by an answer, or after so long without any.
                let refused = socket.remote_endpoint().is_none();
                Some(if refused { ECONNREFUSED } else { ETIMEDOUT })
            }
            (Stage::There, Closed) => {
                self.stage = Stage::Over;
                // Who was told of the end already hears of a broken pipe.
                let errno = if self.is_at_end { EPIPE } else { ECONNRESET };
                (!(self.is_at_end && self.is_mute)).then_some(errno)
            }
            (Stage::Begun, _) => {
                self.stage = Stage::There;
                socket.set_timeout(Some(side::SILENCE));
                None
            }
            (Stage::There, _) => None,
        }
    }
}

/// Whether there is a connection to be accepted.
pub fn is_established(socket: &tcp::Socket<'_>) -> bool {
    use tcp::State::{Closed, Listen, SynReceived, TimeWait};
    !matches!(socket.state(), Listen | SynReceived | Closed | TimeWait)
}

/// There is but one kind of address.
pub fn address_of(address: smoltcp::wire::IpAddress) -> Ipv4Addr {
    let smoltcp::wire::IpAddress::Ipv4(address) = address;
    address
}
