//! Shared secrets, which identify machines without a TPM, and the proof of having one.
//!
//! At the inventory endpoint rancherd sends the secret itself, so only the type is used there. In our exchange the
//! secret does not cross the wire. The machine sends its digest and answers a nonce with an HMAC under it. So an
//! eavesdropper or a false operator learns nothing that it could use later. That holds for secrets that cannot be
//! guessed, such as 32 random bytes.

use crate::refusal::{Refusal, RefusalCode};
use aws_lc_rs::{digest, hmac};
use std::fmt;

/// Precedes the nonce, so that the answer is not valid for any other question.
const QUESTION: &[u8] = b"rancheros.registration.v1 shared secret\0";

/// A shared secret. `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct SharedSecret(Vec<u8>);

impl SharedSecret {
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// SHA-256 of the secret, by which it is looked up.
    pub fn digest(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, &self.0).as_ref());
        bytes
    }

    /// The answer to a nonce.
    pub fn prove(&self, nonce: &[u8]) -> Vec<u8> {
        hmac::sign(&self.key(), &[QUESTION, nonce].concat()).as_ref().to_vec()
    }

    /// Whether the answer to a nonce came from somebody who has this secret.
    pub fn check(&self, nonce: &[u8], answer: &[u8]) -> Result<(), Refusal> {
        hmac::verify(&self.key(), &[QUESTION, nonce].concat(), answer).map_err(|_| {
            let message = "the machine did not prove that it has the shared secret that it claims to have";
            Refusal::new(RefusalCode::SharedSecretRejected, message)
        })
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Made with `printf 'rancheros.registration.v1 shared secret\0nonce' | openssl dgst -sha256 -hmac secret`.
    const OPENSSL: &str = "850a9d86e1b1caf5b9951a31ed6eb52fd2ab7716739cd0c8c86cd3119ec79b06";

    #[test]
    fn the_answer_is_openssls_and_the_secret_is_not_shown() {
        let secret = SharedSecret::new("secret");
        assert_eq!(hex::encode(secret.prove(b"nonce")), OPENSSL);
        assert_eq!(secret.check(b"nonce", &secret.prove(b"nonce")), Ok(()));
        assert_eq!(format!("{secret:?}"), "SharedSecret(…)");
    }

    proptest! {
        #[test]
        fn no_other_secret_nonce_or_answer_will_do(
            secret: Vec<u8>, other: Vec<u8>, nonce: [u8; 32], later: [u8; 32], flipped in 0usize..32, cut in 0usize..32,
        ) {
            let (secret, other) = (SharedSecret::new(secret), SharedSecret::new(other));
            let answer = secret.prove(&nonce);
            // HMAC pads short keys with zeros: only then are two secrets one.
            let same = |secret: &SharedSecret| -> Vec<u8> {
                let bytes = secret.expose();
                bytes.iter().copied().chain(std::iter::repeat_n(0, 64usize.saturating_sub(bytes.len()))).collect()
            };
            if same(&secret) != same(&other) {
                prop_assert!(other.check(&nonce, &answer).is_err());
            }
            if nonce != later {
                prop_assert!(secret.check(&later, &answer).is_err());
            }
            prop_assert!(secret.check(&nonce, &answer[..cut]).is_err());
            let mut wrong = answer;
            wrong[flipped] ^= 1;
            let refusal = secret.check(&nonce, &wrong).unwrap_err();
            prop_assert_eq!(refusal.code, RefusalCode::SharedSecretRejected);
        }
    }
}
