//! The operator's own certificate authority: what it consists of, and when which part of it is renewed.
//!
//! Media carry the authority's certificate for years, so it must never change without notice:
//!
//! | when                                      | what happens                                                           |
//! |-------------------------------------------|------------------------------------------------------------------------|
//! | the server certificate has < 30 days left | another one is issued (90 days)                                        |
//! | the authority has < 2 years left of 10,   | its successor is made and published beside it                          |
//! | or somebody asks for it                   |                                                                        |
//! | the successor takes over                  | it issues; the old one stays in the bundle until it expires            |
//!
//! A successor takes over when no installed machine is left behind, which means that each has said that it knows the
//! successor, and the authority has less than a year left or somebody asked for the change. It takes over without
//! waiting when somebody says so, and when the authority has too little time left to issue another certificate.
//!
//! A certificate that is issued while machines are left behind keeps the names of the one before: they still come by
//! the address that they know.

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
/// With less time left the successor issues, even if machines do not know it: a server certificate must not outlive its
/// authority.
const LAST_ISSUE_DAYS: i64 = SERVER_DAYS + 10;
/// Former names that a server certificate may keep.
const MAX_FORMER_NAMES: usize = 8;
const SERVER_DAYS: i64 = 90;
const SERVER_RENEWED_DAYS: i64 = 30;
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

/// Where the server certificate comes from.
#[derive(Clone)]
pub enum CertificateSource {
    Own(Box<Authority>),
    /// A folder with the keys of a Secret of the type `kubernetes.io/tls`, and perhaps `ca.crt`.
    Given(PathBuf),
}

/// The server certificate, and the authorities that clients should trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerCertificate {
    pub server: CertificateAndKey,
    /// PEM of the authorities. Empty: the public ones.
    pub bundle: String,
}

impl CertificateSource {
    /// The certificate to use now, for these names and addresses of the server.
    pub async fn current(
        &self,
        hosts: &[String],
        machines: &InstalledMachines,
        now: Timestamp,
    ) -> anyhow::Result<ServerCertificate> {
        match self {
            Self::Own(authority) => {
                let material = authority.current(hosts, machines, now).await?;
                Ok(ServerCertificate { bundle: material.bundle(), server: material.server })
            }
            Self::Given(folder) => given::read(folder),
        }
    }
}

/// What installed machines know of the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstalledMachines {
    /// PEM of the authorities that they are sent.
    pub bundle: String,
    /// How many have not confirmed these authorities and the current address. `None`: not known.
    pub behind: Option<usize>,
}

impl InstalledMachines {
    fn is_left_behind(&self) -> bool {
        self.behind != Some(0)
    }

    /// Whether every installed machine trusts this authority.
    fn knows(&self, authority: &CertificateAndKey) -> bool {
        !self.is_left_behind() && self.bundle.contains(authority.certificate.trim())
    }
}

/// A request of an administrator, in an annotation of the Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorityRequest {
    /// A new authority, which takes over when all machines know it.
    Renew,
    /// The successor takes over now.
    TakeOver,
}

/// All parts of the operator's own authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsMaterial {
    /// The authority that issues now.
    pub authority: CertificateAndKey,
    /// The authority that will issue next.
    pub successor: Option<CertificateAndKey>,
    /// The certificate of the authority that issued before.
    pub predecessor: Option<String>,
    pub server: CertificateAndKey,
}

#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("making a certificate")]
    Making(#[from] rcgen::Error),
    #[error("reading a certificate")]
    Reading(#[from] x509_cert::der::Error),
    #[error(transparent)]
    Damaged(#[from] Damaged),
    #[error("the time {0} is outside of what a certificate can hold")]
    Time(Timestamp),
}

/// A part of the stored authority that cannot be used. It is not replaced by a new authority: media and machines trust the
/// stored one and would be locked out.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "key {key} of Secret {SECRET_NAME} {problem}; put it back from a copy. Nothing was changed, because media and machines \
     trust this authority and no other. Only if the whole Secret is deleted is a new authority made, which none of them \
     trusts"
)]
pub struct Damaged {
    /// Key in the Secret's data.
    pub key: String,
    pub problem: &'static str,
}

