//! Why an image cannot be pulled or pushed.

use crate::Reference;
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

/// Why an image cannot be pulled or pushed. `reason` is stable: it becomes part of a status. No message has a secret.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("{reference:?} is no reference to an image: {why}")]
    ReferenceInvalid { reference: String, why: String },
    #[error("{path} cannot be used: {why}", path = .path.display())]
    RegistriesFileInvalid { path: PathBuf, why: String },
    #[error("the registry {host} has no image {reference}; push it, or correct the name")]
    ImageNotFound { host: String, reference: String },
    #[error("the registry {host} cannot be used")]
    RegistryUnreachable { host: String, source: Box<dyn Error + Send + Sync> },
    #[error("the registry {host} refuses access: {why}; give credentials for {host} in the registries file")]
    RegistryDenied { host: String, why: String },
    #[error(
        "the certificate of the registry {host} is not trusted; name its authority as `configs.{host}.tls.ca_file` in the registries file"
    )]
    CertificateNotTrusted { host: String, source: rustls::Error },
    #[error(
        "the certificate of the registry {host} is not valid at the time that this machine's clock shows; correct the clock (`ntp` in the cloud-config), or renew the certificate"
    )]
    CertificateNotValidNow { host: String, source: rustls::Error },
    #[error("{reference}: {what}; the limit is {limit}")]
    ImageTooLarge { reference: String, what: &'static str, limit: u64 },
    #[error("{digest} from the registry {host} is not what its name says: {why}")]
    LayerDigestMismatch { host: String, digest: String, why: String },
    #[error("{digest} from the registry {host} ends after {actual} of {expected} bytes")]
    LayerTruncated { host: String, digest: String, expected: u64, actual: u64 },
    #[error("{reference} is not the image of a release: {why}")]
    NotARelease { reference: String, why: String },
    #[error("{reference} cannot be used as an image: {why}")]
    ImageInvalid { reference: String, why: String },
    #[error("{reference} has no image for linux/amd64, only for {found}")]
    WrongArchitecture { reference: String, found: String },
    #[error(
        "the registry {host} would be used by plain HTTP, which anybody on the way can change; allow it with --plain-http, or with an endpoint http://{host} in the registries file"
    )]
    PlainHttpRefused { host: String },
    #[error("{path} is not the archive of an image: {why}", path = .path.display())]
    ArchiveInvalid { path: PathBuf, why: String },
    #[error("using {path}", path = .path.display())]
    StorageFailed { path: PathBuf, source: io::Error },
}

impl RegistryError {
    /// The error in one word, for statuses and conditions.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ReferenceInvalid { .. } => "ReferenceInvalid",
            Self::RegistriesFileInvalid { .. } => "RegistriesFileInvalid",
            Self::ImageNotFound { .. } => "ImageNotFound",
            Self::RegistryUnreachable { .. } => "RegistryUnreachable",
            Self::RegistryDenied { .. } => "RegistryDenied",
            Self::CertificateNotTrusted { .. } => "CertificateNotTrusted",
            Self::CertificateNotValidNow { .. } => "CertificateNotValidNow",
            Self::ImageTooLarge { .. } => "ImageTooLarge",
            Self::LayerDigestMismatch { .. } => "LayerDigestMismatch",
            Self::LayerTruncated { .. } => "LayerTruncated",
            Self::NotARelease { .. } => "NotARelease",
            Self::ImageInvalid { .. } => "ImageInvalid",
            Self::WrongArchitecture { .. } => "WrongArchitecture",
            Self::PlainHttpRefused { .. } => "PlainHttpRefused",
            Self::ArchiveInvalid { .. } => "ArchiveInvalid",
            Self::StorageFailed { .. } => "StorageFailed",
        }
    }

    /// Whether what the registry has under this name can never be used.
    pub fn is_about_the_image(&self) -> bool {
        use RegistryError::{ImageInvalid, ImageTooLarge, NotARelease, WrongArchitecture};
        matches!(self, NotARelease { .. } | ImageInvalid { .. } | WrongArchitecture { .. } | ImageTooLarge { .. })
    }

    pub(crate) fn not_a_release(reference: &Reference, why: impl Into<String>) -> Self {
        Self::NotARelease { reference: reference.to_string(), why: why.into() }
    }

    pub(crate) fn image_invalid(reference: &Reference, why: impl Into<String>) -> Self {
        Self::ImageInvalid { reference: reference.to_string(), why: why.into() }
    }

    pub(crate) fn storage(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::StorageFailed { path, source }
    }
}

/// An error, and whether the same request may succeed a moment later.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: RegistryError,
    pub(crate) retry: bool,
}

impl Failure {
    pub(crate) fn permanent(error: RegistryError) -> Self {
        Self { error, retry: false }
    }

    pub(crate) fn temporary(error: RegistryError) -> Self {
        Self { error, retry: true }
    }
}

/// Text of a registry as a part of a message: one line, at most 200 characters.
pub(crate) fn quoted(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
