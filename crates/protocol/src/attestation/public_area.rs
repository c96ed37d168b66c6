//! TPMT_PUBLIC of a signing key (part 2, 12.2.4).

use super::reader::{Malformed, Reader};
use aws_lc_rs::digest;

pub(super) const ALG_RSA: u16 = 0x0001;
pub(super) const ALG_SHA256: u16 = 0x000b;
pub(super) const ALG_NULL: u16 = 0x0010;
pub(super) const ALG_RSASSA: u16 = 0x0014;
pub(super) const ALG_ECDSA: u16 = 0x0018;
pub(super) const ALG_ECC: u16 = 0x0023;
pub(super) const CURVE_NIST_P256: u16 = 0x0003;

/// The Name of an object: its name algorithm, then the digest of its public area (part 1, 16). SHA-256 here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyName([u8; 34]);

impl KeyName {
    pub(super) fn of(public_area: &[u8]) -> Self {
        let mut name = [0; 34];
        name[..2].copy_from_slice(&ALG_SHA256.to_be_bytes());
        name[2..].copy_from_slice(digest::digest(&digest::SHA256, public_area).as_ref());
        Self(name)
    }
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The public area of a restricted signing key that cannot leave the TPM that made it.
pub(super) struct PublicArea {
    pub(super) name: KeyName,
    pub(super) key: PublicKey,
}

pub(super) enum PublicKey {
    /// Modulus and exponent, big-endian, without leading zeros.
    Rsa { modulus: Vec<u8>, exponent: [u8; 4] },
    /// Uncompressed point.
    EcdsaP256([u8; 65]),
}

impl PublicArea {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let kind = reader.u16()?;
        if reader.u16()? != ALG_SHA256 {
            return Err(Malformed("its name algorithm is not SHA-256"));
        }
        check_attributes(reader.u32()?)?;
        let _policy = reader.sized()?;
        if reader.u16()? != ALG_NULL {
            return Err(Malformed("a signing key has no symmetric algorithm"));
        }
        let scheme = (reader.u16()?, reader.u16()?);
        let key = match (kind, scheme) {
            (ALG_RSA, (ALG_RSASSA, ALG_SHA256)) => rsa(&mut reader)?,
            (ALG_ECC, (ALG_ECDSA, ALG_SHA256)) => ecdsa_p256(&mut reader)?,
            (ALG_RSA | ALG_ECC, _) => return Err(Malformed("its scheme is neither RSASSA nor ECDSA with SHA-256")),
            _ => return Err(Malformed("it is neither an RSA nor an ECC key")),
        };
        reader.end()?;
        Ok(Self { name: KeyName::of(bytes), key })
    }
}

/// TPMA_OBJECT (part 2, 8.3). Without any one of these, a program instead of the TPM could have written the signed
/// data.
fn check_attributes(attributes: u32) -> Result<(), Malformed> {
    const REQUIRED: [(u32, &str); 5] = [
        (1 << 1, "it is not fixed to its TPM (fixedTPM)"),
        (1 << 4, "it is not fixed to its parent (fixedParent)"),
        (1 << 5, "it was not made by the TPM (sensitiveDataOrigin)"),
        (1 << 16, "it is not restricted to what the TPM itself says (restricted)"),
        (1 << 18, "it is not a signing key (sign)"),
    ];
    const DECRYPT: u32 = 1 << 17;
    for (bit, reason) in REQUIRED {
        if attributes & bit == 0 {
            return Err(Malformed(reason));
        }
    }
    if attributes & DECRYPT != 0 {
        return Err(Malformed("it may also decrypt (decrypt)"));
    }
    Ok(())
}

fn rsa(reader: &mut Reader) -> Result<PublicKey, Malformed> {
    let bits = reader.u16()?;
    // Zero stands for the default (part 2, 12.2.3.5).
    let exponent = match reader.u32()? {
        0 => 65537,
        exponent => exponent,
    };
    let modulus = reader.sized()?;
    if !matches!(bits, 2048 | 3072 | 4096) || modulus.len() != usize::from(bits / 8) || modulus[0] & 0x80 == 0 {
        return Err(Malformed("its RSA modulus does not have 2048, 3072 or 4096 bits"));
    }
    if exponent != 65537 {
        return Err(Malformed("its RSA exponent is not 65537"));
    }
    Ok(PublicKey::Rsa { modulus: modulus.to_vec(), exponent: exponent.to_be_bytes() })
}

fn ecdsa_p256(reader: &mut Reader) -> Result<PublicKey, Malformed> {
    if reader.u16()? != CURVE_NIST_P256 {
        return Err(Malformed("its curve is not NIST P-256"));
    }
    if reader.u16()? != ALG_NULL {
        return Err(Malformed("a signing key has no key derivation scheme"));
    }
    let (x, y): ([u8; 32], [u8; 32]) = (reader.padded()?, reader.padded()?);
    let mut point = [4; 65];
    point[1..33].copy_from_slice(&x);
    point[33..].copy_from_slice(&y);
    Ok(PublicKey::EcdsaP256(point))
}
