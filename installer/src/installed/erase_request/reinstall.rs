//! Installing again: slot A and COS_PERSISTENT are made anew from the recovery system's own release. The partition table,
//! the boot code, COS_RECOVERY, COS_OEM and the identity stay.

use super::{EraseError, Request, persistent};
use crate::boot::{partition, state_file};
use crate::console::{announce, progress_output, with_progress};
use crate::installed::slot_copy;
use boot_contract::paths::DEVICES;
use boot_contract::{BootState, Milestone, Slot, partition_label};
use disk::rewrite;
use machine::installed;
use protocol::RequestText;
use release::{ReleaseManifest, read_manifest};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A request to install again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Reinstall(pub RequestText);

impl Request for Reinstall {
    const RECORD: &'static str = "/oem/reinstall.json";
    const FAILURE: &'static str = "/run/ros/reinstall-failure";
    const FIELD: &'static str = "spec.reinstall";

    fn text(&self) -> &RequestText {
        &self.0
    }

    fn is_of_operator(&self) -> bool {
        true
    }

    fn deed(&self, version: &str) -> String {
        format!(
            "installs release {version} again and erases COS_PERSISTENT, as {} {:?} asks",
            Self::FIELD,
            self.0.as_str()
        )
    }

    fn is_known_to(_recovery: &ReleaseManifest) -> bool {
        true
    }

    fn carry_out(&self, root: &Path) -> Result<(), EraseError> {
        let devices = Path::new(DEVICES);
        let state_a = devices.join(partition_label::STATE_A);
        let manifest = partition::with_mounted(true, |boot| {
            let (manifest, _) = read_manifest(&boot.join(Slot::Recovery.letter()))?;
            Ok::<_, EraseError>(manifest)
        })?;
        let version = &manifest.version;
        announce(
            Milestone::Planned,
            format!("release {version} in slot A and a new COS_PERSISTENT, from COS_RECOVERY"),
        );
        state_file::change(|state| state.give_up(Slot::A, Slot::Recovery))?;
        let recovery = devices.join(partition_label::RECOVERY);
        with_progress(progress_output(), |show| rewrite::copy_root(&manifest.root, &recovery, &state_a, show))?;
        persistent::make_anew(root)?;
        let guid = installed::partition_guid_of(&state_a)?;
        partition::with_mounted(false, |boot| slot_copy::copy(boot, Slot::Recovery, Slot::A, guid))?;
        announce(Milestone::Verified, format!("release {version} reads back as it was written"));
        Ok(())
    }

    /// Changes nothing if slot A was started since it was written and somebody asked for recovery.
    fn start_next(&self, state: &mut BootState) -> Option<Slot> {
        state.take_new(Slot::A).then_some(Slot::A)
    }
}
