//! Devices behind their transport, driven as a guest's kernel does, and as no guest's kernel should.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::sync::Arc;

use dbt::Ram;
use proptest::prelude::*;
use vm::Memory;

use super::balloon::{Balloon, Inflatable};
use super::block::Block;
use super::console::{Console, Port};
use super::entropy::Entropy;
use super::keyboard::{Input, Keyboard};
use super::mmio::Slot;
use super::network::{Card, Network};
use super::share::Directory;
use super::{Device, queue};
use crate::bus::{Device as _, Line};
use crate::disk::{Access, Disk, Format};
use crate::share::Server;

const BASE: u64 = 0x8000_0000;
const MEMORY: u64 = 1 << 20;
/// Each queue's memory: its table, what is available, what was used.
const QUEUE: u64 = 0x2_0000;
/// Where requests are.
const REQUESTS: u64 = BASE + 0xc_0000;
const NEXT: u64 = 1 << 32;
const WRITE: u64 = 1 << 33;

fn ram() -> Ram {
    Ram::new(Arc::new(Memory::new(MEMORY as usize).unwrap()), BASE)
}

mod copies;
mod sockets;

/// A driver of a device.
struct Driver {
    slot: Slot,
    ram: Ram,
    /// How many requests each queue was given.
    given: [u16; 6],
}

impl Driver {
    fn new(device: Box<dyn Device>) -> Driver {
        let ram = ram();
        let mut driver = Driver { slot: Slot::new(device, ram.clone()), ram, given: [0; 6] };
        driver.begin(16);
        driver
    }

    fn set(&mut self, offset: u64, value: u64) {
        self.slot.write(offset, 4, value);
    }

    fn get(&mut self, offset: u64) -> u64 {
        self.slot.read(offset, 4)
    }

    /// Resets the device, and makes queues of this size.
    fn begin(&mut self, size: u64) {
        self.given = [0; 6];
        self.set(0x70, 0);
        self.set(0x70, 3);
        for half in 0..2 {
            self.set(0x14, half);
            let offered = self.get(0x10);
            self.set(0x24, half);
            self.set(0x20, offered);
        }
        self.set(0x70, 11);
        for number in 0..6 {
            let at = BASE + number * QUEUE;
            self.ram.copy_in(at, &[0; QUEUE as usize]).unwrap();
            self.set(0x30, number);
            self.set(0x38, size);
            for (offset, value) in [(0x80, at), (0x90, at + 0x8000), (0xa0, at + 0x1_0000)] {
                self.set(offset, value & 0xffff_ffff);
                self.set(offset + 4, value >> 32);
            }
            self.set(0x44, 1);
        }
        self.set(0x70, 15);
    }

    fn describe(&mut self, queue: u64, number: u64, at: u64, rest: u64) {
        let value = u128::from(at) | u128::from(rest) << 64;
        self.ram.write(BASE + queue * QUEUE + number * 16, 128, value).unwrap();
    }

    fn notify(&mut self, queue: u64, head: u64) {
        let given = &mut self.given[queue as usize];
        let available = BASE + queue * QUEUE + 0x8000;
        self.ram.write(available + 4 + 2 * u64::from(*given % 16), 16, head.into()).unwrap();
        *given = given.wrapping_add(1);
        self.ram.write(available + 2, 16, (*given).into()).unwrap();
        self.set(0x50, queue);
    }

    /// How many requests a queue has used, and how many bytes were written for the last.
    fn used(&self, queue: u64) -> (u16, u32) {
        let used = BASE + queue * QUEUE + 0x1_0000;
        let count = self.ram.read(used + 2, 16).unwrap() as u16;
        let last = used + 4 + 8 * u64::from(count.wrapping_sub(1) % 16);
        (count, (self.ram.read(last, 64).unwrap() >> 32) as u32)
    }

