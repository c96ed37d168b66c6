//! A server certificate from a folder, in place of one from the operator's own authority.

use super::{CertificateAndKey, ServerCertificate};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Why a folder has no certificate that can be used.
#[derive(Debug, thiserror::Error)]
pub enum GivenError {
    #[error("reading {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error("{} contains no {file}; mount a Secret of the type kubernetes.io/tls there", .folder.display())]
    Missing { folder: PathBuf, file: &'static str },
}

/// Reads the folder in which a Secret of the type `kubernetes.io/tls` is mounted: `tls.crt` (with intermediates),
/// `tls.key`, and `ca.crt` with the authorities that machines should trust. Without `ca.crt` machines trust the public
/// authorities.
pub(super) fn read(folder: &Path) -> Result<ServerCertificate, GivenError> {
    let text = |name: &str| {
        let path = folder.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(GivenError::Read(path, error)),
        }
    };
    let required =
        |file: &'static str| text(file)?.ok_or_else(|| GivenError::Missing { folder: folder.to_owned(), file });
    let server = CertificateAndKey { certificate: required("tls.crt")?, key: required("tls.key")? };
    Ok(ServerCertificate { server, bundle: text("ca.crt")?.unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mounted_secret_is_read_and_a_missing_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("tls.crt") && error.contains("kubernetes.io/tls"), "{error}");
        for name in ["tls.crt", "tls.key"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        assert_eq!(read(folder.path()).unwrap().bundle, "");
        std::fs::write(folder.path().join("ca.crt"), "PEM").unwrap();
        let served = read(folder.path()).unwrap();
        assert_eq!((served.bundle.as_str(), served.server.key.as_str()), ("PEM", "tls.key"));
    }
}
