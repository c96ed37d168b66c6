//! Reports the progress of an installation to the operator. A broken connection never delays the installation.

use super::identity::Identity;
use super::{Backoff, Exchange, ExchangeError, Transport, with_retries};
use protocol::message::{Done, FromMachine, Progress};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

/// Time between two reports of one phase.
const INTERVAL: Duration = Duration::from_secs(1);
/// Limit of the wait for the operator at the end of an installation. The first boot reports again.
const FINISH_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection to the operator that reconnects when it breaks.
pub struct Relay<T: Transport, R> {
    transport: T,
    identity: Identity,
    exchange: Option<Exchange<T::Connection>>,
    /// When the operator may be asked again. `None` if it refused permanently.
    not_before: Option<Instant>,
    backoff: Backoff,
    jitter: R,
}

impl<T: Transport, R: FnMut() -> f64> Relay<T, R> {
    /// `exchange` is the one that received the configuration.
    pub fn new(transport: T, identity: Identity, exchange: Exchange<T::Connection>, jitter: R) -> Self {
        let (not_before, backoff) = (Some(Instant::now()), Backoff::remote());
        Self { transport, identity, exchange: Some(exchange), not_before, backoff, jitter }
    }

    /// Sends the newest of `updates` until its sender is dropped.
    pub async fn run(&mut self, mut updates: watch::Receiver<Option<Progress>>) {
        let mut sent: Option<(Progress, Instant)> = None;
        loop {
            let connected = async {
                if self.exchange.is_none() {
                    self.reconnect().await;
                }
            };
            // The installation may end while the operator does not answer. Then there is no progress left to send.
            tokio::select! {
                () = connected => {}
                () = ended(updates.clone()) => return,
            }
            let Some(exchange) = &mut self.exchange else { continue };
            let latest = updates.borrow_and_update().clone();
            let is_new = |progress: &Progress| sent.as_ref().is_none_or(|(last, _)| last != progress);
            if let Some(progress) = latest.filter(is_new) {
                let in_phase = sent.as_ref().filter(|(last, _)| last.phase == progress.phase);
                if let Some((_, at)) = in_phase {
                    tokio::select! {
                        () = sleep_until(*at + INTERVAL) => {}
                        error = exchange.interrupted() => { self.lost(&error); continue }
                        () = ended(updates.clone()) => return,
                    }
                }
                // A newer update may have come during the wait.
                let progress = updates.borrow_and_update().clone().unwrap_or(progress);
                match exchange.say(&FromMachine::Progress(progress.clone())).await {
                    Ok(()) => sent = Some((progress, Instant::now())),
                    Err(error) => self.lost(&error),
                }
                continue;
            }
            tokio::select! {
                changed = updates.changed() => if changed.is_err() { return },
                error = exchange.interrupted() => self.lost(&error),
            }
        }
    }

    /// Sends how the installation ended and waits, for a bounded time, until the operator has recorded it.
    pub async fn finish(self, done: Done) -> Result<(), ExchangeError> {
        let Self { mut transport, identity, exchange: mut open, jitter, .. } = self;
        let finished = with_retries(
            async || {
                let exchange = match open.take() {
                    Some(exchange) => exchange,
                    None => Exchange::open(&mut transport, &identity).await?,
                };
                exchange.finish(done.clone()).await.map(drop)
            },
            jitter,
            note_retry,
        );
        timeout(FINISH_TIMEOUT, finished)
            .await
            .unwrap_or(Err(ExchangeError::TimedOut { seconds: FINISH_TIMEOUT.as_secs() }))
    }

    async fn reconnect(&mut self) {
        match self.not_before {
            Some(time) => sleep_until(time).await,
            None => std::future::pending().await,
        }
        match self.open().await {
            Ok(exchange) => self.exchange = Some(exchange),
            Err(error) => self.lost(&error),
        }
    }

    async fn open(&mut self) -> Result<Exchange<T::Connection>, ExchangeError> {
        let Self { transport, identity, jitter, .. } = self;
        with_retries(async || Exchange::open(transport, identity).await, jitter, note_retry).await
    }

    /// Closes a broken exchange and sets when the operator may be asked again: at once, after a wait if it refused, or
    /// never if it refused permanently. The installation continues, and the first boot reports.
    fn lost(&mut self, error: &ExchangeError) {
        self.exchange = None;
        if !error.may_succeed_later() {
            tracing::warn!("the operator refused a progress report: {error}");
            self.not_before = None;
            return;
        }
        tracing::info!("the connection to the operator was lost: {error}; the installation continues");
        let wait = error.refusal().map(|refusal| self.backoff.next(refusal.retry_after, (self.jitter)()));
        self.not_before = Some(Instant::now() + wait.unwrap_or_default());
    }
}

fn note_retry(error: &ExchangeError, wait: Duration) {
    tracing::warn!("no connection to the operator: {error}; next attempt in {} s", wait.as_secs());
}

/// Waits until the sender is dropped.
async fn ended(mut updates: watch::Receiver<Option<Progress>>) {
    while updates.changed().await.is_ok() {}
}
