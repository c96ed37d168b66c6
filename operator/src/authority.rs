//! The operator's own certificate authority: what it consists of, and when which part of it is renewed.
//!
//! Media carry the authority's certificate for years, so it must never change without notice:
//!
//! | when                                      | what happens                                                           |
//! |-------------------------------------------|------------------------------------------------------------------------|
//! | the server certificate has < 30 days left | another one is issued (90 days)                                        |
//! | the authority has < 2 years left of 10    | its successor is made and published beside it                          |
//! | the authority has < 1 year left           | the successor issues; the old one stays in the bundle until it expires |
//!
//! So an installed machine, which is given the bundle at every registration, has a year to learn of the successor
//! before any certificate depends on it.

mod given;
mod store;

pub use store::{Authority, SECRET_NAME};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use std::net::IpAddr;
use std::path::PathBuf;
use x509_cert::der::DecodePem;

const DAY: i64 = 24 * 3600;
const AUTHORITY_DAYS: i64 = 3650;
const SUCCESSOR_PUBLISHED_DAYS: i64 = 730;
const SUCCESSOR_ISSUES_DAYS: i64 = 365;
const SERVER_DAYS: i64 = 90;
const SERVER_RENEWED_DAYS: i64 = 30;
/// Certificates are valid from a little before they are made: machines' clocks are often slow.
const BACKDATED_DAYS: i64 = 1;

/// A certificate and the key that belongs to it, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Issued(…)")
    }
}

/// Where the certificate comes from that connections are accepted with.
#[derive(Clone)]
pub enum CertificateSource {
    Own(Box<Authority>),
    /// A folder with the keys of a Secret of the type `kubernetes.io/tls`, and perhaps `ca.crt`.
    Given(PathBuf),
}

/// What connections are accepted with, and whom clients should trust for that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    pub server: Issued,
    /// PEM of the authorities; empty: those that everybody trusts.
    pub bundle: String,
}

impl CertificateSource {
    /// What to serve now, to clients that reach the server by these names and addresses.
    pub async fn current(&self, hosts: &[String], now: Timestamp) -> anyhow::Result<Served> {
        match self {
            Self::Own(authority) => {
                let material = authority.current(hosts, now).await?;
                Ok(Served { bundle: material.bundle(), server: material.server })
            }
            Self::Given(folder) => given::read(folder),
        }
    }
}

/// All that the operator's own authority consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsMaterial {
    /// The authority that issues.
    pub authority: Issued,
    /// The authority that will issue next.
    pub successor: Option<Issued>,
    /// The certificate of the authority that issued before.
    pub predecessor: Option<String>,
    pub server: Issued,
}

