//! The clock and its jumps. If the clock is set, or the host has slept, things that depend on the time of day are due
//! earlier or later than computed.

use futures::{Stream, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Tells the time of day. Tests set it.
#[derive(Clone, Copy)]
pub struct Clock(pub fn() -> Timestamp);

impl Clock {
    pub fn timestamp(self) -> Timestamp {
        (self.0)()
    }

    /// In whole seconds, as Kubernetes keeps times: anything finer would differ when it is read back.
    pub fn now(self) -> Time {
        let now = self.timestamp();
        Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
    }
}

const CHECK_EVERY: Duration = Duration::from_secs(5);
/// Milliseconds. A smaller difference comes from a busy host, or from a clock that is adjusted gradually.
const JUMP: i128 = 30_000;

/// One item for each jump of this clock against monotonic time.
pub fn clock_jumps(clock: Clock) -> impl Stream<Item = ()> + Send {
    stream::unfold((clock.timestamp(), Instant::now()), move |(mut time, mut passed)| async move {
        loop {
            sleep(CHECK_EVERY).await;
            let (time_now, passed_now) = (clock.timestamp(), Instant::now());
            let by_clock = i128::from(time_now.as_millisecond()) - i128::from(time.as_millisecond());
            let jump = by_clock - (passed_now - passed).as_millis() as i128;
            (time, passed) = (time_now, passed_now);
            if jump.abs() >= JUMP {
                tracing::warn!(seconds = (jump / 1000) as i64, "the clock jumped");
                return Some(((), (time, passed)));
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt, StreamExt};
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicI64, Ordering};

    static SET_BY: AtomicI64 = AtomicI64::new(0);

    fn clock() -> Timestamp {
        static START: OnceLock<Instant> = OnceLock::new();
        let passed = START.get_or_init(Instant::now).elapsed().as_secs() as i64;
        Timestamp::from_second(1_800_000_000 + passed + SET_BY.load(Ordering::Relaxed)).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn each_jump_is_reported_once_and_passing_time_is_no_jump() {
        let jumps = clock_jumps(Clock(clock));
        tokio::pin!(jumps);
        for set_by in [3600, -3600, 0] {
            SET_BY.store(set_by, Ordering::Relaxed);
            assert_eq!(jumps.next().await, Some(()));
            let quiet = tokio::time::timeout(Duration::from_secs(3600), jumps.next());
            assert!(quiet.await.is_err(), "after {set_by}");
        }
        assert!(jumps.next().now_or_never().is_none());
    }
}
