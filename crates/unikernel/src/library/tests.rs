//! Libraries and guests that are not what they should be: cut short, changed at any place, or made up.

use std::collections::BTreeMap;

use abi::library::{HEAD, MAP, RESERVE, THREAD};
use proptest::prelude::*;
use sys::Errno;

use super::elf::{PAGE, Shape};
use super::linked::{Depth, Linked};
use super::place::New;
use super::plan::{Plan, plan};
use super::standing::{Pages, Standing};
use super::words::Request;
use super::{Trouble, root};
use crate::memory::Memory;

/// In every Debian.
const ZLIB: &str = "/lib/x86_64-linux-gnu/libz.so.1";
const LIBC: &str = "/lib/x86_64-linux-gnu/libc.so.6";
const SONAME: &str = "libz.so.1";

fn zlib() -> Vec<u8> {
    std::fs::read(ZLIB).unwrap()
}

/// A guest's memory, made up.
#[derive(Clone, Default)]
struct Guest {
    parts: BTreeMap<u64, Vec<u8>>,
}

impl Memory for Guest {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Errno> {
        let (begin, part) = self.parts.range(..=at).next_back().ok_or(Errno::FAULT)?;
        let offset = (at - begin) as usize;
        let from = part.get(offset..).and_then(|it| it.get(..into.len())).ok_or(Errno::FAULT)?;
        into.copy_from_slice(from);
        Ok(())
    }

    fn write(&self, _: u64, _: &[u8]) -> Result<(), Errno> {
        Err(Errno::FAULT)
    }
}

const PROGRAM: u64 = 0x5555_0000_0000;
const ZLIB_AT: u64 = 0x6dff_f000_0000;
const LIBC_AT: u64 = 0x6dff_e000_0000;
const STACK: u64 = 0x6eff_0000_0000;
const REPORT: u64 = 0x7010_0000_0000;

fn words(all: &[u64]) -> Vec<u8> {
    all.iter().flat_map(|it| it.to_le_bytes()).collect()
}

impl Guest {
    /// A program with zlib and the C library, as its loader would have it, which has one thread.
    fn new() -> Self {
        let mut guest = Self::default();
        let (zlib, libc) = (zlib(), std::fs::read(LIBC).unwrap());
        let shapes = [&zlib, &libc].map(|it| Shape::parse(it.as_slice()).unwrap());
        let linked = New::read(&zlib).unwrap().link(ZLIB_AT, |_| Ok(LIBC_AT + PAGE)).unwrap();
        guest.parts.insert(ZLIB_AT, linked);
        guest.parts.insert(LIBC_AT, shapes[1].lay_out(&libc).unwrap());
        // Its headers, its dynamic section, what its loader tells debuggers, and the list of libraries.
        let (dynamic, debug, list, name) = (0x200, 0x300, 0x400, 0x500);
        let mut program = vec![0; PAGE as usize];
        let mut put = |at: usize, all: &[u64]| program[at..at + all.len() * 8].copy_from_slice(&words(all));
        put(0x40, &[6, 0x40, 0x40, 0x40, 112, 112, 8]);
        put(0x40 + 56, &[2, dynamic, dynamic, dynamic, 32, 32, 8]);
        put(dynamic as usize, &[21, PROGRAM + debug, 0, 0]);
        put(debug as usize, &[1, PROGRAM + list, 0, 0, 0]);
        put(list as usize, &[ZLIB_AT, PROGRAM + name, ZLIB_AT + shapes[0].dynamic, PROGRAM + list + 32]);
        put(list as usize + 32, &[LIBC_AT, PROGRAM + name, LIBC_AT + shapes[1].dynamic, 0]);
        program[name as usize..name as usize + ZLIB.len()].copy_from_slice(ZLIB.as_bytes());
        guest.parts.insert(PROGRAM, program);
        guest.parts.insert(STACK, vec![0; PAGE as usize]);
        let mut report = vec![PROGRAM + 0x40, 2, 0, 1];
        for (at, rights) in [(PROGRAM, 1), (LIBC_AT, 5), (ZLIB_AT, 5), (STACK, 3)] {
            let length = (guest.parts[&at].len() as u64).next_multiple_of(PAGE);
            report.extend([at, at + length, rights]);
            report[2] += 1;
        }
        let mut thread = [0; THREAD];
        (thread[0], thread[1]) = (PROGRAM, STACK + 0x800);
        report.extend(thread);
        guest.parts.insert(REPORT, words(&report));
        guest
    }

    fn plan(&self, new: &New) -> Result<Option<Plan>, Trouble> {
        let pages = Pages::new(self);
        let standing = Standing::read(&pages, REPORT, self.parts[&REPORT].len() as u64 / 8)?;
        let request = Request { soname: SONAME.to_owned(), ..Request::default() };
        plan(&standing, new, &request, |_| None, root::read)
    }
}

