//! Certificates with their keys: creating, issuing and inspecting them.

use super::{AuthorityError, Damaged};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use std::net::IpAddr;
use x509_cert::der::DecodePem;

pub(super) const DAY: i64 = 24 * 3600;
pub(super) const AUTHORITY_DAYS: i64 = 3650;
pub(super) const SERVER_DAYS: i64 = 90;
/// Certificates are backdated, because machines' clocks are often slow.
const BACKDATED_DAYS: i64 = 1;

/// A certificate and its private key, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct CertificateAndKey {
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for CertificateAndKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Issued(…)")
    }
}

impl CertificateAndKey {
    /// Checks that certificate and key belong together. `name`: of the Secret's keys, without the extension.
    pub(super) fn check(&self, name: &str) -> Result<(), Damaged> {
        check_certificate(&self.certificate, &format!("{name}.crt"))?;
        let key = || format!("{name}.key");
        let pair = KeyPair::from_pem(&self.key).map_err(|_| Damaged::new(key(), "is not a private key in PEM"))?;
        let certificate = x509_cert::Certificate::from_pem(&self.certificate).ok();
        let certified = certificate
            .as_ref()
            .map(|certificate| certificate.tbs_certificate().subject_public_key_info().subject_public_key.raw_bytes());
        if certified == Some(pair.public_key_raw()) {
            Ok(())
        } else {
            Err(Damaged::new(key(), "does not match its certificate"))
        }
    }
}

pub(super) fn check_certificate(pem: &str, key: &str) -> Result<(), Damaged> {
    match x509_cert::Certificate::from_pem(pem) {
        Ok(_) => Ok(()),
        Err(_) => Err(Damaged::new(key, "is not one certificate in PEM")),
    }
}

pub(super) fn make_authority(now: Timestamp) -> Result<CertificateAndKey, AuthorityError> {
    let key = KeyPair::generate()?;
    let mut parameters = CertificateParams::default();
    // The date distinguishes successor and predecessor, for people and for path building.
    parameters
        .distinguished_name
        .push(DnType::CommonName, format!("RancherOS operator CA {}", now.strftime("%Y-%m-%d")));
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut parameters, now, AUTHORITY_DAYS)?;
    let certificate = parameters.self_signed(&key)?;
    Ok(CertificateAndKey { certificate: certificate.pem(), key: key.serialize_pem() })
}

pub(super) fn issue_server(
    authority: &CertificateAndKey,
    hosts: &[String],
    now: Timestamp,
) -> Result<CertificateAndKey, AuthorityError> {
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, KeyPair::from_pem(&authority.key)?)?;
    let key = KeyPair::generate()?;
    let mut parameters = CertificateParams::new(hosts.to_vec())?;
    parameters.distinguished_name.push(DnType::CommonName, "RancherOS operator");
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    parameters.use_authority_key_identifier_extension = true;
    set_validity(&mut parameters, now, SERVER_DAYS)?;
    let certificate = parameters.signed_by(&key, &issuer)?;
    Ok(CertificateAndKey { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn set_validity(parameters: &mut CertificateParams, now: Timestamp, days: i64) -> Result<(), AuthorityError> {
    let at = |days: i64| {
        let seconds = now.as_second() + days * DAY;
        time::OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| AuthorityError::Time(now))
    };
    parameters.not_before = at(-BACKDATED_DAYS)?;
    parameters.not_after = at(days)?;
    Ok(())
}

pub(super) fn days_left(certificate: &str, now: Timestamp) -> Result<i64, AuthorityError> {
    let certificate = x509_cert::Certificate::from_pem(certificate)?;
    let expires = certificate.tbs_certificate().validity().not_after.to_unix_duration().as_secs();
    let expires = i64::try_from(expires).unwrap_or(i64::MAX);
    Ok(SignedDuration::from_secs(expires.saturating_sub(now.as_second())).as_secs().div_euclid(DAY))
}

pub(super) fn covers(certificate: &str, hosts: &[String]) -> Result<bool, AuthorityError> {
    let names = names_of(certificate)?;
    let plain = |host: &String| host.parse::<IpAddr>().map_or_else(|_| host.clone(), |address| address.to_string());
    Ok(hosts.iter().all(|host| names.contains(&plain(host))))
}

/// The names and addresses of a certificate.
pub(super) fn names_of(certificate: &str) -> Result<Vec<String>, AuthorityError> {
    use x509_cert::ext::pkix::{SubjectAltName, name::GeneralName};
    let certificate = x509_cert::Certificate::from_pem(certificate)?;
    let names = certificate.tbs_certificate().get_extension::<SubjectAltName>()?.map(|(_, names)| names.0);
    let text = |name: &GeneralName| match name {
        GeneralName::DnsName(name) => Some(name.as_str().to_owned()),
        GeneralName::IpAddress(octets) => match *octets.as_bytes() {
            [a, b, c, d] => Some(IpAddr::from([a, b, c, d]).to_string()),
            ref long => <[u8; 16]>::try_from(long).ok().map(|octets| IpAddr::from(octets).to_string()),
        },
        _ => None,
    };
    Ok(names.iter().flatten().filter_map(text).collect())
}
