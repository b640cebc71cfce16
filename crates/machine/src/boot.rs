//! A kernel as distributions pack it: the header of an image tells where it wants to be.
//!
//! Both architectures have the same kind of header (Linux, `Documentation/arch/arm64/booting.rst` and
//! `Documentation/arch/riscv/boot-image-header.rst`): 64 bytes, little-endian, `text_offset` at 8, `image_size` at 16,
//! a magic number at 56.

use std::borrow::Cow;
use std::fs::File;
use std::os::unix::fs::FileExt;

use dbt::Ram;

use crate::error::{Error, Result};

/// A kernel's image: bytes, or a file's. One of tens of megabytes is not worth being in our memory and in the machine's.
#[derive(Debug, Clone, Copy)]
pub enum Image<'i> {
    /// These.
    Bytes(&'i [u8]),
    /// All of it.
    File(&'i File),
}

impl<'i> Image<'i> {
    /// So many bytes are read at once: few enough to be near the processor still when they are written.
    const PART: usize = 1 << 20;

    fn unread(error: std::io::Error) -> Error {
        Error::Image { why: error.to_string() }
    }

    /// How many bytes it has.
    pub(crate) fn length(&self) -> Result<u64> {
        match self {
            Image::Bytes(bytes) => Ok(bytes.len() as u64),
            Image::File(file) => Ok(file.metadata().map_err(Image::unread)?.len()),
        }
    }

    /// So many bytes from its beginning on. Fewer if there are no more.
    fn beginning<const LENGTH: usize>(&self) -> Result<Cow<'i, [u8]>> {
        match self {
            Image::Bytes(bytes) => Ok(Cow::Borrowed(&bytes[..LENGTH.min(bytes.len())])),
            Image::File(file) => {
                let mut bytes = vec![0; LENGTH];
                let count = read_at(file, &mut bytes, 0)?;
                bytes.truncate(count);
                Ok(Cow::Owned(bytes))
            }
        }
    }

    /// All of it.
    pub(crate) fn all(&self) -> Result<Cow<'i, [u8]>> {
        match self {
            Image::Bytes(bytes) => Ok(Cow::Borrowed(bytes)),
            Image::File(file) => {
                let mut bytes = vec![0; self.length()? as usize];
                let count = read_at(file, &mut bytes, 0)?;
                bytes.truncate(count);
                Ok(Cow::Owned(bytes))
            }
        }
    }

    /// Puts all of it into memory.
    pub(crate) fn put(&self, ram: &Ram, at: u64) -> Result<()> {
        let needed = self.length()?;
        let no_room = || Error::Room { what: "a kernel", needed, memory: ram.length() };
        if !ram.holds_all(at, needed) {
            return Err(no_room());
        }
        let file = match self {
            Image::Bytes(bytes) => return ram.copy_in(at, bytes).ok_or_else(no_room),
            Image::File(file) => file,
        };
        let mut part = vec![0; Image::PART];
        let mut done = 0;
        loop {
            let count = read_at(file, &mut part, done)?;
            if count == 0 {
                return Ok(());
            }
            // It may have become longer.
            ram.copy_in(at + done, &part[..count]).ok_or_else(no_room)?;
            done += count as u64;
        }
    }
}

/// Reads what there is from there on; gives how much that was.
fn read_at(file: &File, into: &mut [u8], at: u64) -> Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match file.read_at(&mut into[done..], at + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Image::unread(error)),
        }
    }
    Ok(done)
}

/// What a kernel's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes from a multiple of two mebibytes to where it is loaded.
    pub text_offset: u64,
    /// Bytes that it needs, with what it keeps free behind itself.
    pub image_size: u64,
}

/// An architecture's magic number, at 56.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Magic {
    /// `ARM\x64`.
    Arm64,
    /// `RSC\x05`.
    Riscv64,
}

impl Magic {
    fn bytes(self) -> [u8; 4] {
        match self {
            Magic::Arm64 => *b"ARM\x64",
            Magic::Riscv64 => *b"RSC\x05",
        }
    }

    fn architecture(self) -> &'static str {
        match self {
            Magic::Arm64 => "arm64",
            Magic::Riscv64 => "riscv64",
        }
    }
}

/// Reads a kernel's header.
pub(crate) fn header(kernel: &Image<'_>, magic: Magic) -> Result<Header> {
    let bad = |why| Error::Kernel { architecture: magic.architecture(), why };
    let length = kernel.length()?;
    let beginning = kernel.beginning::<64>()?;
    let head = beginning.first_chunk::<64>().ok_or(bad("it is shorter than its header"))?;
    if head[56..60] != magic.bytes() {
        return Err(bad("it does not have the magic number of one"));
    }
    let number = |at: usize| head[at..at + 8].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
    let (text_offset, image_size) = (number(8), number(16));
    // Whatever it says, all of it is loaded.
    let image_size = image_size.max(length);
    if text_offset >= 1 << 30 || image_size >= 1 << 32 {
        return Err(bad("its header asks for more than any kernel does"));
    }
    Ok(Header { text_offset, image_size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_comes_into_memory_as_its_bytes_do() {
        const BASE: u64 = 1 << 20;
        let bytes: Vec<u8> = (0..3_000_001u32).map(|it| (it % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        let there = |image: Image<'_>| {
            let ram = Ram::new(std::sync::Arc::new(vm::Memory::new(4 << 20).unwrap()), BASE);
            image.put(&ram, BASE + 12_345).unwrap();
            assert!(image.put(&ram, BASE + (2 << 20)).is_err(), "it does not fit there");
            let mut all = vec![0; 4 << 20];
            ram.copy_out(BASE, &mut all).unwrap();
            all
        };
        let all = there(Image::File(&file));
        assert!(all[12_345..][..bytes.len()] == bytes && all[..12_345].iter().all(|it| *it == 0));
        assert!(all == there(Image::Bytes(&bytes)));
        assert!(*Image::File(&file).all().unwrap() == *bytes);
        assert!(*Image::File(&file).beginning::<64>().unwrap() == bytes[..64]);
    }

    #[test]
    fn a_header_is_believed_within_bounds() {
        let mut kernel = vec![0u8; 100];
        let header = |bytes: &[u8], magic| header(&Image::Bytes(bytes), magic);
        assert!(header(&kernel, Magic::Arm64).is_err());
        kernel[56..60].copy_from_slice(b"ARM\x64");
        kernel[9] = 2;
        assert_eq!(header(&kernel, Magic::Arm64).unwrap(), Header { text_offset: 0x200, image_size: 100 });
        assert!(header(&kernel, Magic::Riscv64).is_err());
        kernel[20] = 1;
        assert!(header(&kernel, Magic::Arm64).is_err(), "four gibibytes");
        assert!(header(&kernel[..63], Magic::Arm64).is_err());
    }
}
