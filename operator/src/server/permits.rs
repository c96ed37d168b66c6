//! Permits for peers, and what happens when there are none left: a peer that is overdue makes room.
//!
//! Who says nothing, or says it slowly, costs a place for as long as it is waited for. While places are free that is
//! nobody's loss. When they are not, the one that is overdue the longest goes: so whoever keeps up with a conversation
//! gets through, however many do not. Nothing is counted by address: a whole site may be behind one, and behind a load
//! balancer everybody is.
//!
//! Where a peer comes through a registration, that one has its share: at most so many times what is free. Alone it has
//! nearly all places, and yet whoever comes through another one finds some; with several in need each has as many.

use crate::inventory::index::Key;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// How long somebody who was asked for its place is waited for, and how soon it is looked again for who is overdue.
const REVOKE_WAIT: Duration = Duration::from_millis(100);

#[derive(Clone)]
pub struct Permits(Arc<Shared>);

struct Shared {
    most: usize,
    free: Arc<Semaphore>,
    /// How many times what is free one registration may have.
    share: usize,
    /// Held by the one who looks for a place; the others stand behind it.
    acquiring: tokio::sync::Mutex<()>,
    queue: Mutex<Queue>,
}

/// Whose peers are waited for, by when they are overdue.
#[derive(Default)]
struct Queue {
    last_number: u64,
    waiting: BTreeMap<(Instant, u64), (Arc<Notify>, Option<Key>)>,
    /// Permits that each registration has.
    held: HashMap<Key, usize>,
}

/// A place, free again when it is dropped. At first its peer is not waited for.
pub struct Permit {
    shared: Arc<Shared>,
    number: u64,
    /// Through which its peer came.
    registration: Option<Key>,
    overdue: Mutex<Option<Instant>>,
    revoked: Arc<Notify>,
    _permit: OwnedSemaphorePermit,
}

impl Permits {
    /// For peers of whom nobody knows through which registration they come.
    pub fn new(most: usize) -> Self {
        Self::shared(most, usize::MAX)
    }

    /// One registration has at most `share` times as many as are free.
    pub fn shared(most: usize, share: usize) -> Self {
        let (free, acquiring, queue) = (Arc::new(Semaphore::new(most)), tokio::sync::Mutex::new(()), Mutex::default());
        Self(Arc::new(Shared { most, free, share, acquiring, queue }))
    }

    /// A place, as soon as there is one.
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

    /// A place, if one is free or somebody is overdue: of the same registration, where that has its share.
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
        let (overdue, revoked) = (Mutex::default(), Arc::default());
        Permit { shared: self.0.clone(), number, registration, overdue, revoked, _permit: permit }
    }

    /// Whether somebody was; if a registration is given, somebody of that one.
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
        change(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Permit {
    /// From now on the peer is waited for, and is overdue after this.
    pub fn start_deadline(&self, patience: Duration) {
        self.set_deadline(Some(Instant::now() + patience));
    }

    /// The peer is not waited for: nobody else may have the place.
    pub fn clear_deadline(&self) {
        self.set_deadline(None);
    }

    fn set_deadline(&self, overdue: Option<Instant>) {
        let mut deadline = self.overdue.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// Waits until somebody else wants the place, which must then be dropped.
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

    /// Holds a place until somebody wants it.
    fn hold(permit: Permit) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move { permit.revoked().await })
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_hurried_while_places_are_free_or_before_it_is_overdue() {
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
    async fn a_newcomer_waits_until_somebody_is_overdue_and_the_first_to_be_goes() {
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
    async fn one_registration_has_nearly_all_places_and_another_finds_some() {
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
        // As one leaves, those who have less come in.
        for _ in 0..200 {
            drop(flood.pop());
            flood.extend(permits.try_acquire(Some(&hostile)).await);
            served.extend(permits.try_acquire(Some(&honest)).await);
        }
        assert!(flood.len() <= 130 && served.len() >= 110, "{} {}", flood.len(), served.len());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_its_share_makes_room_among_its_own() {
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
    async fn many_newcomers_have_one_place_each() {
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
