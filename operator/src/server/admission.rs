//! How many exchanges are held at once, and what becomes of them when the operator stops.

use super::places::{Place, Places};
use protocol::{Refusal, RefusalCode};
use std::time::Duration;
use tokio::sync::watch;

/// Seconds after which a machine that was not admitted, or whose exchange was ended, should come back.
const RETRY_AFTER: u64 = 5;

/// Admits exchanges up to a bound.
#[derive(Clone)]
pub struct Admission {
    most: usize,
    places: Places,
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
    place: Option<Place>,
    closing: watch::Receiver<bool>,
    _in_flight: watch::Receiver<()>,
}

impl Admission {
    /// For at most `most` exchanges at once.
    pub fn new(most: usize) -> (Self, Drain) {
        let (closing, closed) = watch::channel(false);
        let (in_flight, _) = watch::channel(());
        let places = Places::new(most);
        let admission = Self { most, places, closing: closed, in_flight: in_flight.clone() };
        (admission, Drain { closing, in_flight })
    }

    /// As many places again, which close together with these.
    pub fn apart(&self) -> Self {
        Self { places: Places::new(self.most), ..self.clone() }
    }

    pub fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    pub async fn admit(&self) -> Result<Admitted, Refusal> {
        if self.is_closing() {
            return Err(shutting_down());
        }
        let place = self.places.take_now().await.ok_or_else(|| {
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

    /// The machine's next message is waited for; when that takes longer than this, another machine may have its place.
    pub fn waits(&self, patience: Duration) {
        if let Some(place) = &self.place {
            place.waits(patience);
        }
    }

    /// The machine is not waited for.
    pub fn works(&self) {
        if let Some(place) = &self.place {
            place.works();
        }
    }

    /// Waits until another machine wants the place; for ever if it was given back.
    pub fn wanted(&self) -> impl Future<Output = ()> + Send + use<> {
        let wanted = self.place.as_ref().map(Place::wanted);
        async move {
            match wanted {
                Some(wanted) => wanted.await,
                None => std::future::pending().await,
            }
        }
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

/// What an exchange says whose machine keeps others waiting.
pub fn made_room() -> Refusal {
    Refusal::new(RefusalCode::Busy, "others wait, and this machine's next message did not come")
        .retry_after(RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_too_many_is_told_when_to_come_back() {
        let (admission, _drain) = Admission::new(1);
        let mut first = admission.admit().await.ok().unwrap();
        let refusal = admission.admit().await.err().unwrap();
        assert_eq!((refusal.code, refusal.retry_after), (RefusalCode::Busy, Some(RETRY_AFTER)));
        assert!(admission.apart().admit().await.is_ok());
        first.give_place_back();
        assert!(admission.admit().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_keeps_others_waiting_makes_room() {
        let (admission, _drain) = Admission::new(1);
        let silent = admission.admit().await.ok().unwrap();
        silent.waits(Duration::from_secs(2));
        let silent = tokio::spawn(async move { silent.wanted().await });
        assert_eq!(admission.admit().await.err().unwrap().code, RefusalCode::Busy);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(admission.admit().await.is_ok() && silent.is_finished());
    }

    #[tokio::test]
    async fn closing_waits_for_what_is_in_flight_but_not_for_ever() {
        let (admission, drain) = Admission::new(9);
        let held = admission.admit().await.ok().unwrap();
        assert!(!drain.close(Duration::from_millis(1)).await);
        held.watch().closing().await;
        assert_eq!(admission.admit().await.err().unwrap().code, RefusalCode::ShuttingDown);
        drop(held);
        assert!(drain.close(Duration::from_secs(5)).await);
    }
}
