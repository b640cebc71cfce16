//! A kernel as distributions pack it: the header of an image tells where it wants to be.
//!
//! Both architectures have the same kind of header (Linux, `Documentation/arch/arm64/booting.rst` and
//! `Documentation/arch/riscv/boot-image-header.rst`): 64 bytes, little-endian, `text_offset` at 8, `image_size` at 16,
//! a magic number at 56.

use crate::error::{Error, Result};

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
pub fn header(kernel: &[u8], magic: Magic) -> Result<Header> {
    let bad = |why| Error::Kernel { architecture: magic.architecture(), why };
    let head = kernel.first_chunk::<64>().ok_or(bad("it is shorter than its header"))?;
    if head[56..60] != magic.bytes() {
        return Err(bad("it does not have the magic number of one"));
    }
    let number = |at: usize| head[at..at + 8].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
    let (text_offset, image_size) = (number(8), number(16));
    // Whatever it says, all of it is loaded.
    let image_size = image_size.max(kernel.len() as u64);
    if text_offset >= 1 << 30 || image_size >= 1 << 32 {
        return Err(bad("its header asks for more than any kernel does"));
    }
    Ok(Header { text_offset, image_size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_believed_within_bounds() {
        let mut kernel = vec![0u8; 100];
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
