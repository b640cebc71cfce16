//! Disks of this format beside plain bytes, and files that no disk ever was.

use std::fs::File;
use std::io::Write as _;

use proptest::prelude::*;

use super::Qcow2;
use crate::disk::{Access, Medium as _, Zeroes};

const BITS: u32 = 9;
const CLUSTER: usize = 1 << BITS;
/// Bytes of the disk: four tables.
const LENGTH: usize = 4 * CLUSTER / 8 * CLUSTER;

/// An empty disk: header, first table, table of counts, one block of counts.
fn empty() -> Vec<u8> {
    let mut bytes = vec![0; 4 * CLUSTER];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, b"QFI\xfb");
    put(4, &3u32.to_be_bytes());
    put(20, &BITS.to_be_bytes());
    put(24, &(LENGTH as u64).to_be_bytes());
    put(36, &4u32.to_be_bytes());
    put(40, &(CLUSTER as u64).to_be_bytes());
    put(48, &(2 * CLUSTER as u64).to_be_bytes());
    put(56, &1u32.to_be_bytes());
    put(96, &4u32.to_be_bytes());
    put(100, &104u32.to_be_bytes());
    put(2 * CLUSTER, &(3 * CLUSTER as u64).to_be_bytes());
    (0..4).for_each(|number| put(3 * CLUSTER + 2 * number, &[0, 1]));
    bytes
}

fn file(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

fn open(file: &File) -> std::io::Result<Qcow2> {
    Qcow2::open(file.try_clone().unwrap(), Access::ReadWrite)
}

#[derive(Debug, Clone)]
enum Step {
    Write(usize, Vec<u8>),
    Zero(usize, usize, bool),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let range = (0..LENGTH, 1..3 * CLUSTER).prop_map(|(at, size)| (at, size.min(LENGTH - at)));
    let write = (range.clone(), any::<u8>()).prop_map(|((at, size), byte)| Step::Write(at, vec![byte; size]));
    let zero = (range, any::<bool>()).prop_map(|((at, size), keep)| Step::Zero(at, size, keep));
    prop_oneof![6 => write, 3 => zero, 1 => Just(Step::Reopen)]
}

/// Each cluster is counted as often as something points to it.
fn must_count_right(file: &File) {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; file.metadata().unwrap().len().next_multiple_of(CLUSTER as u64) as usize];
    let size = file.read_at(&mut bytes, 0).unwrap();
    assert_eq!(size as u64, file.metadata().unwrap().len());
    let long = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let words = |at: usize| (0..CLUSTER / 8).map(move |number| at + number * 8);
    let mut pointed = vec![0u16; bytes.len() / CLUSTER];
    (0..3).for_each(|number| pointed[number] = 1);
    let place = |entry: u64| (entry & 0x00ff_ffff_ffff_fe00) as usize;
    for block in words(2 * CLUSTER).map(long).filter(|block| *block != 0) {
        pointed[block as usize / CLUSTER] += 1;
    }
    for table in words(CLUSTER).take(4).map(long).map(place).filter(|table| *table != 0) {
        pointed[table / CLUSTER] += 1;
        for data in words(table).map(long).map(place).filter(|data| *data != 0) {
            pointed[data / CLUSTER] += 1;
        }
    }
    for (number, expected) in pointed.iter().enumerate() {
        let block = long(2 * CLUSTER + number / (CLUSTER / 2) * 8) as usize;
        let at = block + number % (CLUSTER / 2) * 2;
        let counted = if block == 0 { 0 } else { u16::from_be_bytes([bytes[at], bytes[at + 1]]) };
        assert_eq!(counted, *expected, "cluster {number}");
    }
}

proptest! {
    #[test]
    fn it_is_what_was_written(steps in prop::collection::vec(step(), 1..60)) {
        let file = file(&empty());
        let mut disk = open(&file).unwrap();
        let mut model = vec![0; LENGTH];
        for step in steps {
            match step {
                Step::Write(at, bytes) => {
                    disk.write(&bytes, at as u64).unwrap();
                    model[at..at + bytes.len()].copy_from_slice(&bytes);
                }
                Step::Zero(at, size, keep) => {
                    let how = if keep { Zeroes::Keep } else { Zeroes::Release };
                    disk.zero(at as u64, size as u64, how).unwrap();
                    model[at..at + size].fill(0);
                }
                Step::Reopen => disk = open(&file).unwrap(),
            }
        }
        let mut read = vec![1; LENGTH];
        disk.read(&mut read, 0).unwrap();
        prop_assert!(read == model);
        must_count_right(&file);
    }

    /// Numbers that make no sense end in an error, or in sectors, and always end.
    #[test]
    fn damaged_files_are_errors(
        damage in prop::collection::vec((0..4 * CLUSTER / 8, any::<bool>(), any::<u64>(), 0..20u64), 1..6),
        length in 0..6 * CLUSTER,
    ) {
        let mut bytes = empty();
        let good = file(&bytes);
        open(&good).unwrap().write(&[5; 3 * CLUSTER], 0).unwrap();
        bytes.resize(8 * CLUSTER, 0);
        std::os::unix::fs::FileExt::read_at(&good, &mut bytes, 0).unwrap();
        for (at, is_wild, wild, near) in damage {
            let value = if is_wild { wild } else { (near * CLUSTER as u64) | (wild & 3 << 62) };
            bytes[at * 8..at * 8 + 8].copy_from_slice(&value.to_be_bytes());
        }
        bytes.truncate(8 * CLUSTER - length.min(bytes.len()));
        if let Ok(mut disk) = open(&file(&bytes)) {
            let end = disk.length().min(LENGTH as u64) as usize;
            let _ = disk.read(&mut vec![0; end], 0);
            for at in (0..end.saturating_sub(CLUSTER)).step_by(CLUSTER * 7 + 3) {
                let _ = disk.write(&[1; CLUSTER], at as u64);
                let _ = disk.zero(at as u64, CLUSTER as u64, Zeroes::Release);
            }
        }
    }
}

