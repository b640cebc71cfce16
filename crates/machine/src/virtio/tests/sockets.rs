//! Sockets between a guest and its host, as a guest's driver has them.

use std::os::unix::net::UnixListener;

use super::*;
use crate::virtio::vsock::{Sockets, Vsock};

const GUEST: u64 = 3;
const HOST: u64 = 2;
const REQUEST: u16 = 1;
const RESPONSE: u16 = 2;
const RESET: u16 = 3;
const SHUTDOWN: u16 = 4;
const DATA: u16 = 5;
const CREDIT_UPDATE: u16 = 6;
/// What a guest says that it has room for.
const ROOM: u32 = 1000;

/// A driver, and where its host's programs are.
struct Guest {
    driver: Driver,
    directory: tempfile::TempDir,
    /// Packets that it has read.
    read: u16,
}

/// A packet, from the one to the other end: what it does, its ports, its flags, what is behind it.
#[derive(Debug, PartialEq, Eq)]
struct Packet {
    operation: u16,
    from: u32,
    to: u32,
    flags: u32,
    bytes: Vec<u8>,
}

pub(super) fn device(directory: &Path) -> Box<dyn Device> {
    let listener = UnixListener::bind(directory.join("v")).ok().map(Into::into);
    let directory = File::open(directory).unwrap().into();
    Box::new(Vsock::new(Sockets { address: GUEST as u32, listener, directory, name: "v".into() }).unwrap())
}

impl Guest {
    fn new() -> Guest {
        let directory = tempfile::tempdir().unwrap();
        let mut driver = Driver::new(device(directory.path()));
        assert_eq!((driver.get(8), driver.slot.read(0x100, 8)), (19, GUEST));
        // Some room, all of it in one place: each packet is read before the next comes.
        driver.describe(0, 0, REQUESTS, 4096 | WRITE);
        Guest { driver, directory, read: 0 }
    }

    fn send(&mut self, packet: &Packet, passed: u32) {
        let mut bytes = [GUEST.to_le_bytes(), HOST.to_le_bytes()].concat();
        for number in [packet.from, packet.to, packet.bytes.len() as u32] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(1u16.to_le_bytes());
        bytes.extend(packet.operation.to_le_bytes());
        for number in [packet.flags, ROOM, passed] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(&packet.bytes);
        self.driver.ask(1, &bytes, 0).expect("it is heard");
    }

    fn say(&mut self, operation: u16, from: u32, to: u32, bytes: &[u8]) {
        self.send(&Packet { operation, from, to, flags: 0, bytes: bytes.to_vec() }, 0);
    }

    /// The next packet, for which room is made. Nothing if none comes.
    fn next(&mut self) -> Option<Packet> {
        if self.driver.given[0] == self.read {
            self.driver.notify(0, 0);
        }
        self.driver.slot.ready();
        let bytes = self.driver.written(0, REQUESTS)?;
        self.read += 1;
        let number = |at: usize, size: usize| {
            bytes[at..at + size].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
        };
        assert_eq!((number(0, 8), number(8, 8), number(28, 2)), (HOST, GUEST, 1));
        assert_eq!(number(24, 4) as usize, bytes.len() - 44);
        Some(Packet {
            operation: number(30, 2) as u16,
            from: number(16, 4) as u32,
            to: number(20, 4) as u32,
            flags: number(32, 4) as u32,
            bytes: bytes[44..].to_vec(),
        })
    }

    fn hears(&mut self, operation: u16, from: u32, to: u32, bytes: &[u8]) {
        let packet = self.next().unwrap_or_else(|| panic!("{operation} is to come"));
        assert_eq!((packet.operation, packet.from, packet.to), (operation, from, to));
        assert!(packet.bytes == bytes, "{} bytes, not {}", packet.bytes.len(), bytes.len());
    }

    /// Somebody of the host's at the guest's port, and the host's port.
    fn called(&mut self, port: u32) -> (UnixStream, u32) {
        let mut caller = UnixStream::connect(self.directory.path().join("v")).unwrap();
        caller.write_all(format!("CONNECT {port}\nearly").as_bytes()).unwrap();
        let packet = self.next().expect("a call");
        assert_eq!((packet.operation, packet.to), (REQUEST, port));
        (caller, packet.from)
    }
}

#[test]
fn a_host_calls_a_guest() {
    let mut guest = Guest::new();
    let (mut caller, port) = guest.called(52);
    assert_eq!(guest.next(), None, "nothing before the guest has answered");
    guest.say(RESPONSE, 52, port, &[]);
    guest.hears(DATA, port, 52, b"early");
    let mut line = vec![0; format!("OK {port}\n").len()];
    caller.read_exact(&mut line).unwrap();
    assert_eq!(line, format!("OK {port}\n").into_bytes());
    guest.say(DATA, 52, port, b"hello");
    let mut bytes = [0; 5];
    caller.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    // The guest has room for so much, and says when it has more.
    caller.write_all(&[7; 3 * ROOM as usize]).unwrap();
    guest.hears(DATA, port, 52, &[7; ROOM as usize - 5]);
    assert_eq!(guest.next(), None);
    guest.send(&Packet { operation: CREDIT_UPDATE, from: 52, to: port, flags: 0, bytes: vec![] }, ROOM);
    guest.hears(DATA, port, 52, &[7; ROOM as usize]);
    guest.send(&Packet { operation: CREDIT_UPDATE, from: 52, to: port, flags: 0, bytes: vec![] }, 2 * ROOM);
    guest.hears(DATA, port, 52, &[7; ROOM as usize]);
    // Whoever has said all he has to say still hears.
    caller.shutdown(std::net::Shutdown::Write).unwrap();
    guest.send(&Packet { operation: CREDIT_UPDATE, from: 52, to: port, flags: 0, bytes: vec![] }, 3 * ROOM);
    guest.hears(DATA, port, 52, &[7; 5]);
    let end = guest.next().unwrap();
    assert_eq!((end.operation, end.flags), (SHUTDOWN, 2));
    guest.say(DATA, 52, port, b"bye");
    guest.send(&Packet { operation: SHUTDOWN, from: 52, to: port, flags: 3, bytes: vec![] }, 0);
    guest.hears(RESET, port, 52, &[]);
    let mut rest = String::new();
    caller.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "bye");
    guest.say(DATA, 52, port, b"after that");
    guest.hears(RESET, port, 52, &[]);
}

