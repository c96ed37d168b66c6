//! Waiting for devices, which appear when their drivers have finished looking.

use std::time::{Duration, Instant};

use crate::Result;

/// Slow USB bridges and RAID controllers need this long; nothing waits longer than its device takes.
const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(10);

/// Asks `look` until it finds something. `what` completes "… did not appear within 60 s".
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if start.elapsed() > LIMIT {
            return Err(format!("{what} did not appear within {} s; check cabling and boot order", LIMIT.as_secs()));
        }
        std::thread::sleep(PAUSE);
    }
}
