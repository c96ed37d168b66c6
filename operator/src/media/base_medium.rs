//! A base medium: an ISO or a disk image, with reserved space for the settings of a registration.

use ::media::changes::{Places, PlacesError};
use ::media::iso9660::Volume;
use ::media::network_set::{NetworkSet, NetworkSetError};
use release::digest;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Seek};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// Longest file name of a medium. The name is a part of URLs and headers.
const LONGEST_NAME: usize = 128;
/// Endings of the files that are served: live ISOs and disk images.
const EXTENSIONS: [&str; 3] = ["iso", "raw", "qcow2"];

/// An open file. A new file of the same name does not affect downloads that have begun.
#[derive(Debug)]
pub struct BaseMedium {
    file: File,
    stamp: Stamp,
    places: Places,
    /// In hex.
    sha256: String,
    /// `None`: a disk image, which has none.
    network_set: Option<Result<NetworkSet, NetworkSetError>>,
}

/// Why a file is not served as a medium. The caller names the file.
#[derive(Debug, thiserror::Error)]
pub enum BaseMediumError {
    #[error("its name must consist of letters, digits, `.`, `_` and `-`, and end in .iso, .raw or .qcow2")]
    Name,
    #[error("opening the file")]
    Open(#[source] io::Error),
    #[error("reading the file")]
    Read(#[source] io::Error),
    #[error(transparent)]
    Places(#[from] PlacesError),
    #[error("the file is being written")]
    BeingWritten,
}

/// Identifies the content of a file: it changes when the file is replaced or written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    pub fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

impl BaseMedium {
    /// Opens a medium and reads all of it to compute its digest.
    pub fn open(path: &Path) -> Result<Self, BaseMediumError> {
        if !path.file_name().and_then(|name| name.to_str()).is_some_and(is_name) {
            return Err(BaseMediumError::Name);
        }
        let file = File::open(path).map_err(BaseMediumError::Open)?;
        let stamp = Stamp::of(&file.metadata().map_err(BaseMediumError::Read)?);
        let places = Places::find(&file)?;
        let network_set = places.id.as_ref().map(|_| {
            Volume::open(&file).map_err(NetworkSetError::from).and_then(|mut volume| NetworkSet::of_iso(&mut volume))
        });
        (&file).rewind().map_err(BaseMediumError::Read)?;
        let (sha256, _) = digest::of_reader(&file).map_err(BaseMediumError::Read)?;
        let medium = Self { file, stamp, places, sha256, network_set };
        if medium.is_unchanged() { Ok(medium) } else { Err(BaseMediumError::BeingWritten) }
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.stamp.size
    }

    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Of the whole file, in hex.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// What changes in it when it gets settings.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// The files of a network boot, or why an ISO gives none. `None`: a disk image, which never does.
    pub fn network_set(&self) -> Option<Result<&NetworkSet, &NetworkSetError>> {
        self.network_set.as_ref().map(Result::as_ref)
    }

    /// Whether the file is unchanged since its digest was computed.
    pub fn is_unchanged(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| Stamp::of(&metadata) == self.stamp)
    }

    /// Reads bytes of the file. An error if the file has changed since its digest was computed.
    pub fn read(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, range.start)?;
        // Checked after the read, so that no bytes of a changed file are returned.
        if self.is_unchanged() { Ok(bytes) } else { Err(io::Error::other("the medium was written to")) }
    }
}

/// Whether a file of this name can be served. The name is used in URLs and headers without escaping.
pub fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let stem = name.rsplit_once('.').filter(|(_, ending)| EXTENSIONS.contains(ending)).map(|(stem, _)| stem);
    name.len() <= LONGEST_NAME
        && stem.is_some_and(|stem| !stem.is_empty() && !stem.starts_with(['.', '-']))
        && name.chars().all(plain)
}

/// Whether a file of a folder is to be served, by its ending.
pub fn is_medium(path: &Path) -> bool {
    path.extension().and_then(OsStr::to_str).is_some_and(|ending| EXTENSIONS.contains(&ending))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use protocol::error_chain;

    #[test]
    fn media_with_reserved_space_open_and_others_are_refused_with_a_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = fixtures::base_medium(folder.path(), "a.iso", 7);
        let bytes = std::fs::read(&path).unwrap();
        let medium = BaseMedium::open(&path).unwrap();
        assert_eq!((medium.size(), medium.sha256()), (bytes.len() as u64, digest::of_bytes(&bytes).as_str()));
        assert_eq!(medium.read(5..9000).unwrap(), bytes[5..9000]);

        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(error_chain(&BaseMedium::open(&path).unwrap_err()).contains("the download may be incomplete"));
        std::fs::write(&path, "#!/bin/sh").unwrap();
        assert!(error_chain(&BaseMedium::open(&path).unwrap_err()).contains("not an ISO 9660 image"));
    }

    #[test]
    fn a_file_written_to_is_not_read_and_a_replaced_one_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = fixtures::base_medium(folder.path(), "a.iso", 7);
        let before = std::fs::read(&path).unwrap();
        let medium = BaseMedium::open(&path).unwrap();
        let other = fixtures::base_medium(folder.path(), "b.iso", 8);
        std::fs::rename(other, &path).unwrap();
        assert_eq!(medium.read(0..before.len() as u64).unwrap(), before);

        let medium = BaseMedium::open(&path).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        assert!(!medium.is_unchanged() && medium.read(0..1).is_err());
    }

    #[test]
    fn names_need_no_quoting() {
        for good in ["ros-0.1.0-x86_64.iso", "a.iso", "a.b.qcow2", "a.raw"] {
            assert!(is_name(good), "{good}");
        }
        let long = format!("{}.iso", "a".repeat(LONGEST_NAME));
        for bad in ["", ".iso", ".a.iso", "-a.iso", "a b.iso", "a\".iso", "ä.iso", "../a.iso", "a.ISO", "a.img", &long]
        {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
