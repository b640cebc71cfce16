//! Where FastCDC cuts, found faster: the rolling hash of the `fastcdc` crate, several stretches at a time.
//!
//! **The cuts are those of `fastcdc::v2020::cut` at normalisation level 1**; a property test holds the two together. Its
//! loop waits for each step of the hash before the next. But the hash moves one bit to the left with each byte, so that
//! after 64 bytes nothing of what was before is left in it: it can be begun 64 bytes ahead of any place. Several lanes,
//! each begun so, keep a processor busy that would otherwise wait.

use fastcdc::v2020::{MASKS, get_gear_with_seed};

use super::{AVERAGE, MAX_CHUNK, MIN};

const BITS: usize = AVERAGE.trailing_zeros() as usize;
/// One bit more before the average size, one bit less after it.
const BEFORE: u64 = MASKS[BITS + 1];
const AFTER: u64 = MASKS[BITS - 1];

/// Bytes after which the hash has forgotten what was before.
const WINDOW: usize = 64;
const LANES: usize = 4;
/// What one lane reads in a round. Longer ones waste more when a cut is found, shorter ones more on the windows.
const LANE: usize = 1024;
const ROUND: usize = LANES * LANE;
// A round lies on one side of the average size.
const _: () = assert!((AVERAGE - MIN).is_multiple_of(ROUND) && LANE > WINDOW);

/// Finds cuts.
pub(super) struct Gear {
    table: [u64; 256],
}

impl Gear {
    pub(super) fn new() -> Self {
        let mut table = [0; 256];
        let (gear, _) = get_gear_with_seed(0);
        for (place, value) in table.iter_mut().zip(gear.iter()) {
            *place = *value;
        }
        Self { table }
    }

    /// The length of the first chunk of `bytes`, which go on to where the next chunk may end, or to the stretch's end.
    pub(super) fn cut(&self, bytes: &[u8]) -> usize {
        let bytes = bytes.get(..MAX_CHUNK).unwrap_or(bytes);
        // The published loop takes bytes in pairs: the last of an odd number is no place to cut.
        let tested = bytes.get(MIN..bytes.len() & !1).unwrap_or_default();
        let (mut hash, mut at) = (0, MIN);
        let (rounds, rest) = tested.as_chunks::<ROUND>();
        for round in rounds {
            let mask = if at < AVERAGE { BEFORE } else { AFTER };
            match self.round(round, hash, mask) {
                Some(last) => hash = last,
                None => return at + self.first(round, hash, mask).unwrap_or(ROUND),
            }
            at += ROUND;
        }
        let mask = if at < AVERAGE { BEFORE } else { AFTER };
        self.first(rest, hash, mask).map_or(bytes.len(), |more| at + more)
    }

    fn roll(&self, hash: u64, byte: u8) -> u64 {
        (hash << 1).wrapping_add(self.table[usize::from(byte)])
    }

    /// The place of the first byte after which the hash has none of the mask's bits.
    fn first(&self, bytes: &[u8], mut hash: u64, mask: u64) -> Option<usize> {
        bytes.iter().position(|byte| {
            hash = self.roll(hash, *byte);
            hash & mask == 0
        })
    }

    /// The hash at the end of a round without a cut; nothing when there is a cut somewhere in it.
    fn round(&self, round: &[u8; ROUND], hash: u64, mask: u64) -> Option<u64> {
        let mut hashes = [hash; LANES];
        for (lane, hash) in hashes.iter_mut().enumerate().skip(1) {
            let window = &round[lane * LANE - WINDOW..lane * LANE];
            *hash = window.iter().fold(0, |hash, byte| self.roll(hash, *byte));
        }
        let [mut a, mut b, mut c, mut d] = hashes;
        for place in 0..LANE {
            a = self.roll(a, round[place]);
            b = self.roll(b, round[LANE + place]);
            c = self.roll(c, round[2 * LANE + place]);
            d = self.roll(d, round[3 * LANE + place]);
            if a & mask == 0 || b & mask == 0 || c & mask == 0 || d & mask == 0 {
                return None;
            }
        }
        Some(d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn published(bytes: &[u8]) -> usize {
        fastcdc::v2020::cut(bytes, MIN, AVERAGE, MAX_CHUNK, BEFORE, AFTER, BEFORE << 1, AFTER << 1).1
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn every_cut_is_where_the_published_loop_cuts(seed: u64, length in 0usize..600_000, kinds in 1u64..256) {
            let mut state = seed | 1;
            let bytes: Vec<u8> = std::iter::repeat_with(|| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                ((state >> 40) % kinds) as u8
            })
            .take(length)
            .collect();
            let gear = Gear::new();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let length = gear.cut(rest);
                prop_assert_eq!(length, published(rest));
                rest = &rest[length..];
            }
        }
    }

    #[test]
    fn lengths_around_every_limit_are_cut_as_published() {
        let gear = Gear::new();
        let bytes: Vec<u8> = (0..MAX_CHUNK as u64 + 9).map(|at| (at.wrapping_mul(at) >> 3) as u8).collect();
        for around in [0, MIN, MIN + ROUND, AVERAGE, AVERAGE + ROUND, MAX_CHUNK] {
            for length in around.saturating_sub(5)..around + 5 {
                for part in [&bytes[..length], &vec![7; length]] {
                    assert_eq!(gear.cut(part), published(part), "{length} bytes");
                }
            }
        }
    }
}
