//! Sockets: the host's, in the cell's network namespace.

#![expect(unsafe_code, reason = "addresses of any family are bytes, and so are options and control messages")]

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::Ordering;

use sys::Errno;

use super::descriptors::add_pair;
use super::pass::{MOST, later, would_be_lost};
use super::vectors::{gather, parts, scatter};
use super::{IN, OUT, Reply};
use crate::files::{File, OnExec, Waiting};
use crate::member::Member;
use crate::raw::{self, Argument};
use crate::signals::Sender;

/// An address of any family fits in it.
const NAME: usize = 128;

pub(crate) fn answer(member: &mut Member, number: u32, [a, b, c, d, e, f]: [u64; 6]) -> Option<Reply> {
    if i64::from(number) == libc::SYS_setsockopt && b as i32 == libc::SOL_SOCKET {
        // The host's socket never waits, so it is remembered here, too.
        let _ = note_patience(member, a, c as i32, d, e);
    }
    let (result, events) = match i64::from(number) {
        libc::SYS_socket => (socket(member, a, b, c), 0),
        libc::SYS_socketpair => (pair(member, [a, b, c], d), 0),
        libc::SYS_connect => (connect(member, a, b, c), OUT),
        libc::SYS_accept4 => (accept(member, [a, b, c], d), IN),
        libc::SYS_getsockname | libc::SYS_getpeername => (name(member, number, [a, b, c]), 0),
        libc::SYS_getsockopt => (option(member, [a, b, c], d, e), 0),
        libc::SYS_sendto => (send(member, a, [b, c], d, [e, f]), OUT),
        libc::SYS_recvfrom if would_be_lost(member, [a, b, c, 0, 0, 0]) => (Err(Errno::FAULT), 0),
        libc::SYS_recvfrom => (receive(member, a, [b, c], d, [e, f]), IN),
        libc::SYS_sendmsg => (send_message(member, a, b, c), OUT),
        libc::SYS_recvmsg => (receive_message(member, a, b, c), IN),
        libc::SYS_sendmmsg => (several(member, a, [b, c], d, send_message), OUT),
        libc::SYS_recvmmsg => (several(member, a, [b, c], d, receive_message), IN),
        _ => return None,
    };
    let dont_wait = match i64::from(number) {
        libc::SYS_sendto | libc::SYS_recvfrom | libc::SYS_sendmmsg | libc::SYS_recvmmsg => d,
        libc::SYS_sendmsg | libc::SYS_recvmsg => c,
        _ => 0,
    } & libc::MSG_DONTWAIT as u64;
    Some(match result {
        Err(Errno::AGAIN) if events != 0 && dont_wait == 0 => later(member, a, events, 0),
        other => other.into(),
    })
}

/// Flags of a call as the host gets them: nothing waits, nothing raises a signal in the tender.
fn flags(flags: u64) -> Argument<'static> {
    Argument::Number((flags | libc::MSG_DONTWAIT as u64 | libc::MSG_NOSIGNAL as u64) & !(libc::MSG_WAITALL as u64))
}

fn host(file: &File) -> Argument<'static> {
    Argument::Number(file.as_fd().as_raw_fd() as u64)
}

const NOTHING: Argument<'static> = Argument::Number(0);

fn socket(member: &mut Member, family: u64, kind: u64, protocol: u64) -> Result<u64, Errno> {
    if member.family.has_own_stack() && crate::link::is_of_stack(family) {
        return Err(Errno::AFNOSUPPORT);
    }
    let closing = kind | libc::SOCK_CLOEXEC as u64;
    let mut words =
        [Argument::Number(family), Argument::Number(closing), Argument::Number(protocol), NOTHING, NOTHING, NOTHING];
    // SAFETY: no pointers.
    let fd = unsafe { raw::call(libc::SYS_socket as u32, &mut words) }?;
    // SAFETY: a new descriptor, which nobody else knows of.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    member.table.add(File::new(fd, Waiting::by(kind), b"socket"), OnExec::by(kind), 0)
}

