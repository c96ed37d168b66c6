//! Progress messages of a build, on standard error.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Result;

/// Runs `work`. Prints a line with its name before it and a line with its duration in seconds after it. Both go to
/// standard error, because standard output may be JSON.
pub fn stage<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("ros-image: {what} …");
    let start = Instant::now();
    let result = work()?;
    eprintln!("ros-image: {what}: {:.1} s", start.elapsed().as_secs_f64());
    Ok(result)
}

/// Prints a line for each tenth of a transfer.
#[derive(Debug, Default)]
pub struct Tenths(AtomicU64);

impl Tenths {
    pub fn tell(&self, bytes: u64, total: u64) {
        let tenth = (bytes * 10).checked_div(total).unwrap_or(10);
        if self.0.fetch_max(tenth, Ordering::Relaxed) < tenth {
            eprintln!("ros-image: {} of {}", megabytes(bytes), megabytes(total));
        }
    }
}

/// A size in MB, for people.
pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
