//! Firmware that drivers load into devices, from Debian's packages of non-free firmware.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::archive::Archive;
use super::sbom::Package;
use super::tree::Tree;
use crate::cache::Cache;
use crate::cli::PackageName;

/// The component of Debian's archive.
pub const COMPONENT: &str = "non-free-firmware";

/// Packages of firmware, unpacked.
pub struct Firmware {
    /// The folder with the content of the packages. Its name is the cache key of its inputs.
    pub root: PathBuf,
    pub packages: Vec<Package>,
}

impl Firmware {
    /// `None` without packages.
    pub fn prepare(cache: &Cache, archive: &Archive, packages: &[PackageName]) -> Result<Option<Self>> {
        let mut names: Vec<&str> = packages.iter().map(PackageName::as_str).collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            return Ok(None);
        }
        let root = archive.unpacked(cache, &names)?;
        ensure!(
            folder(&root).is_some(),
            "--firmware {}: there is no firmware in it; install it with --package",
            names.join(" ")
        );
        Ok(Some(Self { root, packages: archive.describe(&names)? }))
    }

    pub fn add(&self, tree: &mut Tree) -> Result<()> {
        match folder(&self.root) {
            Some(folder) => tree.lay_over(&folder, "usr/lib/firmware"),
            None => Ok(()),
        }
    }
}

/// Packages from before Debian 13 have /lib.
fn folder(root: &Path) -> Option<PathBuf> {
    ["usr/lib/firmware", "lib/firmware"].iter().map(|folder| root.join(folder)).find(|folder| folder.is_dir())
}
