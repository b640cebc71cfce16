//! Streams: connections made and taken up, bytes sent and received.

use core::net::SocketAddrV4;

use smoltcp::time::Duration;

use super::Stack;
use super::messages::Parts;
use super::side::{self, Place, Which};
use super::socket::{Connection, Kind, Socket, Stage, address_of, is_established};
use crate::errno::{
    EADDRINUSE, EADDRNOTAVAIL, EALREADY, EINPROGRESS, EINVAL, EISCONN, ENETDOWN, ENETUNREACH, ENOTCONN, EPIPE, Errno,
    Result,
};

impl Stack {
    /// A port that nobody has.
    pub fn free_port(&mut self, of_streams: bool) -> Result<u16> {
        const FIRST: u64 = 32_768;
        const COUNT: u64 = 28_232;
        for _ in 0..COUNT {
            // Knuth's generator: the first is by chance, and none follows its neighbour.
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let port = (FIRST + (self.seed >> 33) % COUNT) as u16;
            if !self.sockets.values().any(|it| it.is_stream() == of_streams && it.local.port() == port) {
                return Ok(port);
            }
        }
        Err(EADDRINUSE)
    }
}

/// Gives a socket its own address.
pub fn bind(socket: &mut Socket, stack: &mut Stack, mut to: SocketAddrV4) -> Result<()> {
    if !matches!(&socket.kind, Kind::Fresh | Kind::Datagrams(_)) || socket.local.port() != 0 {
        return Err(if matches!(socket.kind, Kind::Broken) { ENETDOWN } else { EINVAL });
    }
    let address = *to.ip();
    if !address.is_unspecified() && stack.side_of(address) == Which::Outside {
        return Err(EADDRNOTAVAIL);
    }
    if to.port() == 0 {
        to.set_port(stack.free_port(socket.is_stream())?);
    }
    let is_in_the_way = |other: &Socket| {
        let overlaps = address.is_unspecified() || other.local.ip().is_unspecified() || *other.local.ip() == address;
        let tolerates = socket.options.reuses && other.options.reuses && !matches!(other.kind, Kind::Listening(_));
        let counts = !matches!(other.kind, Kind::Connected(_) | Kind::Broken);
        counts && other.is_stream() == socket.is_stream() && other.local.port() == to.port() && overlaps && !tolerates
    };
    if stack.sockets.values().any(is_in_the_way) {
        return Err(EADDRINUSE);
    }
    socket.local = to;
    super::datagrams::open(socket, stack);
    Ok(())
}

/// Begins a connection, or says how far it is; EINPROGRESS when the other end has not answered.
pub fn connect(socket: &mut Socket, stack: &mut Stack, mut to: SocketAddrV4) -> Result<()> {
    match &socket.kind {
        Kind::Fresh => {}
        Kind::Broken => return Err(ENETDOWN),
        Kind::Connected(it) => {
            return match it.stage {
                Stage::Begun => Err(EALREADY),
                Stage::There => Err(EISCONN),
                Stage::Over => Err(socket.error.take().unwrap_or(ENOTCONN)),
            };
        }
        _ => return Err(EISCONN),
    }
    if to.ip().is_unspecified() {
        to.set_ip(side::OWN);
    }
    if socket.local.port() == 0 {
        let port = stack.free_port(true)?;
        socket.local = SocketAddrV4::new(*socket.local.ip(), port);
    }
    let which = stack.side_of(*to.ip());
    let from = match which {
        // What it says to one of its own addresses comes from there.
        Which::Inside if socket.local.ip().is_unspecified() => Some(*to.ip()),
        _ => Some(*socket.local.ip()).filter(|it| !it.is_unspecified()),
    };
    let (local, remote) = ((from, socket.local.port()), (*to.ip(), to.port()));
    let handle = match (which, &mut stack.outside) {
        (Which::Inside, _) => stack.inside.connect(local, remote),
        (Which::Outside, Some(side)) => side.connect(local, remote),
        (Which::Outside, None) => return Err(ENETUNREACH),
    };
    let place = Place(which, handle.ok_or(EADDRNOTAVAIL)?);
    socket.options.apply(stack.tcp(place), which);
    socket.kind = Kind::Connected(connection(place, to, Stage::Begun));
    Err(EINPROGRESS)
}

