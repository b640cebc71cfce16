//! What the kernel says of networks in raw structures: that the loopback interface of a new namespace is up, and that a socket
//! is a link's.

#![expect(unsafe_code, reason = "interface flags and a link's address are raw structures")]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::{Result, check};

/// The kernel's `ifreq` with its union as flags.
#[repr(C)]
struct InterfaceFlags {
    name: [u8; libc::IFNAMSIZ],
    flags: i16,
    rest: [u8; 22],
}

/// Brings the loopback interface of the calling thread's network namespace up. Fork-safe.
pub fn bring_loopback_up() -> Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut name = [0; libc::IFNAMSIZ];
    if let Some(start) = name.get_mut(..2) {
        start.copy_from_slice(b"lo");
    }
    let request = InterfaceFlags { name, flags: (libc::IFF_UP | libc::IFF_RUNNING) as i16, rest: [0; 22] };
    // SAFETY: the request is as large as the kernel's `ifreq` and names an interface by a terminated string.
    check(unsafe { libc::syscall(libc::SYS_ioctl, socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })
        .map(drop)
}

/// A socket over which a link's frames go, and come but for those that it sent itself. Takes the right to open raw sockets in
/// the calling thread's network namespace.
pub fn link_socket(index: u32) -> Result<OwnedFd> {
    /// Room for what comes while nobody looks.
    const ROOM: i32 = 4 << 20;
    let everything = (libc::ETH_P_ALL as u16).to_be();
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // Of no protocol at first: nothing comes before it is bound to the link.
    // SAFETY: no pointers.
    let fd = check(unsafe { libc::syscall(libc::SYS_socket, libc::AF_PACKET, kind, 0) })?;
    // SAFETY: a new descriptor, which nobody else knows of.
    let socket = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let number = |level: i32, option: i32, value: i32| {
        let (at, size) = (&raw const value, size_of::<i32>());
        // SAFETY: the option is a number, of that size.
        check(unsafe { libc::syscall(libc::SYS_setsockopt, socket.as_raw_fd(), level, option, at, size) })
    };
    number(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
    // Less than wished does as well.
    let _ = number(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, ROOM);
    // SAFETY: numbers, all of which may be zero.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = everything;
    address.sll_ifindex = index as i32;
    let (at, size) = (&raw const address, size_of::<libc::sockaddr_ll>());
    // SAFETY: an address of that size.
    check(unsafe { libc::syscall(libc::SYS_bind, socket.as_raw_fd(), at, size) })?;
    Ok(socket)
}