    /// Gives a queue bytes to read and room to write; gives what was written, if it is done.
    fn ask(&mut self, queue: u64, bytes: &[u8], room: u64) -> Option<Vec<u8>> {
        let at = REQUESTS + queue * 0x8000;
        self.ram.copy_in(at, bytes).unwrap();
        let behind = at + bytes.len() as u64;
        match (bytes.is_empty(), room) {
            (true, _) => self.describe(queue, 0, behind, room | WRITE),
            (false, 0) => self.describe(queue, 0, at, bytes.len() as u64),
            (false, _) => {
                self.describe(queue, 0, at, bytes.len() as u64 | NEXT | 1 << 48);
                self.describe(queue, 1, behind, room | WRITE);
            }
        }
        self.notify(queue, 0);
        self.written(queue, behind)
    }

    fn written(&self, queue: u64, at: u64) -> Option<Vec<u8>> {
        let (count, size) = self.used(queue);
        let mut bytes = vec![0; size as usize];
        self.ram.copy_out(at, &mut bytes).unwrap();
        (count == self.given[queue as usize]).then_some(bytes)
    }

    fn needs_reset(&mut self) -> bool {
        self.get(0x70) & 64 != 0
    }
}

fn disk(content: &[u8], access: Access) -> Disk {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content).unwrap();
    Disk::open(file.path(), Format::Raw, access, "serial-number").unwrap()
}

fn request(kind: u32, sector: u64, data: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes(), data].concat()
}

#[test]
fn a_disk_reads_writes_and_tells_its_name() {
    let mut driver = Driver::new(Box::new(Block::new(disk(&[7; 4096], Access::ReadWrite))));
    assert_eq!(driver.get(0x100), 8, "sectors");
    let read = driver.ask(0, &request(0, 1, &[]), 513).unwrap();
    assert_eq!((&read[..512], read[512]), (&[7; 512][..], 0));
    assert_eq!(driver.slot.line(), Line::High);
    driver.set(0x64, 1);
    assert_eq!(driver.slot.line(), Line::Low);
    assert_eq!(driver.ask(0, &request(1, 2, &[9; 1024]), 1).unwrap(), [0]);
    assert_eq!(driver.ask(0, &request(0, 3, &[]), 513).unwrap()[..512], [9; 512]);
    let part = [&1u64.to_le_bytes()[..], &2u32.to_le_bytes(), &[0; 4]].concat();
    assert_eq!(driver.ask(0, &request(13, 0, &part), 1).unwrap(), [0]);
    assert_eq!(driver.ask(0, &request(0, 1, &[]), 1025).unwrap(), [0; 1025]);
    assert_eq!(driver.ask(0, &request(4, 0, &[]), 1).unwrap(), [0]);
    assert_eq!(&driver.ask(0, &request(8, 0, &[]), 21).unwrap(), b"serial-number\0\0\0\0\0\0\0\0");
}

#[test]
fn what_is_not_on_a_disk_or_not_a_guests_is_not_touched() {
    let mut driver = Driver::new(Box::new(Block::new(disk(&[7; 4096], Access::ReadOnly))));
    for bad in [request(0, 8, &[]), request(0, u64::MAX, &[]), request(0, u64::MAX / 512, &[])] {
        assert_eq!(driver.ask(0, &bad, 513).unwrap()[512], 1);
    }
    assert_eq!(driver.ask(0, &request(0, 0, &[]), 500).unwrap()[499], 1, "not whole sectors");
    assert_eq!(driver.ask(0, &request(1, 0, &[1; 512]), 1).unwrap(), [1], "it is for reading only");
    assert_eq!(driver.ask(0, &request(99, 0, &[]), 1).unwrap(), [2]);
    assert!(!driver.needs_reset());
    // No room for a status.
    driver.ask(0, &request(4, 0, &[]), 0);
    assert!(driver.needs_reset());
    assert_eq!(driver.slot.line(), Line::High);
    driver.begin(16);
    assert!(!driver.needs_reset());
    assert_eq!(driver.ask(0, &request(0, 0, &[]), 513).unwrap()[..512], [7; 512]);
}

