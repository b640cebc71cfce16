//! Sockets between programs of the guest and programs of the host ("Socket Device"): of the family `AF_VSOCK` there, Unix
//! sockets here.
//!
//! A program of the host connects to one socket and says `CONNECT PORT` and a line's end, by which it means a port of the
//! guest's; `OK PORT` and a line's end is the answer when somebody there has it. A program of the guest that connects to a
//! port of the host's reaches the socket whose name ends with `_PORT`. That is how Firecracker does it, so programs know.
//!
//! **Invariant: all that a guest makes this keep has a most**: connections, words that it is to be told, bytes. A guest that
//! makes no room to be told anything is not heard. Connections are between this machine and this host: a machine that goes
//! on as another's copy is told that all it had are gone.

mod connection;
mod packet;

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType};

use self::connection::{Came, Connection, State};
use self::packet::{Ends, Packet};
use super::{Broken, Cause, Chain, Device, Queues};
use crate::error::Result as Outcome;
use crate::saved::{self, of_data};
use crate::share::link_of;

const TO_GUEST: usize = 0;
const FROM_GUEST: usize = 1;
const EVENTS: usize = 2;
/// All connections are gone.
const TRANSPORT_RESET: u32 = 0;

/// Connections at most, and those of which nobody has said yet what for.
const MOST: usize = 1024;
const MOST_NEW: usize = 64;
/// Words that wait for room, before the guest is not heard any more.
const MOST_WORDS: usize = 64;
/// Bytes of a packet at most.
const PIECE: usize = 64 << 10;
/// Bytes of the line that says what a connection is for.
const LINE: usize = 32;
/// The first port of the host's that a connection has which begins here.
const FIRST: u32 = 1 << 30;

/// Where programs of the host and of the guest meet.
#[derive(Debug)]
pub struct Sockets {
    /// The guest's address.
    pub address: u32,
    /// Where programs of the host come in. Nothing if none do.
    pub listener: Option<OwnedFd>,
    /// The directory with the sockets that programs of the guest reach, and what their names begin with.
    pub directory: OwnedFd,
    /// What is before `_PORT`.
    pub name: String,
}

/// The device.
pub(crate) struct Vsock {
    sockets: Sockets,
    /// Of all descriptors: what the machine's thread waits for.
    epoll: OwnedFd,
    /// Who has not said yet what for.
    new: Vec<OwnedFd>,
    connections: BTreeMap<Ends, Connection>,
    words: VecDeque<Packet>,
    next: u32,
    /// The guest is to be told that its connections are gone.
    must_begin_anew: bool,
    buffer: Vec<u8>,
}

