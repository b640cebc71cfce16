//! Interfaces, addresses and routes.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use crate::error::{Error, Result};
use crate::lease::Subnet;
use crate::netlink::{Message, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Route, attributes};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const IFF_UP: u32 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u16 = 10;
/// The loopback interface is the first of every namespace.
const LOOPBACK: u32 = 1;

/// `struct ifinfomsg`: an interface by index (0: by name), with the flags to set.
fn interface(index: u32, flags: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

impl Route {
    /// The index of the interface by that name, if there is one.
    pub(crate) fn index_of(&mut self, name: &str) -> Result<Option<u32>> {
        let request = Message::new(RTM_GETLINK, NLM_F_ACK, &interface(0, 0)).text(IFLA_IFNAME, name);
        match self.0.request(request) {
            Ok(replies) => {
                let body = replies.first().map(|it| it.body.as_slice()).unwrap_or_default();
                Ok(body.get(4..8).and_then(|it| it.first_chunk()).map(|it| u32::from_ne_bytes(*it)))
            }
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => Ok(None),
            Err(e) => Err(Error::kernel(format!("looking for interface {name}"), e)),
        }
    }

    /// The index of a cell's link, and its hardware's address.
    fn ethernet(&mut self) -> Result<(u32, [u8; 6])> {
        const FIXED: usize = 16;
        let doing = "looking for eth0";
        let request = Message::new(RTM_GETLINK, NLM_F_ACK, &interface(0, 0)).text(IFLA_IFNAME, "eth0");
        let replies = self.0.request(request).map_err(|e| Error::kernel(doing, e))?;
        let found = || {
            let body = replies.first()?.body.as_slice();
            let index = u32::from_ne_bytes(*body.get(4..8)?.first_chunk()?);
            let hardware = attributes(body.get(FIXED..)?).find(|it| it.0 == IFLA_ADDRESS)?.1;
            Some((index, *hardware.first_chunk()?))
        };
        found().ok_or_else(|| Error::kernel(doing, std::io::Error::from(std::io::ErrorKind::NotFound)))
    }

    /// Has IPv6 give an interface no address. A kernel without IPv6 gives none in any case.
    fn stay_silent(&mut self, index: u32) -> Result<()> {
        const NONE: u8 = 1;
        let message = Message::new(RTM_NEWLINK, NLM_F_ACK, &interface(index, 0)).nested(IFLA_AF_SPEC, &[], |all| {
            all.nested(AF_INET6, &[], |it| it.attribute(IFLA_INET6_ADDR_GEN_MODE, &[NONE]))
        });
        match self.0.request(message) {
            Err(e) if e.raw_os_error() != Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) => {
                Err(Error::kernel("keeping an interface without an address", e))
            }
            _ => Ok(()),
        }
    }

    fn address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> Result<()> {
        // struct ifaddrmsg: family, prefix length, flags, scope, index.
        let mut fixed = [AF_INET, prefix, 0, 0, 0, 0, 0, 0];
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        let message = Message::new(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &fixed)
            .attribute(IFA_LOCAL, &address.octets())
            .attribute(IFA_ADDRESS, &address.octets());
        self.change(|| format!("giving an interface the address {address}"), message)
    }

    fn raise(&mut self, index: u32) -> Result<()> {
        let message = Message::new(RTM_NEWLINK, NLM_F_ACK, &interface(index, IFF_UP));
        self.change(|| "bringing up an interface".to_owned(), message)
    }

    fn default_route(&mut self, gateway: Ipv4Addr) -> Result<()> {
        const MAIN_TABLE: u8 = 254;
        const BOOT: u8 = 3;
        const UNICAST: u8 = 1;
        // struct rtmsg: family, destination and source length, tos, table, protocol, scope, type, flags.
        let fixed = [AF_INET, 0, 0, 0, MAIN_TABLE, BOOT, 0, UNICAST, 0, 0, 0, 0];
        let message = Message::new(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &fixed)
            .attribute(RTA_GATEWAY, &gateway.octets());
        self.change(|| "setting the default route".to_owned(), message)
    }

    /// The destinations of the host's own routes, default routes left out: address and prefix length.
    pub(crate) fn destinations(&mut self) -> Result<Vec<(Ipv4Addr, u8)>> {
        let fixed = [AF_INET, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let replies = self
            .0
            .request(Message::new(RTM_GETROUTE, NLM_F_DUMP, &fixed))
            .map_err(|e| Error::kernel("reading the host's routes", e))?;
        let parse = |body: &[u8]| {
            let (fixed, rest) = body.split_at_checked(12)?;
            let attribute = |kind| attributes(rest).find(|(it, _)| *it == kind).map(|(_, value)| value);
            let destination: [u8; 4] = attribute(RTA_DST)?.try_into().ok()?;
            attribute(RTA_OIF)?;
            Some((Ipv4Addr::from(destination), fixed[1]))
        };
        Ok(replies.iter().filter(|it| it.kind == RTM_NEWROUTE).filter_map(|it| parse(&it.body)).collect())
    }
}

/// Makes a network's bridge, with its address, and brings it up; gives its index.
pub(crate) fn make_bridge(route: &mut Route, subnet: &Subnet) -> Result<u32> {
    let name = subnet.bridge.as_str();
    let message = Message::new(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &interface(0, IFF_UP))
        .text(IFLA_IFNAME, name)
        .nested(IFLA_LINKINFO, &[], |it| it.text(IFLA_INFO_KIND, "bridge"));
    route.change(|| format!("making bridge {name}"), message)?;
    let missing = || Error::kernel(format!("making bridge {name}"), std::io::Error::from(std::io::ErrorKind::NotFound));
    let index = route.index_of(name)?.ok_or_else(missing)?;
    route.address(index, subnet.gateway(), subnet.prefix)?;
    Ok(index)
}

/// Makes a link between the bridge and the namespace, in which it is called `eth0`. A link of that name that is there
/// already is that of an earlier run of the cell, whose namespace the kernel has not taken apart yet.
pub(crate) fn make_pair(route: &mut Route, name: &str, bridge: u32, netns: BorrowedFd<'_>) -> Result<()> {
    let exists = |error: &Error| matches!(error, Error::Kernel { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists);
    match try_make_pair(route, name, bridge, netns) {
        Err(error) if exists(&error) => {
            remove(route, name)?;
            try_make_pair(route, name, bridge, netns)
        }
        outcome => outcome,
    }
}

fn try_make_pair(route: &mut Route, name: &str, bridge: u32, netns: BorrowedFd<'_>) -> Result<()> {
    let message = Message::new(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &interface(0, IFF_UP))
        .text(IFLA_IFNAME, name)
        .attribute(IFLA_MASTER, &bridge.to_ne_bytes())
        .nested(IFLA_LINKINFO, &[], |info| {
            info.text(IFLA_INFO_KIND, "veth").nested(IFLA_INFO_DATA, &[], |data| {
                data.nested(VETH_INFO_PEER, &interface(0, 0), |peer| {
                    let netns = netns.as_raw_fd().to_ne_bytes();
                    peer.text(IFLA_IFNAME, "eth0").attribute(IFLA_NET_NS_FD, &netns)
                })
            })
        });
    route.change(|| format!("making link {name}"), message)
}

/// Addresses and routes of a cell; to be called inside its namespace.
pub(crate) fn configure_inside(address: Ipv4Addr, subnet: &Subnet) -> Result<()> {
    let mut route = Route::open()?;
    // The cell's own first process raises it, too, at the same time as this: the resolver must not depend on who is first.
    route.raise(LOOPBACK)?;
    let missing = || Error::kernel("looking for eth0", std::io::Error::from(std::io::ErrorKind::NotFound));
    let index = route.index_of("eth0")?.ok_or_else(missing)?;
    route.address(index, address, subnet.prefix)?;
    route.raise(index)?;
    route.default_route(subnet.gateway())
}

/// A link that the kernel in a cell's namespace makes nothing of: it is up, and has no address, not even one that IPv6 gives
/// itself. To be called inside the namespace.
pub(crate) fn leave_inside() -> Result<()> {
    let mut route = Route::open()?;
    route.raise(LOOPBACK)?;
    let (index, _) = route.ethernet()?;
    route.stay_silent(index)?;
    route.raise(index)
}

/// A packet socket of the link, and its hardware's address. To be called inside the namespace.
pub(crate) fn open_inside() -> Result<(OwnedFd, [u8; 6])> {
    let (index, hardware) = Route::open()?.ethernet()?;
    let socket = sys::network::link_socket(index).map_err(|e| Error::kernel("opening the cell's link", e))?;
    Ok((socket, hardware))
}

/// Removes an interface; one that is not there is no failure.
pub(crate) fn remove(route: &mut Route, name: &str) -> Result<()> {
    let message = Message::new(RTM_DELLINK, NLM_F_ACK, &interface(0, 0)).text(IFLA_IFNAME, name);
    match route.0.request(message) {
        Ok(_) => Ok(()),
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => Ok(()),
        Err(e) => Err(Error::kernel(format!("removing interface {name}"), e)),
    }
}
