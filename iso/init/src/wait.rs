//! Waits for devices, which appear when their drivers have probed the hardware.

use std::time::{Duration, Instant};

use crate::Result;
use crate::modules::Modules;

/// Longest wait for a device. Slow USB bridges and RAID controllers need this long.
const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(10);

/// Polls `find` until it returns something, and loads the drivers of the machine meanwhile. `what` completes "… did not
/// appear within 60 s".
pub fn wait_for<T>(what: &str, modules: &mut Modules, find: impl Fn() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = find() {
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
