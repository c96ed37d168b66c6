//! The boot partition (COS_BOOT) of the disk that this system runs from. It is mounted only while it is used.

use anyhow::{Context, Result};
use boot_contract::partition_label;
use boot_contract::paths::DEVICES;
use disk::grubenv::{self, GrubEnv, SlotBoot, SlotState};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use protocol::message::Slot;
use std::fs::{self, File};
use std::io;
use std::path::Path;

const MOUNT_POINT: &str = "/run/ros/boot";
/// The lock is held while the partition is mounted: a second mount could not have other flags.
const LOCK: &str = "/run/ros/boot.lock";

/// Reads the boot state.
pub fn state() -> Result<GrubEnv> {
    with_mounted(true, state_in)
}

/// Changes the boot state on the disk. A state that cannot be read is first replaced by one made from the installed
/// slots.
pub fn change_state(change: impl FnOnce(&mut GrubEnv)) -> Result<()> {
    with_mounted(false, |boot| change_state_in(boot, change))
}

fn state_in(boot: &Path) -> Result<GrubEnv> {
    Ok(read(boot)?.unwrap_or_else(|| state_from_folders(boot)))
}

/// The boot state below the mounted partition `boot`. `None` if the file is missing or damaged.
pub fn read(boot: &Path) -> Result<Option<GrubEnv>> {
    let path = boot.join(grubenv::PATH);
    match GrubEnv::read(&path) {
        Err(error) if is_damage(&error) => {
            tracing::warn!("{}: {error}", path.display());
            Ok(None)
        }
        state => state.map(Some).with_context(|| format!("reading {}", path.display())),
    }
}

fn change_state_in(boot: &Path, change: impl FnOnce(&mut GrubEnv)) -> Result<()> {
    let path = boot.join(grubenv::PATH);
    let before = read(boot)?;
    let mut after = before.clone().unwrap_or_else(|| state_from_folders(boot));
    change(&mut after);
    if before.as_ref() == Some(&after) {
        return Ok(());
    }
    let has_length = fs::metadata(&path).is_ok_and(|file| file.len() == grubenv::LENGTH as u64);
    let written = if has_length { after.overwrite(&path) } else { create(&path, &after) };
    written.with_context(|| format!("writing {}", path.display()))
}

/// Whether the bytes are wrong or missing, as opposed to a disk that cannot be read.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::NotFound)
}

/// Makes a state in which each slot with a manifest is on trial. Slot A is preferred to B.
fn state_from_folders(boot: &Path) -> GrubEnv {
    let slot = |slot| {
        let holds_a_system = boot.join(grubenv::folder(slot)).join("release.json").exists();
        SlotBoot::new(if holds_a_system { SlotState::Trial } else { SlotState::Empty })
    };
    let (a, b) = (slot(Slot::A), slot(Slot::B));
    let active = if a.may_start() || !b.may_start() { Slot::A } else { Slot::B };
    GrubEnv { a, b, active, preferred: active, ..GrubEnv::INSTALLED }
}

/// Creates the file. Used only if there is no file of the right length to overwrite.
fn create(path: &Path, state: &GrubEnv) -> io::Result<()> {
    fs::write(path, state.to_bytes())?;
    File::open(path)?.sync_all()?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Mounts the partition, calls `action` with its folder, and unmounts it. Changes are safely on the disk only if
/// `action` calls fsync, because unmounting FAT does not flush them.
pub fn with_mounted<T>(read_only: bool, action: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    with_mounted_device(&Path::new(DEVICES).join(partition_label::BOOT), read_only, action)
}

/// The same for the boot partition of any disk.
pub fn with_mounted_device<T>(device: &Path, read_only: bool, action: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let lock = File::create(LOCK).with_context(|| format!("creating {LOCK}"))?;
    lock.lock().with_context(|| format!("locking {LOCK}"))?;
    fs::create_dir_all(MOUNT_POINT).with_context(|| format!("creating {MOUNT_POINT}"))?;
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    flags.set(MsFlags::MS_RDONLY, read_only);
    mount(Some(device), MOUNT_POINT, Some("vfat"), flags, Some("umask=0077"))
        .with_context(|| format!("mounting {}", device.display()))?;
    let mounted = Mounted;
    let result = action(Path::new(MOUNT_POINT));
    drop(mounted);
    result
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

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(slots: &[&str]) -> tempfile::TempDir {
        let boot = tempfile::tempdir().unwrap();
        fs::create_dir(boot.path().join("grub")).unwrap();
        for slot in slots {
            fs::create_dir(boot.path().join(slot)).unwrap();
            fs::write(boot.path().join(slot).join("release.json"), "{}").unwrap();
        }
        boot
    }

    #[test]
    fn a_slot_is_marked_where_the_state_is() {
        let boot = boot(&["A", "R"]);
        let path = boot.path().join(grubenv::PATH);
        let mut started = GrubEnv::INSTALLED;
        started.start();
        fs::write(&path, started.to_bytes()).unwrap();
        change_state_in(boot.path(), |env| env.mark_good(Slot::A)).unwrap();
        let marked = GrubEnv { a: SlotBoot::new(SlotState::Good), ..GrubEnv::INSTALLED };
        assert_eq!(state_in(boot.path()).unwrap(), marked);
    }

    #[test]
    fn a_state_that_cannot_be_read_is_made_anew_from_what_is_there() {
        for damage in [Some(vec![0; grubenv::LENGTH]), Some(b"short".to_vec()), None] {
            let boot = boot(&["B", "R"]);
            if let Some(damage) = &damage {
                fs::write(boot.path().join(grubenv::PATH), damage).unwrap();
            }
            let trial = SlotBoot::new(SlotState::Trial);
            let expected = GrubEnv {
                a: SlotBoot::new(SlotState::Empty),
                b: trial,
                active: Slot::B,
                preferred: Slot::B,
                ..GrubEnv::INSTALLED
            };
            assert_eq!(state_in(boot.path()).unwrap(), expected);
            change_state_in(boot.path(), |_| ()).unwrap();
            assert_eq!(GrubEnv::read(&boot.path().join(grubenv::PATH)).unwrap(), expected, "{damage:?}");
        }
    }
}
