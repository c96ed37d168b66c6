//! TPM2_MakeCredential in software (part 1, 24): a secret that one TPM reveals for one attestation key.

use super::public_area::KeyName;
use super::reader::sized;
use crate::refusal::{Refusal, RefusalCode};
use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::{constant_time, digest, error::Unspecified, hmac, iv::FixedLength};

/// The encrypted secret of a challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Contents of TPM2B_ID_OBJECT, without the size in front.
    pub credential: Vec<u8>,
    /// Contents of TPM2B_ENCRYPTED_SECRET, without the size in front.
    pub encrypted_secret: Vec<u8>,
}

/// Whether the peer's TPM revealed the credential's secret. Compares in constant time.
pub fn check_secret(expected: &[u8; 32], presented: &[u8]) -> Result<(), Refusal> {
    constant_time::verify_slices_are_equal(expected, presented).map_err(|_| {
        let reason = "the secret in the proof is wrong: the machine did not prove that one TPM holds both keys";
        Refusal::new(RefusalCode::ProofRejected, reason)
    })
}

/// The algorithms of an endorsement key's template, which also protect what is sent to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protection {
    /// SHA-256 and AES-128: the templates of the low range (L-1 and L-2), RSA-2048 and P-256.
    Sha256Aes128,
    /// SHA-384 and AES-256: template H-3 of the high range, P-384.
    Sha384Aes256,
}

impl Protection {
    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Protection::Sha256Aes128 => &digest::SHA256,
            Protection::Sha384Aes256 => &digest::SHA384,
        }
    }
    fn hmac(self) -> hmac::Algorithm {
        match self {
            Protection::Sha256Aes128 => hmac::HMAC_SHA256,
            Protection::Sha384Aes256 => hmac::HMAC_SHA384,
        }
    }
    /// Bytes of a seed, which is as long as a digest.
    pub(super) fn seed_length(self) -> usize {
        self.digest().output_len()
    }

    /// KDFe (part 1, 11.4.10.3): the seed from an elliptic curve's shared secret. One block is enough.
    pub(super) fn seed_from_agreement(self, shared_x: &[u8], ephemeral_x: &[u8], static_x: &[u8]) -> Vec<u8> {
        let mut context = digest::Context::new(self.digest());
        for part in [&1u32.to_be_bytes(), shared_x, b"IDENTITY\0", ephemeral_x, static_x] {
            context.update(part);
        }
        context.finish().as_ref().to_vec()
    }

    /// The contents of TPM2B_ID_OBJECT (part 1, 24.4 and 24.5): integrity value, then the encrypted secret.
    pub(super) fn seal(self, seed: &[u8], name: &KeyName, secret: &[u8; 32]) -> Result<Vec<u8>, Unspecified> {
        let algorithm = match self {
            Protection::Sha256Aes128 => &AES_128,
            Protection::Sha384Aes256 => &AES_256,
        };
        let key = self.derive(seed, b"STORAGE\0", name.as_bytes(), algorithm_key_length(self));
        let mut identity = sized(secret);
        // The key is used once, so the initial vector is zero by definition.
        EncryptingKey::cfb128(UnboundCipherKey::new(algorithm, &key)?)?
            .less_safe_encrypt(&mut identity, EncryptionContext::Iv128(FixedLength::from([0; 16])))?;

        let integrity_key = self.derive(seed, b"INTEGRITY\0", &[], self.seed_length());
        let mut integrity = hmac::Context::with_key(&hmac::Key::new(self.hmac(), &integrity_key));
        integrity.update(&identity);
        integrity.update(name.as_bytes());
        Ok([sized(integrity.sign().as_ref()), identity].concat())
    }

    /// KDFa (part 1, 11.4.10.2) for at most one block. `label` ends in a zero byte.
    fn derive(self, key: &[u8], label: &[u8], context: &[u8], length: usize) -> Vec<u8> {
        let bits = u32::try_from(length * 8).expect("a key is shorter than a digest");
        let mut block = hmac::Context::with_key(&hmac::Key::new(self.hmac(), key));
        for part in [&1u32.to_be_bytes(), label, context, &bits.to_be_bytes()] {
            block.update(part);
        }
        block.sign().as_ref()[..length].to_vec()
    }
}

fn algorithm_key_length(protection: Protection) -> usize {
    match protection {
        Protection::Sha256Aes128 => 16,
        Protection::Sha384Aes256 => 32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed from the formulas by another implementation (Python's hmac and hashlib, `openssl enc`).
    #[test]
    fn sealing_gives_the_known_answers() {
        let cases = [
            (
                Protection::Sha256Aes128,
                concat!(
                    "0020b5538bd2de9249381308c8d314b0dcbdf4c93e90b0dd122c004821fb7426",
                    "7361a7a69fd26db1d995db0f874f1543aa564acb5045891206be30cff39e5dba",
                    "73f71be7"
                ),
                "0e6e10a819dc1c67357edbfe6ea3dd01f7045cb33a9cc53b537da92bb4849d7e",
            ),
            (
                Protection::Sha384Aes256,
                concat!(
                    "003068d370f5532c96fb67c3b066cc45996c5389ad9c4287914f6cb8cd1a9475",
                    "48c87eea9df1b9700d7a626ca5395745cbc4326545e5879638d5f0af23be0d6e",
                    "edb2e8d1f77ee6c288160c09a8bf979e3de03f65"
                ),
                concat!(
                    "29f998c5e33a621296fc98944fd3c9e960b9ff012d213cbdf3671172938c4584",
                    "3fe4016996fb1787dae92669eda8ae8f"
                ),
            ),
        ];
        for (protection, sealed, seed) in cases {
            let bytes: Vec<u8> = (0..protection.seed_length()).map(|i| i as u8).collect();
            let name = KeyName::of(b"public area");
            assert_eq!(hex::encode(protection.seal(&bytes, &name, &[0x42; 32]).unwrap()), sealed);
            assert_eq!(hex::encode(protection.seed_from_agreement(b"z", b"x", b"y")), seed);
        }
    }
}
