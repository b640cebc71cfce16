//! Moments as people read and type them.

use model::{Span, Timestamp};

use crate::error::{CommandError, Result};

/// How long ago a moment was: `12 s ago`.
pub(crate) fn ago(moment: Timestamp) -> String {
    if moment == Timestamp::default() {
        return "-".to_owned();
    }
    format!("{} ago", engine::now().since(moment))
}

/// A moment in the machine's own time zone, to the millisecond: `2026-11-22T10:00:00.000+01:00`.
pub(crate) fn local_time(moment: Timestamp) -> String {
    let nanos = i128::from(moment.as_nanos());
    match jiff::Timestamp::from_nanosecond(nanos) {
        Ok(time) => time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string(),
        Err(_) => nanos.to_string(),
    }
}

/// Reads `10m` (that long ago) or a calendar time like `2026-11-22T10:00:00Z`.
pub(crate) fn parse_since(text: &str) -> Result<Timestamp> {
    if let Ok(span) = text.parse::<Span>() {
        return Ok(engine::now().minus(span));
    }
    let moment: jiff::Timestamp = text.parse().map_err(|_| {
        CommandError::usage(format!("'{text}' is not a time"))
            .hinted("give a duration like 10m, or a time like 2026-11-22T10:00:00Z")
    })?;
    Ok(Timestamp::from_nanos(u64::try_from(moment.as_nanosecond()).unwrap_or(0)))
}
