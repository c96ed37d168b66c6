//! Writes files of an installed system below a root folder.

use std::fs::{self, DirBuilder, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

/// The first file from which rancherd reads its configuration.
pub const RANCHERD_CONFIG: &str = "/etc/rancher/rancherd/config.yaml";

/// Replaces the file atomically. Only root can read it.
pub fn write_secret(path: &Path, content: &[u8]) -> std::io::Result<()> {
    write(path, content, 0o600)
}

/// Replaces a file atomically. `mode` holds its permission bits.
pub fn write(path: &Path, content: &[u8], mode: u32) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut file =
        tempfile::Builder::new().prefix(".ros-").permissions(Permissions::from_mode(mode)).tempfile_in(folder)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    fs::File::open(folder)?.sync_all()
}
