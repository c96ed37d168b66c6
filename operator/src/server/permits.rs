//! A limited number of permits for peers. If none is free, the permit of the peer that is overdue the longest is
//! revoked.
//!
//! A silent or slow peer holds a permit as long as the operator waits for it. While permits are free, that does no
//! harm. If none is free, a peer that keeps its deadlines still gets through, however many others do not. Peers are not
//! counted by address: a whole site may have one address, and behind a load balancer all peers have.
//!
//! A registration may have at most a multiple of the free permits. So a single registration gets nearly all permits,
//! but leaves some for others, and several busy registrations get equal numbers.

use crate::inventory::index::Key;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// How long to wait for a revoked permit before the next overdue one is revoked.
const REVOKE_WAIT: Duration = Duration::from_millis(100);

#[derive(Clone)]
pub struct Permits(Arc<Shared>);

struct Shared {
    most: usize,
    free: Arc<Semaphore>,
    /// Share of one registration, as a multiple of the free permits.
    share: usize,
    /// Locked by the task that acquires a permit. Other tasks wait in order.
    acquiring: tokio::sync::Mutex<()>,
    queue: Mutex<Queue>,
}

/// Permits with a deadline, in the order of their deadlines.
#[derive(Default)]
struct Queue {
    last_number: u64,
    waiting: BTreeMap<(Instant, u64), (Arc<Notify>, Option<Key>)>,
    /// Permits that each registration has.
    held: HashMap<Key, usize>,
}

