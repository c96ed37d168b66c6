//! Go programs in `tests/go/`, built once per content into the cache.

use anyhow::{Context, Result, bail};
use aws_lc_rs::digest::{self, SHA256};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// What to build, and what it is called.
pub struct GoProgram {
    /// Folder in `tests/go/`, and below the cache.
    pub name: &'static str,
    /// The package to build: `.`, a folder below that one as `./FOLDER`, or an import path.
    pub package: &'static str,
    pub linker_flags: &'static str,
    /// Names of the links to the program.
    pub links: &'static [&'static str],
    /// How long the build takes, for a person who waits for it.
    pub effort: &'static str,
}

impl GoProgram {
    /// The folder that holds a link for each name. Builds the program if sources, flags or the Go toolchain have
    /// changed. A second caller waits for the first.
    pub fn folder(&self) -> Result<PathBuf> {
        let sources = qemu::paths::workspace().join("tests/go").join(self.name);
        let parent = qemu::paths::cache()?.join(self.name);
        let folder = parent.join(self.content_hash(&sources)?);
        // A rename makes the folder appear, so it is complete.
        if folder.exists() {
            return Ok(folder);
        }
        fs::create_dir_all(&parent).with_context(|| format!("creating {}", parent.display()))?;
        let lock = File::create(parent.join("lock")).with_context(|| format!("creating the lock of {}", self.name))?;
        lock.lock().with_context(|| format!("waiting for another build of {}", self.name))?;
        if !folder.exists() {
            self.build(&sources, &parent, &folder)?;
        }
        Ok(folder)
    }

    fn content_hash(&self, sources: &Path) -> Result<String> {
        let version =
            Command::new("go").arg("version").output().context("running go version; install Go if it is missing")?;
        let mut hash = digest::Context::new(&SHA256);
        hash.update(&version.stdout);
        hash.update(self.linker_flags.as_bytes());
        hash.update(self.package.trim_start_matches('.').as_bytes());
        for path in self.source_files(sources)? {
            hash.update(&fs::read(&path).with_context(|| format!("reading {}", path.display()))?);
        }
        Ok(hex::encode(hash.finish()))
    }

    /// Builds in another folder and renames it, so that an interrupted build leaves no incomplete folder.
    fn build(&self, sources: &Path, parent: &Path, folder: &Path) -> Result<()> {
        eprintln!("building {} ({}; only when new)", sources.display(), self.effort);
        let started = Instant::now();
        let unfinished =
            tempfile::tempdir_in(parent).with_context(|| format!("creating a folder in {}", parent.display()))?;
        let status = Command::new("go")
            .args(["build", "-trimpath", "-ldflags", self.linker_flags, "-o"])
            .arg(unfinished.path().join("program"))
            .arg(self.package)
            .current_dir(sources)
            .env("CGO_ENABLED", "0")
            .status()
            .context("running go build")?;
        if !status.success() {
            bail!("building {}: go build ended with {status}", sources.display());
        }
        for name in self.links {
            symlink("program", unfinished.path().join(name)).with_context(|| format!("linking {name}"))?;
        }
        let unfinished = unfinished.keep();
        fs::rename(&unfinished, folder).with_context(|| format!("moving the build to {}", folder.display()))?;
        eprintln!("built in {} s: {}", started.elapsed().as_secs(), folder.display());
        Ok(())
    }

    /// The package's Go files, in the order of their names, and the two that pin the modules.
    fn source_files(&self, sources: &Path) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        // The sources of an import path are in the module cache, and go.sum pins them.
        let folder = sources.join(self.package.strip_prefix("./").unwrap_or_default());
        for entry in fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))? {
            let path = entry.with_context(|| format!("listing {}", folder.display()))?.path();
            if path.extension().is_some_and(|extension| extension == "go") {
                files.push(path);
            }
        }
        files.sort();
        files.extend(["go.mod", "go.sum"].map(|name| sources.join(name)));
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_of_the_package_counts() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("own")).unwrap();
        for name in ["main.go", "go.mod", "go.sum", "exchange.go", "README.md", "own/own.go"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let names = |package: &'static str| -> Vec<String> {
            let program = GoProgram { name: "", package, linker_flags: "", links: &[], effort: "" };
            let files = program.source_files(folder.path()).unwrap();
            files.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
        };
        assert_eq!(names("."), ["exchange.go", "main.go", "go.mod", "go.sum"]);
        assert_eq!(names("./own"), ["own.go", "go.mod", "go.sum"]);
    }
}