#[test]
fn chains_that_lead_nowhere_need_a_reset() {
    let broken = |prepare: &dyn Fn(&mut Driver)| {
        let mut driver = Driver::new(Box::new(Entropy));
        prepare(&mut driver);
        driver.notify(0, 0);
        assert!(driver.needs_reset());
        assert_eq!(driver.used(0).0, 0);
        // It does not do anything any more.
        driver.describe(0, 0, REQUESTS, 16 | WRITE);
        driver.notify(0, 0);
        assert_eq!(driver.used(0).0, 0);
    };
    let in_table = REQUESTS + 0x1000;
    broken(&|it| it.describe(0, 0, REQUESTS, 8 | WRITE | NEXT));
    broken(&|it| it.describe(0, 0, BASE + MEMORY - 4, 8 | WRITE));
    broken(&|it| it.describe(0, 0, u64::MAX, 8 | WRITE));
    broken(&|it| it.describe(0, 0, REQUESTS, 0xffff_ffff | WRITE));
    broken(&|it| it.describe(0, 0, REQUESTS, 8 | NEXT | 16 << 48));
    broken(&|it| it.describe(0, 0, in_table, 16 | NEXT << 2 | NEXT));
    broken(&|it| it.describe(0, 0, in_table, 15 | NEXT << 2));
    broken(&|it| it.describe(0, 0, in_table, NEXT << 2));
    broken(&|it| {
        it.describe(0, 0, in_table, 16 | NEXT << 2);
        // A table in a table.
        it.ram.write(in_table, 128, u128::from(in_table) | u128::from(16 | NEXT << 2) << 64).unwrap();
    });
    broken(&|it| {
        // What is read behind what is written.
        it.describe(0, 0, REQUESTS, 8 | WRITE | NEXT | 1 << 48);
        it.describe(0, 1, REQUESTS, 8);
    });
    // More than there can be.
    broken(&|it| it.given[0] = 100);
}

#[test]
fn a_table_beside_the_queue_is_followed() {
    let mut driver = Driver::new(Box::new(Entropy));
    let table = REQUESTS + 0x1000;
    driver.describe(0, 0, table, 32 | NEXT << 2);
    driver.ram.write(table, 128, u128::from(REQUESTS) | u128::from(8 | WRITE | NEXT | 1 << 48) << 64).unwrap();
    driver.ram.write(table + 16, 128, u128::from(REQUESTS + 0x100) | u128::from(24 | WRITE) << 64).unwrap();
    driver.notify(0, 0);
    assert_eq!(driver.used(0), (1, 32));
    let read = |at| driver.ram.read(at, 64).unwrap();
    assert!(read(REQUESTS) != 0 && read(REQUESTS + 0x110) != 0);
    assert_eq!(read(REQUESTS + 8), 0);
}

#[test]
fn queues_of_no_size_are_never_ready() {
    for size in [0, 3, 100, u64::from(queue::MOST) * 2, 0x1_0000, 0xffff_ffff] {
        let mut driver = Driver::new(Box::new(Entropy));
        driver.begin(size);
        assert_eq!(driver.get(0x44), 0, "{size}");
        driver.describe(0, 0, REQUESTS, 16 | WRITE);
        driver.notify(0, 0);
        driver.set(0x50, 1);
        driver.set(0x50, 0xffff_ffff);
        assert_eq!(driver.used(0).0, 0);
    }
}

#[test]
fn features_are_agreed_on_or_nothing_works() {
    let mut driver = Driver::new(Box::new(Entropy));
    driver.set(0x70, 0);
    driver.set(0x70, 3);
    driver.set(0x24, 0);
    driver.set(0x20, 1 << 5);
    driver.set(0x70, 15);
    assert_eq!(driver.get(0x70), 3, "what was not offered is not accepted");
}

