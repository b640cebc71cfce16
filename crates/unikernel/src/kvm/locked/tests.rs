//! Hostile tables of a guest, followed: the real ones are always as the module says.

use proptest::prelude::*;

use super::*;

const MEMORY: usize = 4 << 20;
/// So many pages hold tables, which lead to each other as they like.
const PAGES: u64 = 12;
const OWN: u64 = PAGE;

/// An entry of a hostile table: nothing, a page of its memory, a table, or an address that is nobody's.
fn entry() -> impl Strategy<Value = u64> {
    let bits = prop::bits::u64::masked(WRITABLE | LARGE | NO_EXECUTE | USED);
    let address = prop_oneof![
        6 => (1..=PAGES).prop_map(|it| it * PAGE),
        3 => (0..MEMORY as u64 / PAGE).prop_map(|it| it * PAGE),
        1 => Just(TABLES),
        1 => Just(DOORBELL_PHYSICAL),
        1 => any::<u64>().prop_map(|it| it & ADDRESS),
    ];
    (address, bits).prop_map(|(address, bits)| address | bits | PRESENT | USER)
}

/// An entry of whoever has done nothing wrong yet.
fn sound() -> impl Strategy<Value = u64> {
    let bits = prop::bits::u64::masked(WRITABLE | NO_EXECUTE | USED);
    let page = prop_oneof![3 => 1..=PAGES, 1 => 0..MEMORY as u64 / PAGE];
    (page, bits).prop_map(|(page, bits)| (page * PAGE) | bits | PRESENT | USER)
}

/// Which entry of which table becomes what. Few places, so that they are written to again.
fn writes(entry: impl Strategy<Value = u64>) -> impl Strategy<Value = Vec<(u64, u64, u64)>> {
    prop::collection::vec((1..=PAGES, 0..6u64, prop_oneof![1 => Just(0), 5 => entry]), 1..60)
}

/// A part of the address space among those places.
fn part() -> impl Strategy<Value = (u64, u64)> {
    let index = || 0..6u64;
    let at = (index(), index(), index(), index()).prop_map(|(a, b, c, d)| a << 39 | b << 30 | c << 21 | d << 12);
    let length = prop_oneof![Just(PAGE), Just(LARGE_PAGE), Just(1 << 30), any::<u64>()];
    (at, length)
}

fn write(space: &Space, writes: &[(u64, u64, u64)]) {
    for (page, index, value) in writes {
        let (memory, offset) = space.own(page * PAGE + index * 8).unwrap();
        memory.write(offset, &value.to_le_bytes()).unwrap();
    }
}

/// Every page of the real tables is as the module says.
fn check(locked: &Locked) {
    let mut left = vec![(locked.root(), 3)];
    while let Some((table, level)) = left.pop() {
        assert!(table >= TABLES + aside::ROOT && table < TABLES + *locked.next(), "a table lies among the tables");
        for entry in locked.table(table).unwrap().into_iter().filter(|it| *it != 0) {
            assert!(entry & PRESENT != 0);
            let size = if level == 0 { PAGE } else { LARGE_PAGE };
            if level > 1 || (level == 1 && entry & LARGE == 0) {
                left.push((entry & ADDRESS, level - 1));
                continue;
            }
            let at = address(entry, size);
            let is_bell = at == DOORBELL_PHYSICAL && size == PAGE;
            assert!(at + size <= MEMORY as u64 || is_bell, "{entry:x} leads out of the guest's memory");
            if entry & NO_EXECUTE == 0 {
                assert!(entry & WRITABLE == 0, "{entry:x} can be written to and executed");
                assert!(locked.code.contain(at, size), "{entry:x} is new code");
            }
            if entry & WRITABLE != 0 {
                assert!(!locked.fixed.overlap(at, size), "{entry:x} can be written to");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_guest_asks_for_no_code_comes_up(
        first in writes(sound()),
        later in prop::collection::vec((writes(entry()), part()), 1..8),
    ) {
        let space = Space::new(OWN, vec![Memory::new(MEMORY).unwrap()], Vec::new());
        write(&space, &first);
        let locked = Locked::of(&space, OWN).unwrap();
        check(&locked);
        for (writes, (at, length)) in later {
            write(&space, &writes);
            for [slot, new] in locked.follow(&space, OWN, at, length & !(PAGE - 1)).unwrap_or_default() {
                prop_assert!(slot >= TABLES + aside::ROOT, "the address space aside is nobody's to change");
                locked.memory.write((slot - TABLES) as usize, &new.to_le_bytes()).unwrap();
            }
            check(&locked);
        }
        check(&locked.copy().unwrap());
    }
}

#[test]
fn parts_are_found_by_their_ends() {
    let parts = Parts::of(vec![30..40, 10..20, 20..25]);
    for (at, length, overlaps, contains) in
        [(0, 10, false, false), (0, 11, true, false), (10, 15, true, true), (24, 2, true, false), (25, 5, false, false)]
    {
        assert_eq!((parts.overlap(at, length), parts.contain(at, length)), (overlaps, contains), "{at} {length}");
    }
}
