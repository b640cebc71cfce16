//! Names: of cells, which a machine makes or a person gives, and of images.

use std::fmt;
use std::str::FromStr;

use crate::parse::{ParseError, serde_as_text};

/// A cell's identity for its whole life: 12 lower-case hex digits (48 random bits).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CellId(u64);

impl CellId {
    /// Takes the 48 low bits of what a random source gave.
    pub const fn from_random(bits: u64) -> Self {
        Self(bits & 0xffff_ffff_ffff)
    }

    /// The 48 bits, for deriving things that must differ between cells (a hardware address, a name).
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl fmt::Display for CellId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:012x}", self.0))
    }
}

impl fmt::Debug for CellId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CellId({self})")
    }
}

impl FromStr for CellId {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let hex = text.len() == 12 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match u64::from_str_radix(text, 16) {
            Ok(bits) if hex => Ok(Self(bits)),
            _ => Err(ParseError::new("cell id", text, "12 lower-case hex digits")),
        }
    }
}

serde_as_text!(CellId);

/// What a person calls a cell. It is also its host name and its DNS name, so: a letter or digit, then letters, digits,
/// `-`, `_` and `.`, 63 characters at most.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CellName(String);

impl CellName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name for a cell that was given none: two plain words picked by the cell's own random bits.
    pub fn generated(id: CellId) -> Self {
        const FIRST: [&str; 32] = [
            "amber", "brisk", "calm", "clover", "dusky", "early", "fern", "gentle", "golden", "hazel", "heather",
            "ivory", "keen", "linden", "lucid", "mellow", "mild", "misty", "nimble", "olive", "quiet", "rapid",
            "russet", "sage", "silver", "sunny", "swift", "tawny", "thyme", "umber", "vivid", "warm",
        ];
        const SECOND: [&str; 32] = [
            "acorn", "apiary", "aster", "beech", "birch", "bloom", "bramble", "brook", "cedar", "clove", "comb",
            "crocus", "drone", "field", "forager", "garden", "glade", "grove", "hive", "honey", "larch", "meadow",
            "nectar", "orchard", "petal", "pollen", "queen", "rowan", "scout", "swarm", "willow", "worker",
        ];
        let bits = id.bits() as usize;
        Self(format!("{}-{}-{:02x}", FIRST[bits & 31], SECOND[bits >> 5 & 31], bits >> 10 & 0xff))
    }
}

impl fmt::Display for CellName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for CellName {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let rest = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if first && rest && text.len() <= 63 {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseError::new(
                "cell name",
                text,
                "up to 63 letters, digits, '-', '_' and '.', the first a letter or digit",
            ))
        }
    }
}

serde_as_text!(CellName);

/// What an image is stored under: the source text it came from (`deb:nginx-light`), or a tag that somebody gave (`web:v2`).
/// Up to 255 printable ASCII characters without spaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName(String);

impl ImageName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for ImageName {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let graphic = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        if graphic && text.len() <= 255 && !text.starts_with('-') {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseError::new("image name", text, "up to 255 printable characters without spaces, like web:v2"))
        }
    }
}

serde_as_text!(ImageName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_are_valid_names() {
        for bits in (0..1 << 20).step_by(997) {
            let name = CellName::generated(CellId::from_random(bits));
            assert_eq!(name.as_str().parse(), Ok(name.clone()));
        }
    }

    #[test]
    fn names_and_ids_reject_what_would_confuse_a_path_or_a_flag() {
        for wrong in ["", "-x", ".", "..", "a/b", "a b", "é", &"x".repeat(64)] {
            assert!(wrong.parse::<CellName>().is_err(), "{wrong}");
        }
        for wrong in ["", "abc", "0123456789AB", "+12345678901", "0123456789abc"] {
            assert!(wrong.parse::<CellId>().is_err(), "{wrong}");
        }
        for wrong in ["", "a b", "-x", "a\nb"] {
            assert!(wrong.parse::<ImageName>().is_err(), "{wrong}");
        }
    }
}