fn connection(place: Place, peer: SocketAddrV4, stage: Stage) -> Connection {
    Connection { place, peer, stage, is_deaf: false, is_mute: false, is_at_end: false }
}

/// How a connection is that was begun; EINPROGRESS as long as the other end has not answered.
pub fn progress(socket: &mut Socket) -> Result<()> {
    match &socket.kind {
        Kind::Connected(it) => match it.stage {
            Stage::Begun => Err(EINPROGRESS),
            Stage::There => Ok(()),
            Stage::Over => Err(socket.error.take().unwrap_or(ENOTCONN)),
        },
        Kind::Broken => Err(ENETDOWN),
        _ => Err(ENOTCONN),
    }
}

/// Takes up a connection, if there is one.
pub fn accept(socket: &mut Socket, stack: &mut Stack) -> Result<Option<Socket>> {
    let Kind::Listening(it) = &mut socket.kind else {
        return Err(if matches!(socket.kind, Kind::Broken) { ENETDOWN } else { EINVAL });
    };
    let Some(at) = it.places.iter().position(|it| is_established(stack.tcp(*it))) else { return Ok(None) };
    let place = it.places.remove(at);
    let inner = stack.tcp(place);
    inner.set_timeout(Some(side::SILENCE));
    let name = |it: Option<smoltcp::wire::IpEndpoint>| {
        it.map_or(super::socket::NOWHERE, |it| SocketAddrV4::new(address_of(it.addr), it.port))
    };
    let (local, peer) = (name(inner.local_endpoint()), name(inner.remote_endpoint()));
    let mut new = Socket::new(Kind::Connected(connection(place, peer, Stage::There)), true);
    new.local = local;
    new.options = socket.options;
    new.options.apply(stack.tcp(place), place.0);
    socket.fill(stack);
    // Whose first bytes are there already is known for it.
    new.note(stack);
    Ok(Some(new))
}

/// What is to be said of a connection that cannot be used.
fn usable(socket: &mut Socket) -> Result<()> {
    let errno = match &socket.kind {
        Kind::Connected(it) if it.stage == Stage::There => return Ok(()),
        Kind::Broken => ENETDOWN,
        Kind::Connected(it) if it.stage == Stage::Over => return socket.error.take().map_or(Ok(()), Err),
        _ => ENOTCONN,
    };
    Err(errno)
}

/// Where bytes to be sent come from.
pub trait Source {
    fn is_done(&self) -> bool;

    fn read(&mut self, into: &mut [u8]) -> Result;
}

impl Source for Parts {
    fn is_done(&self) -> bool {
        Self::is_done(self)
    }

    fn read(&mut self, into: &mut [u8]) -> Result {
        Self::read(self, into)
    }
}

/// Bytes of our own.
pub struct Rest<'a>(pub &'a [u8]);

impl Source for Rest<'_> {
    fn is_done(&self) -> bool {
        self.0.is_empty()
    }

    fn read(&mut self, into: &mut [u8]) -> Result {
        let (part, rest) = self.0.split_at(self.0.len().min(into.len()));
        into[..part.len()].copy_from_slice(part);
        self.0 = rest;
        Ok(part.len())
    }
}

