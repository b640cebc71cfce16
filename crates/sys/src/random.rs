//! Random bits from the kernel.

use rustix::rand::{GetRandomFlags, getrandom};

use crate::{Errno, Result};

/// 64 random bits, good enough for keys.
pub fn bits() -> Result<u64> {
    let mut bytes = [0u8; 8];
    loop {
        match getrandom(&mut bytes, GetRandomFlags::empty()) {
            // Up to 256 bytes come whole or not at all.
            Ok(_) => return Ok(u64::from_ne_bytes(bytes)),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}
