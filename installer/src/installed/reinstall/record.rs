//! The requests that a machine has honoured, and the pending one, in `/oem/reinstall.json`.

use crate::installed::files::write_secret;
use anyhow::{Context, Result};
use boot_contract::paths::below;
use protocol::ReinstallRequest;
use protocol::reinstall::remember;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::Path;

const FILE: &str = "/oem/reinstall.json";

/// The requests of this machine. The oldest of `honoured` is first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    #[serde(default)]
    pub honoured: Vec<ReinstallRequest>,
    /// The pending request. It is in `honoured` as well when everything is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<ReinstallRequest>,
}

impl Record {
    /// Reads the record. A missing file is an empty record. An unreadable one is an error, because no request may be
    /// honoured twice.
    pub fn read(root: &Path) -> Result<Self> {
        match fs::read(below(root, FILE)) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("reading {FILE}: remove it, and change spec.reinstall first")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("reading {FILE}")),
        }
    }

    pub fn write(&self, root: &Path) -> Result<()> {
        let bytes = serde_json::to_vec(self).with_context(|| format!("writing {FILE}"))?;
        write_secret(&below(root, FILE), &bytes).with_context(|| format!("writing {FILE}"))
    }

    pub fn honour(&mut self, request: ReinstallRequest) {
        remember(&mut self.honoured, request);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use protocol::reinstall::MAX_HONOURED;

    #[test]
    fn what_is_written_is_read_back_and_the_oldest_go() {
        let root = tempfile::tempdir().unwrap();
        let mut record = Record::read(root.path()).unwrap();
        assert_eq!(record, Record::default());
        (0..MAX_HONOURED + 2).for_each(|n| record.honour(format!("text {n}").parse().unwrap()));
        record.asked = Some("now".parse().unwrap());
        record.write(root.path()).unwrap();
        let read = Record::read(root.path()).unwrap();
        assert_eq!((read.honoured.len(), read.honoured[0].as_str()), (MAX_HONOURED, "text 2"));
        assert_eq!(read, record);
    }

    proptest! {
        #[test]
        fn what_is_cut_off_is_an_error_and_never_forgotten(texts in proptest::collection::vec("\\PC{1,9}", 1..4), cut: usize) {
            let root = tempfile::tempdir().unwrap();
            let honoured = texts.into_iter().filter_map(|text| text.try_into().ok()).collect();
            Record { honoured, asked: None }.write(root.path()).unwrap();
            let path = root.path().join("oem/reinstall.json");
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..cut % bytes.len()]).unwrap();
            prop_assert!(Record::read(root.path()).is_err());
        }
    }
}
