//! A TPM in memory, for the load generator and for clients that cheat. Thousands of them fit into one process. Tests of
//! the installer's TPM code use swtpm instead.
//!
//! Written from the TPM 2.0 Library specification alone, so that it also checks `protocol::attestation`.

mod credential;
mod endorsement_key;
mod lie;
mod structures;
mod vendor;

pub use endorsement_key::KeyKind;
pub use lie::{Liar, Lie};
pub use vendor::Vendor;

use anyhow::{Context, Result, anyhow};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use endorsement_key::EndorsementKey;
use protocol::TpmHash;
use protocol::message::{Challenge, Hello, Proof, VERSIONS};

/// An endorsement key and a P-256 attestation key. All PCRs are zero, as before the first measurement.
pub struct SoftwareTpm {
    endorsement_key: EndorsementKey,
    attestation_key: EcdsaKeyPair,
    certificates: Vec<Vec<u8>>,
}

impl SoftwareTpm {
    /// New keys. An RSA key takes some 50 ms of CPU, a P-256 key far less than one.
    pub fn new(kind: KeyKind) -> Result<Self> {
        let attestation_key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map_err(|error| anyhow!("{error}"))
            .context("creating an attestation key")?;
        Ok(Self { endorsement_key: EndorsementKey::generate(kind)?, attestation_key, certificates: Vec::new() })
    }

    /// Gives it an endorsement key certificate.
    pub fn certified_by(mut self, vendor: &Vendor) -> Result<Self> {
        self.certificates = vec![vendor.endorse(&self)?];
        Ok(self)
    }

    pub fn kind(&self) -> KeyKind {
        self.endorsement_key.kind()
    }

    /// SubjectPublicKeyInfo DER.
    pub fn ek_public(&self) -> &[u8] {
        self.endorsement_key.public_der()
    }

    pub fn hash(&self) -> TpmHash {
        TpmHash::of_public_key(self.ek_public())
    }

    /// TPMT_PUBLIC of the attestation key: fixed to this TPM, made by it, restricted to signing.
    pub fn ak_public(&self) -> Vec<u8> {
        structures::attestation_key(self.attestation_key.public_key().as_ref(), structures::ATTESTATION_KEY_ATTRIBUTES)
    }

    /// The first message of an exchange.
    pub fn hello(&self) -> Hello {
        Hello {
            versions: VERSIONS.to_vec(),
            ek_public: self.ek_public().to_vec(),
            ek_certificates: self.certificates.clone(),
            ak_public: self.ak_public(),
            client: Some("software TPM of the tests".to_owned()),
        }
    }

    /// The answer to a challenge. An error if the credential is for another TPM or attestation key.
    pub fn proof(&self, challenge: &Challenge) -> Result<Proof> {
        let secret = self.activate(&challenge.credential, &challenge.encrypted_secret)?;
        let (quote, signature) = self.quote(&challenge.nonce, &challenge.pcrs)?;
        Ok(Proof { secret, quote, signature, event_log: None })
    }

    /// TPM2_ActivateCredential. Takes the contents of TPM2B_ID_OBJECT and of TPM2B_ENCRYPTED_SECRET.
    pub fn activate(&self, credential: &[u8], encrypted_secret: &[u8]) -> Result<Vec<u8>> {
        let seed = self.endorsement_key.open_seed(encrypted_secret)?;
        credential::open(&seed, &self.ak_name(), credential)
    }

    /// TPM2_Quote over PCRs of the SHA-256 bank: TPMS_ATTEST and TPMT_SIGNATURE.
    pub fn quote(&self, nonce: &[u8], pcrs: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
        let quote = structures::quote(&self.ak_name(), nonce, pcrs);
        let signature = self
            .attestation_key
            .sign(&SystemRandom::new(), &quote)
            .map_err(|error| anyhow!("{error}"))
            .context("signing a quote")?;
        Ok((quote, structures::ecdsa_signature(signature.as_ref())))
    }

