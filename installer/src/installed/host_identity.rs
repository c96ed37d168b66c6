//! The host identity of an installed system: machine-id and SSH host keys. They are on COS_PERSISTENT, and a copy on
//! COS_OEM outlives it. In the recovery system `ros-init` binds the copy to their paths.

use crate::installed::files::write;
use crate::path_error::PathError;
use boot_contract::paths::{MACHINE_ID, OEM_IDENTITY, SSH_HOST_KEYS, below};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Why the identity was not copied.
#[derive(Debug, thiserror::Error)]
pub enum HostIdentityError {
    #[error("copying machine-id and host keys to {OEM_IDENTITY}")]
    Keep(#[source] PathError),
    #[error("preparing machine-id and host keys")]
    LayOut(#[source] PathError),
}

/// Copies the identity from COS_PERSISTENT, mounted at `persistent`, to COS_OEM. An incomplete identity is not copied;
/// the earlier copy stays.
pub fn keep(root: &Path, persistent: &Path) -> Result<(), HostIdentityError> {
    copy(persistent, &below(root, OEM_IDENTITY)).map_err(HostIdentityError::Keep)
}

/// Writes the copy into `folder`, which becomes the root folder of a new file system.
pub fn lay_out(root: &Path, folder: &Path) -> Result<(), HostIdentityError> {
    copy(&below(root, OEM_IDENTITY), folder).map_err(HostIdentityError::LayOut)?;
    // `ros-init` binds only the content of these folders. /etc itself comes from the image.
    for folder in [folder.join("etc"), folder.join("etc/ssh")].iter().filter(|folder| folder.exists()) {
        fs::set_permissions(folder, Permissions::from_mode(0o755))
            .map_err(PathError::of("setting the mode of", folder))
            .map_err(HostIdentityError::LayOut)?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<(), PathError> {
    let machine_id = below(from, MACHINE_ID);
    // The first start creates the machine-id. Before that there is nothing to keep.
    let Some(id) = File::read(&machine_id)?.filter(|id| !id.bytes.is_empty()) else { return Ok(()) };
    let keys = if below(from, SSH_HOST_KEYS).exists() { files(&below(from, SSH_HOST_KEYS))? } else { Vec::new() };
    for key in &keys {
        let copy = below(to, SSH_HOST_KEYS).join(key.file_name().unwrap_or_default());
        File::read(key)?.map_or(Ok(()), |key| key.write(&copy))?;
    }
    // The machine-id is written last: `ros-init` treats a copy without it as incomplete.
    id.write(&below(to, MACHINE_ID))
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, PathError> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let paths = entries.map_err(PathError::of("reading", folder))?.into_iter().map(|entry| entry.path());
    Ok(paths.filter(|path| path.is_file()).collect())
}

/// A file with its mode. systemd-networkd, which reads the machine-id in recovery, is not root.
#[derive(PartialEq, Eq)]
struct File {
    bytes: Vec<u8>,
    /// Permission bits.
    mode: u32,
}

impl File {
    fn read(path: &Path) -> Result<Option<Self>, PathError> {
        let mode = fs::metadata(path).map(|metadata| metadata.permissions().mode() & 0o777);
        match mode.and_then(|mode| Ok(Self { bytes: fs::read(path)?, mode })) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            result => result.map(Some).map_err(PathError::of("reading", path)),
        }
    }

    /// Writes only a change, because this runs at every start.
    fn write(&self, path: &Path) -> Result<(), PathError> {
        if Self::read(path)?.as_ref() == Some(self) {
            return Ok(());
        }
        write(path, &self.bytes, self.mode).map_err(PathError::of("writing", path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn persistent(id: &str, keys: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        write(&below(folder.path(), MACHINE_ID), id.as_bytes(), 0o444).unwrap();
        for (name, key) in keys {
            let mode = if name.ends_with(".pub") { 0o644 } else { 0o600 };
            write(&below(folder.path(), SSH_HOST_KEYS).join(name), key.as_bytes(), mode).unwrap();
        }
        folder
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_identity_comes_back_with_its_modes() {
        let (root, made) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let persistent =
            persistent("4f3a\n", &[("ssh_host_ed25519_key", "private"), ("ssh_host_ed25519_key.pub", "p")]);
        keep(root.path(), persistent.path()).unwrap();
        let kept = root.path().join("oem/identity");
        let modes = [
            mode(&kept),
            mode(&below(&kept, SSH_HOST_KEYS).join("ssh_host_ed25519_key")),
            mode(&below(&kept, MACHINE_ID)),
        ];
        assert_eq!(modes, [0o700, 0o600, 0o444], "recovery's network reads the machine-id and is not root");
        lay_out(root.path(), made.path()).unwrap();
        let made = |name: &str| below(made.path(), name);
        assert_eq!(fs::read_to_string(made(MACHINE_ID)).unwrap(), "4f3a\n");
        let key = made("etc/ssh/host-keys/ssh_host_ed25519_key");
        assert_eq!(fs::read_to_string(&key).unwrap(), "private");
        assert_eq!([mode(&made(MACHINE_ID)), mode(&key), mode(&key.with_extension("pub"))], [0o444, 0o600, 0o644]);
        assert_eq!([mode(&made("etc")), mode(&made(SSH_HOST_KEYS))], [0o755, 0o700]);
    }

    #[test]
    fn an_identity_that_is_gone_does_not_replace_the_copy() {
        let root = tempfile::tempdir().unwrap();
        keep(root.path(), persistent("4f3a\n", &[]).path()).unwrap();
        keep(root.path(), persistent("", &[]).path()).unwrap();
        keep(root.path(), Path::new("/nonexistent")).unwrap();
        assert_eq!(fs::read_to_string(root.path().join("oem/identity/etc/machine-id")).unwrap(), "4f3a\n");
    }

    #[test]
    fn without_a_copy_nothing_is_laid_out() {
        let (root, made) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        lay_out(root.path(), made.path()).unwrap();
        assert_eq!(fs::read_dir(made.path()).unwrap().count(), 0);
    }
}
