//! Brings the recovery system to the release of the running slot.
//!
//! ```text
//! running slot good, started next ─► recovery has no arguments ─► root image ─► kernel, initrd ─► arguments, manifest
//! ```
//!
//! Until the last step GRUB finds no arguments for recovery and starts a slot instead of it. The running slot, which is
//! good, is started first all the time.

use super::error::UpgradeError;
use super::plan::{ReleaseName, Slots};
use super::slot_folder;
use crate::boot::partition;
use crate::installed::{recovery, slot_copy};
use boot_contract::Slot;
use boot_contract::paths::DEVICES;
use disk::execute::Written;
use disk::rewrite;
use machine::installed;
use protocol::message::Progress;
use release::{ReleaseManifest, manifest_digest, read_manifest};
use std::path::Path;

/// The release of the running slot, and whether the recovery system holds it already, undamaged.
pub struct RecoveryPlan {
    pub release: ReleaseName,
    pub is_held: bool,
    running: Slot,
    manifest: ReleaseManifest,
}

/// Compares the recovery system with the running slot, byte by byte. Nothing is written.
pub fn plan_recovery(slots: &Slots) -> Result<RecoveryPlan, UpgradeError> {
    let running = slots.for_recovery()?;
    let (manifest, bytes, held) = partition::with_mounted(true, |boot| {
        let (manifest, bytes) = read_manifest(&boot.join(running.letter()))?;
        slot_folder::check_room(boot, Slot::Recovery, &manifest)?;
        let held = read_manifest(&boot.join(Slot::Recovery.letter())).ok();
        Ok::<_, UpgradeError>((manifest, bytes, held))
    })?;
    let is_held = held.is_some_and(|(_, held)| held == bytes) && recovery::check(Slot::Recovery).is_ok();
    let release = ReleaseName { version: manifest.version.clone(), digest: manifest_digest(&bytes) };
    Ok(RecoveryPlan { release, is_held, running, manifest })
}

/// Writes the recovery system and reads it back.
pub fn write_recovery(plan: &RecoveryPlan, progress: &mut dyn FnMut(&Progress)) -> Result<Written, UpgradeError> {
    let device = |slot: Slot| Path::new(DEVICES).join(slot.partition_label());
    let (from, to) = (device(plan.running), device(Slot::Recovery));
    let guid = installed::partition_guid_of(&to)?;
    partition::with_mounted(false, |boot| slot_copy::begin(boot, Slot::Recovery))?;
    let written = rewrite::copy_root(&plan.manifest.root, &from, &to, progress).map_err(UpgradeError::Recovery)?;
    partition::with_mounted(false, |boot| slot_copy::copy(boot, plan.running, Slot::Recovery, guid))?;
    recovery::check(Slot::Recovery)?;
    Ok(written)
}
