//! Identity by TPM: the content of `hello`, and the answers to the operator's challenge.

use crate::event_log::without_boot_tokens;
use crate::{Tpm, TpmError};
use protocol::TpmHash;
use protocol::hardware::TpmInfo;
use protocol::message::{Challenge, Hello, Proof, VERSIONS};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// The firmware's event log (securityfs), in the TCG crypto-agile format.
const EVENT_LOG: &str = "sys/kernel/security/tpm0/binary_bios_measurements";
/// Largest event log in bytes. A larger one is left out: base64 turns 3 bytes into 4, and the message must stay below
/// its limit.
const LARGEST_EVENT_LOG: usize = protocol::message::MAX_FRAME / 2;

/// A TPM whose keys have been created, and their public parts.
#[derive(Clone)]
pub struct TpmIdentity {
    tpm: Arc<Mutex<Box<dyn Tpm>>>,
    hello: Hello,
    info: TpmInfo,
    event_log: Option<Vec<u8>>,
}

impl TpmIdentity {
    /// Creates the keys. Blocks for seconds on hardware, so it runs while the network comes up. The event log is read
    /// below `root`, which is `/` on a machine. `client` is shown in the operator's log.
    pub fn prepare(mut tpm: Box<dyn Tpm>, root: &Path, client: String) -> Result<Self, TpmError> {
        let hello = Hello {
            versions: VERSIONS.to_vec(),
            ek_public: tpm.endorsement_key()?,
            ek_certificates: tpm.endorsement_certificates()?,
            ak_public: tpm.attestation_key()?,
            client: Some(client),
        };
        let event_log = std::fs::read(root.join(EVENT_LOG)).ok().filter(|log| log.len() <= LARGEST_EVENT_LOG);
        let event_log = event_log.map(without_boot_tokens);
        let info = tpm.info()?;
        tracing::debug!(hash = %TpmHash::of_public_key(&hello.ek_public), "created the TPM's keys");
        Ok(Self { tpm: Arc::new(Mutex::new(tpm)), hello, info, event_log })
    }

    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    pub fn info(&self) -> &TpmInfo {
        &self.info
    }

    pub fn hash(&self) -> TpmHash {
        TpmHash::of_public_key(&self.hello.ek_public)
    }

    /// Answers a challenge on a separate thread, because the TPM blocks.
    pub async fn prove(&self, challenge: Challenge) -> Result<Proof, TpmError> {
        let (tpm, event_log) = (Arc::clone(&self.tpm), self.event_log.clone());
        let answer = move || {
            // A panic of another call leaves the TPM usable, because no call depends on another.
            let mut tpm = tpm.lock().unwrap_or_else(PoisonError::into_inner);
            let secret = tpm.activate(&challenge.credential, &challenge.encrypted_secret)?;
            let quote = tpm.quote(&challenge.nonce, &challenge.pcrs)?;
            Ok(Proof { secret, quote: quote.attest, signature: quote.signature, event_log })
        };
        match tokio::task::spawn_blocking(answer).await {
            Ok(proof) => proof,
            Err(stopped) => std::panic::resume_unwind(stopped.into_panic()),
        }
    }
}
