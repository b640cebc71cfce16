//! A ring in which anything may stand: what the tender makes of it is a pipe with some of its bytes.

use proptest::prelude::*;

use super::*;

/// What stands at each place of a ring: no zero among it, and not the same again after a power of two.
fn pattern(at: usize) -> u8 {
    (at % 251) as u8 + 1
}

fn position() -> impl Strategy<Value = u64> {
    let near = |it: u64| (0..3u64).prop_map(move |by| it.wrapping_add(by).wrapping_sub(1));
    prop_oneof![near(0), near(SIZE as u64), near(u64::MAX), 0..4 * SIZE as u64, any::<u64>()]
}

/// Where the other side is: at so many bytes, or anywhere.
fn distance() -> impl Strategy<Value = u64> {
    prop_oneof![0..9u64, SIZE as u64 - 4..SIZE as u64 + 5, 0..SIZE as u64, any::<u64>()]
}

proptest! {
    #[test]
    fn whatever_stands_in_a_ring_is_moved_or_lost(
        read in position(),
        distance in distance(),
        words: [u32; 7],
        others: [u64; 14],
        holders in prop::option::weighted(0.02, any::<[u32; 2]>()),
        (side, need) in (0..2usize, prop_oneof![0..2 * SIZE as u32, u32::MAX - 3..=u32::MAX, any::<u32>()]),
    ) {
        // Nobody is waited for long.
        LET_DOWN.store(MOST_LET_DOWN, Ordering::Relaxed);
        let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
        let (reader, writer) = rustix::pipe::pipe_with(flags).unwrap();
        let ends = Pipe::over(&writer).unwrap();
        let ring = &ends[0].pipe.ring;
        let bytes: Vec<u8> = (0..SIZE).map(pattern).collect();
        rustix::io::pwrite(ring.file(), &bytes, BYTES as u64).unwrap();
        let written = read.wrapping_add(distance);
        let length = if distance <= SIZE as u64 { distance as usize } else { 0 };

        for (place, word) in ring.unwilling.iter().chain(&ring.sleepers).chain(&ring.rung).chain([&ring.state]).zip(words) {
            place.store(word, Ordering::SeqCst);
        }
        for (place, word) in ring.positions.iter().flat_map(|it| it.latest.iter().chain([&it.begin])).zip(others) {
            place.store(word, Ordering::SeqCst);
        }
        for (lock, holder) in ring.locks.iter().zip(holders.unwrap_or_default()) {
            lock.0.store(holder, Ordering::SeqCst);
        }
        ring.positions[READER].count.store(read, Ordering::SeqCst);
        ring.positions[WRITER].count.store(written, Ordering::SeqCst);

        prop_assert_eq!(ends[side].used(), Some(length as u32));
        let enough = [length > 0, SIZE - length >= need as usize][side];
        prop_assert_eq!(ring.has_for(side, need), distance <= SIZE as u64 && enough);
        for it in &ring.positions {
            let latest = it.latest.each_ref().map(|it| it.load(Ordering::Relaxed));
            prop_assert_eq!(it.noted(read), (it.begin.load(Ordering::Relaxed) == read).then_some(latest));
        }
        ends[side].bell().unwrap();
        ends[side].forget_holder(holders.map_or(need, |it| it[0]));
        ends[side].surrender();
        // Once is for ever, whatever is written afterwards.
        ring.positions[WRITER].count.store(written.wrapping_add(1), Ordering::SeqCst);
        ends[1 - side].surrender();
        prop_assert!(!ends[0].is_ring() && !ends[1].is_ring() && ends[side].used().is_none());

        let mut found = vec![0; 2 * SIZE];
        let count = rustix::io::read(&reader, &mut found[..]).unwrap_or(0);
        prop_assert_eq!(count, length);
        let begin = (read % SIZE as u64) as usize;
        let is_right = |(at, byte): (usize, &u8)| *byte == pattern((begin + at) % SIZE);
        prop_assert!(found[..count].iter().enumerate().all(is_right), "from {begin}");
    }
}
