//! Moments and durations as whole numbers. Reading the clock is the caller's business.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::parse::ParseError;

/// Nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// That many nanoseconds after the epoch.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds after the epoch.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to this; nothing when `earlier` is later (clocks get set back).
    pub const fn since(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0) / 1_000_000)
    }

    /// The moment that long before this.
    pub const fn minus(self, span: Span) -> Self {
        Self(self.0.saturating_sub(span.0.saturating_mul(1_000_000)))
    }
}

/// A duration in milliseconds. Reads `250ms`, `10` (seconds), `10s`, `1.5m`, `2h`, `1d`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(u64);

impl Span {
    /// That many milliseconds.
    pub const fn millis(count: u64) -> Self {
        Self(count)
    }

    /// That many seconds.
    pub const fn seconds(count: u64) -> Self {
        Self(count.saturating_mul(1000))
    }

    /// Milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.0
    }
}

impl From<Span> for std::time::Duration {
    fn from(span: Span) -> Self {
        Self::from_millis(span.0)
    }
}

/// For people: the largest unit that fits, `850 ms`, `12 s`, `4 min`, `3 h`, `2 d`.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            ms @ 0..1000 => format!("{ms} ms"),
            ms @ 1000..120_000 => format!("{} s", ms / 1000),
            ms @ 120_000..7_200_000 => format!("{} min", ms / 60_000),
            ms @ 7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
            ms => format!("{} d", ms / 86_400_000),
        };
        f.pad(&text)
    }
}

impl FromStr for Span {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new("duration", text, "a number and a unit, like 10s, 5m or 2h");
        let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let factor = match unit {
            "ms" => 1.0,
            "" | "s" => 1e3,
            "m" | "min" => 60e3,
            "h" => 3600e3,
            "d" => 86_400e3,
            _ => return Err(wrong()),
        };
        let millis = number.parse::<f64>().map_err(|_| wrong())? * factor;
        if millis.is_finite() && millis < 1e15 { Ok(Self(millis as u64)) } else { Err(wrong()) }
    }
}

impl Serialize for Span {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u64::deserialize(deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_and_print() {
        let check = |text: &str, millis: u64, printed: &str| {
            let span: Span = text.parse().unwrap();
            assert_eq!((span.as_millis(), span.to_string().as_str()), (millis, printed), "{text}");
        };
        check("250ms", 250, "250 ms");
        check("10", 10_000, "10 s");
        check("1.5m", 90_000, "90 s");
        check("2h", 7_200_000, "2 h");
        for wrong in ["", "s", "-1s", "1w", "1e30s", "..s"] {
            assert!(wrong.parse::<Span>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_clock_set_back_gives_no_negative_span() {
        assert_eq!(Timestamp::from_nanos(5).since(Timestamp::from_nanos(9)), Span::millis(0));
    }
}
