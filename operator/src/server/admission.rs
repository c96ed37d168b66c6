//! Admits a limited number of concurrent exchanges, and ends them when the operator stops.

use super::permits::{Permit, Permits};
use crate::inventory::index::Key;
use protocol::{Refusal, RefusalCode};
use std::time::Duration;
use tokio::sync::watch;

/// Seconds after which a machine should come back if it was not admitted or its exchange was ended.
const RETRY_AFTER: u64 = 5;
/// The same if the limit of installations is reached. An installation takes minutes.
const RETRY_INSTALLATION_AFTER: u64 = 60;
/// Concurrent installations per concurrent exchange. One costs hardly any work and 32 KiB.
const INSTALLATIONS_PER_EXCHANGE: usize = 8;

/// Share of one registration, as a multiple of the free permits: 228 of 256 exchanges, 2016 of 2048 installations.
const SHARE_OF_EXCHANGES: usize = 8;
const SHARE_OF_INSTALLATIONS: usize = 64;

/// Admits exchanges up to a limit.
#[derive(Clone)]
pub struct Admission {
    most: usize,
    permits: Permits,
    installations: Permits,
    closing: watch::Receiver<bool>,
    /// Each exchange holds a receiver. When all are dropped, no exchange is in flight.
    in_flight: watch::Sender<()>,
}

/// Closes an [`Admission`] and waits for its exchanges.
pub struct Drain {
    closing: watch::Sender<bool>,
    in_flight: watch::Sender<()>,
}

/// An admitted exchange. It releases its permit when it is dropped or continues as an installation.
pub struct Admitted {
    permit: Permit,
    registration: Option<Key>,
    installations: Permits,
    /// Reserved for the installation after the answer.
    installation: Option<Permit>,
    closing: watch::Receiver<bool>,
    _in_flight: watch::Receiver<()>,
}

impl Admission {
    /// For at most `most` concurrent exchanges, and [`INSTALLATIONS_PER_EXCHANGE`] times as many installations.
    pub fn new(most: usize) -> (Self, Drain) {
        let (closing, closed) = watch::channel(false);
        let (in_flight, _) = watch::channel(());
        let permits = Permits::shared(most, SHARE_OF_EXCHANGES);
        let installations = Permits::shared(most * INSTALLATIONS_PER_EXCHANGE, SHARE_OF_INSTALLATIONS);
        let admission = Self { most, permits, installations, closing: closed, in_flight: in_flight.clone() };
        (admission, Drain { closing, in_flight })
    }

    /// An admission with as many permits of its own, which closes together with this one.
    pub fn separate(&self) -> Self {
        Self { permits: Permits::new(self.most), ..self.clone() }
    }

    pub fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// `registration`: the registration of the peer, if it has one.
    pub async fn admit(&self, registration: Option<Key>) -> Result<Admitted, Refusal> {
        if self.is_closing() {
            return Err(shutting_down());
        }
        let permit = self.permits.try_acquire(registration.as_ref()).await.ok_or_else(|| {
            Refusal::new(RefusalCode::Busy, "the limit of concurrent exchanges is reached").retry_after(RETRY_AFTER)
        })?;
        Ok(Admitted {
            permit,
            registration,
            installations: self.installations.clone(),
            installation: None,
            closing: self.closing.clone(),
            _in_flight: self.in_flight.subscribe(),
        })
    }
}

impl Admitted {
    /// Reserves a permit, so that the exchange can continue as an installation.
    pub async fn reserve_installation(&mut self) -> Result<(), Refusal> {
        let permit = self.installations.try_acquire(self.registration.as_ref()).await.ok_or_else(|| {
            let message = "the limit of concurrent installations is reached";
            Refusal::new(RefusalCode::Busy, message).retry_after(RETRY_INSTALLATION_AFTER)
        })?;
        self.installation = Some(permit);
        Ok(())
    }

    /// Continues as an installation, if one was reserved, and releases the permit of the exchange.
    pub fn continue_as_installation(&mut self) {
        if let Some(permit) = self.installation.take() {
            self.permit = permit;
        }
    }

