//! Machines that claim what they cannot prove.

use super::structures::{self, RESTRICTED};
use super::{KeyKind, SoftwareTpm, Vendor};
use anyhow::Result;
use aws_lc_rs::signature::KeyPair;
use protocol::RefusalCode;
use protocol::message::{Challenge, Hello, Proof};

/// One way to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Names another machine's endorsement key, with an attestation key of its own.
    EndorsementKeyOfAnother,
    /// Names its own endorsement key, with an attestation key that is not in its TPM.
    AttestationKeyOfAnother,
    /// Shows an endorsement key certificate that was issued for another TPM.
    CertificateOfAnother,
    /// Names an attestation key that may sign anything, also what looks like a quote.
    UnrestrictedAttestationKey,
    /// Answers with the proof of an earlier exchange.
    ReplayedProof,
    /// Gives the right secret, and a quote in which one bit was turned after signing.
    AlteredQuote,
    /// Gives the right secret, and a quote over a nonce of its own choice.
    StaleQuote,
}

impl Lie {
    pub const ALL: &'static [Self] = &[
        Self::EndorsementKeyOfAnother,
        Self::AttestationKeyOfAnother,
        Self::CertificateOfAnother,
        Self::UnrestrictedAttestationKey,
        Self::ReplayedProof,
        Self::AlteredQuote,
        Self::StaleQuote,
    ];

    /// The refusal that it must get.
    pub fn refusal(self) -> RefusalCode {
        match self {
            Self::EndorsementKeyOfAnother | Self::AttestationKeyOfAnother | Self::ReplayedProof => {
                RefusalCode::ProofRejected
            }
            Self::CertificateOfAnother => RefusalCode::EndorsementCertificateMismatch,
            Self::UnrestrictedAttestationKey => RefusalCode::UnacceptableAttestationKey,
            Self::AlteredQuote | Self::StaleQuote => RefusalCode::QuoteRejected,
        }
    }
}

/// A machine that tells one lie in an otherwise right exchange.
pub struct Liar {
    lie: Lie,
    own: SoftwareTpm,
    other: SoftwareTpm,
}

impl Liar {
    /// Both TPMs involved have certificates of `vendor`.
    pub fn new(lie: Lie, vendor: &Vendor) -> Result<Self> {
        let own = SoftwareTpm::new(KeyKind::P256)?.certified_by(vendor)?;
        let other = SoftwareTpm::new(KeyKind::P256)?.certified_by(vendor)?;
        Ok(Self { lie, own, other })
    }

    pub fn hello(&self) -> Hello {
        let (own, other) = (self.own.hello(), self.other.hello());
        match self.lie {
            Lie::EndorsementKeyOfAnother => Hello { ak_public: own.ak_public, ..other },
            Lie::AttestationKeyOfAnother => Hello { ak_public: other.ak_public, ..own },
            Lie::CertificateOfAnother => Hello { ek_certificates: other.ek_certificates, ..own },
            Lie::UnrestrictedAttestationKey => {
                let attributes = structures::ATTESTATION_KEY_ATTRIBUTES & !RESTRICTED;
                let point = self.own.attestation_key.public_key();
                Hello { ak_public: structures::attestation_key(point.as_ref(), attributes), ..own }
            }
            Lie::ReplayedProof | Lie::AlteredQuote | Lie::StaleQuote => own,
        }
    }

    /// `earlier` is the challenge of another exchange with the same liar, for the lies that need one.
    pub fn proof(&self, challenge: &Challenge, earlier: &Challenge) -> Result<Proof> {
        match self.lie {
            // Its TPM cannot activate that credential, so the secret is guessed.
            Lie::EndorsementKeyOfAnother | Lie::AttestationKeyOfAnother | Lie::UnrestrictedAttestationKey => {
                let (quote, signature) = self.own.quote(&challenge.nonce, &challenge.pcrs)?;
                Ok(Proof { secret: vec![0; 32], quote, signature, event_log: None })
            }
            Lie::CertificateOfAnother => self.own.proof(challenge),
            Lie::ReplayedProof => self.own.proof(earlier),
            Lie::AlteredQuote => {
                let mut proof = self.own.proof(challenge)?;
                let last = proof.quote.len() - 1;
                proof.quote[last] ^= 1;
                Ok(proof)
            }
            Lie::StaleQuote => {
                let (quote, signature) = self.own.quote(&earlier.nonce, &challenge.pcrs)?;
                Ok(Proof { quote, signature, ..self.own.proof(challenge)? })
            }
        }
    }
}
