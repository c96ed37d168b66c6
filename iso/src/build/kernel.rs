//! The kernel of a release: Debian's, one from a package file, or that of the base. No maintainer script runs, so no initramfs
//! is made.

mod options;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::archive::Archive;
use super::lists;
use super::program::program;
use super::sbom::{self, Package};
use super::tools::Tools;
use super::tree::Tree;
use crate::cache::{Cache, Key};
use crate::cli::KernelChoice;

const REMOVED: &str = include_str!("lists/remove-modules.txt");
/// Where packages have the modules of kernels: Debian's since 13, and earlier ones.
const MODULES: [&str; 2] = ["usr/lib/modules", "lib/modules"];

/// A kernel and its modules, indexed.
pub struct Kernel {
    /// Name of its folder in /lib/modules.
    pub version: String,
    /// Folder with `vmlinuz` and `usr/lib/modules/<version>`. Its name is the cache key of its inputs.
    pub root: PathBuf,
    /// Its Debian package. `None` if it is the base's, which lists its packages itself.
    pub package: Option<Package>,
}

/// A kernel as it comes: `boot/vmlinuz-<version>`, `boot/config-<version>` and modules below a folder, whose name is the cache
/// key of its inputs.
struct Unpacked {
    root: PathBuf,
    package: Option<Package>,
    /// Whether modules that a server has no use for are left out.
    is_pruned: bool,
}

impl Kernel {
    /// `base` is asked where the choice is its own kernel.
    pub fn prepare(
        cache: &Cache,
        archive: &Archive,
        tools: &Tools,
        choice: &KernelChoice,
        base: (&Tree, &Path),
    ) -> Result<Self> {
        let unpacked = match choice {
            KernelChoice::Cloud => of_archive(cache, archive, "linux-image-cloud-amd64")?,
            KernelChoice::Generic => of_archive(cache, archive, "linux-image-amd64")?,
            KernelChoice::Package(file) => of_file(cache, file)?,
            KernelChoice::OfBase => of_base(cache, base)?,
        };
        Self::index(cache, tools, &unpacked).with_context(|| format!("using the kernel of {choice}"))
    }

    /// Checks a kernel, and writes the indexes of its modules.
    fn index(cache: &Cache, tools: &Tools, unpacked: &Unpacked) -> Result<Self> {
        let (version, modules) = find(&unpacked.root)?;
        let image =
            first_file(&unpacked.root, &[format!("boot/vmlinuz-{version}"), format!("{modules}/{version}/vmlinuz")])?;
        let config =
            first_file(&unpacked.root, &[format!("boot/config-{version}"), format!("{modules}/{version}/config")])?;
        options::check(
            &version,
            &fs::read_to_string(&config).with_context(|| format!("reading {}", config.display()))?,
        )?;
        let key = Key::new().result("package", &unpacked.root).result("tools", tools.root());
        let key = if unpacked.is_pruned { key.text("removed", REMOVED) } else { key };
        let root = cache.stage("kernel", key, &format!("preparing the kernel {version}"), |folder| {
            fs::copy(&image, folder.join("vmlinuz")).with_context(|| format!("copying {}", image.display()))?;
            let to = folder.join("usr/lib/modules");
            fs::create_dir_all(&to).with_context(|| format!("creating {}", to.display()))?;
            program("cp").arg("-r").arg(unpacked.root.join(modules).join(&version)).arg(&to).run()?;
            if unpacked.is_pruned {
                prune(&to.join(&version).join("kernel"))?;
            }
            std::os::unix::fs::symlink("usr/lib", folder.join("lib")).context("linking /lib")?;
            tools.command("kmod", "depmod").arg("-b").arg(folder).arg(&version).run()?;
            Ok(())
        })?;
        Ok(Self { version, root, package: unpacked.package.clone() })
    }

    pub fn image(&self) -> PathBuf {
        self.root.join("vmlinuz")
    }

