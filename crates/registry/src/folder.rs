//! The folder that an image is pulled into: the release's files, and `.blobs` with what has been downloaded.

use crate::RegistryError;
use crate::manifest::Blob;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Blobs, whole and partial. It stays as an empty folder, which says that the rest may be removed for the next image.
const BLOBS: &str = ".blobs";

pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Takes a folder that is missing, empty, or was pulled into before.
    pub(crate) fn take(path: &Path) -> Result<Self, RegistryError> {
        let failed = || RegistryError::storage(path);
        fs::create_dir_all(path).map_err(failed())?;
        let folder = Self(path.to_owned());
        if !folder.blobs().is_dir() {
            if fs::read_dir(path).map_err(failed())?.next().is_some() {
                let why = "the folder holds something that was not pulled into it; name an empty one";
                return Err(failed()(io::Error::new(io::ErrorKind::AlreadyExists, why)));
            }
            fs::create_dir(folder.blobs()).map_err(RegistryError::storage(&folder.blobs()))?;
        }
        Ok(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn blob(&self, blob: &Blob) -> PathBuf {
        self.blobs().join(blob.digest.hex())
    }

    /// Removes everything but these blobs.
    pub(crate) fn keep(&self, blobs: &[&Blob]) -> Result<(), RegistryError> {
        self.remove(&self.0, |name| name == BLOBS)?;
        self.remove(&self.blobs(), |name| blobs.iter().any(|blob| blob.digest.hex() == name))
    }

    pub(crate) fn drop_blobs(&self) -> Result<(), RegistryError> {
        self.remove(&self.blobs(), |_| false)
    }

    fn blobs(&self) -> PathBuf {
        self.0.join(BLOBS)
    }

    fn remove(&self, folder: &Path, stays: impl Fn(&str) -> bool) -> Result<(), RegistryError> {
        for entry in fs::read_dir(folder).map_err(RegistryError::storage(folder))? {
            let entry = entry.map_err(RegistryError::storage(folder))?;
            if entry.file_name().to_str().is_some_and(&stays) {
                continue;
            }
            let path = entry.path();
            let is_folder = entry.file_type().map_err(RegistryError::storage(&path))?.is_dir();
            let removed = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(RegistryError::storage(&path))?;
        }
        Ok(())
    }
}
