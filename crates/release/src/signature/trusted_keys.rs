//! The public keys by which a machine takes releases.

use super::public_key::MAX_KEY_FILE_BYTES;
use super::{PublicKey, SignatureError, read_bounded};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Keys, each once. A key that cannot be read is an error and not left out: without it, a machine could have no key at
/// all and would take every release.
#[derive(Clone, Debug, Default)]
pub struct TrustedKeys(Vec<PublicKey>);

impl TrustedKeys {
    /// Most keys of a machine.
    pub const MOST: usize = 64;

    /// Adds the keys of every file `*.pem` in `folder`. A folder that does not exist holds none.
    pub fn add_folder(&mut self, folder: &Path) -> Result<(), SignatureError> {
        for path in pem_files(folder)? {
            let pem = read_bounded(&path, MAX_KEY_FILE_BYTES as u64 + 1).map_err(|source| SignatureError::File {
                action: "reading",
                path: path.clone(),
                source,
            })?;
            self.add_pem(&path.display().to_string(), &pem)?;
        }
        Ok(())
    }

    /// Adds the keys of a PEM text. `file` says in errors where it is from.
    pub fn add_pem(&mut self, file: &str, pem: &[u8]) -> Result<(), SignatureError> {
        for key in PublicKey::parse_pem(file, pem)? {
            if self.0.contains(&key) {
                continue;
            }
            if self.0.len() == Self::MOST {
                let reason = format!("there are more than {} keys; remove those that are not used", Self::MOST);
                return Err(SignatureError::KeyUnusable { file: file.to_owned(), reason });
            }
            self.0.push(key);
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &PublicKey> {
        self.0.iter()
    }
}

/// The files `*.pem` in `folder`, by name.
fn pem_files(folder: &Path) -> Result<Vec<PathBuf>, SignatureError> {
    let unreadable = |source| SignatureError::File { action: "reading", path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "pem") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
