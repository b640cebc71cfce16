//! The system calls of sockets that are in here.

use core::net::{Ipv4Addr, SocketAddrV4};

use super::descriptors::{close_range, control, device, duplicate, replace};
use super::messages::{Header, Parts};
use super::socket::{Kind, NOWHERE, Socket};
use super::stream::{self, Rest, Taking};
use super::{Stack, What, attend, datagrams, is_on, is_wanted, options, pause, sets, turn, want_link, with};
use crate::errno::{
    EAFNOSUPPORT, EAGAIN, EINPROGRESS, EINVAL, EISCONN, EOPNOTSUPP, EPIPE, EPROTONOSUPPORT, ERESTART, ESOCKTNOSUPPORT,
    ESPIPE, Result,
};
use crate::syscall::{forward_to_tender, signals};
use crate::thread::{self, Wake};
use crate::{clock, number, port, user};

const INTERNET: u64 = 2;
pub const NONBLOCKING: u64 = 0x800;
pub const CLOSES_ON_EXEC: u64 = 0x8_0000;

const PEEK: u64 = 2;
const TRUNCATED: u64 = 0x20;
const DONT_WAIT: u64 = 0x40;
const WAIT_FOR_ALL: u64 = 0x100;
const NO_SIGNAL: u64 = 0x4000;

/// Answers a call if it is of a socket in here, or makes one.
pub fn answer(number: u32, arguments: [u64; 6]) -> Option<Result> {
    let [a, b, c, d, e, f] = arguments;
    if number == number::SOCKET && a == INTERNET && is_wanted() {
        return Some(socket(b, c));
    }
    if !is_on() {
        return None;
    }
    match number {
        number::EPOLL_CTL => return sets::control([a, b, c, d]),
        number::CLOSE_RANGE => {
            close_range(a, b, c);
            return None;
        }
        number::DUP2 | number::DUP3 if a as u32 != b as u32 => return replace(number, arguments),
        number::SENDFILE => return send_file(a, b, c, d),
        _ => {}
    }
    let open = with(|it| it.what(a))?;
    match number {
        number::CLOSE => {
            super::close(a);
            return None;
        }
        number::DUP => return Some(duplicate(number, arguments, open.what, false)),
        number::FCNTL => return control(a, b, c, open.what),
        number::IOCTL => return device(a, b, c, open.what),
        _ => {}
    }
    let What::Socket(id) = open.what else { return None };
    Some(match number {
        number::BIND => name_at(b, c).and_then(|to| of(id, |it, stack| stream::bind(it, stack, to)).map(|()| 0)),
        number::LISTEN => {
            want_link();
            of(id, |it, stack| if it.is_stream() { it.listen(stack, b as i32) } else { Err(EOPNOTSUPP) }).map(|()| 0)
        }
        number::CONNECT => connect(id, b, c),
        number::ACCEPT => accept(id, b, c, 0),
        number::ACCEPT4 => accept(id, b, c, d),
        number::SHUTDOWN => of(id, |it, stack| stream::shut(it, stack, b)).map(|()| {
            turn();
            with(Stack::wake);
            0
        }),
        number::GETSOCKNAME => of(id, |it, stack| Ok(it.name(stack))).and_then(|it| give_name(it, b, c)).map(|()| 0),
        number::GETPEERNAME => of(id, |it, _| it.peer()).and_then(|it| give_name(it, b, c)).map(|()| 0),
        number::SETSOCKOPT => of(id, |it, stack| options::set(it, stack, [b, c, d, e])).map(|()| 0),
        number::GETSOCKOPT => {
            attend();
            of(id, |it, _| options::get(it, [b, c, d, e])).map(|()| 0)
        }
        number::READ => receive(id, Parts::one(b, c), 0, None).map(|it| it.0),
        number::WRITE => send(id, Parts::one(b, c), 0, None),
        number::READV => Parts::listed(b, c).and_then(|it| receive(id, it, 0, None)).map(|it| it.0),
        number::WRITEV => Parts::listed(b, c).and_then(|it| send(id, it, 0, None)),
        number::RECVFROM => receive(id, Parts::one(b, c), d, Some([e, f])).map(|it| it.0),
        number::SENDTO => optional_name(e, f).and_then(|to| send(id, Parts::one(b, c), d, to)),
        number::RECVMSG => receive_message(id, b, c),
        number::SENDMSG => send_message(id, b, c),
        number::RECVMMSG => {
            several(b, c, |at, so_far| receive_message(id, at, if so_far > 0 { d | DONT_WAIT } else { d }))
        }
        number::SENDMMSG => several(b, c, |at, _| send_message(id, at, d)),
        number::PREAD | number::PWRITE | number::LSEEK => Err(ESPIPE),
        number::SPLICE | number::TEE | number::COPY_FILE_RANGE => Err(EINVAL),
        number::FSYNC | number::FDATASYNC => Err(EINVAL),
        _ => return None,
    })
}

