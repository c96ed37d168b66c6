//! The boot partition of the disk this system runs from: mounted for as long as it is looked at, and for no longer.

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs::{self, File};
use std::path::Path;

/// Made by `ros-init`, for each partition of the disk that holds the root.
const DEVICE: &str = "/run/ros/dev/COS_BOOT";
const MOUNT_POINT: &str = "/run/ros/boot";
/// Only one program at a time looks at the partition: a second mount could not be of another kind.
const LOCK: &str = "/run/ros/boot.lock";

/// Calls `action` with the folder at which the partition is mounted, and unmounts it afterwards. Changes are on the disk
/// only if `action` calls fsync: FAT writes nothing through when it is unmounted.
pub fn with_mounted<T>(read_only: bool, action: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let lock = File::create(LOCK).with_context(|| format!("creating {LOCK}"))?;
    lock.lock().with_context(|| format!("locking {LOCK}"))?;
    fs::create_dir_all(MOUNT_POINT).with_context(|| format!("creating {MOUNT_POINT}"))?;
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    flags.set(MsFlags::MS_RDONLY, read_only);
    mount(Some(DEVICE), MOUNT_POINT, Some("vfat"), flags, Some("umask=0077"))
        .with_context(|| format!("mounting {DEVICE}"))?;
    let mounted = Mounted;
    let result = action(Path::new(MOUNT_POINT));
    drop(mounted);
    result
}

/// Unmounts also when the action panics.
struct Mounted;

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = umount2(MOUNT_POINT, MntFlags::MNT_DETACH) {
            tracing::warn!("unmounting {MOUNT_POINT}: {error}");
        }
    }
}
