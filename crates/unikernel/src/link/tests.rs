//! Rings full of what a guest may write there: whatever it is, frames are frames and the tender goes on.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use super::*;

use abi::link::GOES;
use rustix::net::{RecvFlags, SocketFlags, SocketType, recv, send, socketpair};

const HARDWARE: [u8; 6] = [2, 0, 0, 0, 0, 9];
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 3);

/// Rings whose link is a pair of sockets that keep records apart, and its other end.
fn rings() -> (Rings, Link, OwnedFd) {
    let flags = SocketFlags::CLOEXEC;
    let (socket, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let link = Link { socket, hardware: HARDWARE, address: ADDRESS, prefix: 24, gateway: Ipv4Addr::new(10, 1, 2, 1) };
    let rings = Rings { memory: mapped::new(&link).unwrap(), positions: Mutex::new((0, 0)) };
    (rings, link, other)
}

/// A frame of the link's own, of that length.
fn frame(length: usize) -> Vec<u8> {
    let mut frame = vec![7; length];
    frame[6..12].copy_from_slice(&HARDWARE);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[26..30].copy_from_slice(&ADDRESS.octets());
    frame
}

fn put(rings: &Rings, place: usize, length: u32, bytes: &[u8]) {
    let at = (GOES + place) as u64;
    rustix::io::pwrite(rings.memory.file(), &length.to_ne_bytes(), at).unwrap();
    rustix::io::pwrite(rings.memory.file(), bytes, at + HEADER as u64).unwrap();
}

fn arrived(other: &OwnedFd) -> Vec<usize> {
    let mut frame = [0; 4096];
    std::iter::from_fn(|| recv(other, &mut frame[..], RecvFlags::DONTWAIT).ok().map(|it| it.0)).collect()
}

#[test]
fn frames_go_in_their_order_and_around_the_end() {
    let (rings, link, other) = rings();
    let near_end = (GOES_SIZE - step(100)) as u64;
    lock(&rings.positions).1 = near_end;
    put(&rings, near_end as usize, 100, &frame(100));
    put(&rings, 0, 60, &frame(60));
    rings.memory.goes.written.0.store(near_end + (step(100) + step(60)) as u64, Ordering::SeqCst);
    rings.send(&link);
    assert_eq!(arrived(&other), [100, 60]);
    // What is left before the end is skipped.
    let at = near_end + (step(100) + step(60)) as u64;
    put(&rings, step(60), SKIP, &[]);
    put(&rings, 0, 42, &frame(42));
    rings.memory.goes.written.0.store(at + (GOES_SIZE - step(60) + step(42)) as u64, Ordering::SeqCst);
    rings.send(&link);
    assert_eq!(arrived(&other), [42]);
    assert_eq!(rings.memory.goes.read.0.load(Ordering::SeqCst), rings.memory.goes.written.0.load(Ordering::SeqCst));
}

#[test]
fn what_no_ring_has_is_nothing_to_send() {
    let good = step(64) as u64;
    for (length, written) in [
        (u32::MAX - 1, good),
        (LONGEST_TO_GO as u32 + 1, 4096),
        (64, 8),
        (64, GOES_SIZE as u64 + 8),
        (64, u64::MAX),
        (64, 1),
        (SKIP, 8),
        (0, 8),
    ] {
        let (rings, link, other) = rings();
        put(&rings, 0, length, &frame(64));
        rings.memory.goes.written.0.store(written, Ordering::SeqCst);
        rings.send(&link);
        assert_eq!(arrived(&other), [0; 0], "{length}, written to {written}");
        // It goes on from there.
        let at = lock(&rings.positions).1;
        assert_eq!(at, written & !7);
        if at as usize % GOES_SIZE + step(64) <= GOES_SIZE {
            put(&rings, at as usize % GOES_SIZE, 64, &frame(64));
            rings.memory.goes.written.0.store(at.wrapping_add(good), Ordering::SeqCst);
            rings.send(&link);
            assert_eq!(arrived(&other), [64], "after {length}, written to {written}");
        }
    }
}

#[test]
fn only_the_links_own_addresses_send() {
    let arp = || {
        let mut frame = vec![0; 42];
        frame[6..12].copy_from_slice(&HARDWARE);
        frame[12..14].copy_from_slice(&[8, 6]);
        frame[22..28].copy_from_slice(&HARDWARE);
        frame[28..32].copy_from_slice(&ADDRESS.octets());
        frame
    };
    let changed = |mut frame: Vec<u8>, at: usize| {
        frame[at] ^= 1;
        frame
    };
    let (_, link, _) = rings();
    for (frame, goes) in [
        (frame(60), true),
        (arp(), true),
        (changed(frame(60), 11), false),
        (changed(frame(60), 29), false),
        (changed(arp(), 27), false),
        (changed(arp(), 31), false),
        (changed(frame(60), 13), false),
        (vec![], false),
        (frame(60)[..28].to_vec(), false),
    ] {
        assert_eq!(is_from(&link, &frame), goes, "{frame:?}");
    }
}

#[test]
fn frames_come_while_there_is_room() {
    let (rings, link, other) = rings();
    assert!(!rings.receive(&link));
    let mut came = 0;
    for _ in 0..2000 {
        send(&other, &[3; 1000], SendFlags::DONTWAIT).unwrap();
        rings.receive(&link);
        let now = rings.memory.came.written.0.load(Ordering::SeqCst);
        assert!(now - came == 0 || now - came >= step(1000) as u64);
        came = now;
        if came as usize + step(LONGEST_TO_COME) >= CAME_SIZE {
            break;
        }
    }
    // The guest has taken nothing: it is full, whatever comes.
    assert!(came as usize <= CAME_SIZE);
    rings.receive(&link);
    assert_eq!(rings.memory.came.written.0.load(Ordering::SeqCst), came);
    // It says that it has read what never was.
    rings.memory.came.read.0.store(u64::MAX, Ordering::SeqCst);
    rings.receive(&link);
    rings.memory.came.read.0.store(came, Ordering::SeqCst);
    send(&other, &[3; 1000], SendFlags::DONTWAIT).unwrap();
    assert!(rings.receive(&link), "there is room again");
}

#[test]
fn sockets_to_a_network_are_refused() {
    for (family, refused) in [(1, false), (2, true), (10, true), (16, true), (17, true), (40, true), (u64::MAX, true)] {
        assert_eq!(is_of_stack(family), refused, "family {family}");
    }
}
