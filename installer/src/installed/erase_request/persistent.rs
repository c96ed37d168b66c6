//! COS_PERSISTENT made anew in the recovery system, which needs nothing on it.

use super::EraseError;
use crate::installed::host_identity;
use boot_contract::partition_label;
use boot_contract::paths::{DEVICES, PERSISTENT};
use disk::rewrite;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use std::path::Path;

/// Makes the partition anew. It holds nothing but the identity that COS_OEM has a copy of.
pub fn make_anew(root: &Path) -> Result<(), EraseError> {
    unmount()?;
    let content = tempfile::tempdir().map_err(EraseError::TemporaryFolder)?;
    host_identity::lay_out(root, content.path())?;
    Ok(rewrite::make_persistent(&Path::new(DEVICES).join(partition_label::PERSISTENT), content.path())?)
}

fn unmount() -> Result<(), EraseError> {
    match umount2(PERSISTENT, MntFlags::empty()) {
        // There is no mount, or no folder.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(error) => Err(EraseError::Unmount(error)),
    }
}