#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("making a certificate")]
    Making(#[from] rcgen::Error),
    #[error("reading a certificate of Secret {SECRET_NAME}; delete the Secret to have a new authority made")]
    Reading(#[from] x509_cert::der::Error),
    #[error("the time {0} is outside of what a certificate can hold")]
    Time(Timestamp),
}

impl TlsMaterial {
    /// PEM of all authorities that a client should trust, the issuing one first.
    pub fn bundle(&self) -> String {
        let successor = self.successor.as_ref().map(|issued| &issued.certificate);
        [Some(&self.authority.certificate), successor, self.predecessor.as_ref()]
            .into_iter()
            .flatten()
            .map(|pem| format!("{}\n", pem.trim_end()))
            .collect()
    }
}

/// What to keep from now on; equal to `current` when nothing is due. `hosts` are names and addresses that clients
/// reach the server by; a server certificate that lacks one of them is issued anew.
pub fn renewed(current: Option<&TlsMaterial>, hosts: &[String], now: Timestamp) -> Result<TlsMaterial, AuthorityError> {
    let Some(current) = current else {
        let authority = make_authority(now)?;
        let server = issue_server(&authority, hosts, now)?;
        return Ok(TlsMaterial { authority, successor: None, predecessor: None, server });
    };
    let mut next = current.clone();
    if days_left(&next.authority.certificate, now)? < SUCCESSOR_PUBLISHED_DAYS && next.successor.is_none() {
        next.successor = Some(make_authority(now)?);
    }
    if days_left(&next.authority.certificate, now)? < SUCCESSOR_ISSUES_DAYS
        && let Some(successor) = next.successor.take()
    {
        let old = std::mem::replace(&mut next.authority, successor);
        next.predecessor = Some(old.certificate);
        next.server = issue_server(&next.authority, hosts, now)?;
    }
    if let Some(predecessor) = &next.predecessor
        && days_left(predecessor, now)? <= 0
    {
        next.predecessor = None;
    }
    if days_left(&next.server.certificate, now)? < SERVER_RENEWED_DAYS || !covers(&next.server.certificate, hosts)? {
        next.server = issue_server(&next.authority, hosts, now)?;
    }
    Ok(next)
}

fn make_authority(now: Timestamp) -> Result<Issued, AuthorityError> {
    let key = KeyPair::generate()?;
    let mut parameters = CertificateParams::default();
    // The date tells successor and predecessor apart, for people and for path building.
    parameters
        .distinguished_name
        .push(DnType::CommonName, format!("RancherOS operator CA {}", now.strftime("%Y-%m-%d")));
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut parameters, now, AUTHORITY_DAYS)?;
    let certificate = parameters.self_signed(&key)?;
    Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn issue_server(authority: &Issued, hosts: &[String], now: Timestamp) -> Result<Issued, AuthorityError> {
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, KeyPair::from_pem(&authority.key)?)?;
    let key = KeyPair::generate()?;
    let mut parameters = CertificateParams::new(hosts.to_vec())?;
    parameters.distinguished_name.push(DnType::CommonName, "RancherOS operator");
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    parameters.use_authority_key_identifier_extension = true;
    set_validity(&mut parameters, now, SERVER_DAYS)?;
    let certificate = parameters.signed_by(&key, &issuer)?;
    Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
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

fn days_left(certificate: &str, now: Timestamp) -> Result<i64, AuthorityError> {
    let certificate = x509_cert::Certificate::from_pem(certificate)?;
    let expires = certificate.tbs_certificate().validity().not_after.to_unix_duration().as_secs();
    let expires = i64::try_from(expires).unwrap_or(i64::MAX);
    Ok(SignedDuration::from_secs(expires.saturating_sub(now.as_second())).as_secs().div_euclid(DAY))
}

fn covers(certificate: &str, hosts: &[String]) -> Result<bool, AuthorityError> {
    use x509_cert::ext::pkix::{SubjectAltName, name::GeneralName};
    let certificate = x509_cert::Certificate::from_pem(certificate)?;
    let names = certificate.tbs_certificate().get_extension::<SubjectAltName>()?.map(|(_, names)| names.0);
    let names = names.unwrap_or_default();
    Ok(hosts.iter().all(|host| {
        let address = host.parse::<IpAddr>().ok().map(|address| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        });
        names.iter().any(|name| match (name, &address) {
            (GeneralName::DnsName(name), None) => name.as_str() == host,
            (GeneralName::IpAddress(name), Some(address)) => name.as_bytes() == address,
            _ => false,
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};

    fn hosts() -> Vec<String> {
        ["10.0.2.2", "127.0.0.1", "localhost"].map(String::from).to_vec()
    }
    fn after(days: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + days * DAY).unwrap()
    }
    /// What a client does that trusts `bundle` and is shown `material`'s certificate.
    fn trusts(bundle: &str, material: &TlsMaterial, host: &str, at: Timestamp) -> bool {
        let ders: Vec<_> = CertificateDer::pem_slice_iter(bundle.as_bytes()).map(Result::unwrap).collect();
        let anchors: Vec<_> = ders.iter().map(|der| webpki::anchor_from_trusted_cert(der).unwrap()).collect();
        let server = CertificateDer::from_pem_slice(material.server.certificate.as_bytes()).unwrap();
        let server = webpki::EndEntityCert::try_from(&server).unwrap();
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at.as_second() as u64));
        let usage = webpki::KeyUsage::server_auth();
        server.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, &[], time, usage, None, None).is_ok()
            && server.verify_is_valid_for_subject_name(&ServerName::try_from(host).unwrap()).is_ok()
    }

    #[test]
    fn what_is_made_is_trusted_by_name_and_by_address() {
        let material = renewed(None, &hosts(), after(0)).unwrap();
        for host in hosts() {
            assert!(trusts(&material.bundle(), &material, &host, after(0)), "{host}");
        }
        assert!(!trusts(&material.bundle(), &material, "10.0.2.3", after(0)));
        assert_eq!(renewed(Some(&material), &hosts(), after(1)).unwrap(), material);
    }

    #[test]
    fn a_server_certificate_is_renewed_before_it_expires_and_when_the_url_changes() {
        let material = renewed(None, &hosts(), after(0)).unwrap();
        let later = renewed(Some(&material), &hosts(), after(61)).unwrap();
        assert_eq!(later.authority, material.authority);
        assert_ne!(later.server, material.server);
        let moved = renewed(Some(&material), &["ros.example.org".into()], after(1)).unwrap();
        assert!(trusts(&material.bundle(), &moved, "ros.example.org", after(1)));
    }

    #[test]
    fn a_client_that_learned_the_bundle_is_never_locked_out() {
        let mut material = renewed(None, &hosts(), after(0)).unwrap();
        let first = material.bundle();
        let mut year_ago = vec![first.clone()];
        // Twenty-five years in steps of two weeks: two rotations of the authority.
        for day in (0..25 * 365).step_by(14) {
            material = renewed(Some(&material), &hosts(), after(day)).unwrap();
            let known = &year_ago[year_ago.len().saturating_sub(25)];
            assert!(trusts(known, &material, "localhost", after(day)), "day {day}");
            year_ago.push(material.bundle());
        }
        assert!(!material.bundle().contains(first.trim_end()), "the first authority has expired and is gone");
    }
}
