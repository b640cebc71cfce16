//! A block as a file has it: what it is looked for by, the instructions that it was made of, its code, and where that meets
//! what is around it.
//!
//! Numbers are little-endian. **What is read is checked**: a record whose parts are not in it is none.

use std::hash::Hasher;

use rustc_hash::FxHasher;

use super::super::generate::{Link, Seams};
use super::super::specialise::{Effort, Sharing};

/// What a block is looked for by, beside its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::translate) struct Place {
    pub(in crate::translate) modes: u32,
    /// Where it begins in its page.
    pub(in crate::translate) begin: u16,
    pub(in crate::translate) sharing: Sharing,
    /// Of the bytes there ([`print`]).
    pub(in crate::translate) print: u64,
}

/// The name of a page: what it was like when the first block of it was kept. It says which blocks belong together, and
/// nothing about what is there now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::translate) struct PageName(pub(in crate::translate) u64);

/// So many bytes from a block's beginning on tell it from others: functions begin alike.
pub(in crate::translate) const PRINTED: usize = 32;

/// A number for some bytes.
pub(in crate::translate) fn print(bytes: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(bytes);
    hasher.finish()
}

/// Bytes of a page that a block was made of: where they begin in it, and how many they are.
pub(in crate::translate) type Extent = (u16, u16);

/// A block.
#[derive(Debug, Clone, Copy)]
pub(in crate::translate) struct Record<'r> {
    /// As it was written.
    frame: &'r Frame,
    bytes: &'r [u8],
    pub(in crate::translate) effort: Effort,
    extents: &'r [[u8; 4]],
    /// The bytes of all of them.
    pub(in crate::translate) source: &'r [u8],
    links: &'r [[u8; 12]],
    pub(in crate::translate) code: &'r [u8],
    pub(in crate::translate) stale: u32,
    pub(in crate::translate) counter: Option<u32>,
}

/// A block that was made.
#[derive(Debug)]
pub(in crate::translate) struct Made<'m> {
    pub(in crate::translate) effort: Effort,
    pub(in crate::translate) extents: &'m [Extent],
    pub(in crate::translate) source: &'m [u8],
    pub(in crate::translate) code: &'m [u8],
    pub(in crate::translate) seams: &'m Seams,
}

/// What stands before each record.
pub(super) const FRAME: usize = 48;
/// Where its last word is, the checksum.
const SUM: usize = FRAME - 8;
/// Where the page's name is.
const PAGE: usize = 16;
/// Stands for no counter.
const NONE: u32 = u32::MAX;

pub(super) type Frame = [u8; FRAME];

/// What a frame says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Framed {
    /// The bytes behind it.
    pub(super) length: usize,
    pub(super) place: Place,
    pub(super) page: PageName,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at + 4)) << 32 | u64::from(word(bytes, at))
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

impl Framed {
    pub(super) fn of(frame: &Frame) -> Framed {
        let begin = half(frame, 24);
        let sharing = if begin >> 15 == 1 { Sharing::Shared } else { Sharing::Alone };
        let place = Place { modes: word(frame, 4), begin: begin & 0x7fff, sharing, print: long(frame, 8) };
        Framed { length: word(frame, 0) as usize, place, page: PageName(long(frame, PAGE)) }
    }
}

/// Tells what a host's fall left behind from what was written; it is not to keep anybody out. Four sums at once, since each
/// record is summed that is used, and the processor can.
fn checksum(frame: &Frame, bytes: &[u8]) -> u64 {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut sums = [1u64, 2, 3, 4];
    let mut add = |part: &[u8; 32]| {
        for (sum, word) in sums.iter_mut().zip(part.as_chunks().0) {
            *sum = (*sum ^ u64::from_le_bytes(*word)).wrapping_mul(MULTIPLIER).rotate_left(29);
        }
    };
    let (parts, rest) = bytes.as_chunks();
    parts.iter().for_each(&mut add);
    let mut last = [0; 32];
    last[..rest.len()].copy_from_slice(rest);
    add(&last);
    let mut hasher = FxHasher::default();
    hasher.write(&frame[..SUM]);
    sums.into_iter().chain([bytes.len() as u64]).for_each(|it| hasher.write_u64(it));
    hasher.finish()
}

