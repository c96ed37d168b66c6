//! A folder for one test.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A folder for one test. When it is dropped, its logs, screenshots and texts (`*.log`, `*.png`, `*.txt`) are copied to
/// `out/test/NAME/`, whatever the outcome.
pub struct Scratch {
    folder: tempfile::TempDir,
    name: String,
}

const KEPT: [&str; 3] = ["log", "png", "txt"];

impl Scratch {
    /// `name` is the test's; two running tests must not share one.
    pub fn new(name: &str) -> Result<Self> {
        // Disks of virtual machines grow to some hundred MB, and /tmp may be memory. A short path matters as well:
        // the address of a unix socket has at most 107 bytes.
        let parent = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let folder = tempfile::Builder::new()
            .prefix("ros-")
            .tempdir_in(&parent)
            .with_context(|| format!("creating a folder in {}", parent.display()))?;
        Ok(Self { folder, name: name.to_owned() })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A subfolder. It is created when it is missing.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.path().join(name);
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(path)
    }

    fn keep_logs(&self) -> Result<()> {
        let kept = crate::paths::output().join("test").join(&self.name);
        if kept.exists() {
            fs::remove_dir_all(&kept).with_context(|| format!("removing the last run's {}", kept.display()))?;
        }
        fs::create_dir_all(&kept).with_context(|| format!("creating {}", kept.display()))?;
        copy_logs(self.folder.path(), "", &kept)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = self.keep_logs() {
            eprintln!("keeping the logs of {}: {error:#}", self.name);
        }
    }
}

/// `a/b.log` becomes `a-b.log`.
fn copy_logs(from: &Path, prefix: &str, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("listing {}", from.display()))? {
        let path = entry.with_context(|| format!("listing {}", from.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            copy_logs(&path, &format!("{prefix}{name}-"), to)?;
        } else if path.extension().is_some_and(|extension| KEPT.iter().any(|kept| extension == *kept)) {
            fs::copy(&path, to.join(format!("{prefix}{name}")))
                .with_context(|| format!("copying {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_outlive_the_folder() {
        let scratch = Scratch::new("qemu-scratch").unwrap();
        let inside = scratch.folder("machine").unwrap();
        fs::write(inside.join("serial.log"), "hello").unwrap();
        fs::write(inside.join("disk.img"), "large").unwrap();
        drop(scratch);
        assert!(!inside.exists());
        let kept = crate::paths::output().join("test/qemu-scratch");
        assert_eq!(fs::read_to_string(kept.join("machine-serial.log")).unwrap(), "hello");
        assert_eq!(fs::read_dir(kept).unwrap().count(), 1);
    }
}