#[test]
fn a_port_carries_bytes_both_ways_and_makes_the_guest_wait() {
    let (mut host, guest) = UnixStream::pair().unwrap();
    guest.set_nonblocking(true).unwrap();
    let input = Some(guest.try_clone().unwrap().into());
    let agent = Port { name: "agent".into(), input, output: guest.into() };
    let console = Port { name: "console".into(), input: None, output: File::create("/dev/null").unwrap().into() };
    let mut driver = Driver::new(Box::new(Console::new(vec![console, agent])));
    let say = |port: u32, event: u16| [&port.to_le_bytes()[..], &event.to_le_bytes(), &[1, 0]].concat();
    driver.ask(3, &say(0, 0), 0);
    assert_eq!(driver.ask(2, &[], 64).unwrap(), [0, 0, 0, 0, 1, 0, 1, 0]);
    assert_eq!(driver.ask(2, &[], 64).unwrap(), [1, 0, 0, 0, 1, 0, 1, 0]);
    driver.ask(3, &say(1, 3), 0);
    assert_eq!(driver.ask(2, &[], 64).unwrap(), b"\x01\0\0\0\x07\0\x01\0agent");
    assert_eq!(driver.ask(2, &[], 64).unwrap(), [1, 0, 0, 0, 6, 0, 1, 0]);

    host.write_all(b"to the guest").unwrap();
    assert_eq!(driver.ask(4, &[], 64), None, "nobody there has it open");
    driver.ask(3, &say(1, 6), 0);
    assert_eq!(driver.written(4, REQUESTS + 4 * 0x8000).unwrap(), b"to the guest");

    let mut sent = 0;
    while driver.ask(5, &[b'x'; 0x4000], 0).is_some() {
        sent += 0x4000;
    }
    assert!(sent > 0);
    let mut bytes = vec![0; sent + 0x4000];
    host.read_exact(&mut bytes[..sent]).unwrap();
    driver.slot.ready();
    host.read_exact(&mut bytes[sent..]).unwrap();
    assert!(bytes.iter().all(|byte| *byte == b'x'));
    assert_eq!(driver.used(5).0, driver.given[5]);
}

#[test]
fn frames_are_whole_or_lost() {
    let (host, guest) = UnixDatagram::pair().unwrap();
    guest.set_nonblocking(true).unwrap();
    let address = [2, 0, 0, 0, 0, 1];
    let mut driver = Driver::new(Box::new(Network::new(Card { address, frames: guest.into(), source: None })));
    driver.ask(1, &[&[0; 12][..], b"a frame"].concat(), 0).unwrap();
    let mut bytes = [0; 64];
    assert_eq!(host.recv(&mut bytes).unwrap(), 7);
    assert_eq!(&bytes[..7], b"a frame");
    assert_eq!(driver.ask(0, &[], 20), None);
    host.send(b"longer than there is room for").unwrap();
    host.send(b"fits").unwrap();
    driver.slot.ready();
    assert_eq!(driver.written(0, REQUESTS).unwrap(), b"\x02\0\0\0\0\0\0\0\0\0\x01\0fits");
    driver.ask(1, b"no header", 0);
    assert!(driver.needs_reset());
}

#[test]
fn pages_in_a_balloon_are_given_back() {
    let balloon = Balloon::new().unwrap();
    let mut driver = Driver::new(Box::new(Inflatable::new(balloon.clone())));
    let before = driver.get(0xfc);
    balloon.ask(5 * 4096 + 1);
    driver.slot.ready();
    assert_eq!((driver.get(0x100), driver.get(0x60) & 2), (5, 2));
    assert_ne!(driver.get(0xfc), before);
    driver.set(0x104, 3);
    assert_eq!(driver.get(0x104), 3);
    let page = |number: u64| BASE + 0xf_0000 + number * 4096;
    (0..6).for_each(|number| driver.ram.write(page(number), 8, 9).unwrap());
    // Two that follow each other, one by itself, and some that are not there.
    let pages = [page(0), page(1), page(3), BASE + MEMORY, 0, 0xf_ffff_f000];
    let numbers: Vec<u8> = pages.iter().flat_map(|page| ((page / 4096) as u32).to_le_bytes()).collect();
    driver.ask(0, &numbers, 0).unwrap();
    driver.describe(2, 0, page(5), 4096 | WRITE | NEXT | 1 << 48);
    driver.describe(2, 1, page(2) + 1, 4096 | WRITE);
    driver.notify(2, 0);
    let left: Vec<u128> = (0..6).map(|number| driver.ram.read(page(number), 8).unwrap()).collect();
    assert_eq!(left, [0, 0, 9, 0, 9, 0]);
    assert_eq!((driver.used(0).0, driver.used(2).0), (1, 1));
}

