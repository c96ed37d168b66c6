//! This machine's clock.

use std::time::SystemTime;

/// Seconds since 1 January 1970. A clock before that counts as 0.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
