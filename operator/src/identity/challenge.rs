//! Challenges of a TPM: the PCRs that it must quote, and a credential that only the TPM with both keys can open.

use protocol::attestation::{Credential, EndorsementKey, KeyName};
use protocol::{Refusal, RefusalCode};

/// PCRs of the SHA-256 bank that a quote covers: firmware, boot loader, Secure Boot policy.
pub const QUOTED_PCRS: &[u8] = &[0, 4, 7];

/// A credential, and the secret that it contains.
pub struct CredentialChallenge {
    pub credential: Credential,
    pub secret: [u8; 32],
}

/// Makes a credential that only the TPM with both keys can open.
pub fn credential_challenge(key: &EndorsementKey, name: &KeyName) -> Result<CredentialChallenge, Refusal> {
    let secret = random()?;
    Ok(CredentialChallenge { credential: key.make_credential(name, &secret)?, secret })
}

pub fn random<const N: usize>() -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| Refusal::new(RefusalCode::Internal, "the operating system gave no random bytes"))?;
    Ok(bytes)
}
