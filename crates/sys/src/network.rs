//! The one thing that a new network namespace needs before anything else: its loopback interface.

#![expect(unsafe_code, reason = "interface flags are set by an ioctl on a raw structure")]

use std::os::fd::AsRawFd;

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
