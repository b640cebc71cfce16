//! Where memory is, among physical addresses: below the devices, and what does not fit there from 4 GiB on.
//!
//! It is one file as long as all that, in which what would be at the devices is a hole: so an address is an offset, also of
//! what is kept or copied, and the hole takes nothing.

use std::ops::Range;

/// Where the devices are.
pub(crate) const HOLE: Range<u64> = 3 << 30..4 << 30;
/// Memory that is told of as such ends here at first, and goes on there; between are tables.
const LOW_END: u64 = 0xa_0000;
pub(super) const TABLES_OF_ACPI: u64 = 0xe_0000;
pub(super) const HIGH: u64 = 0x10_0000;

/// Where so much memory ends.
pub(crate) fn end(memory: u64) -> u64 {
    if memory > HOLE.start { memory.saturating_add(HOLE.end - HOLE.start) } else { memory }
}

/// How much there is at most if it ends before that.
pub(crate) fn most(end: u64) -> u64 {
    end - (HOLE.end - HOLE.start)
}

/// The parts of memory that ends there. Nothing if none ends so.
pub(crate) fn parts(end: u64) -> Option<Vec<Range<u64>>> {
    let is_sound = end > 0 && !(HOLE.start < end && end <= HOLE.end);
    let both = [0..end.min(HOLE.start), HOLE.end..end.max(HOLE.end)];
    is_sound.then(|| both.into_iter().filter(|it| !it.is_empty()).collect())
}

/// What a part is to a kernel, by the number that its parameters have for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Usable = 1,
    /// Tables of ACPI.
    Tables = 3,
}

/// What a kernel is told of so much memory, in order.
pub(super) fn told(memory: u64) -> Vec<(Range<u64>, Kind)> {
    let end = end(memory);
    let mut all = vec![
        (0..LOW_END, Kind::Usable),
        (TABLES_OF_ACPI..HIGH, Kind::Tables),
        (HIGH..end.min(HOLE.start), Kind::Usable),
    ];
    if end > HOLE.end {
        all.push((HOLE.end..end, Kind::Usable));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;

    #[test]
    fn memory_goes_on_behind_the_devices() {
        let of = |it: &[(u64, u64)]| it.iter().map(|it| it.0..it.1).collect::<Vec<_>>();
        for (memory, wanted) in [
            (64 * MIB, &[(0, 64 * MIB)][..]),
            (3 * GIB, &[(0, 3 * GIB)]),
            (3 * GIB + MIB, &[(0, 3 * GIB), (4 * GIB, 4 * GIB + MIB)]),
            (5 * GIB, &[(0, 3 * GIB), (4 * GIB, 6 * GIB)]),
            (100 * GIB, &[(0, 3 * GIB), (4 * GIB, 101 * GIB)]),
        ] {
            let found = parts(end(memory));
            assert_eq!(found, Some(of(wanted)), "{memory:#x}");
            let bytes = found.into_iter().flatten().map(|it| it.end - it.start).sum::<u64>();
            assert_eq!(bytes, memory, "{memory:#x}");
        }
        for end in [0, 3 * GIB + 1, 4 * GIB] {
            assert_eq!(parts(end), None, "{end:#x}");
        }
    }

    #[test]
    fn a_kernel_is_told_of_all_memory_and_of_nothing_else() {
        use Kind::{Tables, Usable};
        let low = [(0, 0xa_0000, Usable), (0xe_0000, MIB, Tables)];
        for (memory, high) in [
            (64 * MIB, &[(MIB, 64 * MIB, Usable)][..]),
            (3 * GIB, &[(MIB, 3 * GIB, Usable)]),
            (3 * GIB + 4096, &[(MIB, 3 * GIB, Usable), (4 * GIB, 4 * GIB + 4096, Usable)]),
            (5 * GIB, &[(MIB, 3 * GIB, Usable), (4 * GIB, 6 * GIB, Usable)]),
        ] {
            let wanted: Vec<_> = low.iter().chain(high).map(|it| (it.0..it.1, it.2)).collect();
            let found = told(memory);
            assert_eq!(found, wanted, "{memory:#x}");
            let there = parts(end(memory)).unwrap();
            for (part, _) in found {
                assert!(there.iter().any(|it| it.start <= part.start && part.end <= it.end), "{part:x?}");
            }
        }
    }
}
