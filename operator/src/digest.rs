//! The SHA-256 of bytes, and a short digest of a value that shows whether the value has changed.

use serde::Serialize;

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut array = [0; 32];
    array.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    array
}

/// The first 128 bits of the SHA-256 of a value's JSON. All maps are ordered, so equal values have equal JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest([u8; 16]);

impl Digest {
    /// A value without a JSON form (a map whose keys are not text) has the digest of no bytes.
    pub fn of(value: &impl Serialize) -> Self {
        let json = serde_json::to_vec(value).unwrap_or_default();
        let mut short = [0; 16];
        short.copy_from_slice(&sha256(&json)[..16]);
        Self(short)
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}
