//! Repeats attempts, and computes how long to wait before the next one.

use super::ExchangeError;
use std::time::Duration;

/// A wait that doubles up to a limit. Jitter spreads machines that lost the operator at the same moment.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
    limit: Duration,
}

impl Backoff {
    /// For an operator that closed the connection, refused, or cannot be reached. Doubles from 15 s to 5 minutes.
    pub fn remote() -> Self {
        Self { next: Duration::from_secs(15), limit: Duration::from_secs(300) }
    }

    /// For failures before a packet left this machine, which are usual while it starts. Doubles from 0.5 s to 15 s.
    pub fn local() -> Self {
        Self { next: Duration::from_millis(500), limit: Duration::from_secs(15) }
    }

    /// The next wait: 75 to 125 % of the step, or, if the operator named a number of seconds, 100 to 110 % of that.
    /// `jitter` is from 0 up to 1.
    pub fn next(&mut self, retry_after: Option<u64>, jitter: f64) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.limit);
        match retry_after {
            // A limit of one day is enough for any operator and keeps the arithmetic in range.
            Some(seconds) => Duration::from_secs(seconds.min(86_400)).mul_f64(1.0 + 0.1 * jitter),
            None => step.mul_f64(0.75 + 0.5 * jitter),
        }
    }
}

/// Repeats `attempt` until it succeeds or fails permanently. Calls `notify` with the cause and the wait before each
/// wait. `jitter` returns a number from 0 up to 1.
pub async fn with_retries<R>(
    mut attempt: impl AsyncFnMut() -> Result<R, ExchangeError>,
    mut jitter: impl FnMut() -> f64,
    mut notify: impl FnMut(&ExchangeError, Duration),
) -> Result<R, ExchangeError> {
    let (mut remote, mut local) = (Backoff::remote(), Backoff::local());
    loop {
        let error = match attempt().await {
            Ok(result) => return Ok(result),
            Err(error) if !error.may_succeed_later() => return Err(error),
            Err(error) => error,
        };
        let wait =
            if error.is_local() { local.next(None, jitter()) } else { remote.next(error.retry_after(), jitter()) };
        notify(&error, wait);
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_the_limit_and_the_operators_wait_wins() {
        let mut backoff = Backoff::remote();
        let waits: Vec<u64> = (0..7).map(|_| backoff.next(None, 0.5).as_secs()).collect();
        assert_eq!(waits, [15, 30, 60, 120, 240, 300, 300]);
        assert_eq!(backoff.next(Some(7), 0.0), Duration::from_secs(7));
        assert!(backoff.next(Some(u64::MAX), 0.99) < Duration::from_secs(100_000));
        let mut spread = (Backoff::remote(), Backoff::remote());
        assert_eq!((spread.0.next(None, 0.0).as_millis(), spread.1.next(None, 1.0).as_millis()), (11_250, 18_750));
    }
}