/// Sends what there is room for; nothing when there is none.
pub fn send(socket: &mut Socket, stack: &mut Stack, parts: &mut impl Source) -> Result<Option<usize>> {
    if matches!(&socket.kind, Kind::Connected(it) if it.stage == Stage::Begun) {
        return Ok(None);
    }
    usable(socket).map_err(|it| if it == ENOTCONN { EPIPE } else { it })?;
    let Kind::Connected(it) = &socket.kind else { return Err(EPIPE) };
    let (place, is_mute) = (it.place, it.is_mute);
    let inner = stack.tcp(place);
    if is_mute || !inner.may_send() {
        return Err(EPIPE);
    }
    let mut sent = 0;
    let result = loop {
        if parts.is_done() {
            break Ok(());
        }
        match inner.send(|room| match parts.read(room) {
            Ok(length) => (length, Ok(length)),
            Err(errno) => (0, Err(errno)),
        }) {
            Ok(Ok(0)) => break Ok(()),
            Ok(Ok(part)) => sent += part,
            Ok(Err(errno)) => break Err(errno),
            Err(_) => break Err(EPIPE),
        }
    };
    stack.is_due = true;
    socket.look(stack);
    match (sent, result) {
        (0, Err(errno)) => Err(errno),
        (0, Ok(())) if !parts.is_done() => Ok(None),
        (sent, _) => Ok(Some(sent)),
    }
}

/// What becomes of received bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Taking {
    Away,
    /// The program only looks at them.
    Peeking,
}

/// Receives what there is; nothing when nothing came yet.
pub fn receive(socket: &mut Socket, stack: &mut Stack, parts: &mut Parts, taking: Taking) -> Result<Option<usize>> {
    let Kind::Connected(it) = &socket.kind else {
        return Err(if matches!(socket.kind, Kind::Broken) { ENETDOWN } else { ENOTCONN });
    };
    if it.stage == Stage::Begun {
        return Ok(None);
    }
    let (place, is_deaf) = (it.place, it.is_deaf);
    let inner = stack.tcp(place);
    let mut received = 0;
    let mut fault: Option<Errno> = None;
    while inner.recv_queue() > 0 && !parts.is_done() && !is_deaf {
        let take = |bytes: &mut [u8]| match parts.write(bytes) {
            Ok(length) if taking == Taking::Away => (length, Ok(length)),
            other => (0, other),
        };
        match inner.recv(take) {
            Ok(Ok(0)) | Err(_) => break,
            Ok(Ok(part)) => received += part,
            Ok(Err(errno)) => {
                fault = Some(errno);
                break;
            }
        }
        if taking == Taking::Peeking {
            break;
        }
    }
    let is_over = is_deaf || !inner.may_recv();
    if received > 0 {
        // The other end is told that there is room.
        stack.is_due = true;
        socket.look(stack);
        return Ok(Some(received));
    }
    if let Some(errno) = fault {
        return Err(errno);
    }
    if parts.is_done() {
        return Ok(Some(0));
    }
    if let Some(errno) = socket.error.take() {
        return Err(errno);
    }
    Ok(is_over.then_some(0))
}

/// Ends one or both ways.
pub fn shut(socket: &mut Socket, stack: &mut Stack, how: u64) -> Result<()> {
    const READ: u64 = 0;
    const WRITE: u64 = 1;
    const BOTH: u64 = 2;
    if how > BOTH {
        return Err(EINVAL);
    }
    match &mut socket.kind {
        Kind::Connected(it) if it.stage == Stage::There => {
            it.is_deaf |= how != WRITE;
            it.is_mute |= how != READ;
            let (place, is_mute) = (it.place, it.is_mute);
            if is_mute {
                stack.tcp(place).close();
                stack.is_due = true;
            }
            Ok(())
        }
        Kind::Datagrams(it) if it.peer.is_some() => {
            it.shut = [it.shut[0] | (how != WRITE), it.shut[1] | (how != READ)];
            Ok(())
        }
        Kind::Listening(it) if how != WRITE => {
            let places = core::mem::take(&mut it.places);
            socket.kind = Kind::Fresh;
            for place in places {
                if stack.tcp(place).is_listening() {
                    stack.remove(place);
                } else {
                    stack.leave(place, super::Goodbye::AtOnce);
                }
            }
            Ok(())
        }
        Kind::Broken => Err(ENETDOWN),
        _ => Err(ENOTCONN),
    }
}

/// How long Linux waits before it asks whether the other end is there.
pub const KEEP_ALIVE: Duration = Duration::from_secs(7200);
