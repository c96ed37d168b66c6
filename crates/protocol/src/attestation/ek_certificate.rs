//! The certificate of an endorsement key: a vendor's statement that the key is in a real TPM.
//!
//! Profile: TCG "EK Credential Profile for TPM Family 2.0", section 3.2 (certificate fields).

use super::endorsement_key::{EndorsementKey, RSA_ENCRYPTION};
use crate::refusal::{Refusal, RefusalCode};
use rustls_pki_types::{CertificateDer, UnixTime};
use std::time::{Duration, SystemTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_cert::Certificate;
use x509_cert::der::asn1::{Any, AnyRef, ObjectIdentifier};
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{ExtendedKeyUsage, SubjectAltName};
use x509_cert::spki::{AlgorithmIdentifier, SubjectPublicKeyInfoOwned};

/// tcg-kp-EKCertificate: 2.23.133.8.1, as the contents of its DER encoding and as an identifier.
const EK_CERTIFICATE_DER: [u8; 5] = [0x67, 0x81, 0x05, 0x08, 0x01];
const EK_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8.1");
/// tcg-at-tpmManufacturer, in the subject alternative name: a vendor id such as `id:494E5443`.
const TPM_MANUFACTURER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.2.1");
const TPM_MODEL: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.2.2");
const RSAES_OAEP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.7");
/// Most certificates of a chain, the key's own among them.
const MAX_CERTIFICATES: usize = 8;

/// A certificate that is for the endorsement key of this exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndorsementCertificate {
    /// RFC 4514 names; the subject is often empty.
    pub issuer: String,
    pub subject: String,
    /// Hex, two digits a byte, with colons between.
    pub serial: String,
    /// `tpmManufacturer` and `tpmModel` of the subject alternative name, where it has them.
    pub manufacturer: Option<String>,
    pub model: Option<String>,
    /// Subject of the trusted authority that it leads to, as in RFC 4514. `None` only if no trusted authority was
    /// given.
    pub authority: Option<String>,
}

impl EndorsementCertificate {
    /// Checks the certificates that a machine sent, the key's own first and then intermediates, against the key and
    /// against the trusted authorities (DER, roots or intermediates), at the time `now`.
    ///
    /// Bytes after a certificate's DER are cut off: TPMs pad their NV areas.
    ///
    /// Refused as `EndorsementCertificateMissing` (no certificate), `EndorsementCertificateMismatch` (it is for
    /// another key) or `EndorsementCertificateUntrusted` (not a certificate, not for an endorsement key, out of date,
    /// or no path to an authority). With no trusted authority at all the path stays unchecked.
    pub fn check(
        certificates: &[Vec<u8>],
        key: &EndorsementKey,
        trusted: &[Vec<u8>],
        now: SystemTime,
    ) -> Result<Self, Refusal> {
        let Some((first, intermediates)) = certificates.split_first() else {
            let reason = "the registration requires an endorsement key certificate, and the machine sent none";
            return Err(Refusal::new(RefusalCode::EndorsementCertificateMissing, reason));
        };
        if certificates.len() > MAX_CERTIFICATES {
            return Err(untrusted(format!(
                "its chain has {} certificates; the limit is {MAX_CERTIFICATES}",
                certificates.len()
            )));
        }
        let der = without_padding(first).map_err(untrusted)?;
        let certificate = Certificate::from_der(der).map_err(|e| untrusted(format!("it cannot be parsed: {e}")))?;
        if !is_for(&certificate, key) {
            let reason = "the endorsement key certificate is not for the endorsement key that the machine sent";
            return Err(Refusal::new(RefusalCode::EndorsementCertificateMismatch, reason));
        }
        check_usage(&certificate).map_err(untrusted)?;
        let authority = match trusted {
            [] => None,
            trusted => Some(check_path(der, intermediates, trusted, now).map_err(untrusted)?),
        };
        Ok(describe(&certificate, authority))
    }

    /// The key that a certificate is for, as SubjectPublicKeyInfo DER; for peers that show their key only that way.
    /// An RSA key certified as id-RSAES-OAEP is given as rsaEncryption, the form that machines are known by.
    pub fn public_key(certificate: &[u8]) -> Result<Vec<u8>, Refusal> {
        let der = without_padding(certificate).map_err(untrusted)?;
        let certificate = Certificate::from_der(der).map_err(|e| untrusted(format!("it cannot be parsed: {e}")))?;
        let mut key = certificate.tbs_certificate().subject_public_key_info().clone();
        if key.algorithm.oid == RSAES_OAEP {
            key.algorithm = AlgorithmIdentifier { oid: RSA_ENCRYPTION, parameters: Some(Any::null()) };
        }
        key.to_der().map_err(|e| untrusted(format!("its key cannot be encoded: {e}")))
    }
}

