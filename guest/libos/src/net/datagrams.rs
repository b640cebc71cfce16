//! Datagrams.

use core::net::SocketAddrV4;

use alloc::vec::Vec;
use smoltcp::socket::udp::UdpMetadata;
use smoltcp::wire::{IpAddress, IpEndpoint};

use super::Stack;
use super::messages::Parts;
use super::side::{self, Place, Which};
use super::socket::{Datagrams, Kind, Socket, address_of};
use super::stream::Taking;
use crate::errno::{EDESTADDRREQ, EMSGSIZE, ENETDOWN, ENETUNREACH, EPIPE, Result};

/// What was received.
pub struct Received {
    /// How much of it fitted.
    pub length: usize,
    /// How long it is.
    pub whole: usize,
    pub from: SocketAddrV4,
}

/// Has the stack's sockets for one that was just bound.
pub fn open(socket: &mut Socket, stack: &mut Stack) {
    let local = socket.local;
    let Kind::Datagrams(it) = &mut socket.kind else { return };
    let address = Some(*local.ip()).filter(|it| !it.is_unspecified());
    let handle = stack.inside.bind_datagrams(address, local.port());
    it.places.push(Place(Which::Inside, handle));
    let is_own = address.is_some_and(|it| it.is_loopback());
    if let Some(side) = stack.outside.as_mut().filter(|_| !is_own) {
        let handle = side.bind_datagrams(address, local.port());
        it.places.push(Place(Which::Outside, handle));
    }
}

fn open_anywhere(socket: &mut Socket, stack: &mut Stack) -> Result<()> {
    if socket.local.port() == 0 {
        let port = stack.free_port(false)?;
        socket.local = SocketAddrV4::new(*socket.local.ip(), port);
        open(socket, stack);
    }
    Ok(())
}

/// Says whom it talks to from now on; nobody in particular without one.
pub fn connect(socket: &mut Socket, stack: &mut Stack, to: Option<SocketAddrV4>) -> Result<()> {
    if let Some(to) = to {
        if stack.side_of(*to.ip()) == Which::Outside && stack.outside.is_none() {
            return Err(ENETUNREACH);
        }
        open_anywhere(socket, stack)?;
        if socket.local.ip().is_unspecified() {
            let own = match stack.side_of(*to.ip()) {
                Which::Inside => Some(side::OWN),
                Which::Outside => stack.address(),
            };
            // It stays open to all that it was bound to; this is what it is told of itself.
            socket.local.set_ip(own.unwrap_or(side::OWN));
        }
    }
    if let Kind::Datagrams(it) = &mut socket.kind {
        it.peer = to;
    }
    Ok(())
}

/// Sends one, if there is room for it.
pub fn send(
    socket: &mut Socket,
    stack: &mut Stack,
    parts: &mut Parts,
    to: Option<SocketAddrV4>,
) -> Result<Option<usize>> {
    const LONGEST: usize = 65_507;
    /// Nothing is cut in pieces.
    const LONGEST_OUTSIDE: usize = 1472;
    socket.take_error()?;
    let Kind::Datagrams(it) = &socket.kind else { return Err(ENETDOWN) };
    if it.shut[1] {
        return Err(EPIPE);
    }
    let mut to = to.or(it.peer).ok_or(EDESTADDRREQ)?;
    if to.ip().is_unspecified() {
        to.set_ip(side::OWN);
    }
    open_anywhere(socket, stack)?;
    let which = stack.side_of(*to.ip());
    let Kind::Datagrams(it) = &socket.kind else { return Err(ENETDOWN) };
    let place = it.places.iter().copied().find(|it| it.0 == which).ok_or(ENETUNREACH)?;
    let length = parts.left();
    if length > if which == Which::Outside { LONGEST_OUTSIDE } else { LONGEST } {
        return Err(EMSGSIZE);
    }
    let mut bytes = alloc::vec![0; length];
    parts.read(&mut bytes)?;
    let mut whither = UdpMetadata::from(IpEndpoint::new(IpAddress::Ipv4(*to.ip()), to.port()));
    whither.local_address = (which == Which::Inside).then_some(IpAddress::Ipv4(*to.ip()));
    let sent = stack.udp(place).send_slice(&bytes, whither);
    stack.is_due = true;
    Ok(match sent {
        Ok(()) => Some(length),
        Err(smoltcp::socket::udp::SendError::BufferFull) => None,
        Err(_) => return Err(ENETUNREACH),
    })
}

/// Receives one, if one came.
pub fn receive(socket: &mut Socket, stack: &mut Stack, parts: &mut Parts, taking: Taking) -> Result<Option<Received>> {
    socket.take_error()?;
    let Kind::Datagrams(it) = &socket.kind else { return Err(ENETDOWN) };
    let (places, peer, is_deaf): (Vec<Place>, _, _) = (it.places.clone(), it.peer, it.shut[0]);
    let mut found = None;
    for place in places {
        while let Ok((bytes, from)) = stack.udp(place).peek() {
            let from = SocketAddrV4::new(address_of(from.endpoint.addr), from.endpoint.port);
            let is_wanted = peer.is_none_or(|it| it == from);
            if is_wanted {
                let length = parts.write(bytes)?;
                found = Some(Received { length, whole: bytes.len(), from });
            }
            if !is_wanted || taking == Taking::Away {
                let _ = stack.udp(place).recv();
            }
            if is_wanted {
                break;
            }
        }
        if found.is_some() {
            break;
        }
    }
    socket.look(stack);
    let nothing = Received { length: 0, whole: 0, from: super::socket::NOWHERE };
    Ok(found.or(is_deaf.then_some(nothing)))
}

/// A socket for datagrams.
pub fn new() -> Kind {
    Kind::Datagrams(Datagrams { places: Vec::new(), peer: None, shut: [false; 2] })
}
