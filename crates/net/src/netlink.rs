//! Netlink: messages to the kernel's routing and packet-filter subsystems, encoded here and sent one request at a time.
//!
//! Formats: `netlink(7)`, `rtnetlink(7)`. A message is a 16-byte header, a fixed part that depends on its type, and
//! attributes of type, length and value, each padded to four bytes, which may nest.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::thread::LinkNameSpaceType;

use crate::error::{Error, Result};

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
const NLA_F_NESTED: u16 = 0x8000;

/// A message under construction.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A request of that type with its fixed part.
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(fixed);
        let mut message = Self { bytes };
        message.pad();
        message
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.bytes.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// A name, with the NUL that the kernel wants.
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// An attribute that holds the attributes which `fill` adds, after `fixed`.
    pub(crate) fn nested(mut self, kind: u16, fixed: &[u8], fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        self.bytes.extend_from_slice(fixed);
        self.pad();
        let mut message = fill(self);
        let length = (message.bytes.len() - start) as u16;
        message.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        message
    }

    pub(crate) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// A conversation with one of the kernel's subsystems.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// The routing subsystem of the network namespace in which it was opened.
pub(crate) struct Route(pub(crate) Netlink);

/// One message of an answer: its type and what follows the header.
pub(crate) struct Reply {
    pub(crate) kind: u16,
    pub(crate) body: Vec<u8>,
}

impl Netlink {
    fn open(protocol: Option<rustix::net::Protocol>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    pub(crate) fn open_filter() -> io::Result<Self> {
        Self::open(Some(NETFILTER))
    }

    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.sequence += 1;
        self.sequence
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let kernel = SocketAddrNetlink::new(0, 0);
        let sent = rustix::net::sendto(&self.socket, bytes, SendFlags::empty(), &kernel)?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Reads answers until the acknowledgement of `sequence`; the kernel's refusal is an error.
    pub(crate) fn receive_until(&mut self, sequence: u32) -> io::Result<Vec<Reply>> {
        let mut replies = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let (_, count) = rustix::io::retry_on_intr(|| {
                rustix::net::recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty())
            })?;
            let mut rest = buffer.get(..count).unwrap_or_default();
            while let Some((kind, number, body, after)) = split_message(rest) {
                rest = after;
                match kind {
                    NLMSG_ERROR => {
                        let code = body.first_chunk().map_or(0, |it| i32::from_ne_bytes(*it));
                        if code != 0 {
                            return Err(io::Error::from_raw_os_error(-code));
                        }
                        if number == sequence {
                            return Ok(replies);
                        }
                    }
                    NLMSG_DONE if number == sequence => return Ok(replies),
                    _ if number == sequence => replies.push(Reply { kind, body: body.to_vec() }),
                    _ => {}
                }
            }
        }
    }

    pub(crate) fn request(&mut self, message: Message) -> io::Result<Vec<Reply>> {
        let sequence = self.next_sequence();
        self.send(&message.finish(sequence))?;
        self.receive_until(sequence)
    }
}

/// The first message of what was read: type, sequence number, body, and what follows it.
fn split_message(bytes: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let message = bytes.get(..length).filter(|it| it.len() >= HEADER)?;
    let kind = u16::from_ne_bytes([message[4], message[5]]);
    let sequence = u32::from_ne_bytes([message[8], message[9], message[10], message[11]]);
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, sequence, &message[HEADER..], after))
}

/// The attributes in `bytes`: type and value of each, as far as they are whole.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let attribute = bytes.get(..length).filter(|it| it.len() >= 4)?;
        let kind = u16::from_ne_bytes([attribute[2], attribute[3]]) & !NLA_F_NESTED;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, &attribute[4..]))
    })
}

impl Route {
    pub(crate) fn open() -> Result<Self> {
        // NETLINK_ROUTE is protocol 0, the default.
        Netlink::open(None).map(Self).map_err(|e| Error::kernel("opening a routing socket", e))
    }

    /// Makes a change.
    pub(crate) fn change(&mut self, doing: impl FnOnce() -> String, message: Message) -> Result<()> {
        self.0.request(message).map(drop).map_err(|e| Error::kernel(doing(), e))
    }
}

/// Does something in another network namespace and comes back. Only this thread is moved, and it comes back in any case;
/// should the kernel refuse the way back, the process ends rather than go on in the wrong place.
pub(crate) fn inside<T>(netns: BorrowedFd<'_>, action: impl FnOnce() -> Result<T>) -> Result<T> {
    let failed = |e: rustix::io::Errno| Error::kernel("entering the cell's network namespace", e);
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let home = rustix::fs::open("/proc/thread-self/ns/net", flags, rustix::fs::Mode::empty()).map_err(failed)?;
    rustix::thread::move_into_link_name_space(netns, Some(LinkNameSpaceType::Network)).map_err(failed)?;
    let outcome = action();
    if rustix::thread::move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network)).is_err() {
        std::process::abort();
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_nest_and_pad() {
        let message = Message::new(7, NLM_F_ACK, &[1, 2, 3]).text(1, "ab").nested(2, &[], |it| it.attribute(3, &[9]));
        let bytes = message.finish(5);
        let (kind, sequence, body, rest) = split_message(&bytes).unwrap();
        assert_eq!((kind, sequence, rest.len()), (7, 5, 0));
        let outer: Vec<_> = attributes(&body[4..]).collect();
        assert_eq!(outer[0], (1, b"ab\0".as_slice()));
        assert_eq!(outer[1].0, 2);
        assert_eq!(attributes(outer[1].1).collect::<Vec<_>>(), [(3, [9].as_slice())]);
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_parse_to_something(bytes: Vec<u8>) {
            let _ = split_message(&bytes);
            proptest::prop_assert!(attributes(&bytes).count() <= bytes.len() / 4 + 1);
        }
    }
}
