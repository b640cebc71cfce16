//! What a cell may use. A limit that the kernel cannot apply becomes a [`Degraded`], never silence.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::parse::{ParseError, serde_as_text};
use crate::units::{ByteSize, Cpus, Weight};

/// The limits of a cell. Nothing set means: no limit of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The most memory it may hold, page cache included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// The most processor time a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Cpus>,
    /// Its share of processors that are contended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<Weight>,
    /// The most processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// Rates of block devices.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io: Vec<IoLimit>,
}

impl Limits {
    /// The options that limits are given by, as [`crate::Degraded::what`] has them.
    pub const OPTIONS: [&'static str; 5] = ["--memory", "--cpus", "--cpu-weight", "--pids-limit", "--io"];

    /// Whether no limit is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// These limits with what `change` sets put in place of what was there: what `skep set` does.
    pub fn updated(mut self, change: Self) -> Self {
        self.memory = change.memory.or(self.memory);
        self.cpus = change.cpus.or(self.cpus);
        self.cpu_weight = change.cpu_weight.or(self.cpu_weight);
        self.pids = change.pids.or(self.pids);
        for limit in change.io {
            self.io.retain(|it| it.device != limit.device);
            self.io.push(limit);
        }
        self
    }
}

/// Bytes a second from and to one block device. Text form: `/dev/vda:rbps=10m,wbps=5m` (either may be left out).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoLimit {
    /// The device node's path.
    pub device: String,
    /// The most bytes read a second.
    pub read: Option<ByteSize>,
    /// The most bytes written a second.
    pub write: Option<ByteSize>,
}

impl fmt::Display for IoLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.device)?;
        if let Some(read) = self.read {
            write!(f, "rbps={}{}", read.get(), if self.write.is_some() { "," } else { "" })?;
        }
        if let Some(write) = self.write {
            write!(f, "wbps={}", write.get())?;
        }
        Ok(())
    }
}

impl FromStr for IoLimit {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new("device rate", text, "DEVICE:rbps=SIZE,wbps=SIZE, like /dev/vda:wbps=10m");
        let (device, rates) = text.split_once(':').ok_or_else(wrong)?;
        let mut limit = Self { device: device.to_owned(), read: None, write: None };
        if !device.starts_with('/') {
            return Err(wrong());
        }
        for rate in rates.split(',') {
            match rate.split_once('=').ok_or_else(wrong)? {
                ("rbps", size) => limit.read = Some(size.parse().map_err(|_| wrong())?),
                ("wbps", size) => limit.write = Some(size.parse().map_err(|_| wrong())?),
                _ => return Err(wrong()),
            }
        }
        Ok(limit)
    }
}

serde_as_text!(IoLimit);

/// Something that was asked for and could not be given here. The cell runs without it, and says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Degraded {
    /// What was asked for, by its flag: `--memory`, `--userns`.
    pub what: String,
    /// Why it was not given.
    pub why: String,
}

impl fmt::Display for Degraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} not applied: {}", self.what, self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_rates_round_trip() {
        for text in ["/dev/vda:rbps=1048576", "/dev/vda:wbps=5", "/dev/vda:rbps=1,wbps=2"] {
            assert_eq!(text.parse::<IoLimit>().unwrap().to_string(), text);
        }
        for wrong in ["", "/dev/vda", "vda:rbps=1", "/dev/vda:rbps=x", "/dev/vda:iops=1", "/dev/vda:"] {
            assert!(wrong.parse::<IoLimit>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_update_keeps_what_it_does_not_name() {
        let old = Limits { memory: Some(ByteSize::mib(64)), pids: Some(10), ..Limits::default() };
        let change = Limits { memory: Some(ByteSize::mib(128)), ..Limits::default() };
        let new = old.updated(change);
        assert_eq!((new.memory, new.pids), (Some(ByteSize::mib(128)), Some(10)));
    }
}
