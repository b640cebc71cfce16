//! The 512-byte header of a tar entry: ustar, with GNU's larger numbers.
//!
//! Fields are read as bytes: a name in a tar is what a Linux path is, any bytes but zero.

use crate::{Error, Result};

/// The unit of a tar.
pub(crate) const BLOCK: usize = 512;

/// One header block.
#[derive(Clone)]
pub(crate) struct Header(pub(crate) [u8; BLOCK]);

/// Where a field lies in the block: offset and length.
#[derive(Clone, Copy)]
pub(crate) struct Field(usize, usize);

pub(crate) const NAME: Field = Field(0, 100);
pub(crate) const MODE: Field = Field(100, 8);
pub(crate) const UID: Field = Field(108, 8);
pub(crate) const GID: Field = Field(116, 8);
pub(crate) const SIZE: Field = Field(124, 12);
pub(crate) const MTIME: Field = Field(136, 12);
const CHECKSUM: Field = Field(148, 8);
pub(crate) const LINK: Field = Field(157, 100);
const MAGIC: Field = Field(257, 8);
pub(crate) const MAJOR: Field = Field(329, 8);
pub(crate) const MINOR: Field = Field(337, 8);
const PREFIX: Field = Field(345, 155);

impl Header {
    /// A field's bytes.
    pub(crate) fn field(&self, field: Field) -> &[u8] {
        &self.0[field.0..field.0 + field.1]
    }

    fn field_mut(&mut self, field: Field) -> &mut [u8] {
        &mut self.0[field.0..field.0 + field.1]
    }

    /// The letter that tells what the entry is.
    pub(crate) fn kind(&self) -> u8 {
        self.0[156]
    }

    /// Whether it is all zero, as the blocks at the end of a tar are.
    pub(crate) fn is_zero(&self) -> bool {
        self.0.iter().all(|&byte| byte == 0)
    }

    /// Whether it is GNU's dialect, whose area behind byte 345 holds no name prefix.
    pub(crate) fn is_gnu(&self) -> bool {
        self.field(MAGIC) == b"ustar  \0"
    }

    /// The entry's name, from its two parts.
    pub(crate) fn path(&self) -> Vec<u8> {
        let name = until_zero(self.field(NAME));
        let prefix = until_zero(self.field(PREFIX));
        let ustar = self.field(MAGIC).starts_with(b"ustar") && !self.is_gnu();
        if !ustar || prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    /// What a link points at.
    pub(crate) fn link(&self) -> Vec<u8> {
        until_zero(self.field(LINK)).to_vec()
    }

    /// A number that cannot be negative.
    pub(crate) fn number(&self, field: Field, what: &'static str) -> Result<u64> {
        let value =
            number(self.field(field)).ok_or_else(|| Error::malformed("tar", format!("its {what} is no number")))?;
        u64::try_from(value).map_err(|_| Error::malformed("tar", format!("its {what} is negative")))
    }

    /// A number that may be negative: a time.
    pub(crate) fn signed(&self, field: Field, what: &'static str) -> Result<i64> {
        number(self.field(field)).ok_or_else(|| Error::malformed("tar", format!("its {what} is no number")))
    }

    /// Checks the sum over the block; old writers summed signed bytes.
    pub(crate) fn verify(&self) -> Result<()> {
        let told = number(self.field(CHECKSUM));
        let sum = |add: fn(u8) -> i64| -> i64 {
            let range = CHECKSUM.0..CHECKSUM.0 + CHECKSUM.1;
            self.0.iter().enumerate().map(|(i, &b)| add(if range.contains(&i) { b' ' } else { b })).sum()
        };
        if told == Some(sum(i64::from)) || told == Some(sum(|byte| i64::from(byte as i8))) {
            Ok(())
        } else {
            Err(Error::malformed("tar", "a header's checksum is wrong"))
        }
    }

    /// A ustar header of that kind, all else empty.
    pub(crate) fn new(kind: u8) -> Self {
        let mut header = Self([0; BLOCK]);
        header.0[156] = kind;
        header.field_mut(MAGIC).copy_from_slice(b"ustar\x0000");
        header
    }

    /// Sets a text field, when it fits.
    pub(crate) fn set_text(&mut self, field: Field, text: &[u8]) -> bool {
        match self.field_mut(field).get_mut(..text.len()) {
            Some(place) => {
                place.copy_from_slice(text);
                true
            }
            None => false,
        }
    }

    /// Sets a number in octal, when it fits.
    pub(crate) fn set_number(&mut self, field: Field, value: u64) -> bool {
        let text = format!("{value:0width$o}", width = field.1 - 1);
        text.len() < field.1 && self.set_text(field, text.as_bytes())
    }

    /// Splits a name over the two fields where it does not fit in one; whether it fits at all.
    pub(crate) fn set_path(&mut self, path: &[u8]) -> bool {
        if path.len() <= NAME.1 {
            return self.set_text(NAME, path);
        }
        let split = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(i, _)| i).find(|&i| {
            let rest = path.len() - i - 1;
            i <= PREFIX.1 && rest > 0 && rest <= NAME.1
        });
        match split {
            Some(i) => self.set_text(PREFIX, &path[..i]) && self.set_text(NAME, &path[i + 1..]),
            None => false,
        }
    }

