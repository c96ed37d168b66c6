//! The first content of the persistent partition. Each copy appears as a whole or not at all, even after a power cut.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use crate::Result;

/// The kind of an entry that is made where the image has nothing to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File,
}

/// Copies that are staged below `<store>/.seeding`. Those of an earlier, unfinished boot are removed.
pub struct Seeding<'a> {
    store: &'a Path,
    staged: Vec<(PathBuf, PathBuf)>,
}

impl<'a> Seeding<'a> {
    pub fn new(store: &'a Path) -> Self {
        Self { store, staged: Vec::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.staged.is_empty()
    }

    /// Copies `source`, or makes an empty entry with `mode` if there is no `source`, to become `<store>/<path>`.
    pub fn stage(&mut self, source: &Path, path: &Path, kind: Kind, mode: u32) -> Result<()> {
        let folder = self.store.join(".seeding");
        let in_folder = |e: io::Error| format!("preparing {}: {e}", folder.display());
        if self.staged.is_empty() {
            remove_leftover(&folder).map_err(in_folder)?;
            fs::create_dir(&folder).map_err(in_folder)?;
        }
        let staged = folder.join(self.staged.len().to_string());
        let result = match (source.symlink_metadata(), kind) {
            (Ok(_), _) => copy(source, &staged),
            (Err(_), Kind::Directory) => {
                fs::create_dir(&staged).and_then(|()| fs::set_permissions(&staged, Permissions::from_mode(mode)))
            }
            (Err(_), Kind::File) => new_file(&staged, mode).map(drop),
        };
        result.map_err(|e| format!("copying {} to {}: {e}", source.display(), staged.display()))?;
        self.staged.push((staged, self.store.join(path)));
        Ok(())
    }

    /// Puts the copies into place. All their bytes reach the disk before the names do.
    pub fn commit(self) -> Result<()> {
        if self.staged.is_empty() {
            return Ok(());
        }
        self.sync()?;
        for (staged, target) in &self.staged {
            let parent = target.parent().unwrap_or(self.store);
            fs::create_dir_all(parent)
                .and_then(|()| fs::rename(staged, target))
                .map_err(|e| format!("moving {} into place: {e}", target.display()))?;
        }
        fs::remove_dir(self.store.join(".seeding")).map_err(|e| format!("removing .seeding: {e}"))?;
        self.sync()
    }

    fn sync(&self) -> Result<()> {
        let store = File::open(self.store).map_err(|e| format!("opening {}: {e}", self.store.display()))?;
        rustix::fs::syncfs(store).map_err(|error| format!("writing {} to disk: {error}", self.store.display()))
    }
}

fn remove_leftover(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Copies a tree of folders, files and symbolic links with modes, owners and modification times.
fn copy(source: &Path, target: &Path) -> io::Result<()> {
    let metadata = source.symlink_metadata()?;
    let kind = metadata.file_type();
    if kind.is_symlink() {
        symlink(fs::read_link(source)?, target)?;
        return std::os::unix::fs::lchown(target, Some(metadata.uid()), Some(metadata.gid()));
    }
    if kind.is_dir() {
        fs::create_dir(target)?;
        for entry in fs::read_dir(source)? {
            let name = entry?.file_name();
            copy(&source.join(&name), &target.join(&name))?;
        }
    } else if kind.is_file() {
        io::copy(&mut File::open(source)?, &mut new_file(target, 0o600)?)?;
    } else {
        return Err(io::Error::other(format!("{} is neither a file, a folder nor a symbolic link", source.display())));
    }
    // The owner first: changing it clears set-user-id bits.
    std::os::unix::fs::chown(target, Some(metadata.uid()), Some(metadata.gid()))?;
    fs::set_permissions(target, metadata.permissions())?;
    set_modified(target, metadata.mtime())
}

fn new_file(path: &Path, mode: u32) -> io::Result<File> {
    let file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    Ok(file)
}

fn set_modified(path: &Path, seconds: i64) -> io::Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folders {
        _temporary: tempfile::TempDir,
        image: PathBuf,
        store: PathBuf,
    }

    fn folders() -> Folders {
        let temporary = tempfile::tempdir().unwrap();
        let (image, store) = (temporary.path().join("image"), temporary.path().join("store"));
        fs::create_dir_all(image.join("var/lib")).unwrap();
        fs::create_dir(&store).unwrap();
        fs::write(image.join("var/lib/status"), "ok").unwrap();
        fs::set_permissions(image.join("var/lib"), Permissions::from_mode(0o2750)).unwrap();
        symlink("/run", image.join("var/run")).unwrap();
        set_modified(&image.join("var/lib/status"), 1_000_000).unwrap();
        Folders { _temporary: temporary, image, store }
    }

    #[test]
    fn a_committed_copy_has_content_modes_links_and_times() {
        let Folders { image, store, .. } = &folders();
        let mut seeding = Seeding::new(store);
        seeding.stage(&image.join("var"), Path::new("var"), Kind::Directory, 0o755).unwrap();
        seeding.stage(&image.join("etc/rancher"), Path::new("etc/rancher"), Kind::Directory, 0o700).unwrap();
        seeding.stage(&image.join("etc/machine-id"), Path::new("etc/machine-id"), Kind::File, 0o444).unwrap();
        seeding.commit().unwrap();
        let mode = |path: &str| store.join(path).metadata().unwrap().mode() & 0o7777;
        assert_eq!(fs::read_to_string(store.join("var/lib/status")).unwrap(), "ok");
        assert_eq!(store.join("var/lib/status").metadata().unwrap().mtime(), 1_000_000);
        assert_eq!((mode("var/lib"), mode("etc/rancher"), mode("etc/machine-id")), (0o2750, 0o700, 0o444));
        assert_eq!(fs::read_link(store.join("var/run")).unwrap(), Path::new("/run"));
        assert!(!store.join(".seeding").exists());
    }

    #[test]
    fn an_uncommitted_copy_is_absent_and_can_be_staged_again() {
        let Folders { image, store, .. } = &folders();
        let mut cut = Seeding::new(store);
        cut.stage(&image.join("var"), Path::new("var"), Kind::Directory, 0o755).unwrap();
        drop(cut);
        assert!(!store.join("var").exists());
        let mut again = Seeding::new(store);
        again.stage(&image.join("var"), Path::new("var"), Kind::Directory, 0o755).unwrap();
        again.commit().unwrap();
        assert!(store.join("var/lib/status").exists());
    }
}
