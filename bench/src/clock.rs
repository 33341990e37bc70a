//! The time that several processes share: microseconds of the system clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, in microseconds.
pub(crate) fn micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
