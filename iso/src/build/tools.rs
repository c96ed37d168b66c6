//! Programs from the Debian release of the root images. With them the build gives the same bytes on every host, and the
//! host needs none of them installed.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::archive::Archive;
use super::program::program;
use crate::cache::Cache;
use command::Command;

const PACKAGES: &[&str] = &["erofs-utils", "grub-common", "grub-pc-bin", "kmod", "xorriso"];

/// An unpacked set of packages whose programs run with their own libraries and without a chroot.
pub struct Tools {
    root: PathBuf,
}

impl Tools {
    pub fn prepare(cache: &Cache, archive: &Archive) -> Result<Self> {
        Ok(Self { root: archive.unpacked_closure(cache, PACKAGES)? })
    }

    /// The folder of the packages' content, for data files and cache keys.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The program at `usr/bin/<file>`, called as `name`. Some programs behave by the name they are called with.
    pub fn command(&self, file: &str, name: &str) -> Command {
        let libraries = self.root.join("usr/lib/x86_64-linux-gnu");
        program(libraries.join("ld-linux-x86-64.so.2"))
            .args(["--argv0", name, "--library-path"])
            .arg(&libraries)
            .arg(self.root.join("usr/bin").join(file))
    }
}