/// What tells a record from all others, whatever its page was called.
pub(super) fn identity(frame: &Frame, bytes: &[u8]) -> u128 {
    let mut nameless = *frame;
    nameless[PAGE..PAGE + 8].fill(0);
    // Two numbers that have nothing to do with each other: what has the same is not kept.
    u128::from(checksum(&nameless, bytes)) << 64 | u128::from(print(bytes))
}

/// A block's frame and record. Nothing if there is more of anything than a record has room for.
pub(super) fn write(place: Place, page: PageName, made: &Made<'_>) -> Option<(Frame, Vec<u8>)> {
    let Seams { links, counter, stale, .. } = made.seams;
    let mut bytes = Vec::with_capacity(made.extents.len() * 4 + made.source.len() + links.len() * 12 + made.code.len());
    for (begin, length) in made.extents {
        bytes.extend_from_slice(&begin.to_le_bytes());
        bytes.extend_from_slice(&length.to_le_bytes());
    }
    bytes.extend_from_slice(made.source);
    for Link { jump, number, plus } in links {
        [jump.to_le_bytes(), number.to_le_bytes(), plus.to_le_bytes()]
            .iter()
            .for_each(|it| bytes.extend_from_slice(it));
    }
    bytes.extend_from_slice(made.code);
    let mut frame = [0; FRAME];
    let mut put = |at: usize, part: &[u8]| frame[at..at + part.len()].copy_from_slice(part);
    let sharing = u16::from(place.sharing == Sharing::Shared) << 15;
    put(0, &u32::try_from(bytes.len()).ok()?.to_le_bytes());
    put(4, &place.modes.to_le_bytes());
    put(8, &place.print.to_le_bytes());
    put(PAGE, &page.0.to_le_bytes());
    put(24, &(place.begin | sharing).to_le_bytes());
    put(26, &[made.effort as u8, u8::try_from(made.extents.len()).ok()?]);
    put(28, &u16::try_from(links.len()).ok()?.to_le_bytes());
    put(30, &u16::try_from(made.source.len()).ok()?.to_le_bytes());
    put(32, &stale.to_le_bytes());
    put(36, &counter.unwrap_or(NONE).to_le_bytes());
    let sum = checksum(&frame, &bytes);
    frame[SUM..].copy_from_slice(&sum.to_le_bytes());
    Some((frame, bytes))
}