#[test]
fn a_guest_calls_a_host() {
    let mut guest = Guest::new();
    guest.say(REQUEST, 1000, 80, &[]);
    guest.hears(RESET, 80, 1000, &[]);
    let listener = UnixListener::bind(guest.directory.path().join("v_80")).unwrap();
    guest.say(REQUEST, 1000, 80, &[]);
    guest.hears(RESPONSE, 80, 1000, &[]);
    let (mut host, _) = listener.accept().unwrap();
    guest.say(DATA, 1000, 80, b"question");
    let mut bytes = [0; 8];
    host.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"question");
    host.write_all(b"answer").unwrap();
    guest.hears(DATA, 80, 1000, b"answer");
    // A host that does not read: the guest is told of no more room, and loses its connection if it sends more than that.
    let piece = [3; 16 << 10];
    let mut sent = 0;
    let lost = loop {
        guest.say(DATA, 1000, 80, &piece);
        sent += piece.len();
        match guest.next() {
            None | Some(Packet { operation: CREDIT_UPDATE, .. }) => assert!(sent < 16 << 20, "nobody keeps so much"),
            Some(packet) => break packet,
        }
    };
    assert_eq!(lost.operation, RESET);
    guest.say(REQUEST, 1000, 80, &[]);
    guest.hears(RESPONSE, 80, 1000, &[]);
    // The second end of it.
    drop(listener.accept().unwrap());
    let end = guest.next().unwrap();
    assert!([SHUTDOWN, RESET].contains(&end.operation));
}

#[test]
fn who_says_nonsense_is_not_connected() {
    let mut guest = Guest::new();
    for line in ["CONNECT\n", "CONNECT x\n", "GET / HTTP/1.1\r\n", "CONNECT 99999999999\n", &"x".repeat(40)] {
        let mut caller = UnixStream::connect(guest.directory.path().join("v")).unwrap();
        caller.write_all(line.as_bytes()).unwrap();
        assert_eq!(guest.next(), None, "{line}");
        // What was sent and not read is why this may be an error.
        let mut rest = Vec::new();
        let _ = caller.read_to_end(&mut rest);
        assert!(rest.is_empty());
    }
    // A line that comes in two pieces.
    let mut caller = UnixStream::connect(guest.directory.path().join("v")).unwrap();
    caller.write_all(b"CONNECT 1").unwrap();
    assert_eq!(guest.next(), None);
    caller.write_all(b"2\n").unwrap();
    assert_eq!(guest.next().unwrap().to, 12);
}

#[test]
fn a_copy_is_told_that_its_connections_are_gone() {
    let mut guest = Guest::new();
    let (caller, port) = guest.called(5);
    guest.say(RESPONSE, 5, port, &[]);
    guest.hears(DATA, port, 5, b"early");
    let elsewhere = tempfile::tempdir().unwrap();
    let driver = guest.driver.copy(device(elsewhere.path()));
    let mut copy = Guest { driver, directory: elsewhere, read: guest.read };
    copy.driver.slot.ready();
    assert_eq!(copy.driver.ask(2, &[], 4).unwrap(), [0, 0, 0, 0]);
    copy.say(DATA, 5, port, b"to nobody");
    copy.hears(RESET, port, 5, &[]);
    // The first has its own still.
    guest.say(DATA, 5, port, b"x");
    let mut bytes = vec![0; format!("OK {port}\nx").len()];
    (&caller).read_exact(&mut bytes).unwrap();
    assert_eq!(bytes.last(), Some(&b'x'));
}

#[test]
fn a_guest_that_hears_nothing_is_not_heard() {
    let mut guest = Guest::new();
    let packets = |guest: &Guest| guest.driver.used(1).0;
    let header = |operation: u16| {
        let mut bytes = [GUEST.to_le_bytes(), HOST.to_le_bytes()].concat();
        bytes.extend([9u32, 9, 0].iter().flat_map(|it| it.to_le_bytes()));
        bytes.extend([1u16, operation].iter().flat_map(|it| it.to_le_bytes()));
        bytes.extend([0; 12]);
        bytes
    };
    let asked = (0..200).take_while(|_| guest.driver.ask(1, &header(REQUEST), 0).is_some()).count();
    assert!((32..128).contains(&asked), "{asked} words wait");
    assert_eq!(usize::from(packets(&guest)), asked);
    // A header that is cut short, or longer than anything may be, breaks the rules.
    let mut other = Guest::new();
    other.driver.ask(1, &[0; 43], 0);
    assert!(other.driver.needs_reset());
}
