//! Checks the EK certificate of a machine and records what it proves.

use crate::registration::index::{Authorities, RegistrationIndex};
use crate::registration::record::Identity;
use crate::registration::{self, Registration};
use api::{AttestationStatus, EkCertificatePolicy, EkCertificateResult};
use protocol::attestation::{EndorsementCertificate, EndorsementKey};
use protocol::hardware::TpmInfo;
use protocol::{Refusal, RefusalCode};
use std::time::SystemTime;

/// Checks the EK certificate as the registration's policy says: against the authorities that the registration names,
/// else against those of the TPM vendors. Unless the policy is `Required`, a certificate of an unknown authority is
/// accepted if it is for this key. With `Required` and without any authority every machine is refused: anybody can make
/// a certificate.
pub fn judge(
    registrations: &RegistrationIndex,
    vendors: &Authorities,
    registration: &Registration,
    key: &EndorsementKey,
    certificates: &[Vec<u8>],
) -> Result<Identity, Refusal> {
    let policy = registration.spec.attestation.clone().unwrap_or_default();
    let wanted = policy.ek_certificate.unwrap_or_default();
    let named = registrations.authorities(&registration.namespace, &registration.name);
    let check = |trusted: &[Vec<u8>]| EndorsementCertificate::check(certificates, key, trusted, SystemTime::now());
    let mut attestation = AttestationStatus::default();
    let result = if wanted == EkCertificatePolicy::Ignored {
        EkCertificateResult::Ignored
    } else if certificates.is_empty() && wanted == EkCertificatePolicy::IfPresent {
        EkCertificateResult::Absent
    } else {
        let certificate = match (&policy.trusted_cas, &named) {
            (Some(_), Some(authorities)) => check(authorities)?,
            (Some(trusted), None) => {
                let message = format!("the authorities in Secret {} have not been read yet", trusted.secret_name);
                return Err(Refusal::new(RefusalCode::RegistrationInvalid, message).retry_after(15));
            }
            (None, _) if wanted == EkCertificatePolicy::Required => {
                if let Some(problem) = registration::without_authority(&registration.spec, vendors) {
                    return Err(Refusal::new(RefusalCode::RegistrationInvalid, problem.message));
                }
                check(vendors).map_err(by_vendors)?
            }
            (None, _) => check(vendors).or_else(|_| check(&[]))?,
        };
        attestation.ek_certificate_issuer = Some(certificate.issuer);
        attestation.tpm_manufacturer = certificate.manufacturer;
        let trusted = certificate.authority.is_some();
        attestation.ek_certificate_authority = certificate.authority;
        if trusted { EkCertificateResult::Trusted } else { EkCertificateResult::Unverified }
    };
    attestation.ek_certificate = Some(result);
    Ok(Identity { hash: key.tpm_hash(), attestation })
}

/// Adds what to do if the vendors' authorities are the wrong ones, or an intermediate is missing.
fn by_vendors(mut refusal: Refusal) -> Refusal {
    if refusal.code == RefusalCode::EndorsementCertificateUntrusted {
        refusal.message += "; it was checked against the TPM vendors' authorities that the operator knows; add its \
                            issuer to spec.attestation.trustedCAs of the registration";
    }
    refusal
}

/// Adds what the machine reports of its TPM, unless its certificate says it.
pub fn add_tpm(attestation: &mut AttestationStatus, tpm: Option<&TpmInfo>) {
    if let Some(tpm) = tpm {
        attestation.tpm_manufacturer.get_or_insert_with(|| tpm.manufacturer.clone());
        attestation.tpm_firmware = Some(tpm.firmware.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{self, FakeApi};
    use serde_json::{Value, json};

    const KEY: &[u8] = include_bytes!("../../../crates/protocol/testdata/rsa2048-p256.ek.der");
    const CERTIFICATE: &[u8] = include_bytes!("../../../crates/protocol/testdata/rsa2048-p256.ek.crt");
    const ISSUER: &[u8] = include_bytes!("../../../crates/protocol/testdata/issuer.crt");
    /// The authority that issued `ISSUER`. The machine does not send `ISSUER`, so no path leads to this authority.
    const ROOT: &[u8] = include_bytes!("../../../crates/protocol/testdata/root.crt");

    /// The result for the certificate, and the authority that it leads to.
    fn judged(vendors: &[&[u8]], attestation: Value) -> Result<(EkCertificateResult, Option<String>), Refusal> {
        let mut context = fixtures::context(&FakeApi::default());
        context.tpm_vendors = Authorities::new(vendors.iter().map(|der| der.to_vec()).collect());
        let spec = serde_json::from_value(json!({"attestation": attestation})).unwrap();
        let registration = Registration::for_tests("n", "door", spec);
        let key = EndorsementKey::from_spki_der(KEY).unwrap();
        let identity =
            judge(&context.registrations, &context.tpm_vendors, &registration, &key, &[CERTIFICATE.to_vec()])?
                .attestation;
        Ok((identity.ek_certificate.unwrap(), identity.ek_certificate_authority))
    }

    #[tokio::test]
    async fn vendors_authorities_apply_if_a_registration_names_none() {
        use EkCertificateResult::{Ignored, Trusted, Unverified};
        let vouched = Ok((Trusted, Some("CN=swtpm-localca".to_owned())));
        for policy in ["Required", "IfPresent"] {
            assert_eq!(judged(&[ROOT, ISSUER], json!({"ekCertificate": policy})), vouched);
        }
        assert_eq!(judged(&[], json!({"ekCertificate": "IfPresent"})), Ok((Unverified, None)), "nobody to ask");
        let nobody = judged(&[], json!({"ekCertificate": "Required"})).unwrap_err();
        assert_eq!(nobody.code, RefusalCode::RegistrationInvalid);
        assert!(nobody.message.contains("spec.attestation.trustedCAs"), "{nobody}");
        assert_eq!(judged(&[ROOT], json!({"ekCertificate": "IfPresent"})), Ok((Unverified, None)));
        assert_eq!(judged(&[ROOT], json!({"ekCertificate": "Ignored"})), Ok((Ignored, None)));
        let refusal = judged(&[ROOT], json!({"ekCertificate": "Required"})).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::EndorsementCertificateUntrusted);
        assert!(refusal.message.contains("spec.attestation.trustedCAs"), "{refusal}");
        // Authorities that the registration names replace those of the vendors.
        let named = json!({"ekCertificate": "Required", "trustedCAs": {"secretName": "s"}});
        assert_eq!(judged(&[ISSUER], named).unwrap_err().code, RefusalCode::RegistrationInvalid, "not read yet");
    }
}
