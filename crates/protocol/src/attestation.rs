//! Proof that one TPM 2.0 holds the endorsement key and the attestation key, checked without a TPM.
//!
//! The operator encrypts a secret to the endorsement key so that a TPM reveals it only if it also holds the named
//! attestation key ([`EndorsementKey::make_credential`]). After that the operator accepts a quote by that attestation
//! key ([`AttestationKey::verify_quote`]). Structures and formulas are those of the TCG's "Trusted Platform Module
//! Library", parts 1 (architecture) and 2 (structures); key templates those of the "EK Credential Profile".

mod attestation_key;
mod credential;
mod ek_certificate;
mod endorsement_key;
mod public_area;
mod reader;
mod statement;

pub use attestation_key::{AttestationKey, Quote};
pub use credential::{Credential, check_secret};
pub use ek_certificate::EndorsementCertificate;
pub use endorsement_key::EndorsementKey;
pub use public_area::KeyName;
pub(crate) use reader::sized;
pub(crate) use statement::{Attested, Statement};

#[cfg(test)]
mod tests;