/// Does something with a socket.
pub fn of<T>(id: u32, act: impl FnOnce(&mut Socket, &mut Stack) -> Result<T>) -> Result<T> {
    with(|stack| {
        let mut socket = stack.take(id)?;
        let result = act(&mut socket, stack);
        stack.put(id, socket);
        result
    })
}

/// How long a call may wait.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    NotAtAll,
    /// So many nanoseconds, or for ever.
    Within(Option<u64>),
}

/// Which of a socket's patiences.
const TO_RECEIVE: usize = 0;
const TO_SEND: usize = 1;

fn waiting(id: u32, flags: u64, which: usize) -> Result<Waiting> {
    of(id, |it, _| {
        let waits = it.waits && flags & DONT_WAIT == 0;
        let patience = Some(it.options.patience[which]).filter(|it| *it > 0);
        Ok(if waits { Waiting::Within(patience) } else { Waiting::NotAtAll })
    })
}

/// Does something with a socket as soon as it can be done.
fn until<T>(
    id: u32,
    waiting: Waiting,
    mut attempt: impl FnMut(&mut Socket, &mut Stack) -> Result<Option<T>>,
) -> Result<T> {
    let deadline = match waiting {
        Waiting::Within(Some(time)) => Some(clock::monotonic().saturating_add(time)),
        _ => None,
    };
    loop {
        attend();
        if let Some(done) = of(id, &mut attempt)? {
            return Ok(done);
        }
        if waiting == Waiting::NotAtAll {
            return Err(EAGAIN);
        }
        match pause(deadline) {
            Wake::Up => {}
            Wake::Signal => return Err(ERESTART),
            Wake::Timeout => return Err(EAGAIN),
        }
    }
}

/// A number for a new socket: the tender has one there that leads nowhere.
fn reserve(flags: u64) -> Result<u64> {
    const LOCAL: u64 = 1;
    const STREAM: u64 = 1;
    let flags = STREAM | flags & (CLOSES_ON_EXEC | NONBLOCKING);
    port::call(number::SOCKET, [LOCAL, flags, 0, 0, 0, 0]).map(|it| it as u64)
}

fn socket(kind: u64, protocol: u64) -> Result {
    const STREAM: u64 = 1;
    const DATAGRAM: u64 = 2;
    const TCP: u64 = 6;
    const UDP: u64 = 17;
    if kind & !(0xf | NONBLOCKING | CLOSES_ON_EXEC) != 0 {
        return Err(EINVAL);
    }
    let new = match (kind & 0xf, protocol) {
        (STREAM, 0 | TCP) => Kind::Fresh,
        (DATAGRAM, 0 | UDP) => datagrams::new(),
        (STREAM | DATAGRAM, _) => return Err(EPROTONOSUPPORT),
        _ => return Err(ESOCKTNOSUPPORT),
    };
    want_link();
    let descriptor = reserve(kind)?;
    let socket = Socket::new(new, kind & NONBLOCKING == 0);
    with(|it| it.add(descriptor, socket, kind & CLOSES_ON_EXEC != 0));
    Ok(descriptor as usize)
}

/// The size of `struct sockaddr_in`.
const NAME: usize = 16;

fn name_at(at: u64, length: u64) -> Result<SocketAddrV4> {
    if (length as u32 as usize) < NAME {
        return Err(EINVAL);
    }
    let bytes: [u8; NAME] = user::read(at)?;
    if u16::from_ne_bytes([bytes[0], bytes[1]]) != INTERNET as u16 {
        return Err(EAFNOSUPPORT);
    }
    let address = Ipv4Addr::new(bytes[4], bytes[5], bytes[6], bytes[7]);
    Ok(SocketAddrV4::new(address, u16::from_be_bytes([bytes[2], bytes[3]])))
}

fn optional_name(at: u64, length: u64) -> Result<Option<SocketAddrV4>> {
    if at == 0 { Ok(None) } else { name_at(at, length).map(Some) }
}

