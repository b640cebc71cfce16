//! Memory that is had twice, against plain arrays of bytes.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its surrounding has failed")]

use proptest::prelude::*;
use vm::{Frozen, Memory, Region, Room};

const PAGE: usize = 4096;
/// More than a base may have parts over it.
const PAGES: usize = 600;

/// What is done to one of several memories.
#[derive(Clone, Debug)]
enum Step {
    Write {
        which: usize,
        at: usize,
        value: u8,
        length: usize,
    },
    /// A byte in many pages that are not side by side.
    Scatter {
        which: usize,
        value: u8,
        gap: usize,
    },
    Discard {
        which: usize,
        page: usize,
        pages: usize,
    },
    Freeze {
        which: usize,
    },
    Thaw,
    Reset {
        which: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..4usize, any::<u8>(), 1..5usize).prop_map(|(which, value, gap)| Step::Scatter { which, value, gap }),
        4 => (0..4usize, 0..PAGE * PAGES, any::<u8>(), 1..3 * PAGE)
            .prop_map(|(which, at, value, length)| Step::Write { which, at, value, length }),
        1 => (0..4usize, 0..PAGES, 1..4usize).prop_map(|(which, page, pages)| Step::Discard { which, page, pages }),
        2 => (0..4usize).prop_map(|which| Step::Freeze { which }),
        1 => Just(Step::Thaw),
        1 => (0..4usize).prop_map(|which| Step::Reset { which }),
    ]
}

/// A memory, and what must be in it.
struct Pair {
    memory: Memory,
    model: Vec<u8>,
}

impl Pair {
    #[track_caller]
    fn check(&self) {
        let mut bytes = vec![0; PAGE * PAGES];
        self.memory.read(0, &mut bytes).unwrap();
        let wrong = bytes.iter().zip(&self.model).position(|(a, b)| a != b);
        assert_eq!(wrong, None, "differs at that byte");
    }
}

fn perform(pairs: &mut Vec<Pair>, frozen: &mut Option<(Frozen, Vec<u8>)>, step: &Step) {
    let count = pairs.len();
    match *step {
        Step::Write { which, at, value, length } => {
            let pair = &mut pairs[which % count];
            let length = length.min(PAGE * PAGES - at);
            pair.memory.write(at, &vec![value; length]).unwrap();
            pair.model[at..at + length].fill(value);
        }
        Step::Scatter { which, value, gap } => {
            let pair = &mut pairs[which % count];
            for at in (0..PAGES).step_by(gap + 1).map(|it| it * PAGE + 7) {
                pair.memory.write(at, &[value]).unwrap();
                pair.model[at] = value;
            }
        }
        Step::Discard { which, page, pages } => {
            let pair = &mut pairs[which % count];
            let (at, length) = (page * PAGE, pages.min(PAGES - page) * PAGE);
            pair.memory.discard(at, length).unwrap();
            pair.model[at..at + length].fill(0);
        }
        Step::Freeze { which } => {
            let pair = &pairs[which % count];
            *frozen = Some((pair.memory.freeze().unwrap(), pair.model.clone()));
        }
        Step::Thaw => {
            if let Some((frozen, model)) = frozen.as_ref().filter(|_| count < 4) {
                pairs.push(Pair { memory: Memory::thaw(frozen).unwrap(), model: model.clone() });
            }
        }
        Step::Reset { which } => {
            if let Some((frozen, model)) = frozen {
                let pair = &mut pairs[which % count];
                pair.memory.reset(frozen).unwrap();
                pair.model.clone_from(model);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn copies_see_what_was_there_and_nothing_later(steps in proptest::collection::vec(step(), 1..40)) {
        let mut pairs = vec![Pair { memory: Memory::new(PAGE * PAGES).unwrap(), model: vec![0; PAGE * PAGES] }];
        let mut frozen = None;
        for step in &steps {
            perform(&mut pairs, &mut frozen, step);
        }
        // Only at the end: looking at a page is touching it.
        pairs.iter().for_each(Pair::check);
    }
}

#[test]
fn what_is_not_inside_is_refused() {
    let memory = Memory::new(PAGE).unwrap();
    assert_eq!(memory.read(PAGE - 1, &mut [0; 2]), None);
    assert_eq!(memory.write(usize::MAX, &[0]), None);
    assert_eq!(memory.discard(0, 2 * PAGE), None);
    assert_eq!(memory.discard(1, PAGE), None);
}

#[test]
fn a_page_in_the_place_of_the_first_stays_there() {
    let page = rustix::fs::memfd_create("page", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&page, PAGE as u64).unwrap();
    let room = || std::sync::Arc::new(Room::behind(&page, PAGE * 4).unwrap());
    let first = |it: &Memory| {
        let mut bytes = [0; 2];
        it.read(PAGE - 1, &mut bytes).unwrap();
        bytes
    };
    let memory = Memory::new_in(room()).unwrap();
    memory.write(PAGE - 1, &[1, 2]).unwrap();
    let frozen = memory.freeze().unwrap();
    let copy = Memory::thaw_in(room(), &frozen).unwrap();
    assert_eq!((first(&memory), first(&copy)), ([1, 2], [1, 2]));
    // The page is everybody's, the rest each one's own.
    copy.write(PAGE - 1, &[3, 4]).unwrap();
    assert_eq!((first(&memory), first(&copy)), ([3, 2], [3, 4]));
    let again = copy.freeze().unwrap();
    memory.reset(&again).unwrap();
    memory.write(PAGE - 1, &[5]).unwrap();
    assert_eq!((first(&memory), first(&copy)), ([5, 4], [5, 4]));
    assert!(!memory.used().unwrap().iter().any(|it| it.0 == 0));
    assert!(Memory::thaw_in(std::sync::Arc::new(Room::new(PAGE).unwrap()), &frozen).is_err());
}

/// So much at once goes another way than a few bytes.
#[test]
fn much_is_written_as_little_is() {
    const LENGTH: usize = 4 << 20;
    let much: Vec<u8> = (0..2_500_001u32).map(|it| (it % 253) as u8).collect();
    let check = |memory: &Memory, at: usize| {
        memory.write(0, &[9; 4]).unwrap();
        memory.write(at, &much).unwrap();
        let mut all = vec![0; LENGTH];
        memory.read(0, &mut all).unwrap();
        let end = at + much.len();
        assert!(all[at..end] == much, "at {at}");
        let around = all[4.min(at)..at].iter().chain(&all[end..]);
        assert!(around.into_iter().all(|it| *it == 0), "nothing else was written, at {at}");
        assert_eq!(memory.write(LENGTH - much.len() + 1, &much), None);
    };
    for at in [0, 4, PAGE - 1, 3 * PAGE, LENGTH - much.len()] {
        let memory = Memory::new(LENGTH).unwrap();
        check(&memory, at);
        // What others have is not written to.
        let frozen = memory.freeze().unwrap();
        let copy = Memory::thaw(&frozen).unwrap();
        copy.write(at, &vec![1; much.len()]).unwrap();
        let mut there = vec![0; much.len()];
        memory.read(at, &mut there).unwrap();
        assert!(there == much);
        let page = rustix::fs::memfd_create("page", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&page, PAGE as u64).unwrap();
        check(&Memory::new_in(std::sync::Arc::new(Room::behind(&page, LENGTH).unwrap())).unwrap(), at);
        let mut first = [0; PAGE];
        rustix::io::pread(&page, &mut first, 0).unwrap();
        assert!(at >= PAGE || first[at..] == much[..PAGE - at], "its first page is elsewhere");
    }
}
