//! The authorities of TPM vendors, for registrations that require an EK certificate and name no authorities.

use crate::registration::index::Authorities;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use std::path::{Path, PathBuf};

/// Why a file has no authorities that can be used.
#[derive(Debug, thiserror::Error)]
pub enum VendorsError {
    #[error("reading TPM vendors' authorities in {}", .0.display())]
    Read(PathBuf, #[source] pem::Error),
    #[error("{} contains no certificate", .0.display())]
    Empty(PathBuf),
}

/// Reads PEM. The operator's image contains the authorities of Debian's package ruby-tpm-key-attestation.
pub fn read(path: &Path) -> Result<Authorities, VendorsError> {
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = certificates.map_err(|error| VendorsError::Read(path.to_owned(), error))?;
    if certificates.is_empty() {
        return Err(VendorsError::Empty(path.to_owned()));
    }
    tracing::info!(authorities = certificates.len(), "read the authorities of TPM vendors");
    Ok(Authorities::new(certificates.into_iter().map(|certificate| certificate.to_vec()).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::{Engine, engine::general_purpose::STANDARD};

    #[test]
    fn authorities_are_read_from_pem_and_a_file_without_any_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vendors.pem");
        let root = include_bytes!("../../../crates/protocol/testdata/root.crt");
        let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(root));
        std::fs::write(&path, pem.repeat(2)).unwrap();
        assert_eq!(*read(&path).unwrap(), [root.to_vec(), root.to_vec()]);
        std::fs::write(&path, "none").unwrap();
        assert!(read(&path).is_err() && read(&folder.path().join("absent")).is_err());
    }
}
