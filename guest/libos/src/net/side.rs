//! One of the two networks that a process is on: itself, and its cell's.

use alloc::vec;
use alloc::vec::Vec;

use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, Ipv4Address};

use super::link::{Circle, Link, Way};

/// A network, and the sockets that are on it.
pub struct Side {
    interface: Interface,
    way: Way,
    pub sockets: SocketSet<'static>,
}

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The process itself.
    Inside,
    /// The cell's network.
    Outside,
}

/// A socket of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(pub Which, pub SocketHandle);

/// What a connection holds on each way, in bytes.
const BUFFER: usize = 64 << 10;

/// What is held of datagrams on each way: so many, and so many bytes.
const DATAGRAMS: usize = 128;
const DATAGRAM_BYTES: usize = 192 << 10;

/// After so long without a sign of the other a connection is broken.
pub const SILENCE: Duration = Duration::from_secs(900);

/// The address of the process itself.
pub const OWN: Ipv4Address = Ipv4Address::new(127, 0, 0, 1);

impl Side {
    pub fn inside(seed: u64, now: Instant) -> Self {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut way = Way::Inside(Circle::default());
        let mut interface = Interface::new(config, &mut way, now);
        interface.update_ip_addrs(|all| {
            let _ = all.push(IpCidr::new(IpAddress::Ipv4(OWN), 8));
        });
        // All of 127.0.0.0/8 is here.
        let _ = interface.routes_mut().add_default_ipv4_route(OWN);
        interface.set_any_ip(true);
        Self { interface, way, sockets: SocketSet::new(Vec::new()) }
    }

    /// The process has that address, too.
    pub fn add_address(&mut self, address: Ipv4Address) {
        self.interface.update_ip_addrs(|all| {
            let _ = all.push(IpCidr::new(IpAddress::Ipv4(address), 32));
        });
    }

    pub fn outside(link: Link, seed: u64, now: Instant) -> Self {
        let (address, prefix, gateway) = link.address();
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(link.hardware())));
        config.random_seed = seed;
        let mut way = Way::Outside(link);
        let mut interface = Interface::new(config, &mut way, now);
        interface.update_ip_addrs(|all| {
            let _ = all.push(IpCidr::new(IpAddress::Ipv4(Ipv4Address::from(address)), prefix));
        });
        let _ = interface.routes_mut().add_default_ipv4_route(Ipv4Address::from(gateway));
        Self { interface, way, sockets: SocketSet::new(Vec::new()) }
    }

    pub fn address(&self) -> Option<Ipv4Address> {
        self.interface.ipv4_addr()
    }

    /// Moves what can be moved. Each socket that takes up a connection is replaced before the next frame is looked at, by
    /// `refill`, which says which ports have no room left. Says whether anything moved.
    pub fn turn(&mut self, now: Instant, mut refill: impl FnMut(&mut SocketSet<'static>, &mut Vec<u16>)) -> bool {
        /// Whoever sends without end is not served without end.
        const MOST: u32 = 512;
        let mut any = false;
        self.interface.poll_maintenance(now);
        for _ in 0..MOST {
            match self.interface.poll_ingress_single(now, &mut self.way, &mut self.sockets) {
                PollIngressSingleResult::None => break,
                PollIngressSingleResult::PacketProcessed => {}
                PollIngressSingleResult::SocketStateChanged => {
                    any = true;
                    refill(&mut self.sockets, self.way.full());
                }
            }
        }
        while self.interface.poll_egress(now, &mut self.way, &mut self.sockets) == PollResult::SocketStateChanged {
            any = true;
        }
        any
    }

    pub fn has_frames(&self) -> bool {
        self.way.has_frames()
    }

    /// When there is something to do even if nothing comes.
    pub fn next(&mut self, now: Instant) -> Option<Instant> {
        self.interface.poll_at(now, &self.sockets)
    }

    /// Begins a connection. Nothing when there is no way to that address.
    pub fn connect(&mut self, local: (Option<Ipv4Address>, u16), remote: (Ipv4Address, u16)) -> Option<SocketHandle> {
        let mut socket = stream();
        // As long as Linux tries.
        socket.set_timeout(Some(Duration::from_secs(127)));
        let local = (local.0.map(IpAddress::Ipv4), local.1);
        socket.connect(self.interface.context(), (IpAddress::Ipv4(remote.0), remote.1), endpoint(local)).ok()?;
        Some(self.sockets.add(socket))
    }

    pub fn bind_datagrams(&mut self, address: Option<Ipv4Address>, port: u16) -> SocketHandle {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; DATAGRAMS], vec![0; DATAGRAM_BYTES]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        let _ = socket.bind(endpoint((address.map(IpAddress::Ipv4), port)));
        self.sockets.add(socket)
    }
}

fn endpoint((addr, port): (Option<IpAddress>, u16)) -> smoltcp::wire::IpListenEndpoint {
    smoltcp::wire::IpListenEndpoint { addr, port }
}

fn stream() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
    tcp::Socket::new(buffer(), buffer())
}

/// A socket that waits for one connection.
pub fn listen(sockets: &mut SocketSet<'static>, address: Option<Ipv4Address>, port: u16) -> SocketHandle {
    let mut socket = stream();
    socket.set_timeout(Some(SILENCE));
    let _ = socket.listen(endpoint((address.map(IpAddress::Ipv4), port)));
    sockets.add(socket)
}
