//! Waiting for conditions: every wait has a deadline, and says what it waited for when it ends in vain.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// What one look at a condition gave.
pub enum Look<T> {
    Ready(T),
    /// Why not, for the message at the deadline.
    NotYet(String),
}

/// Looks every 100 ms until the condition holds. An error of `look` ends the waiting at once.
pub async fn until<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Result<Look<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match look().await? {
            Look::Ready(value) => return Ok(value),
            Look::NotYet(why) if Instant::now() >= deadline => {
                bail!("{what}: not within {} s; last seen: {why}", limit.as_secs())
            }
            Look::NotYet(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_deadline_names_condition_and_last_look() {
        let error =
            until::<()>("a unicorn", Duration::ZERO, async || Ok(Look::NotYet("a horse".into()))).await.unwrap_err();
        assert_eq!(error.to_string(), "a unicorn: not within 0 s; last seen: a horse");
    }
}
