//! Limits the writes of each registration. Whoever has its token can bring any number of machines, and all
//! registrations share one API server.

use crate::inventory::index::Key;
use protocol::{Refusal, RefusalCode};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// Writes per second, by default. A new machine costs two writes, its installation some six more, and its reports at
/// most one in five minutes: 50,000 machines of one registration report with 167 writes per second. On two cores an API
/// server handles 1,400 creates per second.
pub const WRITES_PER_SECOND: u32 = 250;
/// Burst, in seconds: after as long without a write, so many seconds' writes may be made at once. By default 6,000, for
/// 3,000 machines that are switched on together.
const BURST_SECONDS: u32 = 24;
/// Seconds after which a refused machine should come back.
const RETRY_AFTER: u64 = 15;

/// Concurrent writes of one registration: half of those of `InventoryStore`, so that hundreds of machines of one
/// registration do not delay the machines of another.
const AT_ONCE: usize = 16;
/// How long a write may wait for a permit.
const DEADLINE: Duration = Duration::from_secs(5);

/// A token bucket for each registration, and permits for concurrent writes.
pub struct WriteLimiter {
    per_second: u32,
    /// Permits of registrations that write now.
    permits: Mutex<HashMap<Key, Arc<Semaphore>>>,
    /// When the bucket of a registration will be full again. A registration without an entry has a full bucket.
    full_at: Mutex<HashMap<Key, Instant>>,
}

impl Default for WriteLimiter {
    fn default() -> Self {
        Self::new(WRITES_PER_SECOND)
    }
}

impl WriteLimiter {
    /// 0: no limit.
    pub fn new(per_second: u32) -> Self {
        Self { per_second, permits: Mutex::default(), full_at: Mutex::default() }
    }

    /// Waits until the registration may write. It may write as long as the permit is held.
    pub async fn acquire(&self, registration: &Key) -> Result<OwnedSemaphorePermit, Refusal> {
        self.take(registration)?;
        let permit = timeout(DEADLINE, self.permits_of(registration).acquire_owned()).await;
        permit.ok().and_then(Result::ok).ok_or_else(|| {
            let message = "too many inventories of this registration's machines are waiting to be written";
            Refusal::new(RefusalCode::Busy, message).retry_after(RETRY_AFTER)
        })
    }

    fn permits_of(&self, registration: &Key) -> Arc<Semaphore> {
        let mut permits = self.permits.lock().unwrap_or_else(PoisonError::into_inner);
        if !permits.contains_key(registration) {
            // Each permit and each waiting task hold one more reference.
            permits.retain(|_, permits| Arc::strong_count(permits) > 1);
        }
        permits.entry(registration.clone()).or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE))).clone()
    }

    /// Takes one write from the bucket of a registration, or refuses.
    fn take(&self, registration: &Key) -> Result<(), Refusal> {
        if self.per_second == 0 {
            return Ok(());
        }
        let now = Instant::now();
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let full = full_at.get(registration).copied().filter(|full| *full > now).unwrap_or(now);
        let next = full + Duration::from_secs(1) / self.per_second;
        if next > now + Duration::from_secs(BURST_SECONDS.into()) {
            let message = "the registration has reached its limit of inventory writes per second";
            return Err(Refusal::new(RefusalCode::Busy, message).retry_after(RETRY_AFTER));
        }
        if !full_at.contains_key(registration) {
            full_at.retain(|_, full| *full > now);
        }
        full_at.insert(registration.clone(), next);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(limiter: &WriteLimiter, registration: &str) -> u32 {
        let registration = ("n".to_owned(), registration.to_owned());
        (0..).find(|_| limiter.take(&registration).is_err()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn writes_of_one_registration_do_not_delay_those_of_another() {
        let limiter = WriteLimiter::default();
        let [hostile, honest, another] = ["hostile", "honest", "another"].map(|name| ("n".to_owned(), name.to_owned()));
        let mut held = Vec::new();
        for _ in 0..AT_ONCE {
            held.push(limiter.acquire(&hostile).await.unwrap());
        }
        let begun = Instant::now();
        drop(limiter.acquire(&honest).await.unwrap());
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(limiter.acquire(&hostile).await.unwrap_err().code, RefusalCode::Busy);
        assert_eq!(begun.elapsed(), DEADLINE);
        held.clear();
        drop(limiter.acquire(&hostile).await.unwrap());
        drop(limiter.acquire(&another).await.unwrap());
        assert_eq!(limiter.permits.lock().unwrap().len(), 1, "who writes nothing is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn each_registration_has_its_own_burst_and_rate() {
        let limiter = WriteLimiter::default();
        assert_eq!(taken(&limiter, "hostile"), 6_000);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(taken(&limiter, "hostile"), 500);
        assert_eq!(taken(&limiter, "honest"), 6_000);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(taken(&limiter, "another"), 6_000);
        assert_eq!(limiter.full_at.lock().unwrap().len(), 1, "who has a full bucket is forgotten");
        let refusal = limiter.take(&("n".into(), "another".into())).unwrap_err();
        assert_eq!((refusal.code, refusal.retry_after), (RefusalCode::Busy, Some(RETRY_AFTER)));
        assert!((0..100_000).all(|_| WriteLimiter::new(0).take(&("n".into(), "a".into())).is_ok()));
    }
}
