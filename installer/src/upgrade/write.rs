//! Checks a release, and writes it to a slot that does not run.

use super::attempt::{Attempt, Record};
use super::error::UpgradeError;
use super::plan::{Decision, ReleaseName, Slots};
use super::{loader, menu, slot_folder};
use crate::boot::{partition, state_file};
use crate::console;
use crate::free_space::{PERSISTENT_ROOM, free_bytes};
use crate::installed::boot_progress;
use crate::path_error::PathError;
use boot_contract::Slot;
use boot_contract::paths::{DEVICES, PERSISTENT};
use boot_contract::slot_files::ARGUMENTS;
use disk::args_cfg;
use disk::execute::Written;
use disk::rewrite;
use disk::target::{Disk, Target};
use machine::installed;
use protocol::message::Progress;
use protocol::{RequestText, error_chain};
use release::signature::Trust;
use release::{ReleaseManifest, ReleaseSource, digest, read_manifest};
use std::env::consts::ARCH;
use std::path::{Path, PathBuf};

/// Checks that the release is for this machine and that every file has its digest. Nothing is written before.
pub(super) fn check_release(release: &ReleaseSource, folder: &Path) -> Result<(), UpgradeError> {
    let manifest = release.manifest();
    if manifest.architecture != ARCH {
        let machine = ARCH.to_owned();
        return Err(UpgradeError::WrongArchitecture { release: manifest.architecture.clone(), machine });
    }
    let root = &manifest.root;
    let (actual, _) = digest::of_file(&folder.join(&root.name)).map_err(UpgradeError::RootImage)?;
    if actual != root.sha256 {
        let (name, expected) = (root.name.clone(), root.sha256.clone());
        return Err(UpgradeError::RootImageDigest { name, actual, expected });
    }
    Ok(())
}

/// A release would not come up on a full partition, through no fault of its own.
fn check_persistent(free: u64) -> Result<(), UpgradeError> {
    if free < PERSISTENT_ROOM { Err(UpgradeError::PersistentFull { free }) } else { Ok(()) }
}

