//! Copies of what is on this machine, and of what strangers write; the cache where it is damaged.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, OpKind, Register};
use proptest::prelude::*;

use super::elf::Text;
use super::text::{self, Copy, copy};
use super::{Cache, Copies, Known, Patched, View, instruction};

/// In every Debian: a library, its loader, and a program with all in one, at its own address.
const LIBC: &str = "/lib/x86_64-linux-gnu/libc.so.6";
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
const STATIC: &str = "/bin/busybox";
const CALL: [u8; 2] = [0x0f, 0x05];

fn decode(bytes: &[u8], at: u64) -> Instruction {
    Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).decode()
}

#[test]
fn instructions_are_as_long_as_a_decoder_says() {
    for path in [LIBC, LOADER, STATIC, "/usr/bin/redis-server", "/usr/bin/python3"] {
        let Ok(file) = std::fs::read(path) else { continue };
        let text = Text::of(&file).unwrap();
        assert!(text.functions.len() > 20, "{path}: {}", text.functions.len());
        let (mut known, mut unknown) = (0, 0);
        for Range { start: begin, end } in text.functions.iter().map(|it| &it.part) {
            let mut decoder = Decoder::with_ip(64, &file[*begin..*end], *begin as u64, DecoderOptions::NONE);
            while decoder.can_decode() {
                let (at, it) = (decoder.ip() as usize, decoder.decode());
                let found = instruction::read(&file[at..*end]);
                if it.is_invalid() || found.is_none() {
                    unknown += 1;
                    break;
                }
                assert_eq!(found.map(|it| it.length), Some(it.len()), "{path} at {at:#x}: {it:?}");
                let jump = it.op0_kind() == OpKind::NearBranch64 && it.code() != Code::Xbegin_rel32;
                let target = found.and_then(|it| it.jump).map(|jump| (at + it.len()) as i64 + jump);
                if jump {
                    assert_eq!(target, Some(it.near_branch_target() as i64), "{path} at {at:#x}: {it:?}");
                }
                known += 1;
            }
        }
        assert!(known > 10_000 && unknown * 2000 < known, "{path}: {known} known, {unknown} unknown");
    }
}

/// Checks each replaced place as a decoder reads it. Gives how many calls the code has, and how many are left.
fn check(path: &str, file: &[u8], copy: &Copy) -> [usize; 2] {
    let begin = copy.offset as usize;
    let (text, nest) = copy.bytes.split_at(copy.length as usize);
    assert_eq!(nest.len(), copy.nest.length());
    let mut before = file[begin..file.len().min(begin + text.len())].to_vec();
    before.resize(text.len(), 0);
    let away = copy.nest.beside(0) as u64;
    let mut expected = before.clone();
    for place in &copy.places {
        let at = place.begin;
        expected[at..at + 5].copy_from_slice(&text[at..at + 5]);
        let jump = decode(&text[at..], at as u64);
        assert_eq!((jump.code(), jump.len()), (Code::Jmp_rel32_64, 5), "{path} at {at:#x}");
        let inside = jump.near_branch_target().wrapping_sub(away) as usize;
        // What was there, the address behind the call, and to whoever answers it.
        let moved = place.back - 2 - at;
        assert!(place.end.is_some() || moved >= 5, "{path} at {at:#x}: the call stays");
        assert_eq!(nest[inside..inside + moved], before[at..at + moved]);
        let here = |more: usize| away.wrapping_add((inside + more) as u64);
        let load = decode(&nest[inside + moved..], here(moved));
        assert_eq!((load.code(), load.op0_register(), load.len()), (Code::Lea_r64_m, Register::RCX, 7));
        let leaves = decode(&nest[inside + moved + 7..], here(moved + 7));
        assert_eq!((leaves.code(), leaves.near_branch_target()), (Code::Jmp_rel32_64, away));
        let Some(end) = place.end else {
            assert_eq!(load.memory_displacement64(), place.back as u64);
            continue;
        };
        // Behind the call: what was behind it, and home.
        let behind = moved + 7 + 5 + 2;
        assert_eq!(load.memory_displacement64(), here(behind));
        assert_eq!(nest[inside + behind - 2..inside + behind], CALL);
        let rest = end - place.back;
        assert_eq!(nest[inside + behind..inside + behind + rest], before[place.back..end]);
        let home = decode(&nest[inside + behind + rest..], here(behind + rest));
        assert_eq!((home.code(), home.near_branch_target()), (Code::Jmp_rel32_64, end as u64));
    }
    assert!(expected == text, "{path}: nothing else has changed");
    let load = decode(nest, away);
    assert_eq!((load.code(), load.op0_register()), (Code::Mov_r64_imm64, Register::R11));
    assert_eq!(load.immediate64(), abi::layout::PATCHED_ENTRY as u64);
    let goes = decode(&nest[load.len()..], 0);
    assert_eq!((goes.code(), goes.memory_base(), goes.memory_displacement64()), (Code::Jmp_rm64, Register::R11, 0));
    check_boundaries(path, file, copy)
}

