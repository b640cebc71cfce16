//! What an attached cell needs all the time: names resolved and published ports served.
//!
//! One epoll instance without a thread: the supervisor waits for [`Service::fd`] among its own descriptors and calls
//! [`Service::dispatch`] when it is readable. The resolver's sockets live in the cell's network namespace, everything
//! else in the host's. Whatever a cell or a peer sends is bytes: a connection that misbehaves is closed, never an error.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use model::{NetStack, Network, PortMapping, Protocol};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::time::{self, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use crate::dns::{self, Decision};
use crate::error::{Error, Result};
use crate::netlink::inside;
use crate::proxy::{Interest, Pair};
use crate::{Attachment, RESOLVER, lease};

/// So many ends of connections and conversations at a time, if descriptors suffice; further connections are closed, and
/// conversations take the place of the oldest.
const MAX_SOURCES: usize = 4096;
/// Descriptors that the supervisor keeps for everything else.
const RESERVED_DESCRIPTORS: u64 = 64;
/// For so long after its start a cell's program may not listen yet on a port that is published already: until then,
/// connections that it refuses are tried again.
const WARM_UP: Duration = Duration::from_secs(5);
const RETRY_AFTER: Duration = Duration::from_millis(20);
/// So many questions are on their way to the host's resolver.
const MAX_QUESTIONS: usize = 256;
/// No datagram is longer.
const DATAGRAM: usize = 64 << 10;
const DNS_PORT: u16 = 53;

/// Names and ports of one cell.
#[derive(Debug)]
pub struct Service {
    epoll: OwnedFd,
    sources: HashMap<u64, Source>,
    next_key: u64,
    leases: PathBuf,
    network: String,
    upstream: Option<SocketAddr>,
    room: usize,
    opened: Instant,
    /// Near ends whose far ends were refused and are to be tried again when `retry` expires.
    refused: Vec<u64>,
    retry: OwnedFd,
}

#[derive(Debug)]
enum Source {
    /// Questions of the cell.
    Resolver(UdpSocket),
    /// One question on its way to the host's resolver, which answers to this socket.
    Question { socket: UdpSocket, asker: SocketAddr, resolver: u64 },
    /// A listening port: connections to it go on to `to`.
    Listener { socket: TcpListener, to: SocketAddr },
    /// A published datagram port, with its conversations by peer.
    Datagrams { socket: UdpSocket, to: SocketAddr, peers: HashMap<SocketAddr, u64> },
    /// The cell's side of a conversation on a datagram port.
    Peer { socket: UdpSocket, port: u64, peer: SocketAddr },
    /// A connection's near end; its pair, where it leads, and the key of its far end.
    Near { pair: Pair, to: SocketAddr, far: u64, interests: (Interest, Interest) },
    /// A connection's far end: see its near end.
    Far { near: u64 },
}

impl Service {
    pub(crate) fn open(
        leases: PathBuf,
        attachment: &Attachment,
        network: &Network,
        netns: BorrowedFd<'_>,
    ) -> Result<Self> {
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| Error::kernel("making an event queue", e))?;
        let retry = time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
            .map_err(|e| Error::kernel("making a timer", e))?;
        epoll::add(&epoll, &retry, EventData::new_u64(RETRY_KEY), EventFlags::IN)
            .map_err(|e| Error::kernel("waiting for a timer", e))?;
        let servers = dns::name_servers(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
        let mut service = Self {
            epoll,
            sources: HashMap::new(),
            next_key: 0,
            leases,
            network: attachment.network.clone(),
            upstream: servers.first().map(|it| SocketAddr::new(*it, DNS_PORT)),
            room: room(),
            opened: Instant::now(),
            refused: Vec::new(),
            retry,
        };
        match network.stack {
            NetStack::Host => service.open_resolver(netns)?,
            NetStack::Guest => service.open_resolver_outside(attachment.gateway)?,
        }
        for mapping in &network.ports {
            service.publish(mapping, attachment.address)?;
        }
        Ok(service)
    }