/// Writes the release in `folder` to `slot` and makes it the one that is started next, on trial. `slot` does not run.
/// `retry`: the text that asks for this attempt.
pub(super) fn write(
    slots: &Slots,
    slot: Slot,
    release: &ReleaseSource,
    folder: &Path,
    trust: &Trust,
    retry: Option<RequestText>,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Written, UpgradeError> {
    let root = Path::new("/");
    let manifest = release.manifest();
    let device = device(slot);
    check_size(slot, manifest.root.size, available_bytes(&device)?)?;
    partition::with_mounted(true, |boot| slot_folder::check_room(boot, slot, manifest))?;
    check_persistent(
        free_bytes(Path::new(PERSISTENT)).map_err(PathError::of("reading the free space of", PERSISTENT))?,
    )?;
    let guid = installed::partition_guid_of(&device)?;
    let added = added_arguments(slots.running)?;
    state_file::change(|state| state.give_up(slot, slots.running))?;
    boot_progress::remove(Path::new(PERSISTENT), slot).map_err(UpgradeError::Progress)?;
    let written = rewrite::copy_root(&manifest.root, &folder.join(&manifest.root.name), &device, progress)
        .map_err(UpgradeError::Slot)?;
    let arguments = args_cfg::of_slot(slot, guid, manifest, &added);
    partition::with_mounted(false, |boot| slot_folder::write(boot, slot, release, &arguments))?;
    let menu = partition::with_mounted(false, |boot| menu::write(boot, &slots.state, release))?;
    partition::with_mounted(true, |boot| {
        slot_folder::check(boot, slot, release)?;
        menu::check(boot, menu, release)
    })?;
    let name =
        ReleaseName { version: manifest.version.clone(), digest: release::manifest_digest(release.manifest_bytes()) };
    // Only who signs releases may rule out older ones.
    let minimum_version = manifest.minimum_version.clone().filter(|_| matches!(trust, Trust::Signed { .. }));
    let attempt = Attempt::new(slot, &name, minimum_version, retry);
    Record { attempt: Some(attempt), ..Record::read(root)? }.write(root)?;
    state_file::change(|state| {
        state.take_new(slot);
        state.menu = menu;
    })?;
    // The boot code of before starts the release as well.
    match loader::try_once(root, release) {
        Ok(true) => console::note("the firmware starts the boot code of the release next, on trial"),
        Ok(false) => {}
        Err(error) => console::note(format!("the boot code stays as it is: {}", error_chain(&error))),
    }
    Ok(written)
}

fn check_size(slot: Slot, image: u64, available: u64) -> Result<(), UpgradeError> {
    if image > available {
        return Err(UpgradeError::SlotTooSmall { slot, image, available });
    }
    Ok(())
}

/// Carries out a decision that writes no slot: the slot that is started next.
pub fn choose(slots: &Slots, decision: Decision) -> Result<(), UpgradeError> {
    let next = match decision {
        Decision::StartRunning => slots.running,
        Decision::Start(slot) => slot,
        Decision::Runs | Decision::WaitsForRestart(_) | Decision::Write(_) => return Ok(()),
    };
    state_file::change(|state| {
        state.choose(next);
    })
    .map_err(UpgradeError::from)
}

fn device(slot: Slot) -> PathBuf {
    Path::new(DEVICES).join(slot.partition_label())
}

fn available_bytes(device: &Path) -> Result<u64, UpgradeError> {
    let opened = Disk::open(device).map_err(|error| UpgradeError::Device(device.to_owned(), error))?;
    Ok(opened.length())
}

/// The kernel arguments that were added to the running slot. They hold for the next release as well.
fn added_arguments(running: Slot) -> Result<String, UpgradeError> {
    partition::with_mounted(true, |boot| {
        let folder = boot.join(running.letter());
        let text = std::fs::read_to_string(folder.join(ARGUMENTS)).unwrap_or_default();
        let manifest: Option<ReleaseManifest> = read_manifest(&folder).ok().map(|(manifest, _)| manifest);
        let arguments = args_cfg::read(&text).zip(manifest);
        Ok(arguments.map(|(arguments, manifest)| args_cfg::added(arguments, &manifest)).unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::fixtures::tiny_release;
    use std::fs;

    #[test]
    fn a_release_that_this_machine_cannot_run_is_refused_before_anything_is_written() {
        let folder = tiny_release(&[5; 8192]);
        let path = folder.path().join("release.json");
        check_release(&ReleaseSource::open(folder.path()).unwrap(), folder.path()).unwrap();
        fs::write(folder.path().join("root.erofs"), [6; 8192]).unwrap();
        let error = check_release(&ReleaseSource::open(folder.path()).unwrap(), folder.path()).unwrap_err();
        assert_eq!(error.reason(), "ReleaseUnusable");
        let text = fs::read_to_string(&path).unwrap().replace("x86_64", "aarch64");
        fs::write(&path, text).unwrap();
        let error = check_release(&ReleaseSource::open(folder.path()).unwrap(), folder.path()).unwrap_err();
        assert!(error.reason() == "WrongArchitecture" && error.to_string().contains("aarch64"), "{error}");
        let error = check_size(Slot::B, 300 << 20, 256 << 20).unwrap_err();
        assert!(error.reason() == "SlotTooSmall" && error.to_string().contains("256.0 MiB"), "{error}");
        check_size(Slot::B, 256 << 20, 256 << 20).unwrap();
        assert!(error.is_about_the_release());
    }

    #[test]
    fn a_full_partition_for_data_is_named_before_a_release_is_tried_on_it() {
        check_persistent(PERSISTENT_ROOM).unwrap();
        let error = check_persistent(512 << 10).unwrap_err();
        assert!(error.reason() == "PersistentFull" && error.to_string().contains("512.0 KiB free"), "{error}");
        assert!(!error.is_about_the_release());
    }
}
