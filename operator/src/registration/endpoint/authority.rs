//! The operator's own certificate authority: what it consists of, and when which part of it is renewed.
//!
//! Media carry the authority's certificate for years, so it must never change without notice:
//!
//! | when                                      | what happens                                                           |
//! |-------------------------------------------|------------------------------------------------------------------------|
//! | the server certificate has < 30 days left | another one is issued (90 days)                                        |
//! | the authority has < 2 years left of 10,   | its successor is made and published beside it                          |
//! | or an administrator requests it           |                                                                        |
//! | the successor takes over                  | it issues; the old one stays in the bundle until it expires            |
//!
//! A successor takes over when all installed machines have confirmed that they know it, and the authority has less than
//! a year left or an administrator requested the change. It takes over without waiting if an administrator requests
//! that, or if the authority has too little time left to issue another certificate.
//!
//! A certificate that is issued before all machines know the new address keeps the names of the one before, because
//! they still use the old address.

mod certificate;
mod given;
mod store;

pub use certificate::CertificateAndKey;
pub use given::GivenError;
pub use store::{Authority, SECRET_NAME};

use certificate::{SERVER_DAYS, check_certificate, covers, days_left, issue_server, make_authority, names_of};
use k8s_openapi::jiff::Timestamp;
use std::path::PathBuf;

const SUCCESSOR_PUBLISHED_DAYS: i64 = 730;
const SUCCESSOR_ISSUES_DAYS: i64 = 365;
/// With less time left the successor issues, even if machines do not know it: a server certificate must not outlive its
/// authority.
const LAST_ISSUE_DAYS: i64 = SERVER_DAYS + 10;
/// Former names that a server certificate may keep.
const MAX_FORMER_NAMES: usize = 8;
const SERVER_RENEWED_DAYS: i64 = 30;

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

/// Why there is no server certificate.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error(transparent)]
    Own(#[from] AuthorityError),
    #[error(transparent)]
    Given(#[from] GivenError),
}

impl CertificateSource {
    /// The certificate to use now, for these names and addresses of the server.
    pub async fn current(
        &self,
        hosts: &[String],
        machines: &InstalledMachines,
        now: Timestamp,
    ) -> Result<ServerCertificate, SourceError> {
        match self {
            Self::Own(authority) => {
                let material = authority.current(hosts, machines, now).await?;
                Ok(ServerCertificate { bundle: material.bundle(), server: material.server })
            }
            Self::Given(folder) => Ok(given::read(folder)?),
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
    #[error("creating a certificate")]
    Making(#[from] rcgen::Error),
    #[error("parsing a certificate")]
    Reading(#[from] x509_cert::der::Error),
    #[error(transparent)]
    Damaged(#[from] Damaged),
    #[error("reading Secret {SECRET_NAME}")]
    ReadSecret(#[source] kube::Error),
    #[error("writing Secret {SECRET_NAME}")]
    WriteSecret(#[source] kube::Error),
    #[error("writing Secret {SECRET_NAME}: another replica changed it {0} times meanwhile")]
    Conflicts(usize),
    #[error("the time {0} cannot be written into a certificate")]
    Time(Timestamp),
}

/// A part of the stored authority that cannot be used. It is not replaced by a new authority: media and machines trust
/// the stored one and would be locked out.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "key {key} of Secret {SECRET_NAME} {problem}; restore the Secret from a backup. The operator did not replace it, \
     because machines and media trust only this authority. If you delete the whole Secret, the operator creates a new \
     authority, which no machine and no medium trusts"
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

/// The material to store from now on. Equal to `current` if nothing is due. `hosts`: names and addresses of the server.
/// A server certificate that lacks one of them, or is damaged, is issued again. A damaged authority is an error.
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
        tracing::warn!(key, problem, "the server certificate in Secret {SECRET_NAME} is damaged; a new one is issued");
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

#[cfg(test)]
mod tests;
