//! How cells reach each other, the world, and are reached.
//!
//! A network is a bridge of the host, a subnet, and leases: one file for each cell on it. It comes into being with its
//! first lease and goes a moment after its last, so **a host on which no cell runs has nothing of ours on it**. Every change
//! is made under the network's lock and can be made again after a crash ([`Net::detach`] takes whatever is there).
//!
//! Measured: the kernel takes 20 ms to remove a link and 35 ms to remove a bridge, most of it waiting for other
//! processors. So nobody who waits for a cell waits for that: a link is left to go with its namespace, and a bridge is
//! removed by the supervisor of the last cell, after its goodbyes ([`Net::linger`]).
//!
//! What a cell needs all the time (names, published ports) is done by [`Service`], a state machine without threads that
//! its supervisor polls. There is no resolver daemon and no port-forwarding program to outlive anybody.
//!
//! **Absent on purpose:** programs (`ip`, `nft`, `iptables`): everything is said to the kernel in netlink messages, so a
//! bare host will do.

mod dns;
mod error;
mod lease;
mod link;
mod masquerade;
mod netlink;
mod proxy;
mod service;

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use model::{CellId, CellName, NetStack, Network};
use serde::{Deserialize, Serialize};

pub use error::{Error, Result};
pub use service::Service;

use lease::{Lease, NetworkDir};

/// The networks of one home.
#[derive(Clone, Debug)]
pub struct Net {
    dir: PathBuf,
}

/// A cell's place in a network. Kept in the cell's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// The network's name.
    pub network: String,
    /// The cell's address.
    pub address: Ipv4Addr,
    /// Length of the subnet's prefix.
    pub prefix: u8,
    /// The bridge's address: the cell's way out.
    pub gateway: Ipv4Addr,
    /// The host's end of the cell's link.
    pub interface: String,
    /// What could not be had: an outward route, say.
    pub degraded: Vec<model::Degraded>,
}

/// Bytes that went over a cell's link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Into the cell.
    pub received: u64,
    /// Out of the cell.
    pub sent: u64,
}

/// A cell's link, in the hands of who makes a network of it.
#[derive(Debug)]
pub struct Link {
    /// A packet socket that is bound to it.
    pub socket: OwnedFd,
    /// The hardware's address.
    pub hardware: [u8; 6],
    /// The cell's address.
    pub address: Ipv4Addr,
    /// Length of the subnet's prefix.
    pub prefix: u8,
    /// The bridge's address: the way out.
    pub gateway: Ipv4Addr,
}

impl Link {
    /// The length of what describes one.
    pub const RECORD: usize = 15;

    /// All of it but the socket, as bytes.
    pub fn record(&self) -> [u8; Self::RECORD] {
        let mut record = [0; Self::RECORD];
        record[..6].copy_from_slice(&self.hardware);
        record[6..10].copy_from_slice(&self.address.octets());
        record[10..14].copy_from_slice(&self.gateway.octets());
        record[14] = self.prefix;
        record
    }

    /// From those bytes.
    pub fn of(socket: OwnedFd, record: [u8; Self::RECORD]) -> Self {
        let [h0, h1, h2, h3, h4, h5, a0, a1, a2, a3, g0, g1, g2, g3, prefix] = record;
        let (address, gateway) = (Ipv4Addr::new(a0, a1, a2, a3), Ipv4Addr::new(g0, g1, g2, g3));
        Self { socket, hardware: [h0, h1, h2, h3, h4, h5], address, prefix, gateway }
    }
}

/// Where a cell finds its resolver, which its supervisor serves inside the cell's own network namespace.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

