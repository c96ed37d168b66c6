//! How long a registry that fails is waited for.

use crate::RegistryError;
use std::time::{Duration, Instant};

/// Before the second attempt. It doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// How long attempts may fail, one after the other, before a pull ends with the last error. What came in between starts the
/// time again.
#[derive(Clone, Copy, Debug)]
pub struct Patience(Duration);

impl Patience {
    /// Three attempts, for somebody who waits for the answer that a name is wrong.
    pub const BRIEF: Self = Self(Duration::from_secs(3));

    /// The time counts from the first failure on.
    pub const fn new(limit: Duration) -> Self {
        Self(limit)
    }

    /// How long to wait before the next attempt, after so many failures, the first of them `since` ago. `None`: it has been
    /// tried for long enough.
    fn wait(self, failures: u32, since: Duration) -> Option<Duration> {
        let left = self.0.checked_sub(since).filter(|left| !left.is_zero())?;
        let wait = FIRST_WAIT.saturating_mul(1 << failures.saturating_sub(1).min(16));
        Some(wait.min(LONGEST_WAIT).min(left))
    }
}

/// What a pull tells while it works.
#[derive(Debug)]
pub enum PullStep<'a> {
    /// So many bytes of how many are there.
    Fetched { bytes: u64, total: u64 },
    /// A host failed. It is asked again after `wait`, and for `left` in all.
    Waits { error: &'a RegistryError, wait: Duration, left: Duration },
}

/// The time, and waiting for it.
pub(crate) trait Clock: Send {
    /// Since a moment that stays the same.
    fn now(&self) -> Duration;
    fn sleep(&mut self, time: Duration) -> impl Future<Output = ()> + Send;
}

/// The clock of this machine. One that is set does not change it.
pub(crate) struct SystemClock(Instant);

impl SystemClock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    async fn sleep(&mut self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

/// Failures, one after the other.
pub(crate) struct Attempts<'a, C> {
    clock: &'a mut C,
    patience: Patience,
    failures: u32,
    since: Duration,
}

impl<'a, C: Clock> Attempts<'a, C> {
    pub(crate) fn new(patience: Patience, clock: &'a mut C) -> Self {
        Self { since: clock.now(), clock, patience, failures: 0 }
    }

    /// Something was gained since the last failure.
    pub(crate) fn begin_again(&mut self) {
        self.failures = 0;
    }

    /// Waits before the next attempt. False if there is none.
    pub(crate) async fn wait(&mut self, error: &RegistryError, tell: &mut (dyn FnMut(PullStep<'_>) + Send)) -> bool {
        if self.failures == 0 {
            self.since = self.clock.now();
        }
        self.failures += 1;
        let since = self.clock.now().saturating_sub(self.since);
        let Some(wait) = self.patience.wait(self.failures, since) else { return false };
        tell(PullStep::Waits { error, wait, left: self.patience.0.saturating_sub(since) });
        self.clock.sleep(wait).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end_with_the_limit() {
        let seconds = Duration::from_secs;
        let patience = Patience::new(seconds(300));
        let (mut since, mut waits) = (Duration::ZERO, Vec::new());
        while let Some(wait) = patience.wait(waits.len() as u32 + 1, since) {
            since += wait;
            waits.push(wait.as_secs());
        }
        assert_eq!(&waits[..7], &[1, 2, 4, 8, 16, 30, 30]);
        assert_eq!((since, waits.len()), (seconds(300), 14), "{waits:?}");
        assert_eq!(patience.wait(u32::MAX, seconds(299)), Some(seconds(1)));
        assert_eq!(patience.wait(1, seconds(301)), None, "an attempt may take longer than the limit");
    }
}