/// A permit, released when it is dropped. At first it has no deadline.
pub struct Permit {
    shared: Arc<Shared>,
    number: u64,
    /// The registration of the peer.
    registration: Option<Key>,
    overdue: Mutex<Option<Instant>>,
    revoked: Arc<Notify>,
    /// `None` after [`release`](Self::release).
    permit: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Permits {
    /// For peers without a known registration.
    pub fn new(most: usize) -> Self {
        Self::shared(most, usize::MAX)
    }

    /// With a limit for each registration: `share` times the number of free permits.
    pub fn shared(most: usize, share: usize) -> Self {
        let (free, acquiring, queue) = (Arc::new(Semaphore::new(most)), tokio::sync::Mutex::new(()), Mutex::default());
        Self(Arc::new(Shared { most, free, share, acquiring, queue }))
    }

    /// Waits for a permit.
    pub async fn acquire(&self) -> Permit {
        let _acquiring = self.0.acquiring.lock().await;
        loop {
            if let Some(permit) = self.free_permit(None) {
                return permit;
            }
            self.revoke_overdue(None);
            if let Some(permit) = self.released_soon(None).await {
                return permit;
            }
        }
    }

    /// A permit, if one is free or can be revoked. If the registration has its share, only a permit of the same
    /// registration is revoked.
    pub async fn try_acquire(&self, registration: Option<&Key>) -> Option<Permit> {
        let _acquiring = self.0.acquiring.lock().await;
        let at_limit = registration.filter(|registration| self.has_its_share(registration));
        if at_limit.is_none()
            && let Some(permit) = self.free_permit(registration)
        {
            return Some(permit);
        }
        if self.revoke_overdue(at_limit) { self.released_soon(registration).await } else { None }
    }

    fn has_its_share(&self, registration: &Key) -> bool {
        let held = self.0.change_queue(|queue| queue.held.get(registration).copied().unwrap_or(0));
        match self.0.free.available_permits() {
            0 => held > self.0.most / 2,
            free => held >= self.0.share.saturating_mul(free),
        }
    }

    fn free_permit(&self, registration: Option<&Key>) -> Option<Permit> {
        Some(self.permit(self.0.free.clone().try_acquire_owned().ok()?, registration))
    }

    async fn released_soon(&self, registration: Option<&Key>) -> Option<Permit> {
        let permit = timeout(REVOKE_WAIT, self.0.free.clone().acquire_owned()).await;
        Some(self.permit(permit.ok()?.ok()?, registration))
    }

    fn permit(&self, permit: OwnedSemaphorePermit, registration: Option<&Key>) -> Permit {
        let registration = registration.cloned();
        let number = self.0.change_queue(|queue| {
            if let Some(registration) = &registration {
                *queue.held.entry(registration.clone()).or_default() += 1;
            }
            queue.last_number += 1;
            queue.last_number
        });
        let (overdue, revoked, permit) = (Mutex::default(), Arc::default(), Mutex::new(Some(permit)));
        Permit { shared: self.0.clone(), number, registration, overdue, revoked, permit }
    }

    /// Revokes the permit that is overdue the longest, if any: of a registration, if one is given. Returns whether
    /// there was one.
    fn revoke_overdue(&self, of: Option<&Key>) -> bool {
        self.0.change_queue(|queue| {
            let now = Instant::now();
            let mut overdue = queue.waiting.iter().take_while(|((overdue, _), _)| *overdue <= now);
            let first = overdue.find(|(_, (_, registration))| of.is_none() || registration.as_ref() == of);
            let Some(key) = first.map(|(key, _)| *key) else { return false };
            if let Some((revoked, _)) = queue.waiting.remove(&key) {
                revoked.notify_one();
            }
            true
        })
    }
}

impl Shared {
    fn change_queue<T>(&self, change: impl FnOnce(&mut Queue) -> T) -> T {
        change(&mut lock(&self.queue))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Permit {
    /// Waits for the peer from now on. After `patience` the permit may be revoked. Does nothing after a release.
    pub fn start_deadline(&self, patience: Duration) {
        // Locked meanwhile: a release that comes now clears the deadline afterwards.
        let permit = lock(&self.permit);
        if permit.is_some() {
            self.set_deadline(Some(Instant::now() + patience));
        }
    }

    /// Releases the permit before it is dropped: what the peer still does is counted elsewhere. It cannot be revoked any more.
    pub fn release(&self) {
        lock(&self.permit).take();
        self.clear_deadline();
    }

    /// Does not wait for the peer. The permit cannot be revoked.
    pub fn clear_deadline(&self) {
        self.set_deadline(None);
    }

    fn set_deadline(&self, overdue: Option<Instant>) {
        let mut deadline = lock(&self.overdue);
        self.shared.change_queue(|queue| {
            if let Some(before) = deadline.take() {
                queue.waiting.remove(&(before, self.number));
            }
            if let Some(overdue) = overdue {
                queue.waiting.insert((overdue, self.number), (self.revoked.clone(), self.registration.clone()));
            }
        });
        *deadline = overdue;
    }

    /// Waits until the permit is revoked. The holder must then drop it.
    pub fn revoked(&self) -> impl Future<Output = ()> + Send + use<> {
        let revoked = self.revoked.clone();
        async move { revoked.notified().await }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.clear_deadline();
        let Some(registration) = &self.registration else { return };
        self.shared.change_queue(|queue| {
            if let Some(held) = queue.held.get_mut(registration) {
                *held -= 1;
                if *held == 0 {
                    queue.held.remove(registration);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    const PATIENCE: Duration = Duration::from_secs(2);

    /// Holds a permit until it is revoked.
    fn hold(permit: Permit) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move { permit.revoked().await })
    }

    #[tokio::test(start_paused = true)]
    async fn no_permit_is_revoked_while_others_are_free_or_before_its_deadline() {
        let permits = Permits::new(2);
        let slow = permits.acquire().await;
        slow.start_deadline(PATIENCE);
        let slow = hold(slow);
        tokio::time::sleep(PATIENCE * 10).await;
        let second = permits.acquire().await;
        assert!(!slow.is_finished());
        second.start_deadline(PATIENCE);
        let second = hold(second);
        let third = permits.try_acquire(None).await.unwrap();
        assert!(slow.is_finished() && !second.is_finished());
        assert!(permits.try_acquire(None).await.is_none(), "one is at work, the other not overdue");
        drop(third);
        assert!(permits.try_acquire(None).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_permit_that_is_overdue_the_longest_is_revoked() {
        let permits = Permits::new(3);
        let (patient, hasty, working) = (permits.acquire().await, permits.acquire().await, permits.acquire().await);
        patient.start_deadline(PATIENCE * 2);
        hasty.start_deadline(PATIENCE * 3);
        hasty.clear_deadline();
        hasty.start_deadline(PATIENCE);
        let (patient, hasty, working) = (hold(patient), hold(hasty), hold(working));
        let begun = Instant::now();
        let permit = permits.acquire().await;
        assert!(begun.elapsed() >= PATIENCE && begun.elapsed() <= PATIENCE + REVOKE_WAIT * 2, "{:?}", begun.elapsed());
        assert!(hasty.is_finished() && !patient.is_finished());
        let _other = permits.acquire().await;
        assert!(patient.is_finished() && !working.is_finished());
        assert!(permit.revoked().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_released_permit_is_free_and_is_not_revoked() {
        let permits = Permits::new(1);
        let first = permits.acquire().await;
        first.start_deadline(PATIENCE);
        first.release();
        first.start_deadline(Duration::ZERO);
        let _second = permits.acquire().await;
        assert!(permits.try_acquire(None).await.is_none());
        assert!(first.revoked().now_or_never().is_none());
        drop(first);
        assert!(permits.try_acquire(None).await.is_none(), "it counts once");
    }

    #[tokio::test(start_paused = true)]
    async fn one_registration_gets_nearly_all_permits_and_leaves_some() {
        let permits = Permits::shared(256, 8);
        let key = |name: &str| ("n".to_owned(), name.to_owned());
        let (hostile, honest) = (key("hostile"), key("honest"));
        let mut flood = Vec::new();
        while let Some(permit) = permits.try_acquire(Some(&hostile)).await {
            flood.push(permit);
        }
        assert_eq!(flood.len(), 228);
        let mut served = Vec::new();
        while let Some(permit) = permits.try_acquire(Some(&honest)).await {
            served.push(permit);
        }
        assert!(served.len() >= 24, "{}", served.len());
        // As permits of the first registration are released, the others get them.
        for _ in 0..200 {
            drop(flood.pop());
            flood.extend(permits.try_acquire(Some(&hostile)).await);
            served.extend(permits.try_acquire(Some(&honest)).await);
        }
        assert!(flood.len() <= 130 && served.len() >= 110, "{} {}", flood.len(), served.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_registration_at_its_share_takes_permits_only_from_itself() {
        let permits = Permits::shared(4, 1);
        let (at_limit, other) = (("n".to_owned(), "sated".to_owned()), ("n".to_owned(), "other".to_owned()));
        let first = permits.try_acquire(Some(&other)).await.unwrap();
        first.start_deadline(PATIENCE);
        let first = hold(first);
        let own = permits.try_acquire(Some(&at_limit)).await.unwrap();
        let _second = permits.try_acquire(Some(&at_limit)).await;
        tokio::time::sleep(PATIENCE * 2).await;
        assert!(permits.try_acquire(Some(&at_limit)).await.is_none() && !first.is_finished());
        own.start_deadline(Duration::ZERO);
        let own = hold(own);
        let _third = permits.try_acquire(Some(&at_limit)).await.unwrap();
        tokio::time::sleep(REVOKE_WAIT).await;
        assert!(own.is_finished() && !first.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn many_waiting_peers_get_one_permit_each() {
        let permits = Permits::new(8);
        let mut held = Vec::new();
        for _ in 0..64 {
            let permit = permits.acquire().await;
            permit.start_deadline(PATIENCE);
            held.push(hold(permit));
        }
        tokio::task::yield_now().await;
        assert_eq!(held.iter().filter(|held| !held.is_finished()).count(), 8);
    }
}