impl Damaged {
    fn new(key: impl Into<String>, problem: &'static str) -> Self {
        Self { key: key.into(), problem }
    }
}

impl CertificateAndKey {
    /// Checks that certificate and key belong together. `name`: of the Secret's keys, without the extension.
    fn check(&self, name: &str) -> Result<(), Damaged> {
        check_certificate(&self.certificate, &format!("{name}.crt"))?;
        let key = || format!("{name}.key");
        let pair = KeyPair::from_pem(&self.key).map_err(|_| Damaged::new(key(), "is not PEM of a private key"))?;
        let certificate = x509_cert::Certificate::from_pem(&self.certificate).ok();
        let certified = certificate
            .as_ref()
            .map(|certificate| certificate.tbs_certificate().subject_public_key_info().subject_public_key.raw_bytes());
        if certified == Some(pair.public_key_raw()) {
            Ok(())
        } else {
            Err(Damaged::new(key(), "does not belong to the certificate beside it"))
        }
    }
}

fn check_certificate(pem: &str, key: &str) -> Result<(), Damaged> {
    match x509_cert::Certificate::from_pem(pem) {
        Ok(_) => Ok(()),
        Err(_) => Err(Damaged::new(key, "is not PEM of one certificate")),
    }
}

impl TlsMaterial {
    /// Checks all certificates that clients trust. The server certificate is not checked: another one can be issued.
    fn check(&self) -> Result<(), Damaged> {
        self.authority.check("ca")?;
        if let Some(successor) = &self.successor {
            successor.check("successor")?;
        }
        self.predecessor.as_ref().map_or(Ok(()), |pem| check_certificate(pem, "predecessor.crt"))
    }

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

/// The material to store from now on. Equal to `current` if nothing is due. `hosts`: names and addresses of the server. A
/// server certificate that lacks one of them, or is damaged, is issued again. A damaged authority is an error.
pub fn renewed(
    current: Option<&TlsMaterial>,
    hosts: &[String],
    machines: &InstalledMachines,
    request: Option<AuthorityRequest>,
    now: Timestamp,
) -> Result<TlsMaterial, AuthorityError> {
    let Some(current) = current else {
        let authority = make_authority(now)?;
        let server = issue_server(&authority, hosts, now)?;
        return Ok(TlsMaterial { authority, successor: None, predecessor: None, server });
    };
    current.check()?;
    let mut next = current.clone();
    if let Err(Damaged { key, problem }) = next.server.check("tls") {
        tracing::warn!(
            key,
            problem,
            "the server certificate in Secret {SECRET_NAME} is damaged; another one is issued"
        );
        next.server = issue_server(&next.authority, hosts, now)?;
    }
    let mut names = hosts.to_vec();
    if machines.is_left_behind() {
        let former = names_of(&next.server.certificate)?.into_iter().filter(|name| !hosts.contains(name));
        names.extend(former.take(MAX_FORMER_NAMES));
    }
    let left = days_left(&next.authority.certificate, now)?;
    match &next.successor {
        None if left < SUCCESSOR_PUBLISHED_DAYS || request.is_some() => next.successor = Some(make_authority(now)?),
        Some(successor) => {
            let is_due = left < SUCCESSOR_ISSUES_DAYS || request.is_some();
            if (is_due && machines.knows(successor))
                || left < LAST_ISSUE_DAYS
                || request == Some(AuthorityRequest::TakeOver)
            {
                let old = std::mem::replace(&mut next.authority, successor.clone());
                next.successor = None;
                next.predecessor = Some(old.certificate);
                next.server = issue_server(&next.authority, &names, now)?;
            }
        }
        None => {}
    }
    if let Some(predecessor) = &next.predecessor
        && days_left(predecessor, now)? <= 0
    {
        next.predecessor = None;
    }
    if days_left(&next.server.certificate, now)? < SERVER_RENEWED_DAYS || !covers(&next.server.certificate, hosts)? {
        next.server = issue_server(&next.authority, &names, now)?;
    }
    Ok(next)
}

fn make_authority(now: Timestamp) -> Result<CertificateAndKey, AuthorityError> {
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

fn issue_server(
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

fn days_left(certificate: &str, now: Timestamp) -> Result<i64, AuthorityError> {
    let certificate = x509_cert::Certificate::from_pem(certificate)?;
    let expires = certificate.tbs_certificate().validity().not_after.to_unix_duration().as_secs();
    let expires = i64::try_from(expires).unwrap_or(i64::MAX);
    Ok(SignedDuration::from_secs(expires.saturating_sub(now.as_second())).as_secs().div_euclid(DAY))
}

fn covers(certificate: &str, hosts: &[String]) -> Result<bool, AuthorityError> {
    let names = names_of(certificate)?;
    let plain = |host: &String| host.parse::<IpAddr>().map_or_else(|_| host.clone(), |address| address.to_string());
    Ok(hosts.iter().all(|host| names.contains(&plain(host))))
}

/// The names and addresses of a certificate.
fn names_of(certificate: &str) -> Result<Vec<String>, AuthorityError> {
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
    /// With a fleet of which nothing is known.
    fn renew(current: Option<&TlsMaterial>, hosts: &[String], day: i64) -> Result<TlsMaterial, AuthorityError> {
        renewed(current, hosts, &InstalledMachines::default(), None, after(day))
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
        let material = renew(None, &hosts(), 0).unwrap();
        for host in hosts() {
            assert!(trusts(&material.bundle(), &material, &host, after(0)), "{host}");
        }
        assert!(!trusts(&material.bundle(), &material, "10.0.2.3", after(0)));
        assert_eq!(renew(Some(&material), &hosts(), 1).unwrap(), material);
    }

    #[test]
    fn a_server_certificate_is_renewed_before_it_expires_and_when_the_url_changes() {
        let material = renew(None, &hosts(), 0).unwrap();
        let later = renew(Some(&material), &hosts(), 61).unwrap();
        assert_eq!(later.authority, material.authority);
        assert_ne!(later.server, material.server);
        let moved = renew(Some(&material), &["ros.example.org".into()], 1).unwrap();
        assert!(trusts(&material.bundle(), &moved, "ros.example.org", after(1)));
    }

    #[test]
    fn what_is_damaged_is_named_and_no_other_authority_is_made() {
        let material = renew(None, &hosts(), 0).unwrap();
        let other = renew(None, &hosts(), 0).unwrap();
        let whole = TlsMaterial {
            successor: Some(other.authority.clone()),
            predecessor: Some(other.authority.certificate.clone()),
            ..material.clone()
        };
        type Damage = fn(&mut TlsMaterial, &TlsMaterial);
        let damages: [(&str, Damage); 6] = [
            ("ca.crt", |material, _| material.authority.certificate = "x".into()),
            ("ca.key", |material, _| material.authority.key.truncate(60)),
            ("ca.key", |material, other| material.authority.key.clone_from(&other.authority.key)),
            ("successor.crt", |material, _| material.successor.as_mut().unwrap().certificate.clear()),
            ("successor.key", |material, _| material.successor.as_mut().unwrap().key.clear()),
            ("predecessor.crt", |material, _| material.predecessor = Some("-----BEGIN".into())),
        ];
        for (key, damage) in damages {
            let mut damaged = whole.clone();
            damage(&mut damaged, &other);
            let error = renew(Some(&damaged), &hosts(), 1).unwrap_err().to_string();
            assert!(error.starts_with(&format!("key {key} of Secret")), "{key}: {error}");
        }
        let mut damaged = whole.clone();
        damaged.server.key = other.server.key;
        let mended = renew(Some(&damaged), &hosts(), 1).unwrap();
        assert!(trusts(&material.bundle(), &mended, "localhost", after(1)));
        assert_eq!(TlsMaterial { server: whole.server.clone(), ..mended }, whole);
    }

    #[test]
    fn a_client_that_learned_the_bundle_is_never_locked_out() {
        let mut material = renew(None, &hosts(), 0).unwrap();
        let first = material.bundle();
        let mut year_ago = vec![first.clone()];
        // Twenty-five years in steps of two weeks: two rotations of the authority.
        for day in (0..25 * 365).step_by(14) {
            material = renew(Some(&material), &hosts(), day).unwrap();
            let known = &year_ago[year_ago.len().saturating_sub(25)];
            assert!(trusts(known, &material, "localhost", after(day)), "day {day}");
            year_ago.push(material.bundle());
        }
        assert!(!material.bundle().contains(first.trim_end()), "the first authority has expired and is gone");
    }

    #[test]
    fn a_successor_takes_over_when_no_machine_is_left_behind_or_somebody_says_so() {
        let first = renew(None, &hosts(), 0).unwrap();
        let next = |current: &TlsMaterial, machines: &InstalledMachines, request, day| {
            renewed(Some(current), &hosts(), machines, request, after(day)).unwrap()
        };
        let told = |material: &TlsMaterial, behind| InstalledMachines { bundle: material.bundle(), behind };
        let published = next(&first, &told(&first, Some(0)), Some(AuthorityRequest::Renew), 1);
        assert_eq!(published.authority, first.authority);
        let successor = published.successor.clone().unwrap();
        // A fleet that knows all that it was told before was not told of this one.
        for machines in [told(&first, Some(0)), told(&published, Some(1)), told(&published, None)] {
            assert_eq!(next(&published, &machines, Some(AuthorityRequest::Renew), 2), published);
        }
        let knowing = told(&published, Some(0));
        assert_eq!(next(&published, &knowing, None, 2), published, "nobody asked, and media know the old one only");
        for (machines, request) in
            [(&knowing, AuthorityRequest::Renew), (&told(&first, Some(9)), AuthorityRequest::TakeOver)]
        {
            let taken_over = next(&published, machines, Some(request), 3);
            assert_eq!((&taken_over.authority, &taken_over.successor), (&successor, &None));
            assert!(trusts(&published.bundle(), &taken_over, "localhost", after(3)));
        }
        // By itself, in the last year.
        let late = AUTHORITY_DAYS - SUCCESSOR_ISSUES_DAYS + 1;
        assert_eq!(next(&published, &told(&published, Some(1)), None, late).authority, first.authority);
        assert_eq!(next(&published, &knowing, None, late).authority, successor);
        let last = AUTHORITY_DAYS - LAST_ISSUE_DAYS + 1;
        assert_eq!(next(&published, &told(&published, Some(1)), None, last).authority, successor);
    }

    #[test]
    fn the_address_that_machines_know_is_served_until_none_is_left_behind() {
        let material = renew(None, &hosts(), 0).unwrap();
        let new: Vec<String> = ["ros.example.org", "127.0.0.1", "localhost"].map(String::from).to_vec();
        let renewed = |current: &TlsMaterial, behind, day| {
            let machines = InstalledMachines { bundle: current.bundle(), behind };
            renewed(Some(current), &new, &machines, None, after(day)).unwrap()
        };
        let moved = renewed(&material, None, 1);
        for host in ["10.0.2.2", "ros.example.org"] {
            assert!(trusts(&material.bundle(), &moved, host, after(1)), "{host}");
        }
        let still = renewed(&moved, Some(3), 70);
        assert!(still != moved && trusts(&material.bundle(), &still, "10.0.2.2", after(70)));
        assert_eq!(renewed(&still, Some(0), 71), still, "no certificate is issued for that alone");
        let after_all = renewed(&still, Some(0), 140);
        assert!(!trusts(&material.bundle(), &after_all, "10.0.2.2", after(140)));
        assert!(trusts(&material.bundle(), &after_all, "ros.example.org", after(140)));
    }
}