fn pair(member: &mut Member, [family, kind, protocol]: [u64; 3], into: u64) -> Result<u64, Errno> {
    if member.family.has_own_stack() && crate::link::is_of_stack(family) {
        return Err(Errno::AFNOSUPPORT);
    }
    let mut both = [0u8; 8];
    let closing = kind | libc::SOCK_CLOEXEC as u64;
    let mut words = [
        Argument::Number(family),
        Argument::Number(closing),
        Argument::Number(protocol),
        Argument::Memory(&mut both),
        NOTHING,
        NOTHING,
    ];
    // SAFETY: it writes two descriptors, which are eight bytes.
    unsafe { raw::call(libc::SYS_socketpair as u32, &mut words) }?;
    let ends = [0, 4].map(|at| i32::from_ne_bytes([both[at], both[at + 1], both[at + 2], both[at + 3]]));
    // SAFETY: new descriptors, which nobody else knows of.
    let ends = ends.map(|it| unsafe { OwnedFd::from_raw_fd(it) });
    add_pair(member, ends, kind, into, b"socket")
}

fn note_patience(member: &Member, number: u64, option: i32, at: u64, length: u64) -> Result<(), Errno> {
    const SECOND: u64 = 1_000_000_000;
    let which = match option {
        libc::SO_RCVTIMEO => 0,
        libc::SO_SNDTIMEO => 1,
        _ => return Ok(()),
    };
    if length >= 16 {
        let bytes: [u8; 16] = member.memory.number(at)?;
        let word = |at: usize| bytes[at..at + 8].try_into().map_or(0, u64::from_ne_bytes);
        let time = word(0).saturating_mul(SECOND).saturating_add(word(8).saturating_mul(1000));
        member.table.get(number)?.patience[which].store(time, Ordering::Relaxed);
        member.family.note_wish();
    }
    Ok(())
}

fn connect(member: &mut Member, number: u64, at: u64, length: u64) -> Result<u64, Errno> {
    let file = member.table.get(number)?.clone();
    if file.connecting.swap(false, Ordering::Relaxed) {
        // The guest waited until it can write: it is connected, or there is an error to be had.
        rustix::net::sockopt::socket_error(&*file)??;
    }
    let mut name = member.memory.bytes(at, (length as usize).min(NAME))?;
    let length = Argument::Number(name.len() as u64);
    let mut words = [host(&file), Argument::Memory(&mut name), length, NOTHING, NOTHING, NOTHING];
    // SAFETY: the name is as long as the length says.
    let call = || unsafe { raw::call(libc::SYS_connect as u32, &mut words) };
    match super::paths::from_directory(member, call) {
        Err(Errno::INPROGRESS) if file.waiting() == Waiting::Yes => {
            file.connecting.store(true, Ordering::Relaxed);
            Err(Errno::AGAIN)
        }
        other => other,
    }
}

/// Where a guest wants an address: a place, and a place for its length.
struct NamePlace {
    bytes: [u8; NAME],
    length: [u8; 4],
    place: u64,
    length_place: u64,
    fits: usize,
}

impl NamePlace {
    fn new(member: &Member, place: u64, length_place: u64) -> Result<Self, Errno> {
        let fits = match place {
            0 => 0,
            _ => u32::from_ne_bytes(member.memory.number(length_place)?) as usize,
        };
        if fits > i32::MAX as usize {
            return Err(Errno::INVAL);
        }
        Ok(Self { bytes: [0; NAME], length: (NAME as u32).to_ne_bytes(), place, length_place, fits })
    }

    fn hand_over(&self, member: &Member) -> Result<(), Errno> {
        if self.place == 0 {
            return Ok(());
        }
        let length = (u32::from_ne_bytes(self.length) as usize).min(NAME);
        member.memory.write(self.place, &self.bytes[..length.min(self.fits)])?;
        member.memory.write(self.length_place, &(length as u32).to_ne_bytes())
    }
}

