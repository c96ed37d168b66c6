//! The secret in a credential whose seed is known: part 1, section 24 of the TPM 2.0 Library specification.

use super::structures::Reader;
use anyhow::{Context, Result, anyhow, bail};
use aws_lc_rs::cipher::{AES_128, DecryptingKey, DecryptionContext, UnboundCipherKey};
use aws_lc_rs::hmac::{self, HMAC_SHA256};

/// The secret in the contents of a TPM2B_ID_OBJECT, for keys whose name and symmetric algorithms are SHA-256 and
/// AES-128-CFB. An error if the credential was made for another seed or another name of the attestation key.
pub(super) fn open(seed: &[u8], ak_name: &[u8], id_object: &[u8]) -> Result<Vec<u8>> {
    let mut reader = Reader(id_object);
    let tag = reader.sized().context("reading a credential")?;
    let mut identity = reader.0.to_vec();

    let integrity_key = hmac::Key::new(HMAC_SHA256, &kdf_a(seed, "INTEGRITY", &[], 256));
    hmac::verify(&integrity_key, &[&identity, ak_name].concat(), tag)
        .map_err(|_| anyhow!("activating a credential: integrity check failed"))?;

    let storage_key = kdf_a(seed, "STORAGE", ak_name, 128);
    decrypt_cfb(&storage_key, &mut identity).map_err(|error| anyhow!("decrypting a credential: {error}"))?;
    let mut reader = Reader(&identity);
    let secret = reader.sized().context("reading a credential's secret")?.to_vec();
    if !reader.0.is_empty() {
        bail!("reading a credential's secret: {} bytes after it", reader.0.len());
    }
    Ok(secret)
}

/// AES-128-CFB with a zero initialisation vector: each credential has a key of its own.
fn decrypt_cfb(key: &[u8], data: &mut [u8]) -> Result<(), aws_lc_rs::error::Unspecified> {
    let key = DecryptingKey::cfb128(UnboundCipherKey::new(&AES_128, key)?)?;
    key.decrypt(data, DecryptionContext::Iv128([0; 16].into()))?;
    Ok(())
}

/// KDFa of part 1, section 11.4.10.2, with SHA-256; one block, so at most 256 bits. The second context is empty in
/// all uses here.
fn kdf_a(key: &[u8], label: &str, context: &[u8], bits: u32) -> Vec<u8> {
    let mut mac = hmac::Context::with_key(&hmac::Key::new(HMAC_SHA256, key));
    for part in [&1u32.to_be_bytes()[..], label.as_bytes(), &[0], context, &bits.to_be_bytes()] {
        mac.update(part);
    }
    mac.sign().as_ref()[..bits as usize / 8].to_vec()
}
