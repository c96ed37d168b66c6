//! The installation marker: a block between the partition table and the first partition that holds the state of an
//! installation.
//!
//! The marker is written before anything else and again at the end. It identifies a disk whose installation was
//! interrupted. Such a disk is installed again without a question.

use boot_contract::disk_image::MARKER_MAGIC as MAGIC;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub use boot_contract::disk_image::{MARKER_BYTES as LENGTH, MARKER_OFFSET as OFFSET};

/// The content of the marker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Marker {
    pub state: State,
    /// Version of the release that is written.
    pub version: String,
    /// Name of the machine that the installation is for, as `identity::Identity::name` makes it. Absent if the machine
    /// proved no identity, and in markers of older installers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

/// How far the installation got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// The installation has begun. The disk has no partition table and holds nothing of use.
    Writing,
    /// Every byte was verified, and the partition table is being written. If the table is whole, the installation is
    /// complete; if not, it has to begin again.
    Switching,
    /// The installation has ended, and every byte was verified.
    Complete,
}

impl Marker {
    /// Reads the marker of a disk or disk image. `None` if there is none. Only a failing read is an error.
    pub fn read(device: &Path) -> io::Result<Option<Self>> {
        let mut bytes = vec![0; LENGTH];
        match File::open(device)?.read_exact_at(&mut bytes, OFFSET) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Ok(Self::parse(&bytes)),
        }
    }

    /// Parses the bytes at [`OFFSET`]. `None` if they are no marker.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = bytes.strip_prefix(MAGIC)?;
        let end = text.iter().position(|byte| *byte == b'\n')?;
        serde_json::from_slice(&text[..end]).ok()
    }

    /// The marker as [`LENGTH`] bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        // The marker always fits: a version is a short name, checked when the release was opened, and an identity is a
        // hash.
        bytes.extend(serde_json::to_vec(self).expect("plain fields"));
        bytes.push(b'\n');
        bytes.resize(LENGTH, 0);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let marker = Marker { state: State::Writing, version: "0.1.0".into(), identity: Some("tpm:ab".into()) };
        let disk = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(Marker::read(disk.path()).unwrap(), None, "too short to hold a marker");
        disk.as_file().write_all_at(&marker.to_bytes(), OFFSET).unwrap();
        assert_eq!(Marker::read(disk.path()).unwrap(), Some(marker));
    }

    #[test]
    fn anything_else_is_no_marker() {
        let whole = Marker { state: State::Complete, version: "1".into(), identity: None }.to_bytes();
        assert_eq!(Marker::parse(&[0; LENGTH]), None);
        assert_eq!(Marker::parse(&whole[..MAGIC.len() + 5]), None);
        assert_eq!(Marker::parse(&[MAGIC, b"{}\n"].concat()), None);
    }

    #[test]
    fn a_marker_without_an_identity_is_a_marker() {
        let bytes = [MAGIC, br#"{"state":"complete","version":"0.1.0"}"#, b"\n"].concat();
        let expected = Marker { state: State::Complete, version: "0.1.0".into(), identity: None };
        assert_eq!(Marker::parse(&bytes), Some(expected));
    }
}