fn accept(member: &mut Member, [number, place, length]: [u64; 3], kind: u64) -> Result<u64, Errno> {
    let file = member.table.get(number)?.clone();
    let mut name = NamePlace::new(member, place, length)?;
    let closing = kind | libc::SOCK_CLOEXEC as u64;
    let mut words = [
        host(&file),
        Argument::Memory(&mut name.bytes),
        Argument::Memory(&mut name.length),
        Argument::Number(closing),
        NOTHING,
        NOTHING,
    ];
    // SAFETY: the length says how long the name's place is.
    let fd = unsafe { raw::call(libc::SYS_accept4 as u32, &mut words) }?;
    // SAFETY: a new descriptor, which nobody else knows of.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    name.hand_over(member)?;
    member.table.add(File::new(fd, Waiting::by(kind), b"socket"), OnExec::by(kind), 0)
}

fn name(member: &Member, call: u32, [number, place, length]: [u64; 3]) -> Result<u64, Errno> {
    let file = member.table.get(number)?;
    let mut name = NamePlace::new(member, place, length)?;
    let mut words =
        [host(file), Argument::Memory(&mut name.bytes), Argument::Memory(&mut name.length), NOTHING, NOTHING, NOTHING];
    // SAFETY: the length says how long the name's place is.
    unsafe { raw::call(call, &mut words) }?;
    name.hand_over(member)?;
    Ok(0)
}

fn option(member: &Member, [number, level, option]: [u64; 3], into: u64, size: u64) -> Result<u64, Errno> {
    const LONGEST: usize = 4096;
    let file = member.table.get(number)?;
    let fits = (u32::from_ne_bytes(member.memory.number(size)?) as usize).min(LONGEST);
    let mut value = vec![0; fits.max(1)];
    let mut length = (fits as u32).to_ne_bytes();
    let mut words = [
        host(file),
        Argument::Number(level),
        Argument::Number(option),
        Argument::Memory(&mut value),
        Argument::Memory(&mut length),
        NOTHING,
    ];
    // SAFETY: the length says how long the value's place is.
    unsafe { raw::call(libc::SYS_getsockopt as u32, &mut words) }?;
    let length = (u32::from_ne_bytes(length) as usize).min(fits);
    member.memory.write(into, &value[..length])?;
    member.memory.write(size, &(length as u32).to_ne_bytes())?;
    Ok(0)
}

fn send(
    member: &Member,
    number: u64,
    [at, length]: [u64; 2],
    how: u64,
    [name, name_length]: [u64; 2],
) -> Result<u64, Errno> {
    let file = member.table.get(number)?;
    let mut bytes = member.memory.bytes(at, (length as usize).min(MOST))?;
    let mut name = match name {
        0 => Vec::new(),
        name => member.memory.bytes(name, (name_length as usize).min(NAME))?,
    };
    send_bytes(member, file, &mut bytes, how, &mut name)
}

fn send_bytes(member: &Member, file: &File, bytes: &mut [u8], how: u64, name: &mut [u8]) -> Result<u64, Errno> {
    let (length, name_length) = (bytes.len() as u64, name.len() as u64);
    let mut words = [
        host(file),
        Argument::Memory(bytes),
        Argument::Number(length),
        flags(how),
        Argument::Memory(name),
        Argument::Number(name_length),
    ];
    // SAFETY: the lengths are those of the memories.
    let sent = unsafe { raw::call(libc::SYS_sendto as u32, &mut words) };
    if sent == Err(Errno::PIPE) && how & libc::MSG_NOSIGNAL as u64 == 0 {
        broken_pipe(member);
    }
    sent
}

/// What writing to a pipe that nobody reads does beside failing.
pub(crate) fn broken_pipe(member: &Member) {
    const SIGPIPE: i32 = 13;
    let sender = Sender { process: member.number, user: member.credentials.user };
    let _ = member.family.kill(sender, member.number as i32, SIGPIPE);
}