impl Vsock {
    pub(crate) fn new(sockets: Sockets) -> Result<Vsock, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        if let Some(listener) = &sockets.listener {
            rustix::io::ioctl_fionbio(listener, true)?;
            watch(&epoll, listener)?;
        }
        Ok(Vsock {
            sockets,
            epoll,
            new: Vec::new(),
            connections: BTreeMap::new(),
            words: VecDeque::new(),
            next: FIRST,
            must_begin_anew: false,
            buffer: vec![0; PIECE],
        })
    }

    /// A word of the host's about a connection.
    fn word(&mut self, ends: Ends, operation: u16) -> Packet {
        let (room, passed) = self.connections.get_mut(&ends).map_or((0, 0), Connection::tell);
        let (length, flags, kind) = (0, 0, packet::STREAM);
        let destination = u64::from(self.sockets.address);
        Packet { source: packet::HOST, destination, ends, length, kind, operation, flags, room, passed }
    }

    fn say(&mut self, ends: Ends, operation: u16) {
        let word = self.word(ends, operation);
        self.words.push_back(word);
    }

    /// It is over, and the guest is told.
    fn drop_it(&mut self, ends: Ends) {
        self.connections.remove(&ends);
        self.say(ends, packet::RESET);
    }

    /// Who came in by the host's socket.
    fn accept(&mut self) {
        while self.new.len() < MOST_NEW
            && let Some(listener) = &self.sockets.listener
        {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::accept_with(listener, flags) {
                Ok(socket) if watch(&self.epoll, &socket).is_ok() => self.new.push(socket),
                Ok(_) | Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(_) => break,
            }
        }
        let mut waiting = Vec::new();
        for socket in std::mem::take(&mut self.new) {
            match asked(&socket) {
                Asked::Port(guest) if self.connections.len() < MOST => self.begin(socket, guest),
                Asked::Nothing => waiting.push(socket),
                Asked::Port(_) | Asked::Nonsense => {}
            }
        }
        self.new = waiting;
    }

    /// Asks the guest for a connection.
    fn begin(&mut self, socket: OwnedFd, guest: u32) {
        let mut ends = Ends { guest, host: self.next };
        while self.connections.contains_key(&ends) {
            ends.host = ends.host.wrapping_add(1).max(FIRST);
        }
        self.next = ends.host.wrapping_add(1).max(FIRST);
        self.connections.insert(ends, Connection::new(socket, false));
        self.say(ends, packet::REQUEST);
    }

    /// Connects the guest to the socket of a port.
    fn connect(&mut self, packet: &Packet) -> Result<(), Errno> {
        if self.connections.len() >= MOST {
            return Err(Errno::NOBUFS);
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let path = format!("{}/{}_{}", link_of(self.sockets.directory.as_fd()), self.sockets.name, packet.ends.host);
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        watch(&self.epoll, &socket)?;
        let mut connection = Connection::new(socket, true);
        connection.hear(packet);
        self.connections.insert(packet.ends, connection);
        Ok(())
    }

    /// What the guest says.
    fn hear(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        while self.words.len() <= MOST_WORDS {
            let Some(mut chain) = queues.pop(FROM_GUEST)? else { break };
            let packet = Packet::read(&mut chain, queues.ram)?;
            if packet.length as usize > PIECE {
                return Err(Broken);
            }
            let mut bytes = vec![0; packet.length as usize];
            chain.read(queues.ram, &mut bytes)?;
            if (packet.source, packet.destination) == (self.sockets.address.into(), packet::HOST) {
                self.heard(&packet, &bytes);
            }
            queues.push(FROM_GUEST, &chain)?;
        }
        Ok(())
    }

    fn heard(&mut self, packet: &Packet, bytes: &[u8]) {
        let ends = packet.ends;
        let Some(connection) = self.connections.get_mut(&ends) else {
            match packet.operation {
                packet::RESET => {}
                packet::REQUEST if packet.kind == packet::STREAM && self.connect(packet).is_ok() => {
                    self.say(ends, packet::RESPONSE);
                }
                _ => self.say(ends, packet::RESET),
            }
            return;
        };
        connection.hear(packet);
        let state = match packet.operation {
            packet::RESET => {
                self.connections.remove(&ends);
                return;
            }
            packet::RESPONSE if !connection.is_open => {
                connection.is_open = true;
                connection.answer(ends.host)
            }
            packet::DATA if connection.is_open => connection.take(bytes),
            packet::SHUTDOWN => connection.end(packet.flags),
            packet::CREDIT_UPDATE => State::Open,
            packet::CREDIT_REQUEST => {
                self.say(ends, packet::CREDIT_UPDATE);
                State::Open
            }
            _ => State::Over,
        };
        if state == State::Over {
            self.drop_it(ends);
        }
    }

    /// What the host takes of what was sent before.
    fn flush(&mut self) {
        let over = |(ends, it): (&Ends, &mut Connection)| (it.flush() == State::Over).then_some(*ends);
        let over: Vec<Ends> = self.connections.iter_mut().filter_map(over).collect();
        over.into_iter().for_each(|ends| self.drop_it(ends));
    }

    /// Tells the guest what it is to be told: words first, then a piece of each connection in turn.
    fn tell(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        loop {
            while let Some(word) = self.words.front().copied() {
                let Some(chain) = room(queues)? else { return Ok(()) };
                self.words.pop_front();
                put(queues, chain, word, &[])?;
            }
            let waiting: Vec<Ends> = self.connections.iter().filter(|(_, it)| it.may_send()).map(|it| *it.0).collect();
            let mut has_sent = false;
            for ends in waiting {
                has_sent |= self.send(queues, ends)?;
            }
            let late: Vec<Ends> = self.connections.iter().filter(|(_, it)| it.must_tell()).map(|it| *it.0).collect();
            late.iter().for_each(|ends| self.say(*ends, packet::CREDIT_UPDATE));
            if !has_sent && self.words.is_empty() {
                return Ok(());
            }
        }
    }

    /// Sends what a connection has for the guest, one piece. Says whether it was any.
    fn send(&mut self, queues: &mut Queues<'_>, ends: Ends) -> Result<bool, Broken> {
        let Some(chain) = room(queues)? else { return Ok(false) };
        let Some(connection) = self.connections.get_mut(&ends) else { return Ok(false) };
        let most = PIECE.min((chain.room() - packet::SIZE) as usize);
        let (operation, length) = match connection.receive(&mut self.buffer[..most]) {
            Came::Bytes(length) => (packet::DATA, length),
            Came::End => (packet::SHUTDOWN, 0),
            Came::Lost => {
                self.connections.remove(&ends);
                (packet::RESET, 0)
            }
            Came::Nothing => {
                queues.put_back(TO_GUEST);
                return Ok(false);
            }
        };
        let flags = if operation == packet::SHUTDOWN { packet::NO_WRITING } else { 0 };
        let word = Packet { length: length as u32, flags, ..self.word(ends, operation) };
        put(queues, chain, word, &self.buffer[..length])?;
        Ok(true)
    }

    fn begin_anew(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        if self.must_begin_anew
            && let Some(mut chain) = queues.pop(EVENTS)?
        {
            chain.write(queues.ram, &TRANSPORT_RESET.to_le_bytes())?;
            queues.push(EVENTS, &chain)?;
            self.must_begin_anew = false;
        }
        Ok(())
    }
}

