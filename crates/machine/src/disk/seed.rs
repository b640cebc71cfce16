//! A disk that tells a system what to make of itself at its first start: what cloud-init calls the seed `NoCloud`.
//!
//! It is a file system of ISO 9660 (ECMA-119) with the label `cidata`, and a few files in its root, made in memory. That is a
//! page of code: there is one directory, nothing is ever written, and every kernel reads it. Names are as they are given, which the
//! standard would have in capitals and without hyphens; Linux takes them as they stand.

use std::io;

use super::{Access, Disk, Medium, Zeroes};

const SECTOR: usize = 2048;
/// Where descriptors begin, and what follows them.
const DESCRIPTORS: usize = 16;
const TABLE: usize = 18;
const TABLE_REVERSED: usize = 19;
const ROOT: usize = 20;
const LABEL: &str = "cidata";
const DIRECTORY: u8 = 2;

/// A file of a seed.
#[derive(Debug, Clone)]
pub struct SeedFile {
    /// What it is called: letters, digits and hyphens.
    pub name: String,
    /// What is in it.
    pub content: Vec<u8>,
}

impl Disk {
    /// A seed with these files, which nobody can write.
    pub fn seed(files: &[SeedFile]) -> Disk {
        Disk { medium: Box::new(Seed(image(files))), access: Access::ReadOnly, serial: LABEL.into() }
    }
}

/// The file system.
struct Seed(Vec<u8>);

impl Medium for Seed {
    fn length(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&mut self, into: &mut [u8], at: u64) -> io::Result<()> {
        let from = self.0.get(at as usize..).and_then(|it| it.get(..into.len()));
        into.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&mut self, _from: &[u8], _at: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn zero(&mut self, _at: u64, _length: u64, _how: Zeroes) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

/// All sectors.
fn image(files: &[SeedFile]) -> Vec<u8> {
    let mut records = [record(&[0], ROOT, 0, DIRECTORY), record(&[1], ROOT, 0, DIRECTORY)].to_vec();
    records.extend(files.iter().map(|file| record(file.name.as_bytes(), 0, file.content.len(), 0)));
    let length = place(&mut records).next_multiple_of(SECTOR);
    let mut at = ROOT + length / SECTOR;
    let mut directory = vec![0; length];
    let mut next = 0;
    for (number, record) in records.iter_mut().enumerate() {
        // A record does not go over a sector's end.
        if next % SECTOR + record.len() > SECTOR {
            next = next.next_multiple_of(SECTOR);
        }
        match number.checked_sub(2).and_then(|number| files.get(number)) {
            Some(file) => {
                put_both(record, 2, at);
                at += file.content.len().div_ceil(SECTOR);
            }
            None => put_both(record, 10, length),
        }
        directory[next..next + record.len()].copy_from_slice(record);
        next += record.len();
    }
    let mut bytes = vec![0; ROOT * SECTOR];
    let root = &directory[..records[0].len()];
    bytes[DESCRIPTORS * SECTOR..][..SECTOR].copy_from_slice(&descriptor(at, root));
    bytes[(DESCRIPTORS + 1) * SECTOR..][..7].copy_from_slice(b"\xffCD001\x01");
    let table = |at: [u8; 4], one: [u8; 2]| [&[1, 0][..], &at, &one, &[0, 0]].concat();
    bytes[TABLE * SECTOR..][..10].copy_from_slice(&table((ROOT as u32).to_le_bytes(), 1u16.to_le_bytes()));
    bytes[TABLE_REVERSED * SECTOR..][..10].copy_from_slice(&table((ROOT as u32).to_be_bytes(), 1u16.to_be_bytes()));
    bytes.extend(directory);
    for file in files {
        bytes.extend(&file.content);
        bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
    }
    bytes
}

/// How long a directory of these records is.
fn place(records: &mut [Vec<u8>]) -> usize {
    records.iter().fold(0, |at: usize, record| {
        let at = if at % SECTOR + record.len() > SECTOR { at.next_multiple_of(SECTOR) } else { at };
        at + record.len()
    })
}

/// A directory's entry.
fn record(name: &[u8], at: usize, length: usize, flags: u8) -> Vec<u8> {
    let mut record = vec![0; (33 + name.len()).next_multiple_of(2)];
    record[0] = record.len() as u8;
    put_both(&mut record, 2, at);
    put_both(&mut record, 10, length);
    record[25] = flags;
    record[28..32].copy_from_slice(&[1, 0, 0, 1]);
    record[32] = name.len() as u8;
    record[33..33 + name.len()].copy_from_slice(name);
    record
}

/// The primary volume descriptor.
fn descriptor(sectors: usize, root: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; SECTOR];
    bytes[..7].copy_from_slice(b"\x01CD001\x01");
    // Texts: the system, the volume, its set, publisher, preparer, application, three files.
    for (at, length) in [(8, 32), (40, 32), (190, 623)] {
        bytes[at..at + length].fill(b' ');
    }
    bytes[40..40 + LABEL.len()].copy_from_slice(LABEL.as_bytes());
    put_both(&mut bytes, 80, sectors);
    // One volume of one, and sectors of 2048 bytes.
    for (at, value) in [(120, 1u16), (124, 1), (128, SECTOR as u16)] {
        bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        bytes[at + 2..at + 4].copy_from_slice(&value.to_be_bytes());
    }
    put_both(&mut bytes, 132, 10);
    bytes[140..144].copy_from_slice(&(TABLE as u32).to_le_bytes());
    bytes[148..152].copy_from_slice(&(TABLE_REVERSED as u32).to_be_bytes());
    bytes[156..156 + root.len()].copy_from_slice(root);
    for at in [813, 830, 847, 864] {
        bytes[at..at + 16].fill(b'0');
    }
    bytes[881] = 1;
    bytes
}

/// A number in both orders of bytes.
fn put_both(bytes: &mut [u8], at: usize, value: usize) {
    bytes[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes());
    bytes[at + 4..at + 8].copy_from_slice(&(value as u32).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files in the root, as whoever knows the standard finds them.
    fn read(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let root = DESCRIPTORS * SECTOR + 156;
        let (mut at, end) = (word(root + 2) * SECTOR, word(root + 2) * SECTOR + word(root + 10));
        let mut found = Vec::new();
        while at < end {
            let length = usize::from(bytes[at]);
            if length == 0 {
                at = (at + 1).next_multiple_of(SECTOR);
                continue;
            }
            if bytes[at + 25] & DIRECTORY == 0 {
                let name = &bytes[at + 33..at + 33 + usize::from(bytes[at + 32])];
                let (begin, size) = (word(at + 2) * SECTOR, word(at + 10));
                found.push((String::from_utf8(name.to_vec()).unwrap(), bytes[begin..begin + size].to_vec()));
            }
            at += length;
        }
        found
    }

    #[test]
    fn what_is_put_in_is_found() {
        for count in [0, 1, 4, 100] {
            let file = |number: usize| SeedFile { name: format!("file-{number}"), content: vec![1; number * 700] };
            let files: Vec<SeedFile> = (0..count).map(file).collect();
            let bytes = image(&files);
            assert_eq!(bytes.len() % SECTOR, 0);
            let expected: Vec<_> = files.into_iter().map(|it| (it.name, it.content)).collect();
            assert_eq!(read(&bytes), expected);
        }
    }
}