    /// Becomes readable when [`Service::dispatch`] has something to do.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn open_resolver(&mut self, netns: BorrowedFd<'_>) -> Result<()> {
        let address = SocketAddr::from((RESOLVER, DNS_PORT));
        let (datagrams, listener) = inside(netns, || {
            let failed = |e| Error::kernel("opening the cell's resolver", e);
            Ok((UdpSocket::bind(address).map_err(failed)?, TcpListener::bind(address).map_err(failed)?))
        })?;
        let ready = datagrams.set_nonblocking(true).and_then(|()| listener.set_nonblocking(true));
        ready.map_err(|e| Error::kernel("opening the cell's resolver", e))?;
        self.add(Source::Resolver(datagrams), EventFlags::IN)?;
        if let Some(to) = self.upstream {
            self.add(Source::Listener { socket: listener, to }, EventFlags::IN)?;
        }
        Ok(())
    }

    /// A cell that has a stack of its own finds its resolver at the bridge's address, as its way out: there the supervisors
    /// of all such cells of a network answer in turn, and say the same. Where the host's own resolver has the place, that is
    /// asked, and knows no cell.
    fn open_resolver_outside(&mut self, gateway: Ipv4Addr) -> Result<()> {
        let failed = |e: std::io::Error| Error::kernel("opening the cell's resolver", e);
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)
            .map_err(|e| failed(e.into()))?;
        let shared = rustix::net::sockopt::set_socket_reuseport(&socket, true);
        match shared.and_then(|()| rustix::net::bind(&socket, &SocketAddr::from((gateway, DNS_PORT)))) {
            Ok(()) => self.add(Source::Resolver(socket.into()), EventFlags::IN).map(drop),
            Err(rustix::io::Errno::ADDRINUSE) => Ok(()),
            Err(e) => Err(failed(e.into())),
        }
    }

    /// Opens a port of the host. Without an address it is open for IPv4 and IPv6 alike.
    fn publish(&mut self, mapping: &PortMapping, cell: Ipv4Addr) -> Result<()> {
        let failed = |source: std::io::Error| Error::Port { port: mapping.to_string(), source };
        let to = SocketAddr::from((cell, mapping.cell));
        let port = mapping.host.unwrap_or(0);
        let address = SocketAddr::new(mapping.address.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED)), port);
        match mapping.protocol {
            Protocol::Tcp => {
                // `std` sets SO_REUSEADDR; on a host without IPv6 the address for both families does not exist.
                let bound = TcpListener::bind(address).or_else(|e| match mapping.address {
                    None if e.kind() != std::io::ErrorKind::AddrInUse => {
                        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
                    }
                    _ => Err(e),
                });
                let socket = bound.map_err(failed)?;
                socket.set_nonblocking(true).map_err(failed)?;
                self.add(Source::Listener { socket, to }, EventFlags::IN)?;
            }
            Protocol::Udp => {
                let bound = UdpSocket::bind(address).or_else(|e| match mapping.address {
                    None if e.kind() != std::io::ErrorKind::AddrInUse => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)),
                    _ => Err(e),
                });
                let socket = bound.map_err(failed)?;
                socket.set_nonblocking(true).map_err(failed)?;
                self.add(Source::Datagrams { socket, to, peers: HashMap::new() }, EventFlags::IN)?;
            }
        }
        Ok(())
    }

    /// The ports that are open on the host, as they came to be: the address, and the cell's port.
    pub fn published(&self) -> Vec<(SocketAddr, u16)> {
        let open = |source: &Source| match source {
            Source::Listener { socket, to } => socket.local_addr().ok().map(|it| (it, to.port())),
            Source::Datagrams { socket, to, .. } => socket.local_addr().ok().map(|it| (it, to.port())),
            _ => None,
        };
        let mut ports: Vec<_> = self.sources.values().filter_map(open).filter(|(it, _)| it.ip() != RESOLVER).collect();
        ports.sort();
        ports
    }

    fn add(&mut self, source: Source, interest: EventFlags) -> Result<u64> {
        let key = self.next_key;
        self.next_key += 1;
        let fd = match &source {
            Source::Resolver(socket) | Source::Question { socket, .. } => socket.as_fd(),
            Source::Datagrams { socket, .. } | Source::Peer { socket, .. } => socket.as_fd(),
            Source::Listener { socket, .. } => socket.as_fd(),
            Source::Near { pair, .. } => pair.near.as_fd(),
            // A far end is added by `join`, together with its near end.
            Source::Far { .. } => return Ok(key),
        };
        epoll::add(&self.epoll, fd, EventData::new_u64(key), interest)
            .map_err(|e| Error::kernel("waiting for a socket", e))?;
        self.sources.insert(key, source);
        Ok(key)
    }

    /// Does whatever is due.
    pub fn dispatch(&mut self) {
        let mut events = Vec::with_capacity(64);
        let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let spare = rustix::buffer::spare_capacity(&mut events);
        if epoll::wait(&self.epoll, spare, Some(&at_once)).is_err() {
            return;
        }
        for event in events {
            self.handle(event.data.u64());
        }
    }

    fn handle(&mut self, key: u64) {
        if key == RETRY_KEY {
            return self.on_retry();
        }
        match self.sources.get(&key) {
            Some(Source::Resolver(_)) => self.on_question(key),
            Some(Source::Question { .. }) => self.on_answer(key),
            Some(Source::Listener { .. }) => self.on_connection(key),
            Some(Source::Datagrams { .. }) => self.on_datagram(key),
            Some(Source::Peer { .. }) => self.on_reply(key),
            Some(Source::Near { .. }) => self.on_stream(key),
            Some(Source::Far { near }) => self.on_stream(*near),
            None => {}
        }
    }

    fn on_question(&mut self, key: u64) {
        let Some(Source::Resolver(resolver)) = self.sources.get(&key) else { return };
        let mut buffer = [0; 1500];
        let Ok((count, asker)) = resolver.recv_from(&mut buffer) else { return };
        let question = &buffer[..count];
        let leases = lease::leases_of(&self.leases, &self.network).unwrap_or_default();
        let address_of =
            |name: &str| leases.iter().find(|it| it.name.as_str().eq_ignore_ascii_case(name)).map(|it| it.address);
        let name_of = |address| leases.iter().find(|it| it.address == address).map(|it| it.name.to_string());
        match dns::decide(question, address_of, name_of) {
            Decision::Answer(answer) => drop(resolver.send_to(&answer, asker)),
            Decision::Forward => self.forward(key, question, asker),
            Decision::Ignore => {}
        }
    }

    fn forward(&mut self, resolver: u64, question: &[u8], asker: SocketAddr) {
        let Some(upstream) = self.upstream else { return };
        self.forget_unanswered();
        // A socket of its own has a port of its own, which an off-path forger would have to guess.
        let Some(socket) = datagrams_to(upstream) else { return };
        if socket.send(question).is_ok() {
            let _ = self.add(Source::Question { socket, asker, resolver }, EventFlags::IN);
        }
    }

    /// Questions that the host's resolver never answered make room for new ones, the oldest first.
    fn forget_unanswered(&mut self) {
        let questions = self.sources.iter().filter(|(_, it)| matches!(it, Source::Question { .. }));
        let keys: Vec<_> = questions.map(|(key, _)| *key).collect();
        if keys.len() >= MAX_QUESTIONS
            && let Some(oldest) = keys.iter().min()
        {
            self.sources.remove(oldest);
        }
    }

    fn on_answer(&mut self, key: u64) {
        let Some(Source::Question { socket, asker, resolver }) = self.sources.remove(&key) else { return };
        let mut buffer = vec![0; DATAGRAM];
        if let (Ok(count), Some(Source::Resolver(resolver))) = (socket.recv(&mut buffer), self.sources.get(&resolver)) {
            let _ = resolver.send_to(&buffer[..count], asker);
        }
    }

    fn on_connection(&mut self, key: u64) {
        for _ in 0..16 {
            let Some(Source::Listener { socket, to }) = self.sources.get(&key) else { return };
            let to = *to;
            let Ok((near, _)) = socket.accept() else { return };
            if !self.has_room() || near.set_nonblocking(true).is_err() {
                continue;
            }
            match connect(to) {
                Some((far, Begun::Connecting)) => drop(self.join(near, far, to)),
                Some((far, Begun::Refused)) if self.tries_again(to) => {
                    let joined = self.join(near, far, to);
                    joined.into_iter().for_each(|key| self.try_later(key));
                }
                _ => {}
            }
        }
    }

    /// Whether what is refused there may be answered soon.
    fn tries_again(&self, to: SocketAddr) -> bool {
        self.opened.elapsed() < WARM_UP && Some(to) != self.upstream
    }

    fn join(&mut self, near: TcpStream, far: TcpStream, to: SocketAddr) -> Option<u64> {
        let far_key = self.next_key;
        self.next_key += 1;
        epoll::add(&self.epoll, &far, EventData::new_u64(far_key), flags(BEGINNING.1)).ok()?;
        let pair = Source::Near { pair: Pair::new(near, far), to, far: far_key, interests: BEGINNING };
        let near = self.add(pair, flags(BEGINNING.0)).ok()?;
        self.sources.insert(far_key, Source::Far { near });
        Some(near)
    }

    fn on_stream(&mut self, key: u64) {
        // Of a pair that is to be tried again, an event may be left over from before; its refusal is told once only.
        if self.refused.contains(&key) {
            return;
        }
        let Some(Source::Near { pair, to, .. }) = self.sources.get(&key) else { return };
        if self.tries_again(*to) && pair.is_refused() {
            return self.try_later(key);
        }
        let Some(Source::Near { pair, far, interests, .. }) = self.sources.get_mut(&key) else { return };
        if !pair.pump() {
            let far = *far;
            return self.close(key, far);
        }
        let wanted = pair.interests();
        watch(&self.epoll, &pair.near, key, interests.0, wanted.0);
        watch(&self.epoll, &pair.far, *far, interests.1, wanted.1);
        *interests = wanted;
    }

    fn close(&mut self, near: u64, far: u64) {
        self.sources.remove(&far);
        self.sources.remove(&near);
    }

    /// Lets a pair be until the next try; what its near end sends waits in the kernel.
    fn try_later(&mut self, key: u64) {
        let Some(Source::Near { pair, far, interests, .. }) = self.sources.get_mut(&key) else { return };
        watch(&self.epoll, &pair.near, key, interests.0, Interest::NONE);
        watch(&self.epoll, &pair.far, *far, interests.1, Interest::NONE);
        *interests = (Interest::NONE, Interest::NONE);
        self.refused.push(key);
        let once = Timespec { tv_sec: 0, tv_nsec: i64::from(RETRY_AFTER.subsec_nanos()) };
        let setting = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: once };
        let _ = time::timerfd_settime(&self.retry, TimerfdTimerFlags::empty(), &setting);
    }

    /// Tries again what was refused.
    fn on_retry(&mut self) {
        let _ = rustix::io::read(&self.retry, &mut [0; 8]);
        for key in std::mem::take(&mut self.refused) {
            let Some(Source::Near { pair, to, far, interests }) = self.sources.get_mut(&key) else { continue };
            let (to, far) = (*to, *far);
            let Some((again, begun)) = connect(to) else {
                self.close(key, far);
                continue;
            };
            pair.far = again;
            watch(&self.epoll, &pair.near, key, interests.0, BEGINNING.0);
            watch(&self.epoll, &pair.far, far, interests.1, BEGINNING.1);
            *interests = BEGINNING;
            match begun {
                Begun::Refused if self.tries_again(to) => self.try_later(key),
                Begun::Refused => self.close(key, far),
                Begun::Connecting => {}
            }
        }
    }

    fn on_datagram(&mut self, key: u64) {
        let mut buffer = vec![0; DATAGRAM];
        for _ in 0..64 {
            let Some(Source::Datagrams { socket, to, peers }) = self.sources.get(&key) else { return };
            let Ok((count, peer)) = socket.recv_from(&mut buffer) else { return };
            let known = peers.get(&peer).copied();
            let to = *to;
            let Some(conversation) = known.or_else(|| self.begin_conversation(key, peer, to)) else { continue };
            if let Some(Source::Peer { socket, .. }) = self.sources.get(&conversation) {
                let _ = socket.send(&buffer[..count]);
            }
        }
    }

    fn begin_conversation(&mut self, port: u64, peer: SocketAddr, to: SocketAddr) -> Option<u64> {
        if !self.has_room() {
            self.forget_a_conversation();
        }
        let key = self.add(Source::Peer { socket: datagrams_to(to)?, port, peer }, EventFlags::IN).ok()?;
        if let Some(Source::Datagrams { peers, .. }) = self.sources.get_mut(&port) {
            peers.insert(peer, key);
        }
        Some(key)
    }

    /// The oldest conversation makes room for a new one.
    fn forget_a_conversation(&mut self) {
        let oldest = self.sources.iter().filter(|(_, it)| matches!(it, Source::Peer { .. })).map(|(key, _)| *key).min();
        let Some(Source::Peer { port, peer, .. }) = oldest.and_then(|key| self.sources.remove(&key)) else { return };
        if let Some(Source::Datagrams { peers, .. }) = self.sources.get_mut(&port) {
            peers.remove(&peer);
        }
    }

    fn on_reply(&mut self, key: u64) {
        let mut buffer = vec![0; DATAGRAM];
        for _ in 0..64 {
            let Some(Source::Peer { socket, port, peer }) = self.sources.get(&key) else { return };
            // A refusal (nobody listens in the cell) shows as an error once; the conversation may still come to life.
            let Ok(count) = socket.recv(&mut buffer) else { return };
            if let Some(Source::Datagrams { socket, .. }) = self.sources.get(port) {
                let _ = socket.send_to(&buffer[..count], peer);
            }
        }
    }

    fn has_room(&self) -> bool {
        self.sources.len() < self.room
    }
}

