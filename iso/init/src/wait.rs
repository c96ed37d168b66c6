//! Waits for devices, which appear when their drivers have probed the hardware.

use std::time::{Duration, Instant};

use crate::Result;
use crate::modules::Modules;

/// Slow USB bridges and RAID controllers need this long; nothing waits longer than its device takes.
const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(10);

/// Polls `look` until it returns something, and loads the drivers of the machine meanwhile. `what` completes "… did not appear
/// within 60 s".
pub fn wait_for<T>(what: &str, modules: &mut Modules, look: impl Fn() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if modules.load_next() {
            continue;
        }
        if start.elapsed() > LIMIT {
            return Err(format!("{what} did not appear within {} s; check cabling and boot order", LIMIT.as_secs()));
        }
        std::thread::sleep(PAUSE);
    }
}
