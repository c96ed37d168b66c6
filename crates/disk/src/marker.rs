//! A note in the gap between partition table and first partition that says what our installer did to a disk.
//!
//! It is written before anything else changes and rewritten when everything is in place, so that a disk whose
//! installation was cut short is recognised and may be installed again without asking anybody.

use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Where the note stands, in bytes from the start of the disk: behind the partition entries (16 KiB from LBA 2, for
/// any sector size) and before the first partition (1 MiB).
pub const OFFSET: u64 = 64 * 1024;
/// Bytes of the note: one physical sector, so that it is old or new and nothing between.
pub const LENGTH: usize = 4096;
/// First line of the note.
const MAGIC: &[u8] = b"RancherOS installation\n";

/// The note.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Marker {
    pub state: State,
    /// Version of the release that is written.
    pub version: String,
    /// The machine that the installation is for, as `identity::Identity::name` names it. Absent where the machine proved
    /// no identity, and in the notes of installers that did not write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

/// How far the installation came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// Begun: the disk holds no partition table, and nothing on it is of use.
    Writing,
    /// Every byte was verified, and the partition table is being written: where it is whole the installation is complete,
    /// else it has to begin again.
    Switching,
    /// Ended: every byte was verified.
    Complete,
}

impl Marker {
    /// The note of a disk or disk image. Absent is `None`; only failing reads are errors.
    pub fn read(device: &Path) -> io::Result<Option<Self>> {
        let mut bytes = vec![0; LENGTH];
        match File::open(device)?.read_exact_at(&mut bytes, OFFSET) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Ok(Self::parse(&bytes)),
        }
    }

    /// Bytes at [`OFFSET`] as a note; anything else, whole or in part, is none.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = bytes.strip_prefix(MAGIC)?;
        let end = text.iter().position(|byte| *byte == b'\n')?;
        serde_json::from_slice(&text[..end]).ok()
    }

    /// The note as [`LENGTH`] bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        // A version is a short name, checked when the release was opened, and an identity is a hash: the note always fits.
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
        assert_eq!(Marker::read(disk.path()).unwrap(), None, "too short to hold a note");
        disk.as_file().write_all_at(&marker.to_bytes(), OFFSET).unwrap();
        assert_eq!(Marker::read(disk.path()).unwrap(), Some(marker));
    }

    #[test]
    fn anything_else_is_no_note() {
        let whole = Marker { state: State::Complete, version: "1".into(), identity: None }.to_bytes();
        assert_eq!(Marker::parse(&[0; LENGTH]), None);
        assert_eq!(Marker::parse(&whole[..MAGIC.len() + 5]), None);
        assert_eq!(Marker::parse(&[MAGIC, b"{}\n"].concat()), None);
    }

    #[test]
    fn a_note_without_an_identity_is_a_note() {
        let bytes = [MAGIC, br#"{"state":"complete","version":"0.1.0"}"#, b"\n"].concat();
        let expected = Marker { state: State::Complete, version: "0.1.0".into(), identity: None };
        assert_eq!(Marker::parse(&bytes), Some(expected));
    }
}
