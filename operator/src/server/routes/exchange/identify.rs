//! The proof of a machine's identity: the first messages of an exchange.

use super::{Exchange, PATIENCE};
use crate::identity::attestation::judge;
use crate::identity::challenge::{QUOTED_PCRS, credential_challenge, random};
use crate::identity::secret_holder;
use crate::inventory::index::KnownMachine;
use crate::registration::record::Identity;
use crate::server::frames::{End, Socket};
use protocol::attestation::{AttestationKey, EndorsementKey, check_secret};
use protocol::exchange::Opening;
use protocol::message::{Challenge, Hello, SecretChallenge, SecretHello, agree_on_version};
use protocol::{Refusal, RefusalCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Deadline of the first message. A machine has its `hello` ready when it connects.
const HELLO: Duration = Duration::from_secs(10);
/// After this long without a message that needs the machine's TPM, its permit may be revoked. TPMs are slow.
const TPM_PATIENCE: Duration = Duration::from_secs(15);

/// The proved identity of a machine.
pub(super) enum Peer {
    Tpm(Identity),
    /// By the shared secret of this inventory.
    SecretHolder(Arc<KnownMachine>),
}

impl<S: Socket> Exchange<S> {
    /// Runs the exchange up to the proof.
    pub(super) async fn identify(&mut self) -> Result<Peer, End> {
        let begun = Instant::now();
        let frame = timeout(HELLO, self.receive(PATIENCE)).await.unwrap_or_else(|_| {
            let message = format!("no `hello` within {} s", HELLO.as_secs());
            Err(Refusal::new(RefusalCode::DeadlineExceeded, message).into())
        })?;
        match self.side.receive_opening(&frame)? {
            Opening::Tpm(hello) => {
                let identity = self.identify_by_tpm(&hello, begun).await?;
                // Not at level info: each machine attests every few minutes.
                tracing::debug!(machine = %identity.hash, "attested");
                self.context.metrics.count_attestation(identity.attestation.ek_certificate);
                Ok(Peer::Tpm(identity))
            }
            Opening::SharedSecret(hello) => {
                let machine = self.identify_by_secret(&hello, begun).await?;
                tracing::debug!(
                    inventory = format!("{}/{}", machine.namespace, machine.name),
                    "proved its shared secret"
                );
                Ok(Peer::SecretHolder(machine))
            }
        }
    }

    /// `hello`, `challenge`, `proof`.
    async fn identify_by_tpm(&mut self, hello: &Hello, begun: Instant) -> Result<Identity, End> {
        let version = agree_on_version(&hello.versions)?;
        let endorsement = EndorsementKey::from_spki_der(&hello.ek_public)?;
        let attestation = AttestationKey::parse(&hello.ak_public)?;
        let identity = judge(
            &self.context.registrations,
            &self.context.tpm_vendors,
            &self.registration,
            &endorsement,
            &hello.ek_certificates,
        )?;
        let credential_challenge = credential_challenge(&endorsement, attestation.name())?;
        let nonce = random::<32>()?;
        let challenge = Challenge {
            version,
            credential: credential_challenge.credential.credential,
            encrypted_secret: credential_challenge.credential.encrypted_secret,
            nonce: nonce.to_vec(),
            pcrs: QUOTED_PCRS.to_vec(),
            correlation: self.correlation.clone(),
        };
        let frame = self.side.send_challenge(challenge)?;
        let challenged = self.challenge(frame, begun).await?;
        let frame = self.receive(TPM_PATIENCE).await?;
        let proof = self.side.receive_proof(&frame)?;
        check_secret(&credential_challenge.secret, &proof.secret)?;
        attestation.verify_quote(&proof.quote, &proof.signature, &nonce, QUOTED_PCRS)?;
        self.context.metrics.time_phase("proof", challenged.elapsed());
        Ok(identity)
    }

    /// `secretHello`, `secretChallenge`, `secretProof`.
    async fn identify_by_secret(&mut self, hello: &SecretHello, begun: Instant) -> Result<Arc<KnownMachine>, End> {
        let version = agree_on_version(&hello.versions)?;
        let (machine, secret) =
            secret_holder::claimed(&self.context.inventory.index, &self.context.secrets, &hello.digest).await?;
        let nonce = random::<32>()?;
        let correlation = self.correlation.clone();
        let challenge = SecretChallenge { version, nonce: nonce.to_vec(), correlation };
        let frame = self.side.send_secret_challenge(challenge)?;
        let challenged = self.challenge(frame, begun).await?;
        let frame = self.receive(PATIENCE).await?;
        let proof = self.side.receive_secret_proof(&frame)?;
        secret.check(&nonce, &proof.answer)?;
        secret_holder::accept(&self.registration, &machine)?;
        self.context.metrics.time_phase("proof", challenged.elapsed());
        Ok(machine)
    }

    /// Sends a challenge and returns the time at which the machine has it.
    async fn challenge(&mut self, frame: String, begun: Instant) -> Result<Instant, End> {
        self.frames.send(frame).await?;
        let challenged = Instant::now();
        self.context.metrics.time_phase("challenge", challenged - begun);
        Ok(challenged)
    }
}