#[test]
fn a_plan_leaves_the_old_one_where_it_is_and_leads_to_the_new_one() {
    let new = New::read(&zlib()).unwrap();
    let plan = Guest::new().plan(&new).unwrap().unwrap();
    assert_eq!((plan.old, plan.anchor, plan.path.as_slice()), (ZLIB_AT, ZLIB_AT, ZLIB.as_bytes()));
    assert!(plan.base < ZLIB_AT && ZLIB_AT - plan.base < 1 << 30);
    assert_eq!(plan.prepare[0][..3], [RESERVE, plan.base, new.shape.length()]);
    assert!(plan.prepare.iter().any(|it| it[0] == MAP));
    let crc = new.linked.find(b"crc32", None).unwrap();
    let jump = plan.writes.iter().find(|(at, _)| *at == ZLIB_AT + crc.value).map(|it| it.1.as_slice());
    let distance = (plan.base + crc.value).wrapping_sub(ZLIB_AT + crc.value + 5) as i32;
    assert_eq!(jump, Some([&[0xe9], distance.to_le_bytes().as_slice()].concat().as_slice()));
}

#[test]
fn symbols_are_found_by_name_and_version() {
    let libc = std::fs::read(LIBC).unwrap();
    let shape = Shape::parse(libc.as_slice()).unwrap();
    let image = shape.lay_out(&libc).unwrap();
    let linked = Linked::parse(image.as_slice(), shape.dynamic, 0, Depth::Symbols).unwrap();
    let find = |name: &str, version: Option<&str>| linked.find(name.as_bytes(), version.map(str::as_bytes));
    assert_eq!(linked.soname(), b"libc.so.6");
    assert!(find("malloc", Some("GLIBC_2.2.5")).is_some() && find("malloc", None).is_some());
    assert!(find("malloc", Some("GLIBC_9")).is_none() && find("no_such_thing", None).is_none());
    // Two of them, of which one is meant by the name alone.
    let (old, new) = (find("pthread_cond_wait", Some("GLIBC_2.2.5")), find("pthread_cond_wait", Some("GLIBC_2.3.2")));
    assert!(old.is_some() && new.is_some() && old != new && find("pthread_cond_wait", None) == new);
    for (index, it) in linked.exported() {
        assert_eq!(linked.find(linked.name(it), linked.version(index)).map(|it| it.value), Some(it.value));
    }
}

#[test]
fn a_file_cut_short_is_refused() {
    let whole = zlib();
    assert!(New::read(&whole).is_ok());
    let needed =
        Shape::parse(whole.as_slice()).unwrap().segments.iter().map(|it| it.offset + it.in_file).max().unwrap();
    for length in (0..needed as usize).step_by(61) {
        assert!(New::read(&whole[..length]).is_err(), "{length}");
    }
}

#[test]
fn every_number_of_the_headers_may_be_any() {
    let whole = zlib();
    let shape = Shape::parse(whole.as_slice()).unwrap();
    let dynamic = shape.segments.iter().find(|it| it.holds(shape.dynamic, 16)).unwrap();
    let dynamic = (dynamic.offset + shape.dynamic - dynamic.at) as usize;
    for at in (0..576).chain(dynamic..dynamic + 0x1f0).step_by(4) {
        for value in [0u64, 1, 0x7fff_ffff, 0xffff_f000, u64::MAX, u64::MAX / 2 + 1, 1 << 47] {
            let mut bytes = whole.clone();
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            // Whatever it says, it says it.
            let _ = New::read(&bytes);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_hostile_file_is_refused_or_linked(changes in prop::collection::vec((0usize..0x2280, any::<[u8; 4]>()), 1..6)) {
        let mut bytes = zlib();
        for (at, change) in changes {
            bytes[at..at + 4].copy_from_slice(&change);
        }
        if let Ok(new) = New::read(&bytes) {
            let linked = new.link(1 << 40, |symbol| Ok(u64::from(symbol) << 32));
            prop_assert!(linked.is_ok_and(|it| it.len() == new.image.len()));
            let _ = Guest::new().plan(&new);
        }
    }

    #[test]
    fn a_hostile_guest_is_refused_or_planned_for(
        part in prop::sample::select(vec![PROGRAM, ZLIB_AT, ZLIB_AT, REPORT]),
        changes in prop::collection::vec((0usize..0x2280, prop_oneof![any::<u64>(), 0u64..64, Just(PROGRAM + 0x400)]), 1..6),
    ) {
        let new = New::read(&zlib()).unwrap();
        let mut guest = Guest::new();
        let bytes = guest.parts.get_mut(&part).unwrap();
        for (at, change) in changes {
            let at = at % (bytes.len() - 8) / 8 * 8;
            bytes[at..at + 8].copy_from_slice(&change.to_le_bytes());
        }
        if let Ok(Some(plan)) = guest.plan(&new) {
            let written: usize = plan.writes.iter().map(|it| it.1.len()).sum();
            prop_assert!(written < 1 << 20);
        }
    }

    #[test]
    fn a_report_of_anything_is_read(all in prop::collection::vec(prop_oneof![any::<u64>(), 0u64..8], 0..64), more in 0u64..99) {
        let mut guest = Guest::default();
        let length = all.len() as u64;
        guest.parts.insert(REPORT, words(&all));
        let pages = Pages::new(&guest);
        let read = Standing::read(&pages, REPORT, length + more);
        prop_assert!(read.is_err() || more == 0 && all.len() >= HEAD);
        prop_assert!(Standing::read(&pages, REPORT, u64::MAX).is_err());
    }
}