    /// The name of an object is its name algorithm and the digest of its public area: part 1, section 16.
    fn ak_name(&self) -> Vec<u8> {
        [&structures::ALG_SHA256.to_be_bytes()[..], digest(&SHA256, &self.ak_public()).as_ref()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Refusal;
    use protocol::attestation::{AttestationKey, EndorsementCertificate, EndorsementKey, check_secret};
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    use std::time::SystemTime;

    const SECRET: [u8; 32] = [9; 32];

    fn challenge(hello: &Hello, nonce: u8) -> Result<Challenge, Refusal> {
        let attestation_key = AttestationKey::parse(&hello.ak_public)?;
        let endorsement_key = EndorsementKey::from_spki_der(&hello.ek_public)?;
        let credential = endorsement_key.make_credential(attestation_key.name(), &SECRET)?;
        Ok(Challenge {
            version: 1,
            credential: credential.credential,
            encrypted_secret: credential.encrypted_secret,
            nonce: vec![nonce; 32],
            pcrs: vec![0, 4, 7],
            correlation: "test".to_owned(),
        })
    }

    fn check(vendor: &Vendor, hello: &Hello, challenge: &Challenge, proof: &Proof) -> Result<(), Refusal> {
        let authority = CertificateDer::from_pem_slice(vendor.certificate().as_bytes()).unwrap().to_vec();
        let endorsement_key = EndorsementKey::from_spki_der(&hello.ek_public)?;
        EndorsementCertificate::check(&hello.ek_certificates, &endorsement_key, &[authority], SystemTime::now())?;
        check_secret(&SECRET, &proof.secret)?;
        AttestationKey::parse(&hello.ak_public)?
            .verify_quote(&proof.quote, &proof.signature, &challenge.nonce, &challenge.pcrs)
            .map(drop)
    }

    #[test]
    fn the_protocol_believes_an_honest_tpm_of_either_kind() {
        let vendor = Vendor::new("TPM works").unwrap();
        for kind in [KeyKind::Rsa2048, KeyKind::P256] {
            let tpm = SoftwareTpm::new(kind).unwrap().certified_by(&vendor).unwrap();
            let hello = tpm.hello();
            let challenge = challenge(&hello, 1).unwrap();
            check(&vendor, &hello, &challenge, &tpm.proof(&challenge).unwrap()).unwrap();
            assert_eq!(EndorsementKey::from_spki_der(tpm.ek_public()).unwrap().tpm_hash(), tpm.hash());
        }
    }

    #[test]
    fn a_credential_for_another_attestation_key_stays_closed() {
        for kind in [KeyKind::Rsa2048, KeyKind::P256] {
            let (tpm, other) = (SoftwareTpm::new(kind).unwrap(), SoftwareTpm::new(kind).unwrap());
            let hello = Hello { ak_public: other.ak_public(), ..tpm.hello() };
            let error = tpm.proof(&challenge(&hello, 1).unwrap()).unwrap_err().to_string();
            assert!(error.contains("integrity check failed"), "{error}");
        }
    }

    #[test]
    fn the_protocol_refuses_each_lie_by_its_name() {
        let vendor = Vendor::new("TPM works").unwrap();
        for &lie in Lie::ALL {
            let liar = Liar::new(lie, &vendor).unwrap();
            let hello = liar.hello();
            let refused = challenge(&hello, 2).map(|challenge| {
                let earlier = Challenge { nonce: vec![1; 32], ..challenge.clone() };
                let mut proof = liar.proof(&challenge, &earlier).unwrap();
                if lie == Lie::ReplayedProof {
                    proof.secret = vec![8; 32]; // an earlier exchange had another secret
                }
                check(&vendor, &hello, &challenge, &proof).unwrap_err()
            });
            let code = refused.unwrap_or_else(|refusal| refusal).code;
            assert_eq!(code, lie.refusal(), "{lie:?}");
        }
    }
}