fn untrusted(reason: impl std::fmt::Display) -> Refusal {
    let message = format!("the endorsement key certificate is refused: {reason}");
    Refusal::new(RefusalCode::EndorsementCertificateUntrusted, message)
}

fn without_padding(certificate: &[u8]) -> Result<&[u8], String> {
    let (_, padding) = AnyRef::from_der_partial(certificate).map_err(|e| format!("it is not DER: {e}"))?;
    Ok(&certificate[..certificate.len() - padding.len()])
}

/// Whether the certificate is for this key. For an RSA key only the bits are compared: some vendors write id-RSAES-OAEP
/// as the certified algorithm, while the key itself is sent as rsaEncryption. For an elliptic curve key the curve must
/// be the same too.
fn is_for(certificate: &Certificate, key: &EndorsementKey) -> bool {
    let certified = certificate.tbs_certificate().subject_public_key_info();
    SubjectPublicKeyInfoOwned::from_der(key.spki_der()).is_ok_and(|shown| {
        shown.subject_public_key == certified.subject_public_key
            && (key.is_rsa() || shown.algorithm == certified.algorithm)
    })
}

fn check_usage(certificate: &Certificate) -> Result<(), String> {
    let usage = certificate.tbs_certificate().get_extension::<ExtendedKeyUsage>();
    match usage.map_err(|e| format!("its extended key usage cannot be parsed: {e}"))? {
        Some((_, usage)) if !usage.0.contains(&EK_CERTIFICATE) => {
            Err(format!("its extended key usage does not contain {EK_CERTIFICATE}, which marks endorsement keys"))
        }
        _ => Ok(()),
    }
}

/// The subject of the authority at the end of the path.
fn check_path(der: &[u8], intermediates: &[Vec<u8>], trusted: &[Vec<u8>], now: SystemTime) -> Result<String, String> {
    let leaf = CertificateDer::from(der);
    let leaf = EndEntityCert::try_from(&leaf).map_err(|e| format!("it cannot be parsed: {e}"))?;
    let intermediates = intermediates
        .iter()
        .map(|der| without_padding(der).map(CertificateDer::from))
        .collect::<Result<Vec<_>, _>>()?;
    let trusted: Vec<CertificateDer> = trusted.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    // A trusted authority that cannot be parsed is skipped.
    let (anchors, authorities): (Vec<_>, Vec<_>) =
        trusted.iter().filter_map(|der| Some((anchor_from_trusted_cert(der).ok()?, der))).unzip();
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    // The leaf's usage is checked above. If it were required here, it would also be required of the intermediates,
    // which lack it.
    let usage = KeyUsage::required_if_present(&EK_CERTIFICATE_DER);
    let path = leaf
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            &intermediates,
            UnixTime::since_unix_epoch(since_epoch),
            usage,
            None,
            None,
        )
        .map_err(|e| format!("its chain does not end at an authority that the registration trusts ({e})"))?;
    let authority = anchors.iter().zip(authorities).find(|(anchor, _)| *anchor == path.anchor());
    let authority = authority.and_then(|(_, der)| Certificate::from_der(der).ok());
    Ok(authority.map(|authority| authority.tbs_certificate().subject().to_string()).unwrap_or_default())
}

