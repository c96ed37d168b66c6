//! The reports of a machine, and the operator's answers.

use crate::bounded::{line, list, optional_line, word};
use crate::erase_request::{RequestReport, RequestText};
use crate::hardware::{Address, Hardware};
use crate::join::Join;
use crate::operator_settings::{OperatorSettings, SettingsRevision};
use crate::reset::ResetRequest;
use crate::smbios::SmbiosDocument;
use crate::upgrade::UpgradeFailure;
use crate::upgrade_order::{UpgradeOrder, UpgradeReport};
use cloud_config::CloudConfig;
use serde::{Deserialize, Serialize};

/// The description of a machine, which asks for its configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineReport {
    pub smbios: SmbiosDocument,
    pub hardware: Hardware,
    #[serde(default, deserialize_with = "list::<32, _, _>")]
    pub addresses: Vec<Address>,
}

/// The answer to `machine`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// `namespace/name` of the machine's MachineInventory.
    pub inventory: String,
    pub cloud_config: CloudConfig,
    /// Seconds in which the machine should send `done`. After that the operator counts it as lost.
    pub install_seconds: u64,
    /// Seconds between two `report`s of the installed system.
    pub report_seconds: u64,
}

/// The progress of an installation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    pub phase: InstallPhase,
    #[serde(default)]
    pub bytes: u64,
    #[serde(default)]
    pub total_bytes: u64,
    #[serde(default, deserialize_with = "line::<200, _>", skip_serializing_if = "String::is_empty")]
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum InstallPhase {
    Planned,
    Writing,
    Verifying,
    Configuring,
    Rebooting,
}

/// The end of an exchange, sent by the machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Done {
    /// Absent after a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// The operator's answer to `done`: what the machine said before is recorded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recorded {
    /// After `booted` and `report`: how the machine joins its cluster. Operators older than this field do not send it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join: Option<Join>,
    /// After `booted` and `report`: how the machine reaches its operator from now on. Absent like `join`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<OperatorSettings>,
    /// After `booted` and `report`: the machine is to install itself again, once for each text; it remembers the texts
    /// that it has honoured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reinstall: Option<RequestText>,
    /// After `booted` and `report`: the machine is to reset itself, once for each text, like `reinstall`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<ResetRequest>,
    /// After `booted` and `report`: the release that the machine is to run now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<UpgradeOrder>,
    /// After `booted` and `report`: seconds after which the machine should report again. Absent: as usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_seconds: Option<u64>,
}

/// Why an installation failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The cause, as a word in CamelCase from a fixed set. It becomes the reason of a condition.
    #[serde(deserialize_with = "line::<64, _>")]
    #[cfg_attr(feature = "schema", schemars(length(max = 64)))]
    pub reason: String,
    /// An explanation for people. It names the object concerned and what to do next.
    #[serde(deserialize_with = "line::<1024, _>")]
    #[cfg_attr(feature = "schema", schemars(length(max = 1024)))]
    pub message: String,
}

/// The report of an installed system.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OsReport {
    /// Name of the release, such as `0.1.0`.
    #[serde(deserialize_with = "word::<128, _>")]
    pub version: String,
    /// `sha256:` and the hex digest of `release.json`.
    #[serde(deserialize_with = "word::<128, _>")]
    pub release: String,
    pub slot: Slot,
    /// Whether this slot has proved itself since it was written.
    pub healthy: bool,
    /// The kernel's boot id: another one means another boot.
    #[serde(deserialize_with = "word::<64, _>")]
    pub boot_id: String,
    #[serde(default, deserialize_with = "list::<32, _, _>")]
    pub addresses: Vec<Address>,
    #[serde(default, deserialize_with = "optional_line::<253, _>", skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Revision of the [`OperatorSettings`] that the machine has kept. Absent before it has received any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings_revision: Option<SettingsRevision>,
    /// Why the recovery system runs, in words. Absent in a slot.
    #[serde(default, deserialize_with = "optional_line::<500, _>", skip_serializing_if = "Option::is_none")]
    pub recovery: Option<String>,
    /// Absent from a release that cannot be asked to install again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reinstall: Option<RequestReport>,
    /// Absent from a release that cannot be asked to reset itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<RequestReport>,
    /// The last release that did not come up. Absent if there is none, and after another upgrade has succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<UpgradeFailure>,
    /// Absent from a release that does not take an [`UpgradeOrder`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<UpgradeReport>,
}

/// One of the places a system can run from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Slot {
    #[default]
    A,
    B,
    Recovery,
    /// The installation medium.
    Live,
}

impl Slot {
    /// The slot of an installed disk. `None` for the medium.
    pub fn installed(self) -> Option<boot_contract::Slot> {
        match self {
            Self::A => Some(boot_contract::Slot::A),
            Self::B => Some(boot_contract::Slot::B),
            Self::Recovery => Some(boot_contract::Slot::Recovery),
            Self::Live => None,
        }
    }
}

impl From<boot_contract::Slot> for Slot {
    fn from(slot: boot_contract::Slot) -> Self {
        match slot {
            boot_contract::Slot::A => Self::A,
            boot_contract::Slot::B => Self::B,
            boot_contract::Slot::Recovery => Self::Recovery,
        }
    }
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}
