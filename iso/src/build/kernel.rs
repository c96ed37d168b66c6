//! Debian's kernel, unpacked from its package. No maintainer script runs, so no initramfs is made.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::archive::Archive;
use super::lists;
use super::program::program;
use super::tools::Tools;
use crate::cache::{Cache, Key};
use crate::cli::KernelFlavour;

const REMOVED: &str = include_str!("lists/remove-modules.txt");

/// A kernel and its modules, pruned and indexed.
pub struct Kernel {
    /// Name of its folder in /lib/modules.
    pub version: String,
    /// Folder with `vmlinuz` and `usr/lib/modules/<version>`. Its name is the cache key of its inputs.
    pub root: PathBuf,
}

impl Kernel {
    pub fn prepare(cache: &Cache, archive: &Archive, tools: &Tools, flavour: KernelFlavour) -> Result<Self> {
        let package = archive.first_dependency(match flavour {
            KernelFlavour::Cloud => "linux-image-cloud-amd64",
            KernelFlavour::Generic => "linux-image-amd64",
        })?;
        let version =
            package.strip_prefix("linux-image-").with_context(|| format!("{package} is not a kernel package"))?;
        let unpacked = archive.unpacked(cache, &[&package])?;
        let key = Key::new().result("package", &unpacked).result("tools", tools.root()).text("removed", REMOVED);
        let root = cache.stage("kernel", key, &format!("preparing the kernel {version}"), |folder| {
            let image = unpacked.join(format!("boot/vmlinuz-{version}"));
            fs::copy(&image, folder.join("vmlinuz")).with_context(|| format!("copying {}", image.display()))?;
            let modules = folder.join("usr/lib/modules");
            fs::create_dir_all(&modules).with_context(|| format!("creating {}", modules.display()))?;
            program("cp").arg("-r").arg(unpacked.join("usr/lib/modules").join(version)).arg(&modules).run()?;
            prune(&modules.join(version).join("kernel"))?;
            std::os::unix::fs::symlink("usr/lib", folder.join("lib")).context("linking /lib")?;
            tools.command("kmod", "depmod").arg("-b").arg(folder).arg(version).run()?;
            Ok(())
        })?;
        Ok(Self { version: version.to_owned(), root })
    }

    /// Name of its Debian package.
    pub fn package(&self) -> String {
        format!("linux-image-{}", self.version)
    }

    pub fn image(&self) -> PathBuf {
        self.root.join("vmlinuz")
    }

    pub fn modules(&self) -> PathBuf {
        self.root.join("usr/lib/modules").join(&self.version)
    }
}

fn prune(modules: &Path) -> Result<()> {
    ensure!(modules.is_dir(), "the kernel package has no {}", modules.display());
    for folder in lists::lines(REMOVED).map(|line| modules.join(line)).filter(|folder| folder.exists()) {
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    Ok(())
}