fn receive(
    member: &Member,
    number: u64,
    [at, length]: [u64; 2],
    how: u64,
    [place, place_length]: [u64; 2],
) -> Result<u64, Errno> {
    let file = member.table.get(number)?;
    let mut bytes = vec![0; (length as usize).min(MOST)];
    let mut name = NamePlace::new(member, place, place_length)?;
    let received = receive_bytes(file, &mut bytes, how, &mut name)?;
    member.memory.write(at, &bytes[..bytes.len().min(received as usize)])?;
    name.hand_over(member)?;
    Ok(received)
}

fn receive_bytes(file: &File, bytes: &mut [u8], how: u64, name: &mut NamePlace) -> Result<u64, Errno> {
    let length = bytes.len() as u64;
    let mut words = [
        host(file),
        Argument::Memory(bytes),
        Argument::Number(length),
        flags(how),
        Argument::Memory(&mut name.bytes),
        Argument::Memory(&mut name.length),
    ];
    // SAFETY: the lengths are those of the memories.
    unsafe { raw::call(libc::SYS_recvfrom as u32, &mut words) }
}

/// A guest's `struct msghdr`: name, name's length, parts, how many, control, its length, flags.
struct Message([u64; 7]);

impl Message {
    const CONTROL_LENGTH: u64 = 40;
    const FLAGS: u64 = 48;

    fn read(member: &Member, at: u64) -> Result<Self, Errno> {
        let bytes = member.memory.bytes(at, 56)?;
        let mut words = [0; 7];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = bytes.try_into().map_or(0, u64::from_ne_bytes);
        }
        Ok(Self(words))
    }
}

fn send_message(member: &mut Member, number: u64, at: u64, how: u64) -> Result<u64, Errno> {
    let file = member.table.get(number)?;
    let Message([name, name_length, list, count, control, control_length, _]) = Message::read(member, at)?;
    let mut name = match name {
        0 => Vec::new(),
        name => member.memory.bytes(name, (name_length as u32 as usize).min(NAME))?,
    };
    let mut bytes = gather(member, &parts(member, list, count)?)?;
    let descriptors = match control {
        0 => Vec::new(),
        control => descriptors(member, &member.memory.bytes(control, (control_length as usize).min(MOST))?)?,
    };
    if descriptors.is_empty() {
        return send_bytes(member, file, &mut bytes, how, &mut name);
    }
    let borrowed: Vec<_> = descriptors.iter().map(|it| it.as_fd()).collect();
    sys::socket::send_at_once(file.as_fd(), &bytes, &borrowed).map(|it| it as u64)
}

/// The files whose descriptors a control message carries (SCM_RIGHTS); other control messages are dropped.
fn descriptors(member: &Member, control: &[u8]) -> Result<Vec<std::sync::Arc<File>>, Errno> {
    const HEADER: usize = 16;
    let mut files = Vec::new();
    let mut rest = control;
    while let Some(header) = rest.get(..HEADER) {
        let length = header[..8].try_into().map_or(0, u64::from_ne_bytes) as usize;
        let number = |at: usize| header[at..at + 4].try_into().map_or(0, i32::from_ne_bytes);
        let data = rest.get(HEADER..length).ok_or(Errno::INVAL)?;
        if (number(8), number(12)) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            for descriptor in data.chunks_exact(4) {
                let descriptor = descriptor.try_into().map_or(-1, i32::from_ne_bytes);
                files.push(member.table.get(descriptor as u64)?.clone());
            }
        }
        rest = rest.get(length.next_multiple_of(8)..).unwrap_or_default();
    }
    Ok(files)
}

