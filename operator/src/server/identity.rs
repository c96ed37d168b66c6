//! From what a machine shows to what is believed about it.

use crate::crd::{AttestationStatus, EkCertificatePolicy, EkCertificateResult};
use crate::registrar::Identity;
use crate::registration::Registration;
use crate::registration_index::Authorities;
use protocol::attestation::{Credential, EndorsementCertificate, EndorsementKey, KeyName};
use protocol::hardware::TpmInfo;
use protocol::{Refusal, RefusalCode};
use std::time::SystemTime;

/// A credential and the secret in it.
pub struct Puzzle {
    pub credential: Credential,
    pub secret: [u8; 32],
}

/// Makes what only the TPM with both keys can solve.
pub fn puzzle(key: &EndorsementKey, name: &KeyName) -> Result<Puzzle, Refusal> {
    let secret = random()?;
    Ok(Puzzle { credential: key.make_credential(name, &secret)?, secret })
}

pub fn random<const N: usize>() -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| Refusal::new(RefusalCode::Internal, "the operating system gave no random bytes"))?;
    Ok(bytes)
}

/// Judges the endorsement key certificate as the registration wants it. `authorities`: those it trusts, if they were
/// read already.
pub fn judge(
    registration: &Registration,
    authorities: Option<Authorities>,
    key: &EndorsementKey,
    certificates: &[Vec<u8>],
) -> Result<Identity, Refusal> {
    let policy = registration.spec.attestation.clone().unwrap_or_default();
    let wanted = policy.ek_certificate.unwrap_or_default();
    let mut attestation = AttestationStatus::default();
    let result = if wanted == EkCertificatePolicy::Ignored {
        EkCertificateResult::Ignored
    } else if certificates.is_empty() && wanted == EkCertificatePolicy::IfPresent {
        EkCertificateResult::Absent
    } else {
        let trusted = match (&policy.trusted_cas, &authorities) {
            (None, _) => &[],
            (Some(_), Some(authorities)) => authorities.as_slice(),
            (Some(trusted), None) => {
                let message = format!("the authorities in Secret {} are not read yet", trusted.secret_name);
                return Err(Refusal::new(RefusalCode::RegistrationInvalid, message).retry_after(15));
            }
        };
        let certificate = EndorsementCertificate::check(certificates, key, trusted, SystemTime::now())?;
        attestation.ek_certificate_issuer = Some(certificate.issuer);
        attestation.tpm_manufacturer = certificate.manufacturer;
        if certificate.trusted { EkCertificateResult::Trusted } else { EkCertificateResult::Unverified }
    };
    attestation.ek_certificate = Some(result);
    Ok(Identity { hash: key.tpm_hash(), attestation })
}

/// Adds what the machine says of its TPM, where no certificate says better.
pub fn add_tpm(attestation: &mut AttestationStatus, tpm: Option<&TpmInfo>) {
    if let Some(tpm) = tpm {
        attestation.tpm_manufacturer.get_or_insert_with(|| tpm.manufacturer.clone());
        attestation.tpm_firmware = Some(tpm.firmware.clone());
    }
}