fn give_name(name: SocketAddrV4, at: u64, length_at: u64) -> Result<()> {
    if at == 0 {
        return Ok(());
    }
    let mut bytes = [0; NAME];
    bytes[..2].copy_from_slice(&(INTERNET as u16).to_ne_bytes());
    bytes[2..4].copy_from_slice(&name.port().to_be_bytes());
    bytes[4..8].copy_from_slice(&name.ip().octets());
    let room = user::read::<u32>(length_at)?;
    if room > i32::MAX as u32 {
        return Err(EINVAL);
    }
    user::write_bytes(at, &bytes[..NAME.min(room as usize)])?;
    user::write(length_at, NAME as u32)
}

fn connect(id: u32, at: u64, length: u64) -> Result {
    const NOBODY: u16 = 0;
    let is_stream = of(id, |it, _| Ok(it.is_stream()))?;
    if !is_stream {
        let is_nobody = length >= 2 && user::read::<u16>(at)? == NOBODY;
        let to = if is_nobody { None } else { Some(name_at(at, length)?) };
        return of(id, |it, stack| datagrams::connect(it, stack, to)).map(|()| 0);
    }
    let to = name_at(at, length)?;
    let waits = waiting(id, 0, TO_SEND)?;
    let begun = of(id, |it, stack| {
        // A wait that a signal ended goes on.
        let was_begun = matches!(stream::progress(it), Err(EINPROGRESS)) && waits != Waiting::NotAtAll;
        if was_begun { Err(EINPROGRESS) } else { stream::connect(it, stack, to) }
    });
    turn();
    match begun {
        Err(EINPROGRESS) if waits != Waiting::NotAtAll => {}
        other => return other.map(|()| 0),
    }
    let outcome = until(id, waits, |it, _| match stream::progress(it) {
        Err(EINPROGRESS) => Ok(None),
        other => other.map(Some),
    });
    match outcome {
        Err(EAGAIN) => Err(EINPROGRESS),
        Err(EISCONN) => Ok(0),
        other => other.map(|()| 0),
    }
}

fn accept(id: u32, at: u64, length_at: u64, flags: u64) -> Result {
    if flags & !(NONBLOCKING | CLOSES_ON_EXEC) != 0 {
        return Err(EINVAL);
    }
    if !of(id, |it, _| Ok(it.is_stream()))? {
        return Err(EOPNOTSUPP);
    }
    let mut new = until(id, waiting(id, 0, TO_RECEIVE)?, stream::accept)?;
    new.waits = flags & NONBLOCKING == 0;
    let peer = match &new.kind {
        Kind::Connected(it) => it.peer,
        _ => NOWHERE,
    };
    let descriptor = match reserve(flags) {
        Ok(descriptor) => descriptor,
        Err(errno) => {
            with(|it| new.close(it));
            return Err(errno);
        }
    };
    with(|it| it.add(descriptor, new, flags & CLOSES_ON_EXEC != 0));
    give_name(peer, at, length_at)?;
    Ok(descriptor as usize)
}

fn send(id: u32, mut parts: Parts, flags: u64, to: Option<SocketAddrV4>) -> Result {
    let (waits, is_stream) = (waiting(id, flags, TO_SEND)?, of(id, |it, _| Ok(it.is_stream()))?);
    if !is_stream {
        let sent = until(id, waits, |it, stack| datagrams::send(it, stack, &mut parts, to));
        turn();
        return sent;
    }
    let mut done = 0;
    loop {
        let part = until(id, waits, |it, stack| stream::send(it, stack, &mut parts));
        turn();
        match part {
            Ok(part) => done += part,
            Err(_) if done > 0 => return Ok(done),
            Err(EPIPE) => {
                const BROKEN_PIPE: i32 = 13;
                if flags & NO_SIGNAL == 0 {
                    let _ = signals::kill_thread(None, thread::current() as i32, BROKEN_PIPE);
                }
                return Err(EPIPE);
            }
            Err(errno) => return Err(errno),
        }
        if parts.is_done() || waits == Waiting::NotAtAll {
            return Ok(done);
        }
    }
}