impl Net {
    /// The networks kept in `dir`, which is made when it is not there.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        std::fs::create_dir_all(&dir).map_err(|e| Error::at("making", &dir, e))?;
        Ok(Self { dir })
    }

    /// Gives the network namespace of a cell a link to the network that its mode names, if it names one. The namespace must be
    /// fresh. The kernel in there gets the address, unless the cell has a stack of its own.
    pub fn attach(
        &self,
        id: CellId,
        name: &CellName,
        network: &Network,
        netns: BorrowedFd<'_>,
    ) -> Result<Option<Attachment>> {
        let stack = network.stack;
        let Some(network) = network.mode.network() else { return Ok(None) };
        let network = NetworkDir::lock(&self.dir, network)?;
        let lease = network.lease(id, name)?;
        match self.connect(&network, &lease, netns, stack) {
            Ok(degraded) => Ok(Some(lease.attachment(degraded))),
            Err(error) => {
                let _ = network.release(id);
                Err(error)
            }
        }
    }

    fn connect(
        &self,
        network: &NetworkDir,
        lease: &Lease,
        netns: BorrowedFd<'_>,
        stack: NetStack,
    ) -> Result<Vec<model::Degraded>> {
        let subnet = network.subnet()?;
        let mut route = netlink::Route::open()?;
        let mut degraded = Vec::new();
        let bridge = match route.index_of(&subnet.bridge)? {
            Some(index) => index,
            None => {
                let index = link::make_bridge(&mut route, &subnet)?;
                if let Err(error) = masquerade::forward_packets().and_then(|()| masquerade::install(&subnet)) {
                    degraded.push(model::Degraded { what: "outward connections".to_owned(), why: error.to_string() });
                }
                index
            }
        };
        link::make_pair(&mut route, &lease.interface, bridge, netns)?;
        netlink::inside(netns, || match stack {
            NetStack::Host => link::configure_inside(lease.address, &subnet),
            NetStack::Guest => link::leave_inside(),
        })?;
        Ok(degraded)
    }

    /// Takes a cell out of whatever network it is in; nothing to do is no failure. Its link goes with its namespace.
    pub fn detach(&self, id: CellId) -> Result<()> {
        for name in lease::network_names(&self.dir)? {
            // Look before locking: most cells are in no other network.
            if lease::has_lease(&self.dir, &name, id) {
                NetworkDir::lock(&self.dir, &name)?.release(id)?;
            }
        }
        Ok(())
    }

    /// Removes the networks that no cell is in.
    pub fn dissolve_idle(&self) -> Result<()> {
        lease::network_names(&self.dir)?
            .iter()
            .try_for_each(|name| dissolve_if_idle(&NetworkDir::lock(&self.dir, name)?))
    }

    /// Waits a moment and then removes the networks that no cell is in: cells that follow each other closely find their
    /// network standing. One process at a time does this for all; the others return at once.
    pub fn linger(&self) -> Result<()> {
        const MOMENT: std::time::Duration = std::time::Duration::from_secs(2);
        let idle = || -> Result<Vec<lease::Subnet>> {
            let names = lease::network_names(&self.dir)?.into_iter();
            let idle = names.filter(|name| lease::leases_of(&self.dir, name).is_ok_and(|it| it.is_empty()));
            Ok(idle.filter_map(|name| lease::subnet_of(&self.dir, &name)).collect())
        };
        // Asked again after the right was given back: somebody may have left a network idle in reliance on it.
        loop {
            let waiting = idle()?;
            if waiting.is_empty() {
                return Ok(());
            }
            let Some(_only_one) = lease::try_linger(&self.dir)? else { return Ok(()) };
            std::thread::sleep(MOMENT);
            if !self.dir.exists() {
                // Somebody deleted the whole home; what it had in the kernel is known to this process alone.
                return waiting.iter().try_for_each(take_down);
            }
            self.dissolve_idle()?;
        }
    }

    /// The name service and the published ports of an attached cell. Ports are open when this returns.
    pub fn service(&self, attachment: &Attachment, network: &Network, netns: BorrowedFd<'_>) -> Result<Service> {
        Service::open(self.dir.clone(), attachment, network, netns.as_fd())
    }

    /// The link of a cell that makes a network of it by itself. The kernel in its namespace has no address on it.
    pub fn link(&self, attachment: &Attachment, netns: BorrowedFd<'_>) -> Result<Link> {
        let (socket, hardware) = netlink::inside(netns, link::open_inside)?;
        let Attachment { address, prefix, gateway, .. } = *attachment;
        Ok(Link { socket, hardware, address, prefix, gateway })
    }

    /// A cell has another name now; its neighbours shall find it by that one.
    pub fn rename(&self, id: CellId, name: &CellName) -> Result<()> {
        for network in lease::network_names(&self.dir)? {
            if lease::has_lease(&self.dir, &network, id) {
                NetworkDir::lock(&self.dir, &network)?.rename(id, name)?;
            }
        }
        Ok(())
    }
}

fn dissolve_if_idle(network: &NetworkDir) -> Result<()> {
    if !network.leases()?.is_empty() {
        return Ok(());
    }
    take_down(&network.subnet()?)?;
    network.dissolve()
}

/// Removes what a network has in the kernel.
fn take_down(subnet: &lease::Subnet) -> Result<()> {
    let _ = masquerade::remove(subnet);
    link::remove(&mut netlink::Route::open()?, &subnet.bridge)
}

impl Attachment {
    /// What went over the cell's link so far. A link that is gone has none.
    pub fn traffic(&self) -> Option<Traffic> {
        let counter = |name: &str| {
            let path = format!("/sys/class/net/{}/statistics/{name}", self.interface);
            std::fs::read_to_string(path).ok()?.trim().parse().ok()
        };
        // What the host's end sends, the cell receives.
        Some(Traffic { received: counter("tx_bytes")?, sent: counter("rx_bytes")? })
    }

    /// The cell's `/etc/hosts`.
    pub fn hosts(&self, hostname: &str, name: &CellName) -> String {
        format!(
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{}\t{hostname}{}\n",
            self.address,
            if hostname == name.as_str() { String::new() } else { format!(" {name}") },
        )
    }

    /// The cell's `/etc/resolv.conf`: our resolver, with the host's search list.
    pub fn resolv_conf(host: &str, resolver: Ipv4Addr) -> String {
        let kept = host.lines().filter(|line| line.starts_with("search ") || line.starts_with("domain "));
        let mut text = format!("nameserver {resolver}\noptions ndots:0\n");
        kept.for_each(|line| text.extend([line, "\n"]));
        text
    }
}
