//! The messages by which a machine proves its identity.

use super::base64::{byte_list, bytes, optional_bytes};
use crate::bounded::optional_line;
use serde::{Deserialize, Serialize};

/// The machine's endorsement key, and the attestation key that is to be bound to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// Versions of the message set the machine speaks, newest first.
    pub versions: Vec<u32>,
    /// PKIX SubjectPublicKeyInfo DER of the endorsement key.
    #[serde(with = "bytes")]
    pub ek_public: Vec<u8>,
    /// DER certificates, the endorsement key's own first; empty when the TPM holds none.
    #[serde(default, with = "byte_list", skip_serializing_if = "Vec::is_empty")]
    pub ek_certificates: Vec<Vec<u8>>,
    /// TPMT_PUBLIC of the attestation key.
    #[serde(with = "bytes")]
    pub ak_public: Vec<u8>,
    /// Shown in the logs of both ends, so that the lines of both can be matched.
    #[serde(default, deserialize_with = "optional_line::<128, _>", skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
}

/// A challenge that only the TPM with both keys can answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Challenge {
    /// The version of the message set for the rest of the exchange.
    pub version: u32,
    /// Contents of TPM2B_ID_OBJECT.
    #[serde(with = "bytes")]
    pub credential: Vec<u8>,
    /// Contents of TPM2B_ENCRYPTED_SECRET.
    #[serde(with = "bytes")]
    pub encrypted_secret: Vec<u8>,
    /// To be quoted as qualifying data; 32 bytes.
    #[serde(with = "bytes")]
    pub nonce: Vec<u8>,
    /// PCRs of the SHA-256 bank to quote.
    pub pcrs: Vec<u8>,
    /// Names this exchange in the logs of both ends.
    pub correlation: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    /// The result of TPM2_ActivateCredential.
    #[serde(with = "bytes")]
    pub secret: Vec<u8>,
    /// TPMS_ATTEST bytes as signed.
    #[serde(with = "bytes")]
    pub quote: Vec<u8>,
    /// TPMT_SIGNATURE over the quote.
    #[serde(with = "bytes")]
    pub signature: Vec<u8>,
    /// The firmware's event log (TCG crypto-agile format), when it is there and fits.
    #[serde(default, with = "optional_bytes", skip_serializing_if = "Option::is_none")]
    pub event_log: Option<Vec<u8>>,
}

/// The identity of a machine without a TPM: a shared secret; see [`crate::shared_secret`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretHello {
    /// Versions of the message set the machine speaks, newest first.
    pub versions: Vec<u32>,
    /// SHA-256 of the shared secret.
    #[serde(with = "bytes")]
    pub digest: Vec<u8>,
    /// As in [`Hello`].
    #[serde(default, deserialize_with = "optional_line::<128, _>", skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
}

/// A challenge that only a holder of the shared secret can answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretChallenge {
    /// As in [`Challenge`].
    pub version: u32,
    /// 32 bytes.
    #[serde(with = "bytes")]
    pub nonce: Vec<u8>,
    /// As in [`Challenge`].
    pub correlation: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretProof {
    /// The result of [`crate::SharedSecret::prove`].
    #[serde(with = "bytes")]
    pub answer: Vec<u8>,
}
