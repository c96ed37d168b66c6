//! The attestation key: its requirements and its signatures.

use super::public_area::{ALG_ECDSA, ALG_RSASSA, ALG_SHA256, KeyName, PublicArea, PublicKey};
use super::reader::{Malformed, Reader};
use super::statement::{Attested, Statement};
use crate::refusal::{Refusal, RefusalCode};
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};

/// A restricted signing key that cannot leave its TPM. Only an activated credential shows which TPM that is.
#[derive(Clone, Debug)]
pub struct AttestationKey {
    name: KeyName,
    verifier: Verifier,
}

#[derive(Clone, Debug)]
enum Verifier {
    RsaSsa(ParsedPublicKey),
    EcdsaP256(ParsedPublicKey),
}

/// The content of a verified quote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    pub firmware_version: u64,
    /// Counts TPM resets, so boots, for keys of the endorsement hierarchy; obfuscated for others.
    pub reset_count: u32,
    /// Counts resumes since the last reset.
    pub restart_count: u32,
    /// SHA-256 over the values of the selected PCRs, in ascending order.
    pub pcr_digest: Vec<u8>,
}

impl AttestationKey {
    /// Parses TPMT_PUBLIC without a size in front. Accepts only RSASSA with 2048 to 4096 bits and ECDSA on P-256, both
    /// with SHA-256. Anything else is an [`RefusalCode::UnacceptableAttestationKey`].
    pub fn parse(public_area: &[u8]) -> Result<Self, Refusal> {
        let refused = |reason| {
            Refusal::new(RefusalCode::UnacceptableAttestationKey, format!("the attestation key is refused: {reason}"))
        };
        let PublicArea { name, key } = PublicArea::parse(public_area).map_err(|Malformed(reason)| refused(reason))?;
        let verifier = match key {
            PublicKey::Rsa { modulus, exponent } => {
                let components = PublicKeyComponents { n: modulus.as_slice(), e: &exponent[1..] };
                components.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).map(Verifier::RsaSsa)
            }
            PublicKey::EcdsaP256(point) => {
                ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).map(Verifier::EcdsaP256)
            }
        };
        Ok(Self { name, verifier: verifier.map_err(|_| refused("it is not a valid public key"))? })
    }

    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// Accepts a quote (TPMS_ATTEST as signed, TPMT_SIGNATURE) over this nonce and exactly these PCRs of the SHA-256
    /// bank. Anything else is a [`RefusalCode::QuoteRejected`].
    pub fn verify_quote(&self, quote: &[u8], signature: &[u8], nonce: &[u8], pcrs: &[u8]) -> Result<Quote, Refusal> {
        let refused = |reason| Refusal::new(RefusalCode::QuoteRejected, format!("the quote is refused: {reason}"));
        self.check_signature(quote, signature).map_err(|Malformed(reason)| refused(reason))?;
        let statement = Statement::parse(quote).map_err(|Malformed(reason)| refused(reason))?;
        if statement.qualifying_data != nonce {
            return Err(refused("it does not cover this exchange's nonce"));
        }
        let Attested::Quote { pcrs: quoted, pcr_digest } = statement.attested else {
            return Err(refused("it is another kind of statement"));
        };
        let mut asked = pcrs.to_vec();
        asked.sort_unstable();
        asked.dedup();
        if quoted != asked {
            return Err(refused("it does not cover the requested PCRs"));
        }
        Ok(Quote {
            firmware_version: statement.firmware_version,
            reset_count: statement.reset_count,
            restart_count: statement.restart_count,
            pcr_digest: pcr_digest.to_vec(),
        })
    }

    /// Checks a TPMT_SIGNATURE (part 2, 11.3.4) of this key over a message.
    pub(crate) fn check_signature(&self, message: &[u8], signature: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(signature);
        let scheme = (reader.u16()?, reader.u16()?);
        let verified = match (&self.verifier, scheme) {
            (Verifier::RsaSsa(key), (ALG_RSASSA, ALG_SHA256)) => {
                let signature = reader.sized()?;
                reader.end()?;
                key.verify_sig(message, signature)
            }
            (Verifier::EcdsaP256(key), (ALG_ECDSA, ALG_SHA256)) => {
                let (r, s): ([u8; 32], [u8; 32]) = (reader.padded()?, reader.padded()?);
                reader.end()?;
                key.verify_sig(message, &[r, s].concat())
            }
            _ => return Err(Malformed("its signature scheme is not that of the attestation key")),
        };
        verified.map_err(|_| Malformed("it is not signed by the attestation key"))
    }
}