/// Has a descriptor's news be told.
fn watch(epoll: &OwnedFd, descriptor: &OwnedFd) -> Result<(), Errno> {
    use epoll::EventFlags;
    let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
    epoll::add(epoll, descriptor, epoll::EventData::new_u64(0), flags)
}

/// Room for a packet, if the guest has made any.
fn room(queues: &mut Queues<'_>) -> Result<Option<Chain>, Broken> {
    match queues.pop(TO_GUEST)? {
        Some(chain) if chain.room() <= packet::SIZE => Err(Broken),
        chain => Ok(chain),
    }
}

/// Puts a packet there.
fn put(queues: &mut Queues<'_>, mut chain: Chain, packet: Packet, bytes: &[u8]) -> Result<(), Broken> {
    chain.write(queues.ram, &packet.bytes())?;
    chain.write(queues.ram, bytes)?;
    queues.push(TO_GUEST, &chain)
}

/// What somebody who came in has said.
enum Asked {
    Port(u32),
    /// Not all of it yet.
    Nothing,
    Nonsense,
}

/// Reads a line, and nothing behind it.
fn asked(socket: &OwnedFd) -> Asked {
    let mut bytes = [0; LINE];
    let length = match rustix::net::recv(socket, &mut bytes[..], RecvFlags::PEEK) {
        Ok((_, 0)) => return Asked::Nonsense,
        Ok((_, length)) => length,
        Err(Errno::AGAIN | Errno::INTR) => return Asked::Nothing,
        Err(_) => return Asked::Nonsense,
    };
    let Some(end) = bytes[..length].iter().position(|byte| *byte == b'\n') else {
        return if length < LINE { Asked::Nothing } else { Asked::Nonsense };
    };
    let port =
        std::str::from_utf8(&bytes[..end]).ok().and_then(|line| line.strip_prefix("CONNECT ")?.trim().parse().ok());
    let read = rustix::io::read(socket, &mut bytes[..=end]);
    port.filter(|_| read == Ok(end + 1)).map_or(Asked::Nonsense, Asked::Port)
}

impl Device for Vsock {
    fn id(&self) -> u32 {
        19
    }

    fn queues(&self) -> usize {
        3
    }

    fn configuration(&self) -> Vec<u8> {
        u64::from(self.sockets.address).to_le_bytes().to_vec()
    }

    fn reset(&mut self) {
        self.connections.clear();
        self.words.clear();
        self.must_begin_anew = false;
    }

    fn save(&self) -> Outcome<saved::State> {
        Ok(saved::State::Null)
    }

    fn restore(&mut self, state: saved::State) -> Outcome<()> {
        self.must_begin_anew = true;
        of_data::<()>(state)
    }

    fn work(&mut self, queues: &mut Queues<'_>, cause: Cause) -> Result<(), Broken> {
        if cause == Cause::Ready {
            let mut news = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 64];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            while epoll::wait(&self.epoll, &mut news[..], Some(&now)).is_ok_and(|count| count == news.len()) {}
        }
        self.begin_anew(queues)?;
        self.accept();
        self.hear(queues)?;
        self.flush();
        self.tell(queues)?;
        // There may be room for words again that what was said is answered with.
        self.hear(queues)?;
        self.tell(queues)
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.epoll.as_fd()]
    }
}