/// What is replaced are whole instructions where a decoder walks through the code by itself, none of which depends on where it
/// is, and nothing jumps between them.
fn check_boundaries(path: &str, file: &[u8], copy: &Copy) -> [usize; 2] {
    let (text, begin) = (Text::of(file).unwrap(), copy.offset as usize);
    let end = |it: &text::Place| it.end.unwrap_or(it.back - 2);
    let around = |at: usize| {
        let place = copy.places.get(copy.places.partition_point(|it| end(it) <= at));
        place.filter(|it| it.begin <= at)
    };
    let (mut calls, mut whole, mut is_broken) = (0, 0, false);
    for Range { start, end: stop } in text.functions.iter().map(|it| &it.part) {
        let from = (start - begin) as u64;
        for it in Decoder::with_ip(64, &file[*start..*stop], from, DecoderOptions::NONE) {
            if it.is_invalid() {
                // Whoever gets there goes no further.
                is_broken = true;
                break;
            }
            let is_call = it.code() == Code::Syscall;
            calls += usize::from(is_call);
            let is_branch = it.op0_kind() == OpKind::NearBranch64;
            if let Some(place) = around(it.ip() as usize) {
                whole += usize::from(it.ip() as usize == place.begin);
                assert!(it.next_ip() as usize <= end(place), "{path}: {it:?}");
                assert!(!is_branch && !it.is_ip_rel_memory_operand(), "{path}: {it:?}");
                let leaves = [Code::Retnq, Code::Int3, Code::Hlt, Code::Ud2, Code::Jmp_rm64, Code::Call_rm64];
                assert!(!leaves.contains(&it.code()) && (!is_call || place.end.is_some()), "{path}: {it:?}");
            }
            if let Some(place) = around(it.near_branch_target() as usize).filter(|_| is_branch) {
                assert_eq!(it.near_branch_target() as usize, place.begin, "{path}: {it:?}");
            }
        }
    }
    assert!(is_broken || whole == copy.places.len(), "{path}: {whole} of {}", copy.places.len());
    [calls, calls - whole]
}

#[test]
fn nearly_all_calls_of_the_c_library_become_jumps() {
    for (path, most) in [(LIBC, 500), (LOADER, 36), (STATIC, 260)] {
        let file = std::fs::read(path).unwrap();
        let copy = copy(&file).unwrap();
        let [calls, left] = check(path, &file, &copy);
        assert!(copy.places.len() >= most && left * 10 < calls, "{path}: {left} of {calls} are left");
    }
    for path in ["/usr/bin/redis-server", "/bin/true", "/bin/sh"] {
        let Ok(file) = std::fs::read(path) else { continue };
        assert_eq!(copy(&file), None, "{path} has no calls of its own");
    }
}

mod properties {
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(256)))]

        #[test]
        fn a_file_with_any_bytes_changed_gives_a_right_copy_or_none(
            changes in prop::collection::vec((prop_oneof![0..0x400usize, any::<prop::sample::Index>().prop_map(|it| it.index(200_000))], any::<u8>()), 1..12),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut file = std::fs::read(LOADER).unwrap();
            for (at, byte) in changes {
                let length = file.len();
                file[at % length] = byte;
            }
            if let Some(cut) = cut {
                file.truncate(cut.index(file.len() + 1));
            }
            if let Some(copy) = copy(&file) {
                prop_assert!(copy.offset % 4096 == 0 && copy.length % 4096 == 0);
                prop_assert_eq!(copy.bytes.len() as u64, copy.length + copy.nest.length() as u64);
                prop_assert!(copy.offset < file.len() as u64);
                check(LOADER, &file, &copy);
            }
        }

        #[test]
        fn any_bytes_are_read_within_bounds(bytes in prop::collection::vec(any::<u8>(), 0..24)) {
            if let Some(it) = instruction::read(&bytes) {
                prop_assert!(it.length > 0 && it.length <= bytes.len().min(15));
                let known = decode(&bytes, 0);
                prop_assert!(known.is_invalid() || known.len() == it.length, "{known:?} {bytes:x?} {it:?}");
            }
        }
    }
}

