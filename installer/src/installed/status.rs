//! The status: which system runs, from which slot, and whether the slot is good.

mod boot_state_json;
mod text;

pub use text::Utc;

use crate::boot::{partition, state_file};
use crate::installed::erase_request;
use crate::installed::recovery::{Cause, CauseError};
use crate::join::JoinStatus;
use crate::path_error::PathError;
use crate::upgrade::attempt;
use boot_contract::boot_state::{SlotBoot, SlotState};
use boot_contract::paths::{MEDIUM_RELEASE, OEM_REGISTRATION};
use boot_contract::{BootState, Slot};
use cloud_config::CloudConfig;
use machine::{Boot, BootMode};
use protocol::{UpgradeFailure, message};
use release::{ManifestError, ReleaseManifest, read_manifest};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

/// This file is written after each report that the operator has accepted.
pub const LAST_REPORT: &str = "/var/lib/ros/last-report.json";

/// What `ros-installer status` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub mode: BootMode,
    pub slot: message::Slot,
    /// Name of the running release.
    pub version: String,
    /// `sha256:` and the digest of its `release.json`.
    pub release: String,
    /// The boot state. Absent on a medium.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "boot_state_json::serialize")]
    pub boot: Option<BootState>,
    /// The releases on the disk. Empty on a medium.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<SlotRelease>,
    /// The last release that did not come up on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<UpgradeFailure>,
    /// Why the recovery system runs. Absent in other systems.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<String>,
    /// Whether the machine has joined its cluster. Absent if it is to join none, and in the recovery system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join: Option<JoinStatus>,
    /// Host of the operator, without the token in its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_report: Option<LastReport>,
}

/// The release that a slot holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SlotRelease {
    pub slot: message::Slot,
    pub version: String,
    /// `sha256:` and the digest of its `release.json`.
    pub release: String,
}

/// The last report that the operator has accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastReport {
    /// Seconds since 1 January 1970, by this machine's clock.
    pub at: u64,
}

/// Why the status is not known.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    #[error("the kernel command line has no ros.slot=: this is not an installed system")]
    NotInstalled,
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Cause(#[from] CauseError),
    #[error(transparent)]
    Path(#[from] PathError),
}

impl Status {
    /// Reads the state of this machine. Fails on a machine that was not started by `ros-init`.
    pub fn read() -> Result<Self, StatusError> {
        let root = Path::new("/");
        let boot = Boot::probe(root);
        let slot = boot.slot.ok_or(StatusError::NotInstalled)?;
        let OnDisk { manifest, state, slots } = match slot.installed() {
            None => {
                let path = Path::new(MEDIUM_RELEASE).join("release.json");
                let manifest = fs::read(&path).map_err(PathError::of("reading", &path))?;
                OnDisk { manifest, state: None, slots: Vec::new() }
            }
            Some(slot) => partition::with_mounted(true, |folder| on_disk(folder, slot))?,
        };
        Ok(Self {
            mode: boot.mode,
            slot,
            version: ReleaseManifest::parse(&manifest)?.version,
            release: release::manifest_digest(&manifest),
            boot: state,
            slots,
            last_failure: attempt::last_failure(root),
            recovery: (slot == message::Slot::Recovery).then(cause).transpose()?,
            join: (boot.mode == BootMode::System).then(|| JoinStatus::read(root)).flatten(),
            operator: fs::read_to_string(OEM_REGISTRATION).ok().and_then(|text| operator(&text)),
            last_report: fs::read(LAST_REPORT).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()),
        })
    }

    /// Whether the running slot is known to be good.
    pub fn is_healthy(&self) -> bool {
        self.running().is_some_and(|boot| boot.state == SlotState::Good)
    }

    fn running(&self) -> Option<SlotBoot> {
        self.boot.as_ref()?.slot(self.slot.installed()?)
    }
}

/// Why the recovery system runs, and why a request could not be honoured.
fn cause() -> Result<String, CauseError> {
    let cause = Cause::find()?;
    Ok(match erase_request::failure() {
        Some(failure) => format!("{cause}; it failed: {failure}"),
        None => cause.to_string(),
    })
}

