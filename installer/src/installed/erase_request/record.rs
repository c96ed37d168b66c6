//! The requests of one kind that a machine has honoured, and the pending one, on COS_OEM.

use super::Request;
use crate::installed::files::write_secret;
use crate::path_error::PathError;
use boot_contract::paths::below;
use protocol::RequestText;
use protocol::erase_request::remember;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::Path;

/// Why the requests of this machine are not known, or not stored.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("reading {file}: change {field}, then remove the file")]
    Malformed { file: &'static str, field: &'static str, source: serde_json::Error },
    #[error(transparent)]
    Path(#[from] PathError),
}

/// The requests of this machine. The oldest of `honoured` is first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record<R> {
    #[serde(default)]
    pub honoured: Vec<RequestText>,
    /// The pending request. Its text is in `honoured` as well when everything is written.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub asked: Option<R>,
}

impl<R: Request> Record<R> {
    /// Reads the record. A missing file is an empty record. An unreadable one is an error, because no request may be
    /// honoured twice.
    pub fn read(root: &Path) -> Result<Self, RecordError> {
        let path = below(root, R::RECORD);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| RecordError::Malformed {
                file: R::RECORD,
                field: R::FIELD,
                source,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self { honoured: Vec::new(), asked: None }),
            Err(error) => Err(PathError::of("reading", &path)(error).into()),
        }
    }

    pub fn write(&self, root: &Path) -> Result<(), RecordError> {
        let path = below(root, R::RECORD);
        let bytes = serde_json::to_vec(self).map_err(PathError::of("writing", &path))?;
        Ok(write_secret(&path, &bytes).map_err(PathError::of("writing", &path))?)
    }

    pub fn is_honoured(&self, text: &RequestText) -> bool {
        self.honoured.contains(text)
    }

    pub fn honour(&mut self, text: &RequestText) {
        remember(&mut self.honoured, text.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::installed::erase_request::Reinstall;
    use proptest::prelude::*;
    use protocol::erase_request::MAX_HONOURED;

    #[test]
    fn what_is_written_is_read_back_and_the_oldest_go() {
        let root = tempfile::tempdir().unwrap();
        let mut record = Record::<Reinstall>::read(root.path()).unwrap();
        assert_eq!(record, Record { honoured: Vec::new(), asked: None });
        (0..MAX_HONOURED + 2).for_each(|n| record.honour(&format!("text {n}").parse().unwrap()));
        record.asked = Some(Reinstall("now".parse().unwrap()));
        record.write(root.path()).unwrap();
        let read = Record::<Reinstall>::read(root.path()).unwrap();
        assert_eq!((read.honoured.len(), read.honoured[0].as_str()), (MAX_HONOURED, "text 2"));
        assert_eq!(read, record);
    }

    proptest! {
        #[test]
        fn what_is_cut_off_is_an_error_and_never_forgotten(texts in proptest::collection::vec("\\PC{1,9}", 1..4), cut: usize) {
            let root = tempfile::tempdir().unwrap();
            let honoured = texts.into_iter().filter_map(|text| text.try_into().ok()).collect();
            Record::<Reinstall> { honoured, asked: None }.write(root.path()).unwrap();
            let path = root.path().join("oem/reinstall.json");
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..cut % bytes.len()]).unwrap();
            prop_assert!(Record::<Reinstall>::read(root.path()).is_err());
        }
    }
}
