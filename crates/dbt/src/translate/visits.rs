//! How often code was reached that is not translated yet.
//!
//! Nearly half of the blocks that a kernel's boot comes to run once or twice. To translate one takes as long as to interpret
//! it a hundred times, so it is first interpreted: where it comes again and again, it will come often. One that was written meanwhile
//! begins anew.

use super::Key;
use super::specialise::Effort;

/// A block is translated when it is reached for so many times. (Of the 35,000 blocks of a boot of Debian's arm64 kernel
/// 22,800 are reached twice, 14,500 eight times. Between 8 and 24 it takes about the same.)
const ENOUGH: u8 = 16;

const COUNTERS: usize = 1 << 16;

/// Counters of visits. Two blocks that share one are translated a little earlier. It begins anew with each that is:
/// when it did not, most of a compiler's hundred thousand blocks were translated when they were first reached.
pub(crate) struct Visits {
    counters: Box<[u8]>,
    enough: u8,
    effort: Effort,
}

impl Visits {
    /// As little as may be is made for code that may not run again.
    pub(super) fn patient() -> Visits {
        Visits { counters: vec![0; COUNTERS].into(), enough: ENOUGH, effort: Effort::Some }
    }

    /// All effort is made at once.
    pub(super) fn eager(effort: Effort) -> Visits {
        Visits { counters: vec![0; COUNTERS].into(), enough: 1, effort }
    }

    fn counter(&mut self, key: Key) -> &mut u8 {
        let at = (key.physical >> 1 ^ key.physical >> 17) as usize & (COUNTERS - 1);
        &mut self.counters[at]
    }

    /// What is there is other code than what was counted.
    pub(super) fn begin_anew(&mut self, key: Key) {
        *self.counter(key) = 0;
    }

    /// Counts a visit: what effort the block is worth. Nothing if it is too early to translate it.
    pub(super) fn count(&mut self, key: Key) -> Option<Effort> {
        let (enough, effort) = (self.enough, self.effort);
        let counter = self.counter(key);
        *counter += 1;
        let is_enough = *counter >= enough;
        if is_enough {
            *counter = 0;
        }
        is_enough.then_some(effort)
    }
}
