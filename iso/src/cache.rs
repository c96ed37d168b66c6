//! A cache of build stages. Each result is stored under the digest of its inputs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::progress;
use release::digest;

/// A folder `<root>/<stage>/<key>/` per result. A result is made under another name and renamed when complete, so that
/// an interrupted build leaves no incomplete result.
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// `root`, or `~/.cache/rancheros`.
    pub fn open(root: Option<&Path>) -> Result<Self> {
        let root = match root {
            Some(root) => root.to_owned(),
            None => {
                let home = std::env::var_os("HOME").context("finding the cache: HOME is not set; give --cache")?;
                Path::new(&home).join(".cache/rancheros")
            }
        };
        fs::create_dir_all(&root).with_context(|| format!("creating the cache {}", root.display()))?;
        let root = root.canonicalize().with_context(|| format!("resolving {}", root.display()))?;
        Ok(Self { root })
    }

    /// A folder that is not addressed by content, for programs that keep their own state.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.root.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        Ok(folder)
    }

    /// The folder of `stage`'s result for `key`; `make` fills it if it is not there. `what` describes the stage in
    /// progress messages.
    pub fn stage(&self, stage: &str, key: Key, what: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let parent = self.folder(stage)?;
        let result = parent.join(key.finish());
        if result.exists() {
            return Ok(result);
        }
        progress::stage(what, || {
            let unfinished = tempfile::Builder::new()
                .prefix(".unfinished-")
                .tempdir_in(&parent)
                .with_context(|| format!("creating a folder in {}", parent.display()))?;
            make(unfinished.path())?;
            match fs::rename(unfinished.path(), &result) {
                // The folder has been renamed, so the temporary folder must not be removed.
                Ok(()) => drop(unfinished.keep()),
                // Another build has stored the same result.
                Err(_) if result.exists() => {}
                Err(e) => return Err(e).with_context(|| format!("storing {}", result.display())),
            }
            Ok(result)
        })
    }
}

/// The inputs of a stage, each with its name. Their order matters.
#[derive(Clone, Default)]
pub struct Key(Vec<u8>);

impl Key {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn text(mut self, name: &str, value: impl AsRef<str>) -> Self {
        for part in [name, value.as_ref()] {
            self.0.extend((part.len() as u64).to_le_bytes());
            self.0.extend(part.as_bytes());
        }
        self
    }

    pub fn file(self, name: &str, path: &Path) -> Result<Self> {
        let (digest, _) = digest::of_file(path).with_context(|| format!("reading {}", path.display()))?;
        Ok(self.text(name, digest))
    }

    /// Adds the result of an earlier stage. The name of its folder is its key.
    pub fn result(self, name: &str, folder: &Path) -> Self {
        let key = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.text(name, key)
    }

    /// Adds the digest of this program, for quick stages whose steps are our own code.
    pub fn this_program(self) -> Result<Self> {
        let program = std::env::current_exe().context("finding the path of this program")?;
        self.file("program", &program)
    }

    fn finish(self) -> String {
        digest::of_bytes(&self.0)[..40].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_runs_once_per_key_and_leaves_nothing_behind_when_it_fails() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(folder.path())).unwrap();
        let key = || Key::new().text("a", "1");
        cache.stage("s", key(), "failing", |_| anyhow::bail!("no")).unwrap_err();
        assert_eq!(fs::read_dir(folder.path().join("s")).unwrap().count(), 0);
        let make = |folder: &Path| Ok(fs::write(folder.join("x"), "1")?);
        let first = cache.stage("s", key(), "making", make).unwrap();
        let second = cache.stage("s", key(), "making", |_| panic!("made twice")).unwrap();
        assert_eq!(first, second);
        assert_eq!(fs::read_to_string(second.join("x")).unwrap(), "1");
    }

    #[test]
    fn names_and_values_do_not_run_together() {
        assert_ne!(Key::new().text("ab", "c").finish(), Key::new().text("a", "bc").finish());
    }
}
