//! The machine's side of one registration exchange, over any transport.

use super::identity::{Identity, SecretIdentity};
use super::{Connection, ExchangeError, Transport};
use attest::TpmIdentity;
use protocol::exchange::MachineSide;
use protocol::message::{Config, Done, EXCHANGE_SECONDS, FromMachine, MachineReport, Recorded};
use std::time::Duration;
use tokio::time::timeout;

/// Seconds in which the operator has to confirm `done`.
const CONFIRMATION_SECONDS: u64 = 20;

/// An exchange in which the machine has answered the operator's challenge. The operator's next message shows whether it
/// accepted the answer.
pub struct Exchange<C> {
    connection: C,
    side: MachineSide,
    correlation: String,
}

impl<C: Connection> Exchange<C> {
    /// Connects, sends the identity, and answers the challenge.
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

    /// The id of this exchange in the operator's log.
    pub fn correlation(&self) -> &str {
        &self.correlation
    }

    /// Sends the report about the machine and receives its configuration.
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

    /// Ends the exchange. When this returns, the operator has recorded every message.
    pub async fn finish(mut self, done: Done) -> Result<Recorded, ExchangeError> {
        within(CONFIRMATION_SECONDS, async {
            self.say(&FromMachine::Done(done)).await?;
            let frame = self.connection.receive().await?;
            Ok(self.side.receive_done(&frame)?)
        })
        .await
    }

    /// Waits for an unexpected message or for the end of the connection. Both end this exchange.
    pub(super) async fn interrupted(&mut self) -> ExchangeError {
        match self.connection.receive().await {
            Ok(frame) => self.side.receive_interruption(&frame).into(),
            Err(error) => error.into(),
        }
    }
}

async fn within<R>(seconds: u64, step: impl Future<Output = Result<R, ExchangeError>>) -> Result<R, ExchangeError> {
    timeout(Duration::from_secs(seconds), step).await.unwrap_or(Err(ExchangeError::TimedOut { seconds }))
}