fn receive_message(member: &mut Member, number: u64, at: u64, how: u64) -> Result<u64, Errno> {
    let file = member.table.get(number)?.clone();
    let Message([name, name_length, list, count, control, control_length, _]) = Message::read(member, at)?;
    let parts = parts(member, list, count)?;
    let mut bytes = vec![0; parts.iter().map(|it| it.1).sum()];
    let peek_or_trunc = how & (libc::MSG_PEEK | libc::MSG_TRUNC) as u64;
    let carries = control != 0 && control_length >= 20 && peek_or_trunc == 0 && sys::socket::is_local(file.as_fd());
    if !carries {
        let mut place = NamePlace::new(member, 0, 0)?;
        // A datagram says how long it was, so that it can be said that it was cut.
        let is_datagram = rustix::net::sockopt::socket_type(&*file) == Ok(rustix::net::SocketType::DGRAM);
        let (cut_too, whole) = (how & libc::MSG_TRUNC as u64 != 0, libc::MSG_TRUNC as u64);
        let received = receive_bytes(&file, &mut bytes, if is_datagram { how | whole } else { how }, &mut place)?;
        scatter(member, &parts, &bytes[..bytes.len().min(received as usize)])?;
        if name != 0 {
            let length = (u32::from_ne_bytes(place.length) as usize).min(NAME);
            member.memory.write(name, &place.bytes[..length.min(name_length as u32 as usize)])?;
            member.memory.write(at + 8, &(length as u32).to_ne_bytes())?;
        }
        member.memory.write(at + Message::CONTROL_LENGTH, &0u64.to_ne_bytes())?;
        let cut = if received as usize > bytes.len() { libc::MSG_TRUNC } else { 0 };
        member.memory.write(at + Message::FLAGS, &cut.to_ne_bytes())?;
        return Ok(if cut_too { received } else { received.min(bytes.len() as u64) });
    }
    let (received, descriptors) = sys::socket::receive_at_once(file.as_fd(), &mut bytes)?;
    scatter(member, &parts, &bytes[..received])?;
    let on_exec = if how & libc::MSG_CMSG_CLOEXEC as u64 != 0 { OnExec::Close } else { OnExec::Keep };
    let mut message = Vec::new();
    let room = (control_length as usize - 16) / 4;
    let mut numbers: Vec<i32> = Vec::new();
    for fd in descriptors.into_iter().take(room) {
        numbers.push(member.table.add(File::new(fd, Waiting::Yes, b"received"), on_exec, 0)? as i32);
    }
    if !numbers.is_empty() {
        message.extend_from_slice(&(16 + 4 * numbers.len() as u64).to_ne_bytes());
        message.extend_from_slice(&libc::SOL_SOCKET.to_ne_bytes());
        message.extend_from_slice(&libc::SCM_RIGHTS.to_ne_bytes());
        numbers.iter().for_each(|it| message.extend_from_slice(&it.to_ne_bytes()));
        member.memory.write(control, &message)?;
    }
    member.memory.write(at + Message::CONTROL_LENGTH, &(message.len() as u64).to_ne_bytes())?;
    member.memory.write(at + Message::FLAGS, &0u32.to_ne_bytes())?;
    if name != 0 {
        member.memory.write(at + 8, &0u32.to_ne_bytes())?;
    }
    Ok(received as u64)
}

/// sendmmsg and recvmmsg: one after the other, until one has nothing.
fn several(
    member: &mut Member,
    number: u64,
    [at, count]: [u64; 2],
    how: u64,
    each: fn(&mut Member, u64, u64, u64) -> Result<u64, Errno>,
) -> Result<u64, Errno> {
    const MOST_MESSAGES: u64 = 1024;
    const SIZE: u64 = 64;
    const LENGTH: u64 = 56;
    let mut done = 0;
    for index in 0..count.min(MOST_MESSAGES) {
        let message = at + index * SIZE;
        match each(member, number, message, how) {
            Ok(length) => member.memory.write(message + LENGTH, &(length as u32).to_ne_bytes())?,
            Err(errno) if done == 0 => return Err(errno),
            Err(_) => break,
        }
        done += 1;
    }
    Ok(done)
}
