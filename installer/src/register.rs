//! Drives the registration exchange from the machine's end, over any transport, and comes back after failures.

mod backoff;
mod error;
pub mod relay;
pub mod websocket;

use crate::identity::{Identity, SecretIdentity};
use attest::TpmIdentity;
pub use backoff::Backoff;
pub use error::{ConnectError, ExchangeError};
use protocol::exchange::MachineSide;
use protocol::message::{Config, Done, EXCHANGE_SECONDS, FromMachine, MachineReport, Recorded};
use std::time::Duration;
use tokio::time::timeout;

/// How long the operator may take to confirm `done`.
const CONFIRMATION_SECONDS: u64 = 20;

/// A way to reach the operator.
pub trait Transport {
    type Connection: Connection;
    fn connect(&mut self) -> impl Future<Output = Result<Self::Connection, ConnectError>>;
}

/// An open connection that carries frames.
pub trait Connection {
    fn send(&mut self, frame: String) -> impl Future<Output = Result<(), ConnectError>>;
    /// The next frame. Dropping the future loses none.
    fn receive(&mut self) -> impl Future<Output = Result<String, ConnectError>>;
}

/// An exchange in which the machine has answered the operator's challenge. Whether the answer was accepted shows in
/// the operator's next message.
pub struct Exchange<C> {
    connection: C,
    side: MachineSide,
    correlation: String,
}

impl<C: Connection> Exchange<C> {
    /// Connects, says who speaks, and answers the challenge.
    pub async fn open<T: Transport<Connection = C>>(
        transport: &mut T,
        identity: &Identity,
    ) -> Result<Self, ExchangeError> {
        within(EXCHANGE_SECONDS, async {
            let connection = transport.connect().await?;
            tracing::debug!("connected");
            let mut exchange = Self { connection, side: MachineSide::default(), correlation: String::new() };
            match identity {
                Identity::Tpm(identity) => exchange.prove_by_tpm(identity).await?,
                Identity::SharedSecret(identity) => exchange.prove_by_secret(identity).await?,
            }
            tracing::debug!("proof sent");
            Ok(exchange)
        })
        .await
    }

    async fn prove_by_tpm(&mut self, identity: &TpmIdentity) -> Result<(), ExchangeError> {
        self.say(&FromMachine::Hello(identity.hello().clone())).await?;
        let frame = self.connection.receive().await?;
        let challenge = self.side.receive_challenge(&frame)?;
        self.answering(&challenge.correlation);
        let proof = identity.prove(challenge).await?;
        self.say(&FromMachine::Proof(proof)).await
    }

    async fn prove_by_secret(&mut self, identity: &SecretIdentity) -> Result<(), ExchangeError> {
        self.say(&FromMachine::SecretHello(identity.hello())).await?;
        let frame = self.connection.receive().await?;
        let challenge = self.side.receive_secret_challenge(&frame)?;
        self.answering(&challenge.correlation);
        self.say(&FromMachine::SecretProof(identity.prove(&challenge))).await
    }

    fn answering(&mut self, correlation: &str) {
        correlation.clone_into(&mut self.correlation);
        tracing::debug!(correlation, "answering the challenge");
    }

    /// What names this exchange in the operator's log.
    pub fn correlation(&self) -> &str {
        &self.correlation
    }

    /// Sends everything learned about the machine and receives its configuration.
    pub async fn configure(&mut self, report: MachineReport) -> Result<Config, ExchangeError> {
        within(EXCHANGE_SECONDS, async {
            self.say(&FromMachine::Machine(Box::new(report))).await?;
            let frame = self.connection.receive().await?;
            Ok(self.side.receive_config(&frame)?)
        })
        .await
    }

    /// Sends a message that has no answer.
    pub async fn say(&mut self, message: &FromMachine) -> Result<(), ExchangeError> {
        let frame = self.side.send(message)?;
        Ok(self.connection.send(frame).await?)
    }

    /// Ends the exchange; when this returns, the operator has recorded everything that was said.
    pub async fn finish(mut self, done: Done) -> Result<Recorded, ExchangeError> {
        within(CONFIRMATION_SECONDS, async {
            self.say(&FromMachine::Done(done)).await?;
            let frame = self.connection.receive().await?;
            Ok(self.side.receive_done(&frame)?)
        })
        .await
    }

    /// Waits for a message nobody asked for, or for the end of the connection: both end this exchange.
    async fn interrupted(&mut self) -> ExchangeError {
        match self.connection.receive().await {
            Ok(frame) => self.side.receive_interruption(&frame).into(),
            Err(error) => error.into(),
        }
    }
}

/// Repeats `attempt` until it succeeds or fails for good. Before each wait, `notify` learns the cause and the wait.
/// `chance`: a number from 0 up to 1, for the jitter.
pub async fn with_retries<R>(
    mut attempt: impl AsyncFnMut() -> Result<R, ExchangeError>,
    mut chance: impl FnMut() -> f64,
    mut notify: impl FnMut(&ExchangeError, Duration),
) -> Result<R, ExchangeError> {
    let (mut remote, mut local) = (Backoff::remote(), Backoff::local());
    loop {
        let error = match attempt().await {
            Ok(result) => return Ok(result),
            Err(error) if !error.may_succeed_later() => return Err(error),
            Err(error) => error,
        };
        let wait =
            if error.is_local() { local.next(None, chance()) } else { remote.next(error.retry_after(), chance()) };
        notify(&error, wait);
        tokio::time::sleep(wait).await;
    }
}

async fn within<R>(seconds: u64, step: impl Future<Output = Result<R, ExchangeError>>) -> Result<R, ExchangeError> {
    timeout(Duration::from_secs(seconds), step).await.unwrap_or(Err(ExchangeError::TimedOut { seconds }))
}

#[cfg(test)]
mod tests;
