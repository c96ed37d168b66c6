//! The machine's identity and its proof: by the TPM, or by a shared secret on a machine without a TPM.

use crate::settings::Secret;
use attest::TpmIdentity;
use protocol::SharedSecret;
use protocol::hardware::TpmInfo;
use protocol::message::{SecretChallenge, SecretHello, SecretProof, VERSIONS};
use serde_json::Value;
use std::fmt;

/// The identity of this machine.
#[derive(Clone)]
pub enum Identity {
    Tpm(TpmIdentity),
    SharedSecret(SecretIdentity),
}

impl Identity {
    /// Manufacturer and firmware version of the TPM, if there is one.
    pub fn tpm_info(&self) -> Option<&TpmInfo> {
        match self {
            Self::Tpm(identity) => Some(identity.info()),
            Self::SharedSecret(_) => None,
        }
    }

    /// The machine's name in an installation's marker: `tpm:` and the hash of the endorsement key, or `secret:` and the
    /// digest of the shared secret, in hexadecimal. The operator knows the machine by both.
    pub fn name(&self) -> String {
        match self {
            Self::Tpm(identity) => format!("tpm:{}", identity.hash()),
            Self::SharedSecret(identity) => format!("secret:{}", hex::encode(identity.shared_secret().digest())),
        }
    }

    /// On a machine without a TPM, replaces rancherd's token `tpm://` by the shared secret.
    pub fn complete(&self, cloud_config: &mut cloud_config::CloudConfig) {
        if let Self::SharedSecret(identity) = self
            && let Some(Value::Object(rancherd)) = cloud_config.0.get_mut("rancherd")
            && rancherd.get("token").is_some_and(|token| token == BY_TPM)
        {
            rancherd.insert("token".to_owned(), identity.secret.expose().into());
        }
    }
}

/// Stands for a token that rancherd gets by the TPM.
const BY_TPM: &str = "tpm://";

/// Text for the console.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tpm(identity) => write!(f, "TPM {}", identity.hash()),
            Self::SharedSecret(_) => f.write_str("shared secret"),
        }
    }
}

/// The identity of a machine without a TPM.
#[derive(Clone)]
pub struct SecretIdentity {
    secret: Secret,
    client: String,
}

impl SecretIdentity {
    /// `client` is shown in the operator's log.
    pub fn new(secret: Secret, client: String) -> Self {
        Self { secret, client }
    }

    pub fn hello(&self) -> SecretHello {
        let digest = self.shared_secret().digest().to_vec();
        SecretHello { versions: VERSIONS.to_vec(), digest, client: Some(self.client.clone()) }
    }

    pub fn prove(&self, challenge: &SecretChallenge) -> SecretProof {
        SecretProof { answer: self.shared_secret().prove(&challenge.nonce) }
    }

    fn shared_secret(&self) -> SharedSecret {
        SharedSecret::new(self.secret.expose())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloud_config::CloudConfig;
    use serde_json::json;

    #[test]
    fn the_secret_takes_the_place_of_a_tpm_that_is_not_there_and_of_nothing_else() {
        let identity = Identity::SharedSecret(SecretIdentity::new(Secret::new("s3cret"), "test".to_owned()));
        let completed = |config: Value| {
            let mut config: CloudConfig = serde_json::from_value(config).unwrap();
            identity.complete(&mut config);
            Value::Object(config.0)
        };
        let result = completed(json!({"rancherd": {"server": "https://a", "token": "tpm://"}, "hostname": "h"}));
        assert_eq!(result, json!({"rancherd": {"server": "https://a", "token": "s3cret"}, "hostname": "h"}));
        for other in [json!({"hostname": "h"}), json!({"rancherd": {"token": "own"}}), json!({"rancherd": {}})] {
            assert_eq!(completed(other.clone()), other);
        }
        assert_eq!(identity.to_string(), "shared secret");
        let name = identity.name();
        assert!(name.starts_with("secret:") && name.len() == 7 + 64 && !name.contains("s3cret"), "{name}");
    }
}
