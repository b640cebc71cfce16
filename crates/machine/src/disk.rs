//! What a disk's sectors are kept in: a file of theirs alone, or one in the format qcow2.
//!
//! **Invariant: a format is what its owner says.** Nobody looks into a file to find out, since what is in there was written
//! by a guest, and a guest that could choose the format could have its host read any file.

mod qcow2;
mod seed;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};

use self::qcow2::Qcow2;
pub use self::seed::SeedFile;
use crate::error::{Error, Result};

/// How a disk's file is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Byte for byte.
    Raw,
    /// QEMU's.
    Qcow2,
}

/// Whether a guest may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It may not.
    ReadOnly,
    /// It may.
    ReadWrite,
}

/// What zeroes are to leave behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zeroes {
    /// Room, if there was any.
    Keep,
    /// No room, where that can be had.
    Release,
}

/// Where sectors are. Callers stay within [`Medium::length`].
pub(crate) trait Medium: Send {
    /// Bytes.
    fn length(&self) -> u64;

    /// Reads all of these bytes.
    fn read(&mut self, into: &mut [u8], at: u64) -> io::Result<()>;

    /// Writes all of them.
    fn write(&mut self, from: &[u8], at: u64) -> io::Result<()>;

    /// What was written before outlives the host from now on.
    fn flush(&mut self) -> io::Result<()>;

    /// Makes a part zero.
    fn zero(&mut self, at: u64, length: u64, how: Zeroes) -> io::Result<()>;
}

/// A disk.
pub struct Disk {
    pub(crate) medium: Box<dyn Medium>,
    pub(crate) access: Access,
    /// What the guest is told it is called.
    pub(crate) serial: String,
}

impl Disk {
    /// Opens a disk's file. Its serial number is what a guest finds it by (`/dev/disk/by-id/virtio-…`), and has twenty
    /// bytes at most.
    pub fn open(path: &Path, format: Format, access: Access, serial: &str) -> Result<Disk> {
        let failed = |source| Error::File { doing: "opening the disk", path: path.into(), source };
        let file = File::options().read(true).write(access == Access::ReadWrite).open(path).map_err(failed)?;
        Disk::of(file, format, access, serial).map_err(failed)
    }

    /// The same, of a file that is open already.
    pub fn of(file: File, format: Format, access: Access, serial: &str) -> io::Result<Disk> {
        let lock = match access {
            Access::ReadOnly => FlockOperation::NonBlockingLockShared,
            Access::ReadWrite => FlockOperation::NonBlockingLockExclusive,
        };
        // As long as somebody has it to write, nobody else does.
        flock(&file, lock).map_err(|_| io::Error::new(io::ErrorKind::ResourceBusy, "another machine has it"))?;
        let medium: Box<dyn Medium> = match format {
            Format::Raw => Box::new(Raw::new(file)?),
            Format::Qcow2 => Box::new(Qcow2::open(file, access)?),
        };
        Ok(Disk { medium, access, serial: serial.into() })
    }
}

/// A file of sectors alone.
struct Raw {
    file: File,
    length: u64,
}

impl Raw {
    fn new(file: File) -> io::Result<Raw> {
        let length = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))?;
        Ok(Raw { file, length })
    }
}

impl Medium for Raw {
    fn length(&self) -> u64 {
        self.length
    }

    fn read(&mut self, into: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(into, at)
    }

    fn write(&mut self, from: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(from, at)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn zero(&mut self, at: u64, length: u64, how: Zeroes) -> io::Result<()> {
        zero_file(&self.file, at, length, how)
    }
}

/// Makes a part of a file zero, by whatever way its file system knows.
pub(crate) fn zero_file(file: &File, at: u64, length: u64, how: Zeroes) -> io::Result<()> {
    let mode = match how {
        Zeroes::Keep => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
        Zeroes::Release => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
    };
    if length == 0 || fallocate(file.as_fd(), mode, at, length).is_ok() {
        return Ok(());
    }
    let zeroes = vec![0; length.min(1 << 20) as usize];
    let mut done = 0;
    while done < length {
        let part = (length - done).min(zeroes.len() as u64);
        file.write_all_at(&zeroes[..part as usize], at + done)?;
        done += part;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_written_is_one_machines() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [0; 1024]).unwrap();
        let open = |access| Disk::open(file.path(), Format::Raw, access, "");
        let first = open(Access::ReadOnly).unwrap();
        let second = open(Access::ReadOnly).unwrap();
        assert!(open(Access::ReadWrite).err().unwrap().to_string().contains("another machine has it"));
        drop((first, second));
        let third = open(Access::ReadWrite).unwrap();
        assert!(open(Access::ReadOnly).is_err());
        drop(third);
        assert_eq!(open(Access::ReadOnly).unwrap().medium.length(), 1024);
    }

    #[test]
    fn what_is_in_a_file_does_not_say_what_it_is() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [&b"QFI\xfb"[..], &[0; 508]].concat()).unwrap();
        let mut disk = Disk::open(file.path(), Format::Raw, Access::ReadWrite, "").unwrap();
        let mut bytes = [0; 4];
        disk.medium.read(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"QFI\xfb");
        disk.medium.zero(0, 2, Zeroes::Keep).unwrap();
        disk.medium.zero(3, 1, Zeroes::Release).unwrap();
        disk.medium.read(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"\0\0I\0");
        assert_eq!(disk.medium.length(), 512);
    }
}
