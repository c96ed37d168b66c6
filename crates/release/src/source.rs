//! A release as a folder: `release.json` and the files it names, checked before they are used.

use crate::{MANIFEST, ManifestError, ReleaseFile, ReleaseManifest, digest};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Bytes of the largest file beside the root image. These files are read into memory.
const LARGEST_SMALL_FILE: u64 = 128 << 20;

/// An opened release. Every file but the root image had the right digest when it was opened; the root image has the
/// right size, and the code that copies it checks its digest.
#[derive(Clone, Debug)]
pub struct ReleaseSource {
    folder: PathBuf,
    manifest: ReleaseManifest,
    manifest_bytes: Vec<u8>,
}

/// Why a release is refused. Each error names the file.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    #[error("reading {path}", path = .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} cannot be used", path = .path.display())]
    Manifest { path: PathBuf, source: ManifestError },
    #[error("{path} has {actual} bytes; the limit is {LARGEST_SMALL_FILE}", path = .path.display())]
    TooLarge { path: PathBuf, actual: u64 },
    #[error("{path} has {actual} bytes; release.json says {expected}", path = .path.display())]
    Size { path: PathBuf, expected: u64, actual: u64 },
    #[error("{path} has SHA-256 {actual}; release.json says {expected}: the medium is damaged, create a new one", path = .path.display())]
    Digest { path: PathBuf, expected: String, actual: String },
}

impl ReleaseSource {
    /// Opens a folder with `release.json`, and checks everything that is small.
    pub fn open(folder: &Path) -> Result<Self, ReleaseError> {
        let (manifest, manifest_bytes) = read_manifest(folder)?;
        let source = Self { folder: folder.to_owned(), manifest, manifest_bytes };
        source.open_root()?;
        for (_, file) in source.manifest.files().filter(|(_, file)| **file != source.manifest.root) {
            source.read(file)?;
        }
        Ok(source)
    }

    pub fn manifest(&self) -> &ReleaseManifest {
        &self.manifest
    }

    /// The bytes of `release.json`.
    pub fn manifest_bytes(&self) -> &[u8] {
        &self.manifest_bytes
    }

    /// Opens the root image. Its size has been checked, its digest has not.
    pub fn open_root(&self) -> Result<File, ReleaseError> {
        self.open_file(&self.manifest.root)
    }

    /// A file other than the root image, with the right digest.
    pub fn read(&self, file: &ReleaseFile) -> Result<Vec<u8>, ReleaseError> {
        let path = self.folder.join(&file.name);
        if file.size > LARGEST_SMALL_FILE {
            return Err(ReleaseError::TooLarge { path, actual: file.size });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(file.size).unwrap_or_default());
        self.open_file(file)?
            .take(file.size)
            .read_to_end(&mut bytes)
            .map_err(|source| ReleaseError::Read { path: path.clone(), source })?;
        let actual = digest::of_bytes(&bytes);
        if actual != file.sha256 {
            return Err(ReleaseError::Digest { path, expected: file.sha256.clone(), actual });
        }
        Ok(bytes)
    }

    fn open_file(&self, file: &ReleaseFile) -> Result<File, ReleaseError> {
        let path = self.folder.join(&file.name);
        let unreadable = |source| ReleaseError::Read { path: path.clone(), source };
        let opened = File::open(&path).map_err(unreadable)?;
        let actual = opened.metadata().map_err(unreadable)?.len();
        if actual != file.size {
            return Err(ReleaseError::Size { path, expected: file.size, actual });
        }
        Ok(opened)
    }
}

impl ReleaseFile {
    /// Describes the file at `path`, to be listed as `name`.
    pub fn describe(path: &Path, name: &str) -> Result<Self, ReleaseError> {
        let read = digest::of_file(path).map_err(|source| ReleaseError::Read { path: path.to_owned(), source });
        read.map(|(sha256, size)| Self { name: name.to_owned(), size, sha256 })
    }
}

/// The manifest in the folder of a release or of a slot, and its bytes. The files that it names are not read.
pub fn read_manifest(folder: &Path) -> Result<(ReleaseManifest, Vec<u8>), ReleaseError> {
    let bytes = read_manifest_bytes(folder)?;
    let unusable = |source| ReleaseError::Manifest { path: folder.join(MANIFEST), source };
    Ok((ReleaseManifest::parse(&bytes).map_err(unusable)?, bytes))
}

/// The bytes of the manifest in a folder, for a signature that is checked before anything is parsed. One byte more than a
/// manifest may have is the most that is read.
pub fn read_manifest_bytes(folder: &Path) -> Result<Vec<u8>, ReleaseError> {
    let path = folder.join(MANIFEST);
    let mut bytes = Vec::new();
    File::open(&path)
        .and_then(|file| file.take(ReleaseManifest::MAX_BYTES as u64 + 1).read_to_end(&mut bytes))
        .map_err(|source| ReleaseError::Read { path, source })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn tiny_release(root: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        crate::fixtures::write_tiny_release(folder.path(), root);
        folder
    }

    #[test]
    fn a_whole_release_opens() {
        let folder = tiny_release(&[5; 8192]);
        let release = ReleaseSource::open(folder.path()).unwrap();
        assert_eq!(release.read(&release.manifest().boot.shim).unwrap(), b"shim");
    }

    #[test]
    fn a_damaged_or_cut_file_is_named() {
        let folder = tiny_release(&[5; 8192]);
        fs::write(folder.path().join("initrd"), b"INITRD").unwrap();
        let error = ReleaseSource::open(folder.path()).unwrap_err();
        assert!(matches!(&error, ReleaseError::Digest { path, .. } if path.ends_with("initrd")), "{error}");
        fs::write(folder.path().join("root.erofs"), [5; 8191]).unwrap();
        let error = ReleaseSource::open(folder.path()).unwrap_err();
        assert!(matches!(&error, ReleaseError::Size { expected: 8192, actual: 8191, .. }), "{error}");
    }

    #[test]
    fn a_manifest_cannot_reach_outside_or_into_grub() {
        let folder = tiny_release(&[5; 8192]);
        let path = folder.path().join("release.json");
        let text = fs::read_to_string(&path).unwrap();
        for (from, to) in [("\"initrd\"", "\"../initrd\""), ("console=tty0", "a; boot"), ("\"0.1.0\"", "\"0 1\"")] {
            fs::write(&path, text.replace(from, to)).unwrap();
            let error = ReleaseSource::open(folder.path()).unwrap_err();
            assert!(matches!(error, ReleaseError::Manifest { .. }), "{error}");
        }
    }
}
