//! Copies of what is on this machine, and of what strangers write; the cache where it is damaged.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, OpKind, Register};
use proptest::prelude::*;

use super::elf::Text;
use super::text::{Copy, copy};
use super::{Cache, Patched, instruction};

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
        assert!(text.starts.len() > 20, "{path}: {}", text.starts.len());
        let (mut known, mut unknown) = (0, 0);
        for (begin, end) in text.starts.iter().zip(text.starts[1..].iter().chain([&text.code.end])) {
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
    let before: Vec<u8> = {
        let mut all = file[begin..file.len().min(begin + text.len())].to_vec();
        all.resize(text.len(), 0);
        all
    };
    let away = copy.nest.beside(0) as u64;
    let mut places = Vec::new();
    let mut at = 0;
    while at < text.len() {
        if before[at] == text[at] {
            at += 1;
            continue;
        }
        // The first byte of what is replaced always changes; the others may not.
        let old = decode(&before[at..], at as u64);
        let (sets, loads) = (old.code() == Code::Mov_r32_imm32, old.code() == Code::Mov_r64_rm64);
        assert!(sets || loads, "{path} at {at:#x}: {old:?}");
        assert_eq!(old.op0_register(), if sets { Register::EAX } else { Register::R9 });
        assert_eq!(old.len(), 5);
        assert_eq!(decode(&before[at + 5..], 0).code(), Code::Syscall);
        assert_eq!(text[at + 5..at + 7], CALL, "whoever is about to call does");
        let jump = decode(&text[at..], at as u64);
        assert_eq!((jump.code(), jump.len()), (Code::Jmp_rel32_64, 5));
        let inside = jump.near_branch_target().wrapping_sub(away) as usize;
        // What was there, the address behind the call, and to whoever answers it.
        assert_eq!(nest[inside..inside + 5], before[at..at + 5]);
        let here = away.wrapping_add(inside as u64 + 5);
        let back = decode(&nest[inside + 5..], here);
        assert_eq!((back.code(), back.op0_register()), (Code::Lea_r64_m, Register::RCX));
        assert_eq!(back.memory_displacement64(), at as u64 + 7);
        let leaves = decode(&nest[inside + 12..], here + 7);
        assert_eq!((leaves.code(), leaves.near_branch_target()), (Code::Jmp_rel32_64, away));
        places.push(at..at + 5);
        at += 5;
    }
    let load = decode(nest, away);
    assert_eq!((load.code(), load.op0_register()), (Code::Mov_r64_imm64, Register::R11));
    assert_eq!(load.immediate64(), abi::layout::PATCHED_ENTRY as u64);
    let goes = decode(&nest[load.len()..], 0);
    assert_eq!((goes.code(), goes.memory_base(), goes.memory_displacement64()), (Code::Jmp_rm64, Register::R11, 0));
    assert_eq!(places.len(), copy.calls);
    check_boundaries(path, file, copy, &places)
}

/// Each place is one whole instruction where a decoder walks through the code by itself, and nothing jumps into it.
fn check_boundaries(path: &str, file: &[u8], copy: &Copy, places: &[std::ops::Range<usize>]) -> [usize; 2] {
    let (text, begin) = (Text::of(file).unwrap(), copy.offset as usize);
    let holds = |at: usize| places.iter().find(|it| it.contains(&at));
    let (mut calls, mut found) = (0, 0);
    for (start, end) in text.starts.iter().zip(text.starts[1..].iter().chain([&text.code.end])) {
        let from = (start - begin) as u64;
        for it in Decoder::with_ip(64, &file[*start..*end], from, DecoderOptions::NONE) {
            calls += usize::from(it.code() == Code::Syscall);
            if let Some(place) = holds(it.ip() as usize) {
                assert_eq!((it.ip() as usize, it.next_ip() as usize), (place.start, place.end), "{path}: {it:?}");
                found += 1;
            }
            if let Some(place) = holds(it.near_branch_target() as usize) {
                assert_eq!(it.near_branch_target() as usize, place.start, "{path}: {it:?}");
            }
        }
    }
    assert_eq!(found, places.len(), "{path}");
    [calls, calls - found]
}

#[test]
fn nearly_all_calls_of_the_c_library_become_jumps() {
    for (path, most_left) in [(LIBC, 100), (LOADER, 14), (STATIC, 40)] {
        let file = std::fs::read(path).unwrap();
        let copy = copy(&file).unwrap();
        let [calls, left] = check(path, &file, &copy);
        assert!(left < most_left && copy.calls > 2 * left, "{path}: {left} of {calls} are left");
    }
    for path in ["/usr/bin/redis-server", "/bin/true", "/bin/sh"] {
        let Ok(file) = std::fs::read(path) else { continue };
        assert_eq!(copy(&file), None, "{path} has no calls of its own");
    }
}

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
        Cache::at(self.dir.path().join("cache")).of_root(root.as_fd(), &[], scope)
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
        change(&place.file(), at);
        assert_ne!(std::fs::read(place.file()).unwrap(), bytes);
        assert_eq!(place.copies("one").len(), 1);
        assert_eq!(std::fs::read(place.file()).unwrap(), bytes);
        assert_ne!(place.inode(), first, "whoever has the damaged one open keeps it");
    }
    std::fs::remove_file(place.file()).unwrap();
    assert_eq!((place.copies("one").len(), std::fs::read(place.file()).unwrap() == bytes), (1, true));
}

#[test]
fn a_file_that_changed_has_another_copy() {
    let place = Place::new();
    let before = place.copies("one");
    change(&place.library(), 0x200);
    let after = rustix::fs::stat(place.library()).unwrap();
    assert!(super::Copies::new(before).of(&after).is_none());
    assert_eq!(place.copies("one").len(), 1);
    let count =
        std::fs::read_dir(place.dir.path().join("cache")).unwrap().filter(|it| it.as_ref().unwrap().path().is_file());
    assert_eq!(count.count(), 2);
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
    assert!(super::Copies::new(received).of(&known).is_some());
}