fn describe(certificate: &Certificate, authority: Option<String>) -> EndorsementCertificate {
    let fields = certificate.tbs_certificate();
    let names = fields.get_extension::<SubjectAltName>().ok().flatten().map(|(_, names)| names.0).unwrap_or_default();
    let attribute = |wanted: ObjectIdentifier| {
        names.iter().find_map(|name| match name {
            GeneralName::DirectoryName(name) => name
                .iter()
                .find(|attribute| attribute.oid == wanted)
                .and_then(|attribute| std::str::from_utf8(attribute.value.value()).ok())
                .map(str::to_owned),
            _ => None,
        })
    };
    EndorsementCertificate {
        issuer: fields.issuer().to_string(),
        subject: fields.subject().to_string(),
        serial: fields.serial_number().to_string(),
        manufacturer: attribute(TPM_MANUFACTURER),
        model: attribute(TPM_MODEL),
        authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &[u8] = include_bytes!("../../testdata/rsa2048-p256.ek.der");
    const OTHER_KEY: &[u8] = include_bytes!("../../testdata/p256-rsa2048.ek.der");
    const CERTIFICATE: &[u8] = include_bytes!("../../testdata/rsa2048-p256.ek.crt");
    const ISSUER: &[u8] = include_bytes!("../../testdata/issuer.crt");
    const ROOT: &[u8] = include_bytes!("../../testdata/root.crt");

    fn check(certificates: &[&[u8]], key: &[u8], trusted: &[&[u8]]) -> Result<EndorsementCertificate, RefusalCode> {
        let owned = |list: &[&[u8]]| list.iter().map(|der| der.to_vec()).collect::<Vec<_>>();
        // January 2027: the authority of the fixtures was made in November 2026.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let key = EndorsementKey::from_spki_der(key).unwrap();
        EndorsementCertificate::check(&owned(certificates), &key, &owned(trusted), now).map_err(|refusal| refusal.code)
    }

    #[test]
    fn a_certificate_that_leads_to_a_trusted_authority_is_taken() {
        let certificate = check(&[CERTIFICATE, ISSUER], KEY, &[ROOT]).unwrap();
        assert_eq!(certificate.authority.as_deref(), Some("CN=swtpm-localca-rootca"));
        assert_eq!(certificate.issuer, "CN=swtpm-localca");
        assert_eq!(certificate.model.as_deref(), Some("swtpm"));
        let authority = |trusted: &[&[u8]]| check(&[CERTIFICATE], KEY, trusted).unwrap().authority;
        assert_eq!(authority(&[ISSUER]).as_deref(), Some("CN=swtpm-localca"), "the issuer itself may be trusted");
        assert_eq!(authority(&[b"junk", ISSUER]).as_deref(), Some("CN=swtpm-localca"));
        assert_eq!(authority(&[]), None, "nothing to check against");
    }

    #[test]
    fn padding_behind_it_is_cut() {
        let padded = [CERTIFICATE, &[0xff; 40]].concat();
        assert!(check(&[&padded, ISSUER], KEY, &[ROOT]).is_ok());
        assert_eq!(EndorsementCertificate::public_key(&padded).as_deref(), Ok(KEY));
    }

    #[test]
    fn each_kind_of_refusal_has_its_code() {
        use RefusalCode::*;
        assert_eq!(check(&[], KEY, &[ROOT]), Err(EndorsementCertificateMissing));
        assert_eq!(check(&[CERTIFICATE, ISSUER], OTHER_KEY, &[ROOT]), Err(EndorsementCertificateMismatch));
        assert_eq!(check(&[CERTIFICATE], KEY, &[ROOT]), Err(EndorsementCertificateUntrusted), "no intermediate");
        assert_eq!(check(&[CERTIFICATE, ISSUER], KEY, &[b"junk"]), Err(EndorsementCertificateUntrusted));
        assert_eq!(check(&[b"junk"], KEY, &[]), Err(EndorsementCertificateUntrusted));
        let altered = [&CERTIFICATE[..CERTIFICATE.len() - 1], &[!CERTIFICATE[CERTIFICATE.len() - 1]]].concat();
        assert_eq!(check(&[&altered, ISSUER], KEY, &[ROOT]), Err(EndorsementCertificateUntrusted));
        assert_eq!(check(&[CERTIFICATE; MAX_CERTIFICATES + 1], KEY, &[ROOT]), Err(EndorsementCertificateUntrusted));
    }

    #[test]
    fn a_certificate_for_another_use_is_refused() {
        let usage = CERTIFICATE.windows(5).position(|bytes| bytes == EK_CERTIFICATE_DER).unwrap();
        let mut platform = CERTIFICATE.to_vec();
        platform[usage + 4] = 2;
        assert_eq!(check(&[&platform], KEY, &[]), Err(RefusalCode::EndorsementCertificateUntrusted));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, cut in 0..CERTIFICATE.len()) {
            let spliced = [&CERTIFICATE[..cut], &bytes, &CERTIFICATE[cut..]].concat();
            let _ = check(&[&bytes, &spliced], KEY, &[ROOT]);
            let _ = check(&[&spliced, ISSUER], KEY, &[ROOT]);
            let _ = EndorsementCertificate::public_key(&spliced);
        }
    }
}
