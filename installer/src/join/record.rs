//! What the last run of the programs came to, in `/var/lib/ros/joined.json`. A new installation removes it.

use crate::installed::files::write_secret;
use crate::path_error::PathError;
use boot_contract::paths::below;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

const FILE: &str = "/var/lib/ros/joined.json";

/// A run of the programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// SHA-256 of the configuration that they got.
    pub configuration: String,
    /// Their names. Empty if there was none.
    pub programs: Vec<String>,
    /// When the run ended, in seconds since 1 January 1970 by this machine's clock.
    pub at: u64,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl Record {
    /// `None` if there was no run yet, or if its record cannot be read: the programs then run again.
    pub fn read(root: &Path) -> Option<Self> {
        let path = below(root, FILE);
        let read = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(Into::into),
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => Err(error),
        };
        read.inspect_err(|error: &std::io::Error| tracing::warn!("reading {}: {error}", path.display())).ok()
    }

    pub fn write(&self, root: &Path) -> Result<(), PathError> {
        let path = below(root, FILE);
        let bytes = serde_json::to_vec(self).map_err(PathError::of("writing", &path))?;
        write_secret(&path, &bytes).map_err(PathError::of("writing", &path))
    }
}