impl<'r> Record<'r> {
    /// Nothing if it says of itself what cannot be.
    pub(super) fn read(frame: &'r Frame, bytes: &'r [u8]) -> Option<Record<'r>> {
        let all = bytes;
        let effort = [Effort::Some, Effort::All, Effort::Less].into_iter().find(|it| *it as u8 == frame[26])?;
        let (extents, bytes) = bytes.split_at_checked(usize::from(frame[27]) * 4)?;
        let (source, bytes) = bytes.split_at_checked(half(frame, 30).into())?;
        let (links, code) = bytes.split_at_checked(usize::from(half(frame, 28)) * 12)?;
        let counter = Some(word(frame, 36)).filter(|it| *it != NONE);
        let (extents, links) = (extents.as_chunks().0, links.as_chunks().0);
        let record =
            Record { frame, bytes: all, effort, extents, source, links, code, stale: word(frame, 32), counter };
        record.is_sound().then_some(record)
    }

    /// Whether all that is put into its code is put inside.
    fn is_sound(&self) -> bool {
        let holds = |at: u32| (at as usize).checked_add(4).is_some_and(|end| end <= self.code.len());
        let length: usize = self.extents().map(|(_, length)| usize::from(length)).sum();
        let are_of_a_page = self.extents().all(|(at, length)| u64::from(at) + u64::from(length) <= super::super::PAGE);
        let are_inside = self.links().all(|link| holds(link.jump) && holds(link.number));
        // What is stale becomes a jump at its beginning.
        self.code.len() > 4
            && length == self.source.len()
            && are_of_a_page
            && are_inside
            && self.counter.is_none_or(holds)
            && (self.stale as usize) < self.code.len()
    }

    /// Whether it is what was written.
    pub(in crate::translate) fn is_whole(&self) -> bool {
        checksum(self.frame, self.bytes) == long(self.frame, SUM)
    }

    /// Where in a page the instructions are that it was made of.
    pub(in crate::translate) fn extents(&self) -> impl Iterator<Item = Extent> + use<'r> {
        self.extents.iter().map(|it| (half(it, 0), half(it, 2)))
    }

    /// Jumps that may go straight to other blocks.
    pub(in crate::translate) fn links(&self) -> impl Iterator<Item = Link> + use<'r> {
        self.links.iter().map(|it| Link { jump: word(it, 0), number: word(it, 4), plus: word(it, 8) as i32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> (Frame, Vec<u8>) {
        let link = |at: u32| Link { jump: at, number: at + 4, plus: -8 };
        let seams = Seams { links: vec![link(0), link(8)], counter: Some(16), turns: Vec::new(), stale: 30 };
        let place = Place { modes: 7, begin: 0xffe, sharing: Sharing::Shared, print: print(b"it") };
        let (source, code) = ([1; 12], [2; 40]);
        let extents = &[(0xffe, 2), (16, 10)];
        let made = Made { effort: Effort::All, extents, source: &source, code: &code, seams: &seams };
        write(place, PageName(3), &made).unwrap()
    }

    #[test]
    fn what_was_written_is_read() {
        let (frame, bytes) = example();
        let framed = Framed::of(&frame);
        let place = Place { modes: 7, begin: 0xffe, sharing: Sharing::Shared, print: print(b"it") };
        assert_eq!((framed.length, framed.place, framed.page), (bytes.len(), place, PageName(3)));
        let record = Record::read(&frame, &bytes).unwrap();
        assert!(record.is_whole());
        assert_eq!((record.effort, record.counter, record.stale), (Effort::All, Some(16), 30));
        assert_eq!(record.extents().collect::<Vec<_>>(), [(0xffe, 2), (16, 10)]);
        assert_eq!((record.source, record.code), (&[1; 12][..], &[2; 40][..]));
        assert_eq!(
            record.links().map(|it| (it.jump, it.number, it.plus)).collect::<Vec<_>>(),
            [(0, 4, -8), (8, 12, -8)]
        );
    }

    #[test]
    fn no_bytes_are_a_record_that_reaches_out_of_itself() {
        let (frame, bytes) = example();
        for at in 24..SUM {
            for value in [0, 1, 0x7f, 0xff] {
                let mut other = frame;
                other[at] = value;
                if let Some(record) = Record::read(&other, &bytes) {
                    assert_eq!(record.is_whole(), other == frame);
                    let end = |at: u32| at as usize + 4;
                    assert!(record.links().all(|it| end(it.jump).max(end(it.number)) <= record.code.len()));
                    assert!(record.counter.is_none_or(|at| end(at) <= record.code.len()));
                    assert!((record.stale as usize) < record.code.len());
                }
            }
        }
    }

    #[test]
    fn a_page_s_name_is_no_part_of_what_a_record_is() {
        let (frame, bytes) = example();
        let mut other = frame;
        other[PAGE] ^= 1;
        assert_eq!(identity(&frame, &bytes), identity(&other, &bytes));
        other[4] ^= 1;
        assert_ne!(identity(&frame, &bytes), identity(&other, &bytes));
    }
}
