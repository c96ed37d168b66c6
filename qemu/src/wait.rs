//! Polling with a deadline. The error at the deadline names the condition and the last answer.

use anyhow::{Result, bail};
use std::thread;
use std::time::{Duration, Instant};

/// The outcome of one poll of a condition.
pub enum Poll<T> {
    Ready(T),
    /// Why not, for the message at the deadline.
    Pending(String),
}

/// Shortest and longest pause between two polls.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Polls until the condition holds. An error of `poll` ends the waiting at once. A poll that starts a program, such as
/// kubectl or ssh, is made less often, so that polling takes a tenth of the time and not the processor of the machine that
/// is waited for. Blocking code polls with [`until_blocking`].
pub async fn until<T>(what: &str, limit: Duration, mut poll: impl AsyncFnMut() -> Result<Poll<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let begun = Instant::now();
        match poll().await? {
            Poll::Ready(value) => return Ok(value),
            Poll::Pending(why) if Instant::now() >= deadline => {
                bail!("{what}: not within {} s; last seen: {why}", limit.as_secs())
            }
            Poll::Pending(_) => tokio::time::sleep((9 * begun.elapsed()).clamp(PAUSE.0, PAUSE.1)).await,
        }
    }
}

/// Polls every `step` until the condition gives a value, and sleeps in between: for code that is not asynchronous, such
/// as a `drop`. `None`: the condition gave none within `limit`.
pub(crate) fn until_blocking<T>(
    limit: Duration,
    step: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        let value = condition();
        if value.is_some() || Instant::now() >= deadline {
            return value;
        }
        thread::sleep(step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_deadline_names_the_condition_and_the_last_answer() {
        let error =
            until::<()>("a unicorn", Duration::ZERO, async || Ok(Poll::Pending("a horse".into()))).await.unwrap_err();
        assert_eq!(error.to_string(), "a unicorn: not within 0 s; last seen: a horse");
    }

    #[test]
    fn a_condition_is_polled_until_it_gives_a_value_and_at_least_once() {
        let mut polls = 0..;
        let third = || polls.next().filter(|poll| *poll == 2);
        assert_eq!(until_blocking(Duration::from_secs(60), Duration::ZERO, third), Some(2));
        assert_eq!(until_blocking(Duration::ZERO, Duration::MAX, || Some(1)), Some(1));
        assert_eq!(until_blocking(Duration::ZERO, Duration::MAX, || None::<u32>), None);
    }
}
