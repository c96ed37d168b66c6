//! A TPM manufacturer that certifies endorsement keys.

use super::{KeyKind, SoftwareTpm};
use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SubjectPublicKeyInfo,
};

/// A manufacturer's certificate authority.
pub struct Vendor {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// tcg-kp-EKCertificate: TCG EK Credential Profile 2.x, section 3.2.16.
const EK_CERTIFICATE_USAGE: &[u64] = &[2, 23, 133, 8, 1];
const SUBJECT_ALTERNATIVE_NAME: &[u64] = &[2, 5, 29, 17];

impl Vendor {
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().context("creating a vendor's key")?;
        let issuer = CertifiedIssuer::self_signed(params, key).context("signing a vendor's certificate")?;
        Ok(Self { issuer })
    }

    /// PEM of the authority, as a registration's `trustedCAs` takes it.
    pub fn certificate(&self) -> String {
        self.issuer.pem()
    }

    /// DER of a certificate for the TPM's endorsement key.
    pub fn endorse(&self, tpm: &SoftwareTpm) -> Result<Vec<u8>> {
        let key = SubjectPublicKeyInfo::from_der(tpm.ek_public()).context("reading an endorsement key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.key_usages = vec![match tpm.kind() {
            KeyKind::Rsa2048 => KeyUsagePurpose::KeyEncipherment,
            KeyKind::P256 => KeyUsagePurpose::KeyAgreement,
        }];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(EK_CERTIFICATE_USAGE.to_vec())];
        let mut name = CustomExtension::from_oid_content(SUBJECT_ALTERNATIVE_NAME, alternative_name());
        name.set_criticality(true);
        params.custom_extensions = vec![name];
        let certificate = params.signed_by(&key, &self.issuer).context("signing an endorsement key's certificate")?;
        Ok(certificate.der().to_vec())
    }
}

/// A directoryName with the TPM's manufacturer, model and version, where other certificates have a subject: section
/// 3.2.9 of the profile. The three attributes are 2.23.133.2.1 to 2.23.133.2.3.
fn alternative_name() -> Vec<u8> {
    let attributes = ["id:00001014", "software", "id:00000001"].into_iter().zip(1u8..).flat_map(|(value, number)| {
        let kind = der(0x06, &[0x67, 0x81, 0x05, 0x02, number]);
        der(0x31, &der(0x30, &[kind, der(0x0c, value.as_bytes())].concat()))
    });
    let name = der(0x30, &attributes.collect::<Vec<u8>>());
    der(0x30, &der(0xa4, &name))
}

/// One DER element with fewer than 128 bytes in it.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let size = u8::try_from(content.len()).expect("short elements only");
    [&[tag, size][..], content].concat()
}