/// Receives; gives how much, and with which flags a message comes. The name of who sent it goes to those places.
fn receive(id: u32, mut parts: Parts, flags: u64, name: Option<[u64; 2]>) -> Result<(usize, u64)> {
    let taking = if flags & PEEK != 0 { Taking::Peeking } else { Taking::Away };
    let (waits, is_stream) = (waiting(id, flags, TO_RECEIVE)?, of(id, |it, _| Ok(it.is_stream()))?);
    if !is_stream {
        let got = until(id, waits, |it, stack| datagrams::receive(it, stack, &mut parts, taking))?;
        if let Some([at, length_at]) = name {
            give_name(got.from, at, length_at)?;
        }
        let is_cut = got.length < got.whole;
        let told = if flags & TRUNCATED != 0 { got.whole } else { got.length };
        return Ok((told, if is_cut { TRUNCATED } else { 0 }));
    }
    let mut done = 0;
    loop {
        match until(id, waits, |it, stack| stream::receive(it, stack, &mut parts, taking)) {
            Ok(0) => return Ok((done, 0)),
            Ok(part) => done += part,
            Err(_) if done > 0 => return Ok((done, 0)),
            Err(errno) => return Err(errno),
        }
        if flags & WAIT_FOR_ALL == 0 || taking == Taking::Peeking || parts.is_done() {
            if let Some([at, length_at]) = name.filter(|it| it[0] != 0) {
                // Of a stream nobody is named.
                user::write(length_at, 0u32)?;
                let _ = at;
            }
            return Ok((done, 0));
        }
    }
}

fn receive_message(id: u32, at: u64, flags: u64) -> Result {
    let Header { name, parts, .. } = Header::read(at)?;
    let header = Header::read(at)?;
    let place = (name != 0).then(|| [name, header.name_length_at()]);
    let (length, told) = receive(id, parts, flags, place)?;
    header.answer(told as u32)?;
    Ok(length)
}

fn send_message(id: u32, at: u64, flags: u64) -> Result {
    let header = Header::read(at)?;
    let to = optional_name(header.name, u64::from(header.name_length))?;
    send(id, header.parts, flags, to)
}

/// sendmmsg and recvmmsg.
fn several(at: u64, count: u64, mut one: impl FnMut(u64, usize) -> Result) -> Result {
    const EACH: u64 = 64;
    const LENGTH: u64 = 56;
    for done in 0..count.min(1024) {
        match one(at + done * EACH, done as usize) {
            Ok(length) => user::write(at + done * EACH + LENGTH, length as u32)?,
            Err(_) if done > 0 => return Ok(done as usize),
            Err(errno) => return Err(errno),
        }
    }
    Ok(count.min(1024) as usize)
}

/// sendfile to a socket in here.
fn send_file(to: u64, from: u64, offset_at: u64, count: u64) -> Option<Result> {
    if with(|it| it.socket_at(from)).is_some() {
        return Some(Err(EINVAL));
    }
    let id = with(|it| it.socket_at(to))?;
    Some(send_file_to(id, from, offset_at, count))
}

fn send_file_to(id: u32, from: u64, offset_at: u64, count: u64) -> Result {
    const PIECE: u64 = 64 << 10;
    const SEEK_CURRENT: u64 = 1;
    let mut offset = match offset_at {
        0 => forward_to_tender(number::LSEEK, [from, 0, SEEK_CURRENT, 0, 0, 0])? as u64,
        at => user::read::<u64>(at)?,
    };
    let mut bytes = alloc::vec![0u8; PIECE.min(count) as usize];
    let (mut done, mut result) = (0, Ok(()));
    while done < count {
        let piece = (count - done).min(PIECE);
        let arguments = [from, bytes.as_mut_ptr() as u64, piece, offset, 0, 0];
        // Memory of ours, which no call that is answered in here would take.
        let read = match port::call(number::PREAD, arguments) {
            Ok(0) => break,
            Ok(read) => read,
            Err(errno) => {
                result = Err(errno);
                break;
            }
        };
        match send_bytes(id, &bytes[..read]) {
            Ok(sent) => {
                (done, offset) = (done + sent as u64, offset + sent as u64);
                if sent < read {
                    break;
                }
            }
            Err(errno) => {
                result = Err(errno);
                break;
            }
        }
    }
    match (done, result) {
        (0, Err(errno)) => return Err(errno),
        _ if offset_at != 0 => user::write(offset_at, offset)?,
        _ => drop(forward_to_tender(number::LSEEK, [from, offset, 0, 0, 0, 0])?),
    }
    Ok(done as usize)
}

fn send_bytes(id: u32, mut bytes: &[u8]) -> Result {
    let waits = waiting(id, 0, TO_SEND)?;
    let mut done = 0;
    while !bytes.is_empty() {
        let sent = until(id, waits, |it, stack| stream::send(it, stack, &mut Rest(bytes)));
        turn();
        match sent {
            Ok(sent) => (done, bytes) = (done + sent, &bytes[sent..]),
            Err(_) if done > 0 => break,
            Err(errno) => return Err(errno),
        }
        if waits == Waiting::NotAtAll {
            break;
        }
    }
    Ok(done)
}
