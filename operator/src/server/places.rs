//! Places for peers, and what happens when there are none left: a peer that is overdue makes room.
//!
//! Who says nothing, or says it slowly, costs a place for as long as it is waited for. While places are free that is
//! nobody's loss. When they are not, the one that is overdue the longest goes: so whoever keeps up with a conversation
//! gets through, however many do not. Nothing is counted by address: a whole site may be behind one, and behind a load
//! balancer everybody is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// How long somebody who was asked for its place is waited for, and how soon it is looked again for who is overdue.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Clone)]
pub struct Places(Arc<Shared>);

struct Shared {
    free: Arc<Semaphore>,
    /// Held by the one who looks for a place; the others stand behind it.
    turn: tokio::sync::Mutex<()>,
    line: Mutex<Line>,
}

/// Whose peers are waited for, by when they are overdue.
#[derive(Default)]
struct Line {
    last_number: u64,
    waiting: BTreeMap<(Instant, u64), Arc<Notify>>,
}

/// A place, free again when it is dropped. At first its peer is not waited for.
pub struct Place {
    shared: Arc<Shared>,
    number: u64,
    overdue: Mutex<Option<Instant>>,
    wanted: Arc<Notify>,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    pub fn new(most: usize) -> Self {
        let line = Mutex::default();
        Self(Arc::new(Shared { free: Arc::new(Semaphore::new(most)), turn: tokio::sync::Mutex::new(()), line }))
    }

    /// A place, as soon as there is one.
    pub async fn take(&self) -> Place {
        let _turn = self.0.turn.lock().await;
        loop {
            if let Some(place) = self.free_place() {
                return place;
            }
            self.ask_who_is_overdue();
            if let Some(place) = self.freed_soon().await {
                return place;
            }
        }
    }

    /// A place, if one is free or somebody is overdue.
    pub async fn take_now(&self) -> Option<Place> {
        let _turn = self.0.turn.lock().await;
        if let Some(place) = self.free_place() {
            return Some(place);
        }
        if self.ask_who_is_overdue() { self.freed_soon().await } else { None }
    }

    fn free_place(&self) -> Option<Place> {
        Some(self.place(self.0.free.clone().try_acquire_owned().ok()?))
    }

    async fn freed_soon(&self) -> Option<Place> {
        let permit = timeout(LOOK_EVERY, self.0.free.clone().acquire_owned()).await;
        Some(self.place(permit.ok()?.ok()?))
    }

    fn place(&self, permit: OwnedSemaphorePermit) -> Place {
        let number = self.0.change_line(|line| {
            line.last_number += 1;
            line.last_number
        });
        let (overdue, wanted) = (Mutex::default(), Arc::default());
        Place { shared: self.0.clone(), number, overdue, wanted, _permit: permit }
    }

    fn ask_who_is_overdue(&self) -> bool {
        self.0.change_line(|line| match line.waiting.first_entry() {
            Some(first) if first.key().0 <= Instant::now() => {
                first.remove().notify_one();
                true
            }
            _ => false,
        })
    }
}

impl Shared {
    fn change_line<T>(&self, change: impl FnOnce(&mut Line) -> T) -> T {
        change(&mut self.line.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Place {
    /// From now on the peer is waited for, and is overdue after this.
    pub fn waits(&self, patience: Duration) {
        self.stand(Some(Instant::now() + patience));
    }

    /// The peer is not waited for: nobody else may have the place.
    pub fn works(&self) {
        self.stand(None);
    }

    fn stand(&self, overdue: Option<Instant>) {
        let mut stands = self.overdue.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.change_line(|line| {
            if let Some(before) = stands.take() {
                line.waiting.remove(&(before, self.number));
            }
            if let Some(overdue) = overdue {
                line.waiting.insert((overdue, self.number), self.wanted.clone());
            }
        });
        *stands = overdue;
    }

    /// Waits until somebody else wants the place, which must then be dropped.
    pub fn wanted(&self) -> impl Future<Output = ()> + Send + use<> {
        let wanted = self.wanted.clone();
        async move { wanted.notified().await }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.works();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    const PATIENCE: Duration = Duration::from_secs(2);

    /// Holds a place until somebody wants it.
    fn hold(place: Place) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move { place.wanted().await })
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_hurried_while_places_are_free_or_before_it_is_overdue() {
        let places = Places::new(2);
        let slow = places.take().await;
        slow.waits(PATIENCE);
        let slow = hold(slow);
        tokio::time::sleep(PATIENCE * 10).await;
        let second = places.take().await;
        assert!(!slow.is_finished());
        second.waits(PATIENCE);
        let second = hold(second);
        let third = places.take_now().await.unwrap();
        assert!(slow.is_finished() && !second.is_finished());
        assert!(places.take_now().await.is_none(), "one is at work, the other not overdue");
        drop(third);
        assert!(places.take_now().await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_waits_until_somebody_is_overdue_and_the_first_to_be_goes() {
        let places = Places::new(3);
        let (patient, hasty, working) = (places.take().await, places.take().await, places.take().await);
        patient.waits(PATIENCE * 2);
        hasty.waits(PATIENCE * 3);
        hasty.works();
        hasty.waits(PATIENCE);
        let (patient, hasty, working) = (hold(patient), hold(hasty), hold(working));
        let begun = Instant::now();
        let place = places.take().await;
        assert!(begun.elapsed() >= PATIENCE && begun.elapsed() <= PATIENCE + LOOK_EVERY * 2, "{:?}", begun.elapsed());
        assert!(hasty.is_finished() && !patient.is_finished());
        let _other = places.take().await;
        assert!(patient.is_finished() && !working.is_finished());
        assert!(place.wanted().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn many_newcomers_have_one_place_each() {
        let places = Places::new(8);
        let mut held = Vec::new();
        for _ in 0..64 {
            let place = places.take().await;
            place.waits(PATIENCE);
            held.push(hold(place));
        }
        tokio::task::yield_now().await;
        assert_eq!(held.iter().filter(|held| !held.is_finished()).count(), 8);
    }
}