#[test]
fn keys_are_pressed_and_let_go() {
    let (keyboard, keys) = Keyboard::new().unwrap();
    let mut driver = Driver::new(Box::new(Input::new(keyboard)));
    // A driver asks which keys there are, byte by byte.
    driver.slot.write(0x100, 1, 0x11);
    driver.slot.write(0x101, 1, 1);
    assert_eq!(driver.slot.read(0x102, 1), 16);
    assert_eq!((driver.slot.read(0x108 + 29 / 8, 1), driver.slot.read(0x108 + 56 / 8, 1)), (1 << 5, 1));
    assert_eq!(driver.ask(0, &[], 8), None);
    keys.press();
    driver.slot.ready();
    // What there is no room for comes when there is.
    assert_eq!(driver.written(0, REQUESTS).unwrap(), [1, 0, 29, 0, 1, 0, 0, 0]);
    assert_eq!(driver.ask(0, &[], 8).unwrap(), [1, 0, 56, 0, 1, 0, 0, 0]);
}

/// One of each.
fn device(which: usize, directory: &tempfile::TempDir) -> Box<dyn Device> {
    let null = || File::create("/dev/null").unwrap().into();
    match which {
        0 => Box::new(Block::new(disk(&[3; 8192], Access::ReadWrite))),
        1 => {
            let input = || Some(File::open("/dev/zero").unwrap().into());
            let port = |name: &str| Port { name: name.into(), input: input(), output: null() };
            Box::new(Console::new(vec![port("console"), port("agent")]))
        }
        2 => {
            let (_, own) = UnixDatagram::pair().unwrap();
            own.set_nonblocking(true).unwrap();
            Box::new(Network::new(Card { address: [0; 6], frames: own.into(), source: None }))
        }
        3 => {
            let root = File::open(directory.path()).unwrap().into();
            Box::new(Directory::new("tag".into(), Server::new(root, Access::ReadOnly).unwrap()))
        }
        4 => Box::new(Inflatable::new(Balloon::new().unwrap())),
        5 => {
            let (keyboard, keys) = Keyboard::new().unwrap();
            keys.press();
            Box::new(Input::new(keyboard))
        }
        6 => sockets::device(directory.path()),
        _ => Box::new(Entropy),
    }
}

proptest! {
    /// Whatever is in a queue's memory, a device comes back and touches nothing outside of the memory.
    #[test]
    fn random_queues_harm_nobody(
        which in 0..8usize,
        descriptors in prop::collection::vec((0..6u64, 0..16u64, 0..MEMORY, 0..0x1_0000u64, 0..8u64, 0..18u64), 0..60),
        bytes in prop::collection::vec(any::<u8>(), 64),
        notifies in prop::collection::vec((0..7u64, 0..18u64), 1..30),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let mut driver = Driver::new(device(which, &directory));
        driver.ram.copy_in(REQUESTS, &bytes).unwrap();
        for (queue, number, at, size, flags, next) in descriptors {
            driver.describe(queue, number, BASE + at, size | flags << 32 | next << 48);
        }
        for (queue, head) in notifies {
            if queue < 6 { driver.notify(queue, head) } else { driver.slot.ready() }
        }
        driver.begin(16);
        prop_assert!(!driver.needs_reset());
    }

    /// Whatever is written to a transport's registers, in whatever order.
    #[test]
    fn random_registers_harm_nobody(
        which in 0..8usize,
        writes in prop::collection::vec((0..0x200u64, prop::sample::select(vec![1u8, 2, 4, 8]), any::<u64>(), 0..4u8), 0..200),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let mut driver = Driver::new(device(which, &directory));
        for (offset, size, value, how) in writes {
            match how {
                0 => { driver.slot.read(offset, size); }
                1 => driver.slot.write(offset, size, value),
                2 => driver.slot.write(offset & !3, 4, value & 0xf),
                _ => driver.slot.write(offset & !3, 4, BASE + (value & 0xf_ffff)),
            }
        }
        driver.begin(16);
        prop_assert!(!driver.needs_reset());
        prop_assert_eq!(driver.get(0), 0x7472_6976);
    }
}
