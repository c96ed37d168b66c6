//! A public key for releases: a point on P-256, as PEM of a SubjectPublicKeyInfo (RFC 7468 section 13, RFC 5480).

use super::SignatureError;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey, UnparsedPublicKey};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use serde::{Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Bytes of the largest file with public keys.
pub const MAX_KEY_FILE_BYTES: usize = 16 * 1024;

/// What stands before the point in every SubjectPublicKeyInfo of a named curve P-256 with an uncompressed point: two
/// sequences, the object identifiers id-ecPublicKey and prime256v1, and the head of a bit string of 66 bytes. Only this
/// form is accepted, so that a key has one id.
const PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The first byte of an uncompressed point, of two coordinates of 32 bytes.
const UNCOMPRESSED: u8 = 4;
const POINT_BYTES: usize = 65;

/// Names a key: the first 16 hex digits of the SHA-256 of its SubjectPublicKeyInfo in DER. That is short enough to be
/// read out, and only tells keys apart: a signature is checked with the whole key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 8]);

/// A key that is known to be a point on the curve.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    point: [u8; POINT_BYTES],
    id: KeyId,
}

impl PublicKey {
    /// Reads the keys of a PEM text, at least one. `file` names the text in errors.
    pub fn parse_pem(file: &str, pem: &[u8]) -> Result<Vec<Self>, SignatureError> {
        let unusable = |reason: String| SignatureError::KeyUnusable { file: file.to_owned(), reason };
        if pem.len() > MAX_KEY_FILE_BYTES {
            return Err(unusable(format!("it is larger than {MAX_KEY_FILE_BYTES} bytes")));
        }
        let mut keys = Vec::new();
        for der in SubjectPublicKeyInfoDer::pem_slice_iter(pem) {
            let der = der.map_err(|error| unusable(format!("it is not PEM: {error}")))?;
            keys.push(Self::from_der(&der).map_err(|reason| unusable(reason.to_owned()))?);
        }
        if keys.is_empty() {
            return Err(unusable("it holds no `BEGIN PUBLIC KEY`".to_owned()));
        }
        Ok(keys)
    }

    /// Reads a SubjectPublicKeyInfo.
    pub fn from_der(der: &[u8]) -> Result<Self, &'static str> {
        let point = der.strip_prefix(&PREFIX).ok_or(
            "it is not a key for ECDSA with P-256 as a named curve and an uncompressed point; make one with `ros-image \
             keygen`",
        )?;
        Self::from_point(point)
    }

    pub(super) fn from_point(point: &[u8]) -> Result<Self, &'static str> {
        let array: [u8; POINT_BYTES] = point.try_into().map_err(|_| "its point is not of 65 bytes")?;
        if array[0] != UNCOMPRESSED {
            return Err("its point is not uncompressed");
        }
        ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).map_err(|_| "its point is not on the curve")?;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &[&PREFIX[..], point].concat());
        let mut id = [0; 8];
        id.copy_from_slice(&digest.as_ref()[..8]);
        Ok(Self { point: array, id: KeyId(id) })
    }

    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The SubjectPublicKeyInfo.
    pub fn to_der(&self) -> Vec<u8> {
        [&PREFIX[..], &self.point].concat()
    }

    pub fn to_pem(&self) -> String {
        super::to_pem("PUBLIC KEY", &self.to_der())
    }

    /// Whether `signature`, as DER, is of this key and of `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point).verify(message, signature).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why a text is no key id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key id has 16 lower-case hex digits")]
pub struct NoKeyId;

impl FromStr for KeyId {
    type Err = NoKeyId;

    fn from_str(text: &str) -> Result<Self, NoKeyId> {
        let mut id = [0; 8];
        hex::decode_to_slice(text, &mut id).map_err(|_| NoKeyId)?;
        if text.bytes().any(|b| b.is_ascii_uppercase()) { Err(NoKeyId) } else { Ok(Self(id)) }
    }
}
