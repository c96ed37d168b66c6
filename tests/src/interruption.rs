//! Waits for a signal that asks this program to end. A program that is killed by one leaves behind what it started.

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

/// SIGINT or SIGTERM.
pub fn interruption() -> Result<impl Future<Output = ()>> {
    let mut terminated = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    Ok(async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminated.recv() => {}
        }
    })
}
