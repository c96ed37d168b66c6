//! The endorsement key of a TPM, and the seeds that are encrypted to it.

use super::structures::Reader;
use anyhow::{Context, Result, anyhow, bail};
use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};
use aws_lc_rs::digest::{self, SHA256};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey};

/// The two kinds of endorsement key that every TPM of today can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    Rsa2048,
    P256,
}

pub(super) struct EndorsementKey {
    public_der: Vec<u8>,
    private: Private,
}

enum Private {
    Rsa(OaepPrivateDecryptingKey),
    P256 { key: PrivateKey, x: [u8; 32] },
}

/// Its NUL belongs to it: part 1, annex B.4 (RSA); KDFe adds its own.
const OAEP_LABEL: &[u8] = b"IDENTITY\0";

impl EndorsementKey {
    pub(super) fn generate(kind: KeyKind) -> Result<Self> {
        Self::try_generate(kind).map_err(|error| anyhow!("{error}")).context("creating an endorsement key")
    }

    fn try_generate(kind: KeyKind) -> Result<Self, aws_lc_rs::error::Unspecified> {
        match kind {
            KeyKind::Rsa2048 => {
                let key = PrivateDecryptingKey::generate(KeySize::Rsa2048)?;
                let public_der = AsDer::<PublicKeyX509Der<'_>>::as_der(&key.public_key())?.as_ref().to_vec();
                Ok(Self { public_der, private: Private::Rsa(OaepPrivateDecryptingKey::new(key)?) })
            }
            KeyKind::P256 => {
                let key = PrivateKey::generate(&ECDH_P256)?;
                let public = key.compute_public_key()?;
                let public_der = AsDer::<PublicKeyX509Der<'_>>::as_der(&public)?.as_ref().to_vec();
                // An uncompressed point: 4, x, y.
                let x = public.as_ref()[1..33].try_into().map_err(|_| aws_lc_rs::error::Unspecified)?;
                Ok(Self { public_der, private: Private::P256 { key, x } })
            }
        }
    }

    pub(super) fn kind(&self) -> KeyKind {
        match self.private {
            Private::Rsa(_) => KeyKind::Rsa2048,
            Private::P256 { .. } => KeyKind::P256,
        }
    }

    pub(super) fn public_der(&self) -> &[u8] {
        &self.public_der
    }

    /// The seed in the contents of a TPM2B_ENCRYPTED_SECRET: part 1, annexes B.10.3 (RSA) and C.6.3 (ECC).
    pub(super) fn open_seed(&self, encrypted: &[u8]) -> Result<Vec<u8>> {
        match &self.private {
            Private::Rsa(key) => {
                let mut buffer = vec![0; key.min_output_size()];
                let seed = key
                    .decrypt(&OAEP_SHA256_MGF1SHA256, encrypted, &mut buffer, Some(OAEP_LABEL))
                    .map_err(|error| anyhow!("{error}"))
                    .context("decrypting the seed with the RSA endorsement key")?;
                Ok(seed.to_vec())
            }
            Private::P256 { key, x } => {
                let mut reader = Reader(encrypted);
                let (peer_x, peer_y) = (coordinate(reader.sized()?)?, coordinate(reader.sized()?)?);
                if !reader.0.is_empty() {
                    bail!("reading an encrypted seed: {} bytes after the point", reader.0.len());
                }
                let peer = UnparsedPublicKey::new(&ECDH_P256, [&[4][..], &peer_x, &peer_y].concat());
                agree(key, peer, anyhow!("agreeing on a seed with the P-256 endorsement key"), |shared| {
                    Ok(kdf_e(shared, "IDENTITY", &peer_x, x))
                })
            }
        }
    }
}

/// A TPM may leave out leading zeros.
fn coordinate(bytes: &[u8]) -> Result<[u8; 32]> {
    let missing = 32usize.checked_sub(bytes.len()).context("reading a P-256 coordinate: over 32 bytes")?;
    let mut padded = [0; 32];
    padded[missing..].copy_from_slice(bytes);
    Ok(padded)
}

/// KDFe of part 1, section 11.4.10.3, for one block of SHA-256.
fn kdf_e(shared: &[u8], label: &str, party_u: &[u8], party_v: &[u8]) -> Vec<u8> {
    let mut hash = digest::Context::new(&SHA256);
    for part in [&1u32.to_be_bytes()[..], shared, label.as_bytes(), &[0], party_u, party_v] {
        hash.update(part);
    }
    hash.finish().as_ref().to_vec()
}
