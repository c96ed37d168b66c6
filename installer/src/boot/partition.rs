//! The boot partition (COS_BOOT) of the disk that this system runs from. It is mounted only while it is used.

use crate::path_error::PathError;
use boot_contract::partition_label;
use boot_contract::paths::DEVICES;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs::{self, File};
use std::path::Path;

const MOUNT_POINT: &str = "/run/ros/boot";
/// The lock is held while the partition is mounted: a second mount could not have other flags.
const LOCK: &str = "/run/ros/boot.lock";

/// Mounts the partition, calls `action` with its folder, and unmounts it. Changes are safely on the disk only if
/// `action` calls fsync, because unmounting FAT does not flush them.
pub fn with_mounted<T, E: From<PathError>>(
    read_only: bool,
    action: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<T, E> {
    with_mounted_device(&Path::new(DEVICES).join(partition_label::BOOT), read_only, action)
}

/// The same for the boot partition of any disk.
pub fn with_mounted_device<T, E: From<PathError>>(
    device: &Path,
    read_only: bool,
    action: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<T, E> {
    let lock = File::create(LOCK).map_err(PathError::of("creating", LOCK))?;
    lock.lock().map_err(PathError::of("locking", LOCK))?;
    fs::create_dir_all(MOUNT_POINT).map_err(PathError::of("creating", MOUNT_POINT))?;
    // With the lock held, nobody uses a mount that is there: it was left by a process that was killed, or was copied into
    // the mount namespace of a container while somebody on the host had it.
    while umount2(MOUNT_POINT, MntFlags::MNT_DETACH).is_ok() {}
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    flags.set(MsFlags::MS_RDONLY, read_only);
    mount_beside_copies(device, flags).map_err(PathError::of("mounting", device))?;
    let mounted = Mounted;
    let result = action(Path::new(MOUNT_POINT));
    drop(mounted);
    result
}

/// A container that was started while the partition was mounted holds a copy of that mount until it ends. The kernel refuses
/// another mount if only one of the two is read-only. Then this one is made as the copy is, and made writable if it must be.
fn mount_beside_copies(device: &Path, flags: MsFlags) -> nix::Result<()> {
    let mount_with = |flags| mount(Some(device), MOUNT_POINT, Some("vfat"), flags, Some("umask=0077"));
    match mount_with(flags) {
        Err(Errno::EBUSY) => {}
        result => return result,
    }
    mount_with(flags ^ MsFlags::MS_RDONLY)?;
    if flags.contains(MsFlags::MS_RDONLY) {
        return Ok(());
    }
    let writable = mount(None::<&str>, MOUNT_POINT, None::<&str>, flags | MsFlags::MS_REMOUNT, Some("umask=0077"));
    if writable.is_err() {
        drop(Mounted);
    }
    writable
}

/// Unmounts when dropped, so also if the action panics.
struct Mounted;

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = umount2(MOUNT_POINT, MntFlags::MNT_DETACH) {
            tracing::warn!("unmounting {MOUNT_POINT}: {error}");
        }
    }
}
