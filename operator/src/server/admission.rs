//! How many exchanges are held at once, and what becomes of them when the operator stops.

use protocol::{Refusal, RefusalCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Seconds after which a machine that was not admitted, or whose exchange was ended, should come back.
const RETRY_AFTER: u64 = 5;

/// Admits exchanges up to a bound.
#[derive(Clone)]
pub struct Admission {
    places: Arc<Semaphore>,
    closing: watch::Receiver<bool>,
    /// One clone is held by each exchange: when all are dropped, nothing is in flight.
    in_flight: watch::Sender<()>,
}

/// The other end, which closes.
pub struct Drain {
    closing: watch::Sender<bool>,
    in_flight: watch::Sender<()>,
}

/// An admitted exchange. Its place is free again when it is dropped or was answered.
pub struct Admitted {
    place: Option<OwnedSemaphorePermit>,
    closing: watch::Receiver<bool>,
    _in_flight: watch::Receiver<()>,
}

impl Admission {
    /// For at most `most` exchanges at once.
    pub fn new(most: usize) -> (Self, Drain) {
        let (closing, closed) = watch::channel(false);
        let (in_flight, _) = watch::channel(());
        let admission = Self { places: Arc::new(Semaphore::new(most)), closing: closed, in_flight: in_flight.clone() };
        (admission, Drain { closing, in_flight })
    }

    pub fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    pub fn admit(&self) -> Result<Admitted, Refusal> {
        if self.is_closing() {
            return Err(shutting_down());
        }
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            Refusal::new(RefusalCode::Busy, "as many machines as are served at once are being served")
                .retry_after(RETRY_AFTER)
        })?;
        Ok(Admitted { place: Some(place), closing: self.closing.clone(), _in_flight: self.in_flight.subscribe() })
    }
}

impl Admitted {
    /// Gives the place back while the exchange goes on: a machine that installs takes minutes and next to no work.
    pub fn give_place_back(&mut self) {
        self.place = None;
    }

    /// Tells when the operator stops.
    pub fn watch(&self) -> Closing {
        Closing(self.closing.clone())
    }
}

/// Tells an exchange that the operator stops.
pub struct Closing(watch::Receiver<bool>);

impl Closing {
    pub async fn closing(&mut self) {
        // An error means that the other end is gone, which is the same.
        let _ = self.0.wait_for(|closing| *closing).await;
    }
}

impl Drain {
    /// Admits nobody any more; exchanges are told, and have this long to finish. Returns whether all did.
    pub async fn close(&self, patience: Duration) -> bool {
        self.closing.send_replace(true);
        tokio::time::timeout(patience, self.in_flight.closed()).await.is_ok()
    }
}

/// What an exchange says that cannot be finished any more.
pub fn shutting_down() -> Refusal {
    Refusal::new(RefusalCode::ShuttingDown, "the operator is stopping; come back to its successor")
        .retry_after(RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_too_many_is_told_when_to_come_back() {
        let (admission, _drain) = Admission::new(1);
        let mut first = admission.admit().ok().unwrap();
        let refusal = admission.admit().err().unwrap();
        assert_eq!((refusal.code, refusal.retry_after), (RefusalCode::Busy, Some(RETRY_AFTER)));
        first.give_place_back();
        assert!(admission.admit().is_ok());
    }

    #[tokio::test]
    async fn closing_waits_for_what_is_in_flight_but_not_for_ever() {
        let (admission, drain) = Admission::new(9);
        let held = admission.admit().ok().unwrap();
        assert!(!drain.close(Duration::from_millis(1)).await);
        held.watch().closing().await;
        assert_eq!(admission.admit().err().unwrap().code, RefusalCode::ShuttingDown);
        drop(held);
        assert!(drain.close(Duration::from_secs(5)).await);
    }
}
