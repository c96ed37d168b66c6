//! Places for peers, and what happens when there are none left: a peer that is overdue makes room.
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
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Clone)]
pub struct Places(Arc<Shared>);

struct Shared {
    most: usize,
    free: Arc<Semaphore>,
    /// How many times what is free one registration may have.
    share: usize,
    /// Held by the one who looks for a place; the others stand behind it.
    turn: tokio::sync::Mutex<()>,
    line: Mutex<Line>,
}

/// Whose peers are waited for, by when they are overdue.
#[derive(Default)]
struct Line {
    last_number: u64,
    waiting: BTreeMap<(Instant, u64), (Arc<Notify>, Option<Key>)>,
    /// Places that each registration has.
    held: HashMap<Key, usize>,
}

/// A place, free again when it is dropped. At first its peer is not waited for.
pub struct Place {
    shared: Arc<Shared>,
    number: u64,
    /// Through which its peer came.
    registration: Option<Key>,
    overdue: Mutex<Option<Instant>>,
    wanted: Arc<Notify>,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    /// For peers of whom nobody knows through which registration they come.
    pub fn new(most: usize) -> Self {
        Self::shared(most, usize::MAX)
    }

    /// One registration has at most `share` times as many as are free.
    pub fn shared(most: usize, share: usize) -> Self {
        let (free, turn, line) = (Arc::new(Semaphore::new(most)), tokio::sync::Mutex::new(()), Mutex::default());
        Self(Arc::new(Shared { most, free, share, turn, line }))
    }

    /// A place, as soon as there is one.
    pub async fn take(&self) -> Place {
        let _turn = self.0.turn.lock().await;
        loop {
            if let Some(place) = self.free_place(None) {
                return place;
            }
            self.ask_who_is_overdue(None);
            if let Some(place) = self.freed_soon(None).await {
                return place;
            }
        }
    }

    /// A place, if one is free or somebody is overdue: of the same registration, where that has its share.
    pub async fn take_now(&self, registration: Option<&Key>) -> Option<Place> {
        let _turn = self.0.turn.lock().await;
        let sated = registration.filter(|registration| self.has_its_share(registration));
        if sated.is_none()
            && let Some(place) = self.free_place(registration)
        {
            return Some(place);
        }
        if self.ask_who_is_overdue(sated) { self.freed_soon(registration).await } else { None }
    }

    fn has_its_share(&self, registration: &Key) -> bool {
        let held = self.0.change_line(|line| line.held.get(registration).copied().unwrap_or(0));
        match self.0.free.available_permits() {
            0 => held > self.0.most / 2,
            free => held >= self.0.share.saturating_mul(free),
        }
    }

    fn free_place(&self, registration: Option<&Key>) -> Option<Place> {
        Some(self.place(self.0.free.clone().try_acquire_owned().ok()?, registration))
    }

    async fn freed_soon(&self, registration: Option<&Key>) -> Option<Place> {
        let permit = timeout(LOOK_EVERY, self.0.free.clone().acquire_owned()).await;
        Some(self.place(permit.ok()?.ok()?, registration))
    }

    fn place(&self, permit: OwnedSemaphorePermit, registration: Option<&Key>) -> Place {
        let registration = registration.cloned();
        let number = self.0.change_line(|line| {
            if let Some(registration) = &registration {
                *line.held.entry(registration.clone()).or_default() += 1;
            }
            line.last_number += 1;
            line.last_number
        });
        let (overdue, wanted) = (Mutex::default(), Arc::default());
        Place { shared: self.0.clone(), number, registration, overdue, wanted, _permit: permit }
    }

    /// Whether somebody was; if a registration is given, somebody of that one.
    fn ask_who_is_overdue(&self, of: Option<&Key>) -> bool {
        self.0.change_line(|line| {
            let now = Instant::now();
            let mut overdue = line.waiting.iter().take_while(|((overdue, _), _)| *overdue <= now);
            let first = overdue.find(|(_, (_, registration))| of.is_none() || registration.as_ref() == of);
            let Some(key) = first.map(|(key, _)| *key) else { return false };
            if let Some((wanted, _)) = line.waiting.remove(&key) {
                wanted.notify_one();
            }
            true
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
                line.waiting.insert((overdue, self.number), (self.wanted.clone(), self.registration.clone()));
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
        let Some(registration) = &self.registration else { return };
        self.shared.change_line(|line| {
            if let Some(held) = line.held.get_mut(registration) {
                *held -= 1;
                if *held == 0 {
                    line.held.remove(registration);
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
        let third = places.take_now(None).await.unwrap();
        assert!(slow.is_finished() && !second.is_finished());
        assert!(places.take_now(None).await.is_none(), "one is at work, the other not overdue");
        drop(third);
        assert!(places.take_now(None).await.is_some());
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
    async fn one_registration_has_nearly_all_places_and_another_finds_some() {
        let places = Places::shared(256, 8);
        let key = |name: &str| ("n".to_owned(), name.to_owned());
        let (hostile, honest) = (key("hostile"), key("honest"));
        let mut flood = Vec::new();
        while let Some(place) = places.take_now(Some(&hostile)).await {
            flood.push(place);
        }
        assert_eq!(flood.len(), 228);
        let mut served = Vec::new();
        while let Some(place) = places.take_now(Some(&honest)).await {
            served.push(place);
        }
        assert!(served.len() >= 24, "{}", served.len());
        // As one leaves, those who have less come in.
        for _ in 0..200 {
            drop(flood.pop());
            flood.extend(places.take_now(Some(&hostile)).await);
            served.extend(places.take_now(Some(&honest)).await);
        }
        assert!(flood.len() <= 130 && served.len() >= 110, "{} {}", flood.len(), served.len());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_its_share_makes_room_among_its_own() {
        let places = Places::shared(4, 1);
        let (sated, other) = (("n".to_owned(), "sated".to_owned()), ("n".to_owned(), "other".to_owned()));
        let first = places.take_now(Some(&other)).await.unwrap();
        first.waits(PATIENCE);
        let first = hold(first);
        let own = places.take_now(Some(&sated)).await.unwrap();
        let _second = places.take_now(Some(&sated)).await;
        tokio::time::sleep(PATIENCE * 2).await;
        assert!(places.take_now(Some(&sated)).await.is_none() && !first.is_finished());
        own.waits(Duration::ZERO);
        let own = hold(own);
        let _third = places.take_now(Some(&sated)).await.unwrap();
        tokio::time::sleep(LOOK_EVERY).await;
        assert!(own.is_finished() && !first.is_finished());
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