    pub fn modules(&self) -> PathBuf {
        self.root.join("usr/lib/modules").join(&self.version)
    }
}

fn of_archive(cache: &Cache, archive: &Archive, meta_package: &str) -> Result<Unpacked> {
    let package = archive.first_dependency(meta_package)?;
    let root = archive.unpacked(cache, &[&package])?;
    Ok(Unpacked { root, package: archive.describe(&[&package])?.pop(), is_pruned: true })
}

fn of_file(cache: &Cache, file: &Path) -> Result<Unpacked> {
    let stanza = program("dpkg-deb").arg("--field").arg(file).text();
    let stanza = stanza.with_context(|| format!("--kernel {}: reading it as a Debian package", file.display()))?;
    let root = cache.stage("packages", Key::new().file("package", file)?, "unpacking the kernel", |folder| {
        program("dpkg-deb").arg("-x").arg(file).arg(folder).run()?;
        Ok(())
    })?;
    Ok(Unpacked { root, package: sbom::package(&stanza), is_pruned: false })
}

fn of_base(cache: &Cache, (tree, archive): (&Tree, &Path)) -> Result<Unpacked> {
    let key = Key::new().result("base", archive.parent().unwrap_or(archive));
    let root = cache.stage("packages", key, "taking the kernel from the base", |folder| {
        ["boot", MODULES[0]].iter().try_for_each(|below| tree.write_files(below, folder))
    })?;
    Ok(Unpacked { root, package: None, is_pruned: false })
}

/// The version of the only kernel below a folder, and where its modules are.
fn find(root: &Path) -> Result<(String, &'static str)> {
    let mut found = Vec::new();
    for modules in MODULES {
        for entry in fs::read_dir(root.join(modules)).into_iter().flatten() {
            let entry = entry.with_context(|| format!("reading {}", root.display()))?;
            let version = entry.file_name().to_string_lossy().into_owned();
            // What a kernel left behind that was removed has no index of modules.
            if entry.path().join("modules.builtin").is_file() {
                found.push((version, modules));
            }
        }
    }
    found.sort();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => bail!(
            "there is no kernel with modules (usr/lib/modules/VERSION); install one, such as Debian's linux-image-cloud-amd64, or \
             give --kernel cloud, --kernel generic or --kernel FILE"
        ),
        several => {
            let versions: Vec<&str> = several.iter().map(|(version, _)| version.as_str()).collect();
            bail!("there are several kernels: {}; remove all but one, or give --kernel", versions.join(", "))
        }
    }
}

fn first_file(root: &Path, names: &[String]) -> Result<PathBuf> {
    let found = names.iter().map(|name| root.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("the kernel has neither {}", names.join(" nor ")))
}

fn prune(modules: &Path) -> Result<()> {
    ensure!(modules.is_dir(), "the kernel package has no {}", modules.display());
    for folder in lists::lines(REMOVED).map(|line| modules.join(line)).filter(|folder| folder.exists()) {
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_has_one_kernel() {
        let folder = tempfile::tempdir().unwrap();
        let kernel = |version: &str| {
            let modules = folder.path().join("usr/lib/modules").join(version);
            fs::create_dir_all(&modules).unwrap();
            fs::write(modules.join("modules.builtin"), "").unwrap();
        };
        assert!(find(folder.path()).unwrap_err().to_string().contains("no kernel with modules"));
        fs::create_dir_all(folder.path().join("usr/lib/modules/5.10-removed")).unwrap();
        kernel("6.12.1");
        assert_eq!(find(folder.path()).unwrap(), ("6.12.1".to_owned(), "usr/lib/modules"));
        kernel("6.13.0");
        assert!(find(folder.path()).unwrap_err().to_string().contains("6.12.1, 6.13.0"));
    }

    #[test]
    fn a_kernel_without_its_image_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = first_file(folder.path(), &["boot/vmlinuz-1".to_owned(), "x/vmlinuz".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "the kernel has neither boot/vmlinuz-1 nor x/vmlinuz");
    }
}