/// A root with a C library in it, and a cache.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("root/lib64/libc.so.6");
        std::fs::create_dir_all(library.parent().unwrap()).unwrap();
        std::fs::copy(LIBC, library).unwrap();
        Self { dir }
    }

    fn library(&self) -> std::path::PathBuf {
        self.dir.path().join("root/lib64/libc.so.6")
    }

    fn copies(&self, scope: &str) -> Vec<Patched> {
        let root = File::open(self.dir.path().join("root")).unwrap();
        Cache::at(self.dir.path().join("cache")).of_root(root.as_fd(), &[], scope, View::FromInside)
    }

    /// The file with the copy, of which there is one.
    fn file(&self) -> std::path::PathBuf {
        let entries = std::fs::read_dir(self.dir.path().join("cache")).unwrap().map(|it| it.unwrap().path());
        let files: Vec<_> = entries.filter(|it| it.is_file()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].clone()
    }

    fn inode(&self) -> u64 {
        std::fs::metadata(self.file()).unwrap().ino()
    }
}

fn change(path: &Path, at: u64) {
    use std::os::unix::fs::FileExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

#[test]
fn a_copy_is_made_once_and_again_when_it_is_damaged() {
    let place = Place::new();
    assert_eq!(place.copies("one").len(), 1);
    let (first, bytes) = (place.inode(), std::fs::read(place.file()).unwrap());
    // For the same root again, and for another with the same file.
    assert_eq!((place.copies("one").len(), place.inode()), (1, first));
    assert_eq!((place.copies("other").len(), place.inode()), (1, first));
    for at in [0, 100_000, bytes.len() as u64 - 4090] {
        // Open, or its number may be the next one's.
        let (damaged, number) = (File::open(place.file()).unwrap(), place.inode());
        change(&place.file(), at);
        assert_ne!(std::fs::read(place.file()).unwrap(), bytes);
        assert_eq!(place.copies("one").len(), 1);
        assert_eq!(std::fs::read(place.file()).unwrap(), bytes);
        assert_ne!(place.inode(), number, "whoever has the damaged one open keeps it");
        drop(damaged);
    }
    std::fs::remove_file(place.file()).unwrap();
    assert_eq!((place.copies("one").len(), std::fs::read(place.file()).unwrap() == bytes), (1, true));
}

#[test]
fn a_collector_leaves_what_is_needed() {
    let place = Place::new();
    assert_eq!((place.copies("one").len(), place.copies("other").len()), (1, 1));
    let (first, cache) = (place.inode(), Cache::at(place.dir.path().join("cache")));
    std::fs::write(place.dir.path().join("cache/.1-0"), "of somebody who was killed").unwrap();
    assert_eq!(cache.collect(|it| it == "one"), 26);
    assert_eq!((place.inode(), place.copies("one").len(), place.inode()), (first, 1, first));
    let length = std::fs::metadata(place.file()).unwrap().len();
    assert_eq!(cache.collect(|_| false), length);
    assert_eq!((cache.collect(|_| false), place.copies("one").len()), (0, 1));
}

#[test]
fn a_file_that_changed_has_another_copy() {
    let place = Place::new();
    let before = place.copies("one");
    change(&place.library(), 0x200);
    let after = rustix::fs::stat(place.library()).unwrap();
    assert!(Copies::new(before).of(&after).is_none());
    assert_eq!(place.copies("one").len(), 1);
    let count =
        std::fs::read_dir(place.dir.path().join("cache")).unwrap().filter(|it| it.as_ref().unwrap().path().is_file());
    assert_eq!(count.count(), 2);
}

#[test]
fn a_layer_below_has_the_same_files_on_another_device() {
    let place = Place::new();
    let root = File::open(place.dir.path().join("root")).unwrap();
    let cache = Cache::at(place.dir.path().join("cache"));
    let mut seen = rustix::fs::stat(place.library()).unwrap();
    seen.st_dev += 1;
    assert!(Copies::new(cache.of_root(root.as_fd(), &[], "one", View::FromInside)).of(&seen).is_none());
    let copies = Copies::new(cache.of_root(root.as_fd(), &[], "one", View::FromBelow));
    assert!(copies.of(&seen).is_some());
    seen.st_ctime_nsec += 1;
    assert!(copies.of(&seen).is_none(), "{:?}", Known::of(&seen));
}

#[test]
fn without_room_for_copies_there_are_none() {
    let place = Place::new();
    std::fs::write(place.dir.path().join("cache"), "no directory").unwrap();
    assert!(place.copies("one").is_empty());
}

#[test]
fn copies_are_handed_over_with_what_they_are_of() {
    let place = Place::new();
    let copies = place.copies("one");
    let (ours, theirs) = sys::socket::pair().unwrap();
    Patched::send_all(&copies, &ours);
    let received = Patched::receive_all(&theirs);
    assert_eq!(received.len(), 1);
    assert_eq!((received[0].word(), received[0].length()), (copies[0].word(), copies[0].length()));
    assert!(received[0].is_of(copies[0].offset, copies[0].length - 5));
    assert!(!received[0].is_of(copies[0].offset, copies[0].length + 1));
    let known = rustix::fs::stat(place.library()).unwrap();
    assert!(Copies::new(received).of(&known).is_some());
}
