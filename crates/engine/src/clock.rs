//! The one place where the engine reads a clock.

use std::time::{SystemTime, UNIX_EPOCH};

use model::Timestamp;

/// The present, by the system's clock.
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_nanos(since_epoch.as_nanos() as u64)
}