    /// Waits for the machine's next message. After `patience` the permit may be revoked.
    pub fn start_deadline(&self, patience: Duration) {
        self.permit.start_deadline(patience);
    }

    /// Does not wait for the machine. The permit is not revoked.
    pub fn clear_deadline(&self) {
        self.permit.clear_deadline();
    }

    /// Waits until the permit is revoked.
    pub fn revoked(&self) -> impl Future<Output = ()> + Send + use<> {
        self.permit.revoked()
    }

    /// Notifies when the operator stops.
    pub fn watch(&self) -> Closing {
        Closing(self.closing.clone())
    }
}

/// Notifies an exchange when the operator stops.
pub struct Closing(watch::Receiver<bool>);

impl Closing {
    pub async fn closing(&mut self) {
        // An error means that the sender is dropped, which is the same.
        let _ = self.0.wait_for(|closing| *closing).await;
    }
}

impl Drain {
    /// Stops admitting exchanges, notifies the current ones, and waits until they end, at most for `patience`. Returns
    /// whether all of them ended.
    pub async fn close(&self, patience: Duration) -> bool {
        self.closing.send_replace(true);
        tokio::time::timeout(patience, self.in_flight.closed()).await.is_ok()
    }
}

/// The refusal of an exchange that cannot finish before the operator stops.
pub fn shutting_down() -> Refusal {
    Refusal::new(RefusalCode::ShuttingDown, "the operator is shutting down; try again").retry_after(RETRY_AFTER)
}

/// The refusal of an exchange whose permit is revoked.
pub fn permit_revoked() -> Refusal {
    Refusal::new(
        RefusalCode::Busy,
        "other machines are waiting, and this machine did not send its next message in time",
    )
    .retry_after(RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_too_many_is_refused_with_a_time_to_come_back() {
        let (admission, _drain) = Admission::new(1);
        let mut first = admission.admit(None).await.ok().unwrap();
        let refusal = admission.admit(None).await.err().unwrap();
        assert_eq!((refusal.code, refusal.retry_after), (RefusalCode::Busy, Some(RETRY_AFTER)));
        assert!(admission.separate().admit(None).await.is_ok());
        first.reserve_installation().await.unwrap();
        first.continue_as_installation();
        assert!(admission.admit(None).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn installations_are_bounded_and_a_silent_one_is_revoked() {
        let (admission, _drain) = Admission::new(1);
        let mut followed = Vec::new();
        for _ in 0..INSTALLATIONS_PER_EXCHANGE {
            let mut admitted = admission.admit(None).await.ok().unwrap();
            admitted.reserve_installation().await.unwrap();
            admitted.continue_as_installation();
            followed.push(admitted);
        }
        let mut late = admission.admit(None).await.ok().unwrap();
        let refusal = late.reserve_installation().await.unwrap_err();
        assert_eq!((refusal.code, refusal.retry_after), (RefusalCode::Busy, Some(RETRY_INSTALLATION_AFTER)));
        let silent = followed.pop().unwrap();
        silent.start_deadline(Duration::from_secs(60));
        let silent = tokio::spawn(async move { silent.revoked().await });
        tokio::time::sleep(Duration::from_secs(61)).await;
        late.reserve_installation().await.unwrap();
        assert!(silent.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_keeps_others_waiting_is_revoked() {
        let (admission, _drain) = Admission::new(1);
        let silent = admission.admit(None).await.ok().unwrap();
        silent.start_deadline(Duration::from_secs(2));
        let silent = tokio::spawn(async move { silent.revoked().await });
        assert_eq!(admission.admit(None).await.err().unwrap().code, RefusalCode::Busy);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(admission.admit(None).await.is_ok() && silent.is_finished());
    }

    #[tokio::test]
    async fn closing_waits_for_exchanges_in_flight_until_its_deadline() {
        let (admission, drain) = Admission::new(9);
        let held = admission.admit(None).await.ok().unwrap();
        assert!(!drain.close(Duration::from_millis(1)).await);
        held.watch().closing().await;
        assert_eq!(admission.admit(None).await.err().unwrap().code, RefusalCode::ShuttingDown);
        drop(held);
        assert!(drain.close(Duration::from_secs(5)).await);
    }
}