    /// Writes the checksum: the last thing done to a header.
    pub(crate) fn seal(mut self) -> [u8; BLOCK] {
        self.field_mut(CHECKSUM).fill(b' ');
        let sum: u32 = self.0.iter().map(|&byte| u32::from(byte)).sum();
        let text = format!("{sum:06o}\0 ");
        self.field_mut(CHECKSUM).copy_from_slice(text.as_bytes());
        self.0
    }
}

/// The bytes before the first zero.
pub(crate) fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or(bytes)
}

/// Octal text with spaces around it (empty reads 0), or GNU's base 256: the top bit of the first byte set, then a
/// two's-complement number.
pub(crate) fn number(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => {
            let negative = first & 0x40 != 0;
            let mut value: i128 = if negative { -1 } else { 0 };
            for (i, &byte) in field.iter().enumerate() {
                let bits = if i == 0 { if negative { byte | 0x80 } else { byte & 0x7f } } else { byte };
                value = value.checked_mul(256)? | i128::from(bits);
                if value > i128::from(i64::MAX) || value < i128::from(i64::MIN) {
                    return None;
                }
            }
            i64::try_from(value).ok()
        }
        _ => {
            let text = until_zero(field).trim_ascii();
            text.iter().try_fold(0i64, |value, &digit| match digit {
                b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
                _ => None,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_all_their_spellings() {
        let check = |field: &[u8], value: Option<i64>| assert_eq!(number(field), value, "{field:?}");
        check(b"0000644\0", Some(0o644));
        check(b"   644 \0", Some(0o644));
        check(b"\0\0\0\0\0\0\0\0", Some(0));
        check(b"77777777777", Some(0o77777777777));
        check(b"0000008\0", None);
        check(b"-000001\0", None);
        check(&[0x80, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0], Some(2 << 24));
        check(&[0xff; 12], Some(-1));
        check(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe], Some(-2));
        check(&[0xbf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], None);
    }

    #[test]
    fn a_sealed_header_verifies_and_a_flipped_bit_does_not() {
        let mut header = Header::new(b'0');
        assert!(header.set_path(&[b"a".repeat(120), b"b".repeat(90)].join(&b'/')));
        assert!(header.set_number(SIZE, 0o77777777777));
        assert!(!header.set_number(UID, 1 << 21));
        let mut sealed = Header(header.seal());
        assert!(sealed.verify().is_ok());
        assert_eq!(sealed.path().len(), 211);
        sealed.0[3] ^= 1;
        assert!(sealed.verify().is_err());
    }
}
