//! The engine without a virtual machine: members are processes of the host, made from the library operating system's own
//! file, and confined by themselves before they load a program.

use std::ffi::CString;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType};
use rustix::process::Pid;
use sys::capability::CapabilitySet;
use sys::exec::StringArray;
use sys::fork;
use sys::signal::SignalSet;

use crate::error::{Error, Result};
use crate::port::Mapped;

/// The program of every member.
pub(crate) static LIBOS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libos"));

/// Where a member finds its port and its socket: the guest knows these numbers.
const PORT: i32 = 3;
const SOCKET: i32 = 4;

/// A socket over which descriptors go to a member.
pub(crate) fn socket_pair() -> Result<(OwnedFd, OwnedFd)> {
    let host = Error::host("making a guest's socket");
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(&host)?;
    rustix::net::sockopt::set_socket_passcred(&ours, true).map_err(&host)?;
    Ok((ours, theirs))
}

/// Starts the first member. Gives its process.
pub(crate) fn spawn(port: &Mapped, socket: &OwnedFd) -> Result<Pid> {
    let host = Error::host("starting the library operating system");
    let file = memfd_create("libos", MemfdFlags::CLOEXEC).map_err(&host)?;
    let mut rest = LIBOS;
    while !rest.is_empty() {
        let written = rustix::io::write(&file, rest).map_err(&host)?;
        rest = &rest[written..];
    }
    let name = StringArray::new(vec![CString::from(c"libos")]);
    let nothing = StringArray::new(Vec::new());
    let child = fork::spawn_to_exec(None, || {
        // It needs none: what it uses is opened and lent to it.
        match sys::capability::set(CapabilitySet(0))
            .and_then(|()| keep_signals_away())
            .and_then(|()| take_places(port.file().as_fd(), socket.as_fd()))
            .and_then(|()| sys::exec::execve_file(file.as_fd(), &name, &nothing))
        {
            Ok(never) => match never {},
            Err(_) => 126,
        }
    })
    .map_err(&host)?;
    Pid::from_raw(child.pid as i32).ok_or_else(|| host(sys::Errno::SRCH))
}

/// Those that are for the guest come by its port. What is left are the processor's, and the tender's tap. Fork-safe.
fn keep_signals_away() -> sys::Result<()> {
    const SIGURG: i32 = 23;
    let taken = [libc::SIGILL, libc::SIGTRAP, libc::SIGBUS, libc::SIGFPE, libc::SIGSEGV, libc::SIGSYS, SIGURG];
    sys::signal::reset_handlers();
    sys::signal::block(SignalSet::all_but(&taken)).map(drop)
}

/// Leaves the child those two descriptors, and standard ones that lead nowhere. Fork-safe.
fn take_places(port: BorrowedFd<'_>, socket: BorrowedFd<'_>) -> sys::Result<()> {
    sys::exec::place_descriptors([(port, PORT), (socket, SOCKET)])
}

/// Receives the word of a new member that it is there, and which process it is, as the kernel says. Nothing when it never
/// came to be.
pub(crate) fn receive_word(socket: &OwnedFd) -> Option<Pid> {
    let mut byte = [0; 1];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let parts = &mut [IoSliceMut::new(&mut byte)];
    let received = rustix::net::recvmsg(socket, parts, &mut control, RecvFlags::empty()).ok()?;
    if received.bytes != 1 {
        return None;
    }
    control.drain().find_map(|it| match it {
        RecvAncillaryMessage::ScmCredentials(who) => Some(who.pid),
        _ => None,
    })
}

/// Sends a member descriptors.
pub(crate) fn send(socket: &OwnedFd, descriptors: &[BorrowedFd<'_>]) -> std::result::Result<(), sys::Errno> {
    sys::socket::send(socket, b"!", descriptors)
}
