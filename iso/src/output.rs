//! Output files that are complete, or as they were before.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use tempfile::NamedTempFile;

/// Makes the file at `path` by `write`, under another name until it is complete. Everybody may read it.
pub fn replace(path: &Path, write: impl FnOnce(&File) -> Result<()>) -> Result<()> {
    let what = || format!("writing {}", path.display());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let unfinished = NamedTempFile::new_in(folder).with_context(what)?;
    write(unfinished.as_file()).with_context(what)?;
    // A temporary file is for its owner alone.
    unfinished.as_file().set_permissions(Permissions::from_mode(0o644)).with_context(what)?;
    unfinished.as_file().sync_all().with_context(what)?;
    unfinished.persist(path).with_context(what)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_that_cannot_be_completed_is_as_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let fails = |mut file: &File| {
            file.write_all(b"half")?;
            anyhow::bail!("no space left")
        };
        assert!(format!("{:#}", replace(&path, fails).unwrap_err()).contains("no space left"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        replace(&path, |mut file| Ok(file.write_all(b"whole")?)).unwrap();
        assert!(replace(&path, fails).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    }
}
