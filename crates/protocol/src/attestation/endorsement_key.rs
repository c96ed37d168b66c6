//! The endorsement key: a TPM's identity, and the key that credentials are encrypted to.

use super::credential::{Credential, Protection};
use super::public_area::KeyName;
use super::reader::sized;
use crate::refusal::{Refusal, RefusalCode};
use crate::tpm_hash::TpmHash;
use aws_lc_rs::agreement::{self, ECDH_P256, ECDH_P384, ParsedPublicKey, PrivateKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};
use x509_cert::der::asn1::{AnyRef, ObjectIdentifier};
use x509_cert::der::{Decode, Encode};
use x509_cert::spki::{SubjectPublicKeyInfoOwned, SubjectPublicKeyInfoRef};

pub(super) const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const NIST_P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const NIST_P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");

/// RSA-2048, P-256 or P-384, each made from the TCG's default template for it.
#[derive(Debug)]
pub struct EndorsementKey {
    spki_der: Vec<u8>,
    encryption: Encryption,
}

#[derive(Debug)]
enum Encryption {
    Rsa(OaepPublicEncryptingKey),
    Ecdh { key: ParsedPublicKey, curve: Curve },
}

#[derive(Clone, Copy, Debug)]
enum Curve {
    P256,
    P384,
}

impl EndorsementKey {
    /// Parses PKIX SubjectPublicKeyInfo DER. Accepts exactly one encoding of a key, because its hash is the machine's
    /// identity. Anything else is an [`RefusalCode::UnsupportedEndorsementKey`].
    pub fn from_spki_der(spki_der: &[u8]) -> Result<Self, Refusal> {
        let spki = SubjectPublicKeyInfoRef::from_der(spki_der).map_err(|_| refused("it is not a public key in DER"))?;
        if SubjectPublicKeyInfoOwned::from_der(spki_der).and_then(|key| key.to_der()).as_deref() != Ok(spki_der) {
            return Err(refused("it is not in the canonical DER encoding"));
        }
        let key_bits = spki.subject_public_key.as_bytes().ok_or_else(|| refused("it is not a public key in DER"))?;
        let encryption = match spki.algorithm.oid {
            RSA_ENCRYPTION if spki.algorithm.parameters == Some(AnyRef::NULL) => rsa(spki_der)?,
            EC_PUBLIC_KEY => match spki.algorithm.parameters_oid() {
                Ok(NIST_P256) => ecdh(Curve::P256, key_bits)?,
                Ok(NIST_P384) => ecdh(Curve::P384, key_bits)?,
                _ => return Err(refused("its curve is neither P-256 nor P-384")),
            },
            _ => return Err(refused("it is neither an RSA nor an elliptic curve key")),
        };
        Ok(Self { spki_der: spki_der.to_vec(), encryption })
    }

    /// PKIX SubjectPublicKeyInfo DER.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }

    pub(super) fn is_rsa(&self) -> bool {
        matches!(self.encryption, Encryption::Rsa(_))
    }

    pub fn tpm_hash(&self) -> TpmHash {
        TpmHash::of_public_key(&self.spki_der)
    }

    /// Encrypts the secret so that only the TPM with this endorsement key can read it, and only while it also holds
    /// the key of that name. The seed is drawn from the operating system.
    pub fn make_credential(&self, name: &KeyName, secret: &[u8; 32]) -> Result<Credential, Refusal> {
        self.encryption.make_credential(name, secret).map_err(|Unspecified| {
            Refusal::new(RefusalCode::Internal, "encrypting a challenge to the endorsement key failed")
        })
    }
}

impl Encryption {
    fn make_credential(&self, name: &KeyName, secret: &[u8; 32]) -> Result<Credential, Unspecified> {
        let (protection, seed, encrypted_secret) = match self {
            Encryption::Rsa(key) => {
                let protection = Protection::Sha256Aes128;
                let mut seed = vec![0; protection.seed_length()];
                rand::fill(&mut seed)?;
                let mut ciphertext = vec![0; key.ciphertext_size()];
                key.encrypt(&OAEP_SHA256_MGF1SHA256, &seed, &mut ciphertext, Some(b"IDENTITY\0"))?;
                (protection, seed, ciphertext)
            }
            Encryption::Ecdh { key, curve } => {
                let protection = curve.protection();
                let ephemeral = PrivateKey::generate(curve.agreement())?;
                let public = ephemeral.compute_public_key()?;
                let (x, y) = coordinates(public.as_ref());
                let seed = agreement::agree(&ephemeral, key.clone(), Unspecified, |shared_x| {
                    Ok(protection.seed_from_agreement(shared_x, x, coordinates(key.as_ref()).0))
                })?;
                (protection, seed, [sized(x), sized(y)].concat())
            }
        };
        Ok(Credential { credential: protection.seal(&seed, name, secret)?, encrypted_secret })
    }
}

impl Curve {
    fn agreement(self) -> &'static agreement::Algorithm {
        match self {
            Curve::P256 => &ECDH_P256,
            Curve::P384 => &ECDH_P384,
        }
    }
    fn protection(self) -> Protection {
        match self {
            Curve::P256 => Protection::Sha256Aes128,
            Curve::P384 => Protection::Sha384Aes256,
        }
    }
}

fn rsa(spki_der: &[u8]) -> Result<Encryption, Refusal> {
    let key = PublicEncryptingKey::from_der(spki_der)
        .and_then(|key| OaepPublicEncryptingKey::new(key).map_err(Into::into))
        .map_err(|_| refused("it is not a valid RSA key"))?;
    if key.key_size_bits() != 2048 {
        return Err(refused("its RSA modulus does not have 2048 bits"));
    }
    Ok(Encryption::Rsa(key))
}

fn ecdh(curve: Curve, point: &[u8]) -> Result<Encryption, Refusal> {
    const UNCOMPRESSED: u8 = 4;
    if point.first() != Some(&UNCOMPRESSED) {
        return Err(refused("its point is compressed"));
    }
    let key = agreement::UnparsedPublicKey::new(curve.agreement(), point);
    let key = ParsedPublicKey::try_from(&key).map_err(|_| refused("its point is not on the curve"))?;
    Ok(Encryption::Ecdh { key, curve })
}

/// The coordinates of an uncompressed point.
fn coordinates(point: &[u8]) -> (&[u8], &[u8]) {
    let coordinates = &point[1..];
    coordinates.split_at(coordinates.len() / 2)
}

fn refused(reason: &str) -> Refusal {
    let advice = "RSA-2048 and NIST P-256 or P-384 of the TCG's default templates are supported";
    Refusal::new(RefusalCode::UnsupportedEndorsementKey, format!("the endorsement key is refused: {reason}; {advice}"))
}
