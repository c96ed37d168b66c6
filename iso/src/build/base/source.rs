//! What BASE names: an image in a registry, a folder, or an archive.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use registry::Reference;

/// A base that is not made by our own recipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Image(Reference),
    /// A system, or an OCI image layout.
    Folder(PathBuf),
    /// A tar archive, perhaps compressed: a system, or an image.
    Archive(PathBuf),
}

impl Source {
    /// What is there under this name, or else the name of an image.
    pub fn find(name: &str) -> Result<Self> {
        let path = Path::new(name);
        if path.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        if path.exists() {
            return Ok(Self::Archive(path.to_owned()));
        }
        match name.parse() {
            Ok(reference) => Ok(Self::Image(reference)),
            Err(error) => bail!("BASE {name}: there is no such file or folder, and as an image: {error}"),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(reference) => reference.fmt(f),
            Self::Folder(path) | Self::Archive(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_file_a_folder_or_an_image() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("base.tar");
        std::fs::write(&file, "").unwrap();
        let find = |name: &Path| Source::find(name.to_str().unwrap());
        assert_eq!(find(folder.path()).unwrap(), Source::Folder(folder.path().to_owned()));
        assert_eq!(find(&file).unwrap(), Source::Archive(file));
        let image = Source::find("registry.example.org/os/base:1").unwrap();
        assert!(matches!(&image, Source::Image(_)) && image.to_string() == "registry.example.org/os/base:1");
        let error = Source::find("debain.tar").unwrap_err().to_string();
        assert!(error.contains("no such file or folder") && error.contains("names no registry"), "{error}");
    }
}
