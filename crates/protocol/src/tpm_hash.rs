//! A machine's identity: the hash of its endorsement key.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Lower-case hex SHA-256 of the endorsement key's PKIX SubjectPublicKeyInfo DER, 64 digits: the first release's
/// `tpmHash` (rancher/os2 `pkg/tpm`, `GetPubHash`). It is the hash of the public key, not of the certificate and not of
/// a PEM.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TpmHash(String);

impl TpmHash {
    /// From the SubjectPublicKeyInfo DER of an endorsement key.
    pub fn of_public_key(spki_der: &[u8]) -> Self {
        Self(hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, spki_der)))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TpmHash {
    type Err = MalformedTpmHash;
    fn from_str(s: &str) -> Result<Self, MalformedTpmHash> {
        let fits = s.len() == 64 && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if fits { Ok(Self(s.to_owned())) } else { Err(MalformedTpmHash) }
    }
}
impl TryFrom<String> for TpmHash {
    type Error = MalformedTpmHash;
    fn try_from(s: String) -> Result<Self, MalformedTpmHash> {
        s.parse()
    }
}
impl From<TpmHash> for String {
    fn from(hash: TpmHash) -> String {
        hash.0
    }
}
impl fmt::Display for TpmHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a TPM hash has 64 lower-case hex digits")]
pub struct MalformedTpmHash;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_it_shows_and_nothing_else() {
        let hash = TpmHash::of_public_key(b"");
        assert_eq!(hash.to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(hash.as_str().parse(), Ok(hash.clone()));
        assert!(hash.as_str().to_uppercase().parse::<TpmHash>().is_err());
        assert!(hash.as_str()[1..].parse::<TpmHash>().is_err());
    }
}
