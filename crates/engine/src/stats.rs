//! What a cell uses, at one instant.

use model::{ByteSize, Timestamp};
use serde::Serialize;

/// Counters since the cell started, and levels now. A counter that the kernel does not keep here is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// When it was measured.
    pub at: Timestamp,
    /// Processor time, in nanoseconds.
    pub cpu_ns: Option<u64>,
    /// How long it was held back by its processor limit, in nanoseconds.
    pub throttled_ns: Option<u64>,
    /// Memory held, page cache included.
    pub memory: Option<ByteSize>,
    /// The most that it ever held.
    pub memory_peak: Option<ByteSize>,
    /// Its limit.
    pub memory_limit: Option<ByteSize>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Bytes read from block devices.
    pub io_read: Option<ByteSize>,
    /// Bytes written to block devices.
    pub io_write: Option<ByteSize>,
    /// Bytes received over its network.
    pub net_received: Option<ByteSize>,
    /// Bytes sent over its network.
    pub net_sent: Option<ByteSize>,
}

impl Stats {
    /// Processors in use between an earlier measurement and this, 1.0 being one processor's whole time.
    pub fn processors_since(&self, earlier: &Self) -> Option<f64> {
        let elapsed = self.at.as_nanos().checked_sub(earlier.at.as_nanos()).filter(|it| *it > 0)?;
        let used = self.cpu_ns?.saturating_sub(earlier.cpu_ns?);
        Some(used as f64 / elapsed as f64)
    }
}
