//! Quantities with their unit in the type, read and written the way people type them.

use std::fmt;
use std::str::FromStr;

use crate::parse::{ParseError, serde_as_text};

/// A count with its noun in the right number: `1 package`, `3 packages`.
pub fn counted(count: impl TryInto<u64>, one: &str, many: &str) -> String {
    // What does not fit is many, whatever it is.
    let count = count.try_into().unwrap_or(u64::MAX);
    format!("{count} {}", if count == 1 { one } else { many })
}

/// A number of bytes. Reads `512`, `64k`, `64m`, `1g`, `1.5GiB` (all powers of 1024, as docker reads them).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    /// That many bytes.
    pub const fn bytes(count: u64) -> Self {
        Self(count)
    }

    /// That many times 1024 × 1024 bytes.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// The count of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// For people: `0 B`, `812 B`, `64 MiB`, `1.5 GiB`.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        let text = if unit == 0 || value >= 100.0 || value.fract() < 0.05 || value.fract() >= 0.95 {
            format!("{value:.0} {}", UNITS[unit])
        } else {
            format!("{value:.1} {}", UNITS[unit])
        };
        f.pad(&text)
    }
}

impl FromStr for ByteSize {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new("size", text, "a number and an optional unit, like 64m or 1.5g");
        let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(wrong()),
        };
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(1 << shift).map(Self).ok_or_else(wrong);
        }
        let fraction: f64 = number.parse().map_err(|_| wrong())?;
        let bytes = fraction * (1u64 << shift) as f64;
        if bytes.is_finite() && bytes < u64::MAX as f64 { Ok(Self(bytes as u64)) } else { Err(wrong()) }
    }
}

/// In files and `--json` a size is a plain number of bytes.
impl serde::Serialize for ByteSize {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> serde::Deserialize<'de> for ByteSize {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u64::deserialize(deserializer).map(Self)
    }
}

/// Processor time a second, in thousandths of one processor. Reads `0.5`, `2`, `1.25`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cpus(u32);

impl Cpus {
    /// That many thousandths of a processor.
    pub const fn millis(thousandths: u32) -> Self {
        Self(thousandths)
    }

    /// Thousandths of a processor.
    pub const fn as_millis(self) -> u32 {
        self.0
    }

    /// The bandwidth quota, in microseconds of processor time for each period of that many microseconds.
    pub const fn quota_us(self, period_us: u64) -> u64 {
        self.0 as u64 * period_us / 1000
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:03}", self.0 / 1000, self.0 % 1000);
        f.pad(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl FromStr for Cpus {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new("number of processors", text, "a number of at least 0.01, like 0.5 or 2");
        let number: f64 = text.parse().map_err(|_| wrong())?;
        let thousandths = (number * 1000.0).round();
        if (10.0..=4_000_000.0).contains(&thousandths) { Ok(Self(thousandths as u32)) } else { Err(wrong()) }
    }
}

serde_as_text!(Cpus);

/// A share of a contended resource, 1 to 10000, 100 by default: cgroup v2's scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u16);

impl Weight {
    /// What a cell has that asks for nothing.
    pub const DEFAULT: Self = Self(100);

    /// The weight on cgroup v2's scale, 1 to 10000.
    pub const fn v2(self) -> u16 {
        self.0
    }

    /// The same on cgroup v1's `cpu.shares` scale, where 1024 is the default and 2 the least.
    pub const fn v1_shares(self) -> u64 {
        let shares = self.0 as u64 * 1024 / 100;
        if shares < 2 { 2 } else { shares }
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for Weight {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text.parse() {
            Ok(weight @ 1..=10000) => Ok(Self(weight)),
            _ => Err(ParseError::new("weight", text, "a whole number from 1 to 10000 (100 is the default)")),
        }
    }
}

serde_as_text!(Weight);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nouns_follow_their_counts() {
        let check = |count: u64, text: &str| assert_eq!(counted(count, "entry", "entries"), text);
        check(0, "0 entries");
        check(1, "1 entry");
        check(2, "2 entries");
    }

    #[test]
    fn sizes_read_as_docker_reads_them() {
        let check = |text: &str, bytes: Option<u64>| {
            assert_eq!(text.parse::<ByteSize>().ok().map(ByteSize::get), bytes, "{text}");
        };
        check("0", Some(0));
        check("512", Some(512));
        check("64k", Some(64 << 10));
        check("64m", Some(64 << 20));
        check("64 MiB", Some(64 << 20));
        check("1.5G", Some(3 << 29));
        check("18446744073709551615", Some(u64::MAX));
        check("18446744073709551615k", None);
        for wrong in ["", "m", "-1", "1x", "1..5g", "nan", "inf", "1e9"] {
            check(wrong, None);
        }
    }

    #[test]
    fn sizes_print_for_people() {
        let check = |bytes, text: &str| assert_eq!(ByteSize::bytes(bytes).to_string(), text);
        check(0, "0 B");
        check(1023, "1023 B");
        check(64 << 20, "64 MiB");
        check(3 << 29, "1.5 GiB");
    }

    #[test]
    fn processors_and_weights() {
        assert_eq!("0.5".parse::<Cpus>().unwrap().quota_us(100_000), 50_000);
        assert_eq!("2".parse::<Cpus>().unwrap().to_string(), "2");
        assert_eq!("1.25".parse::<Cpus>().unwrap().to_string(), "1.25");
        for wrong in ["", "0", "-1", "nan", "1e99", "0.001"] {
            assert!(wrong.parse::<Cpus>().is_err(), "{wrong}");
        }
        assert_eq!("100".parse::<Weight>().unwrap().v1_shares(), 1024);
        assert!("0".parse::<Weight>().is_err());
    }

    proptest::proptest! {
        #[test]
        fn parsers_never_panic(text in ".{0,24}") {
            let _ = text.parse::<ByteSize>();
            let _ = text.parse::<Cpus>();
            let _ = text.parse::<Weight>();
        }
    }
}