/// The timer's key; sources are counted from 0 and do not get there.
const RETRY_KEY: u64 = u64::MAX;

/// How many sources there may be without running out of descriptors.
fn room() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit.saturating_sub(RESERVED_DESCRIPTORS)).map_or(MAX_SOURCES, |it| it.clamp(16, MAX_SOURCES))
}

fn flags(interest: Interest) -> EventFlags {
    let mut flags = EventFlags::empty();
    flags.set(EventFlags::IN, interest.read);
    flags.set(EventFlags::OUT, interest.write);
    flags
}

/// Changes what a connection is watched for. One that nothing is wanted from is not watched at all: a hang-up would be
/// reported again and again, and nobody could do anything about it.
fn watch(epoll: &OwnedFd, connection: &TcpStream, key: u64, before: Interest, wanted: Interest) {
    let data = EventData::new_u64(key);
    // What fails here shows when the connection is read or written.
    let _ = match (before == Interest::NONE, wanted == Interest::NONE) {
        _ if before == wanted => Ok(()),
        (_, true) => epoll::delete(epoll, connection),
        (true, false) => epoll::add(epoll, connection, data, flags(wanted)),
        (false, false) => epoll::modify(epoll, connection, data, flags(wanted)),
    };
}

fn datagrams_to(to: SocketAddr) -> Option<UdpSocket> {
    let any = if to.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.set_nonblocking(true).ok()?;
    socket.connect(to).ok()?;
    Some(socket)
}

/// What became of a connection so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    Connecting,
    Refused,
}

/// What a pair is watched for at first. A connection that is being made tells by becoming writable.
const BEGINNING: (Interest, Interest) = (Interest { read: true, write: false }, Interest { read: true, write: true });

/// Begins a connection without waiting for it. A refusal may come at once.
fn connect(to: SocketAddr) -> Option<(TcpStream, Begun)> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None).ok()?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Some((socket.into(), Begun::Connecting)),
        Err(rustix::io::Errno::CONNREFUSED) => Some((socket.into(), Begun::Refused)),
        Err(_) => None,
    }
}
