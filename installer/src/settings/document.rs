//! Reads a document with settings from a file: that of the medium, and those of an installed system.

use boot_contract::paths::{MEDIUM_REGISTRATION, OEM_REGISTRATION};
use cloud_config::CloudConfig;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Paths relative to the root: the settings on the medium of a live system, and the registration of an installed one.
pub const MEDIUM_FILE: &str = MEDIUM_REGISTRATION.split_at(1).1;
pub const INSTALLED_FILE: &str = OEM_REGISTRATION.split_at(1).1;
/// The registration of an installed system before the newest one.
pub const PREVIOUS_FILE: &str = "oem/registration.previous.yaml";
/// One byte above the limit is read, so that the parser refuses larger documents.
pub(super) const READ_LIMIT: u64 = CloudConfig::MAX_DOCUMENT as u64 + 1;

/// What to do about settings that came with a medium.
const CUSTOMIZE: &str =
    "put corrected settings into the medium with `ros-image customize`, then start this machine again";

#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("reading {}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{name} is not a valid cloud-config: {problem}; {remedy}")]
    Malformed { name: String, problem: String, remedy: &'static str },
}

/// Reads a cloud-config from a file. `None` if the file is absent or holds only comments, as on a medium that was not
/// customised.
pub fn read(path: &Path) -> Result<Option<CloudConfig>, DocumentError> {
    let name = path.display().to_string();
    let mut bytes = Vec::new();
    match std::fs::File::open(path).and_then(|file| file.take(READ_LIMIT).read_to_end(&mut bytes)) {
        Ok(_) => parse(&name, &bytes, remedy(path)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DocumentError::Read { path: path.to_owned(), source }),
    }
}

/// Reads the settings in the reserved space of a disk image. `None` if they were removed, or if the space holds only comments.
pub fn read_reserved(bytes: &[u8]) -> Result<Option<CloudConfig>, DocumentError> {
    let text = bytes.iter().rposition(|byte| *byte != 0).map_or(&[][..], |last| &bytes[..=last]);
    parse("the settings in the disk image", text, CUSTOMIZE)
}

/// What to do about a file that cannot be used.
pub(super) fn remedy(path: &Path) -> &'static str {
    if path.ends_with(MEDIUM_FILE) { CUSTOMIZE } else { "correct the file, then try again" }
}

/// `None` if the document holds only comments.
pub(super) fn parse(name: &str, bytes: &[u8], remedy: &'static str) -> Result<Option<CloudConfig>, DocumentError> {
    let malformed = |problem: String| DocumentError::Malformed { name: name.to_owned(), problem, remedy };
    let text = std::str::from_utf8(bytes).map_err(|error| malformed(error.to_string()))?;
    let document = CloudConfig::parse(text).map_err(|error| malformed(error.to_string()))?;
    Ok(Some(document).filter(|document| !document.0.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uncustomised_medium_says_nothing_and_a_broken_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registration.yaml");
        assert_eq!(read(&path).unwrap(), None);
        std::fs::write(&path, "#cloud-config\n".to_owned() + &"\n".repeat(65_000)).unwrap();
        assert_eq!(read(&path).unwrap(), None);
        std::fs::write(&path, "#cloud-config\nrancheros: {install: {automatic: true}}\n\n\n").unwrap();
        assert_eq!(read(&path).unwrap().unwrap().0["rancheros"]["install"]["automatic"], true);
        for broken in ["a: [", "just words", "- a list", "\u{0}"] {
            std::fs::write(&path, broken).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("registration.yaml is not a valid cloud-config"), "{error}");
        }
    }
}
