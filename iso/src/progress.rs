//! Progress messages of a build, on standard error.

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

/// A size in MB, for people.
pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