#[test]
fn what_is_not_served_is_refused_in_words() {
    let check = |at: usize, value: &[u8], word: &str| {
        let mut bytes = empty();
        bytes[at..at + value.len()].copy_from_slice(value);
        let why = open(&file(&bytes)).err().unwrap().to_string();
        assert!(why.contains(word), "{why}");
    };
    check(0, b"none", "no qcow2");
    check(4, &4u32.to_be_bytes(), "version");
    check(8, &512u64.to_be_bytes(), "another file");
    check(20, &40u32.to_be_bytes(), "clusters");
    check(24, &(1u64 << 40).to_be_bytes(), "first table");
    check(32, &1u32.to_be_bytes(), "encrypted");
    check(40, &0u64.to_be_bytes(), "one place");
    check(40, &(1u64 << 30).to_be_bytes(), "outside");
    check(48, &(CLUSTER as u64).to_be_bytes(), "one place");
    check(72, &1u64.to_be_bytes(), "repair");
    check(72, &(1u64 << 4).to_be_bytes(), "not known");
    check(96, &5u32.to_be_bytes(), "16 bits");
    check(CLUSTER, &(1u64 << 63 | CLUSTER as u64).to_be_bytes(), "one place");
    assert!(open(&file(&empty()[..50])).err().unwrap().to_string().contains("shorter"));
}

#[test]
fn sectors_are_never_where_a_table_is() {
    let mut bytes = empty();
    // A table whose first sectors are the header, and whose second are the table itself.
    let table = bytes.len();
    bytes.resize(table + CLUSTER, 0);
    let word = |bytes: &mut Vec<u8>, at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
    word(&mut bytes, CLUSTER, 1 << 63 | table as u64);
    word(&mut bytes, table, 1 << 63 | (2 * CLUSTER as u64));
    word(&mut bytes, table + 8, 1 << 63 | table as u64);
    word(&mut bytes, table + 16, 1 << 63 | 1 << 40);
    let mut disk = open(&file(&bytes)).unwrap();
    for at in [0, CLUSTER, 2 * CLUSTER] {
        assert!(disk.read(&mut [0; 16], at as u64).is_err());
        assert!(disk.write(&[0; 16], at as u64).is_err());
        assert!(disk.zero(at as u64, CLUSTER as u64, Zeroes::Release).is_err());
    }
}

#[test]
fn compressed_clusters_are_read_and_written_elsewhere() {
    let mut bytes = empty();
    let mut packer = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(&[b'c'; CLUSTER]).unwrap();
    let packed = packer.finish().unwrap();
    let (table, data) = (4 * CLUSTER, 5 * CLUSTER + 100);
    bytes.resize(6 * CLUSTER, 0);
    bytes[data..data + packed.len()].copy_from_slice(&packed);
    bytes[CLUSTER..CLUSTER + 8].copy_from_slice(&(1 << 63 | table as u64).to_be_bytes());
    bytes[table..table + 8].copy_from_slice(&(1 << 62 | data as u64).to_be_bytes());
    bytes[3 * CLUSTER + 8..3 * CLUSTER + 12].copy_from_slice(&[0, 1, 0, 1]);
    let file = file(&bytes);
    let mut disk = open(&file).unwrap();
    let mut read = [0; CLUSTER + 8];
    disk.read(&mut read, 0).unwrap();
    assert_eq!((&read[..CLUSTER], &read[CLUSTER..]), (&[b'c'; CLUSTER][..], &[0; 8][..]));
    disk.write(b"new", 10).unwrap();
    disk.read(&mut read, 0).unwrap();
    assert_eq!(&read[8..16], b"ccnewccc");
    must_count_right(&file);
}