/// What COS_BOOT holds.
#[derive(Debug)]
struct OnDisk {
    /// The `release.json` of the running slot.
    manifest: Vec<u8>,
    state: Option<BootState>,
    slots: Vec<SlotRelease>,
}

fn on_disk(boot: &Path, slot: Slot) -> Result<OnDisk, PathError> {
    let manifest = boot.join(slot.letter()).join("release.json");
    let manifest = fs::read(&manifest).map_err(PathError::of("reading", &manifest))?;
    let release = |slot: Slot| {
        let (manifest, bytes) = read_manifest(&boot.join(slot.letter())).ok()?;
        Some(SlotRelease { slot: slot.into(), version: manifest.version, release: release::manifest_digest(&bytes) })
    };
    let slots = Slot::ALL.into_iter().filter_map(release).collect();
    // An unreadable state is shown as none, because recovery, which GRUB then starts, must be able to report.
    Ok(OnDisk { manifest, state: state_file::read(boot)?, slots })
}

/// The host and port of the registration's address.
fn operator(registration: &str) -> Option<String> {
    let document = CloudConfig::parse(registration).ok()?;
    let url = document.install().get("registrationurl")?.as_str()?.to_owned();
    let host = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
    host.split('/').next().map(str::to_owned)
}

#[cfg(test)]
impl Status {
    /// A system that runs from `slot` of a disk on which slot B is good and slot A is on trial.
    pub(crate) fn of_slot(slot: impl Into<message::Slot>) -> Self {
        let slot = slot.into();
        Self {
            mode: BootMode::System,
            slot,
            version: "0.1.0".into(),
            release: format!("sha256:{}", "0".repeat(64)),
            boot: Some(BootState { b: SlotBoot::new(SlotState::Good), ..BootState::INSTALLED }),
            slots: Vec::new(),
            last_failure: None,
            recovery: (slot == message::Slot::Recovery).then(|| "slot A is damaged".into()),
            join: None,
            operator: None,
            last_report: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::fixtures::tiny_release;

    #[test]
    fn the_state_on_disk_is_that_of_the_slot() {
        let release = tiny_release(&[5; 8192]);
        let boot = tempfile::tempdir().unwrap();
        fs::create_dir_all(boot.path().join("R")).unwrap();
        fs::create_dir_all(boot.path().join("grub")).unwrap();
        fs::copy(release.path().join("release.json"), boot.path().join("R/release.json")).unwrap();
        fs::write(boot.path().join("grub/grubenv"), BootState::INSTALLED.to_bytes()).unwrap();
        let found = on_disk(boot.path(), Slot::Recovery).unwrap();
        assert_eq!(ReleaseManifest::parse(&found.manifest).unwrap().version, "0.1.0");
        assert_eq!(found.state, Some(BootState::INSTALLED));
        let slots: Vec<_> = found.slots.iter().map(|held| (held.slot, held.version.as_str())).collect();
        assert_eq!(slots, [(message::Slot::Recovery, "0.1.0")]);
        fs::write(boot.path().join("grub/grubenv"), "damaged").unwrap();
        assert_eq!(on_disk(boot.path(), Slot::Recovery).unwrap().state, None);
        assert!(on_disk(boot.path(), Slot::B).is_err(), "slot B is empty");
    }

    #[test]
    fn the_operator_is_shown_without_the_token() {
        let text = "rancheros: {install: {registrationURL: 'https://h:8443/v1-rancheros/registration/secret'}}";
        assert_eq!(operator(text).as_deref(), Some("h:8443"));
        assert_eq!(operator("hostname: h"), None);
    }

    #[test]
    fn a_slot_is_healthy_if_it_has_been_good() {
        let status = |slot: Slot| Status::of_slot(slot);
        assert!(status(Slot::B).is_healthy());
        assert!(!status(Slot::A).is_healthy() && !status(Slot::Recovery).is_healthy());
        assert!(status(Slot::A).to_string().contains("3 more starts"));
        assert!(status(Slot::Recovery).to_string().contains("Next start:  slot A\nRecovery:    slot A is damaged"));
    }
}
