//! The library operating system's reader of ELF headers, compiled for the host and given what strangers write. (The rest of
//! it runs in guests alone, and is tested there.)

extern crate alloc;

#[path = "../../../guest/libos/src/errno.rs"]
#[allow(dead_code, unreachable_pub, reason = "the guest's, of which this needs a part")]
mod errno;
#[path = "../../../guest/libos/src/loader/header.rs"]
#[allow(dead_code, unreachable_pub, reason = "the guest's, of which this needs a part")]
mod header;

/// What the reader uses of the guest's address space.
mod space {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Protection(u8);

    impl Protection {
        pub(crate) const READ: Self = Self(1);
        pub(crate) const WRITE: Self = Self(2);
        pub(crate) const EXECUTE: Self = Self(4);

        pub(crate) fn empty() -> Self {
            Self(0)
        }
    }

    impl core::ops::BitOrAssign for Protection {
        fn bitor_assign(&mut self, other: Self) {
            self.0 |= other.0;
        }
    }
}

use abi::layout::PROGRAM_END;
use header::{Elf, Kind};
use proptest::prelude::*;

const PAGE: usize = 4096;

/// Reads a file that is those bytes and nothing more.
fn parse(file: &[u8]) -> errno::Result<Elf> {
    let read = |at: u64, length: usize| {
        let part = usize::try_from(at).ok().and_then(|at| file.get(at..at.checked_add(length)?));
        part.map(<[u8]>::to_vec).ok_or(errno::ENOEXEC)
    };
    Elf::parse(&file[..file.len().min(PAGE)], read)
}

/// What holds of every file that is accepted.
fn check(file: &[u8]) {
    let Ok(elf) = parse(file) else { return };
    let mut end = 0;
    for it in &elf.segments {
        assert!(it.address >= end && it.in_file <= it.in_memory && it.in_memory > 0, "{it:?}");
        assert_eq!(it.offset % PAGE as u64, (it.address % PAGE) as u64, "{it:?}");
        end = it.address + it.in_memory;
    }
    assert!(end == elf.end() && end <= PROGRAM_END / 2);
    assert!(elf.interpreter.is_none_or(|it| !it.contains(&0)));
    // Wherever it is put.
    for bias in [0, PAGE, PROGRAM_END / 2] {
        let at = parse(file).map(|it| it.headers_at(bias)).unwrap_or_default();
        assert!(at <= bias + end);
    }
}

/// A header as a linker writes it, with these program headers: kind, rights, offset, address, size in file and memory.
fn file(kind: u16, headers: &[[u64; 6]], behind: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    bytes.extend(kind.to_le_bytes());
    bytes.extend(62u16.to_le_bytes());
    bytes.extend(1u32.to_le_bytes());
    bytes.extend([0x1000u64, 64, 0].map(u64::to_le_bytes).concat());
    bytes.extend([0, 0, 0, 0]);
    bytes.extend([64u16, 56, headers.len() as u16, 0, 0, 0].map(u16::to_le_bytes).concat());
    for [kind, rights, offset, address, in_file, in_memory] in headers {
        bytes.extend([*kind as u32, *rights as u32].map(u32::to_le_bytes).concat());
        bytes.extend([*offset, *address, *address, *in_file, *in_memory, PAGE as u64].map(u64::to_le_bytes).concat());
    }
    bytes.extend(behind);
    bytes
}

#[test]
fn a_file_as_linkers_write_it_is_read() {
    let elf = parse(&file(3, &[[1, 5, 0, 0, 0x400, 0x400], [1, 6, 0x1000, 0x2000, 8, 64]], &[])).unwrap();
    assert_eq!((elf.kind, elf.entry, elf.segments.len(), elf.end()), (Kind::Movable, 0x1000, 2, 0x2040));
    assert_eq!(elf.headers_at(0x5000), 0x5040);
}

/// Numbers at which something changes, and any other.
fn number() -> impl Strategy<Value = u64> {
    let limits = [0, 1, 0xfff, 0x1000, 0x1_0000, PROGRAM_END as u64 / 2, i64::MAX as u64, u64::MAX - 0xfff, u64::MAX];
    prop_oneof![
        proptest::sample::select(limits.to_vec()),
        any::<u64>(),
        0..0x1_0000u64,
        (0..64u64).prop_map(|it| it << 12)
    ]
}

fn program_header() -> impl Strategy<Value = [u64; 6]> {
    let kind = prop_oneof![Just(1u64), Just(1), Just(3), 0..8u64];
    (kind, 0..8u64, number(), number(), number(), number()).prop_map(|(a, b, c, d, e, f)| [a, b, c, d, e, f])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(4096)))]

    #[test]
    fn headers_of_any_numbers(
        kind in prop_oneof![Just(2u16), Just(3), any::<u16>()],
        headers in prop::collection::vec(program_header(), 0..8),
        behind in prop::collection::vec(any::<u8>(), 0..64),
        cut in any::<prop::sample::Index>(),
    ) {
        let whole = file(kind, &headers, &behind);
        check(&whole);
        check(&whole[..cut.index(whole.len() + 1)]);
    }

    #[test]
    fn headers_with_any_byte_another(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = file(3, &[[1, 5, 0, 0, 0x400, 0x400], [3, 4, 0x100, 0, 16, 16], [1, 6, 0x1000, 0x2000, 8, 64]], &[0; 256]);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        check(&bytes);
    }
}
