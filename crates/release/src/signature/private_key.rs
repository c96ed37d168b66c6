//! A private key that signs releases. `ros-image` and tests use it; a machine has none.

use super::public_key::MAX_KEY_FILE_BYTES;
use super::{PublicKey, SignatureError, to_pem};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use std::fmt;

/// A key pair on P-256.
pub struct PrivateKey {
    pair: EcdsaKeyPair,
    public: PublicKey,
}

impl PrivateKey {
    /// Makes a new key from the system's random numbers.
    ///
    /// # Panics
    /// If the cryptographic library cannot make one, as when there is no memory.
    pub fn generate() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("a key can be made");
        Self::new(pair).expect("the key is on P-256")
    }

    /// Reads the first private key of a PEM text: PKCS #8, or SEC 1 as `openssl ecparam -genkey` writes it, without a
    /// password. `file` names the text in errors.
    pub fn parse_pem(file: &str, pem: &[u8]) -> Result<Self, SignatureError> {
        let unusable = |reason: String| SignatureError::KeyUnusable { file: file.to_owned(), reason };
        if pem.len() > MAX_KEY_FILE_BYTES {
            return Err(unusable(format!("it is larger than {MAX_KEY_FILE_BYTES} bytes")));
        }
        let der = PrivateKeyDer::from_pem_slice(pem)
            .map_err(|error| unusable(format!("it holds no private key in PEM without a password: {error}")))?;
        let pair = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, der.secret_der())
            .map_err(|error| unusable(format!("it is not a private key on P-256: {error}")))?;
        Self::new(pair).map_err(|reason| unusable(reason.to_owned()))
    }

    fn new(pair: EcdsaKeyPair) -> Result<Self, &'static str> {
        let public = PublicKey::from_point(pair.public_key().as_ref())?;
        Ok(Self { pair, public })
    }

    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// PKCS #8, as PEM.
    ///
    /// # Panics
    /// If the cryptographic library cannot encode it, as when there is no memory.
    pub fn to_pem(&self) -> String {
        to_pem("PRIVATE KEY", self.pair.to_pkcs8v1().expect("a key can be encoded").as_ref())
    }

    /// The signature of `message`, as DER. It differs each time.
    ///
    /// # Panics
    /// If the cryptographic library cannot sign, as when there is no memory.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(&SystemRandom::new(), message).expect("a key can sign").as_ref().to_vec()
    }
}

/// Shows only the id of the public key.
impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.public.id())
    }
}
