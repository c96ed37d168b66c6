//! A machine's hardware, as it is sent and as a MachineInventory's status shows it. Long texts and lists are cut when
//! they are read: see [`crate::bounded`].

use crate::bounded::{line, list};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Hardware {
    /// The processors.
    #[serde(default)]
    pub cpu: Cpu,
    /// Installed memory as the kernel sees it, in bytes.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Disks, the medium among them.
    #[serde(default, deserialize_with = "list::<64, _, _>", skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 64)))]
    pub disks: Vec<Disk>,
    /// Network interfaces with hardware behind them.
    #[serde(default, deserialize_with = "list::<32, _, _>", skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 32)))]
    pub nics: Vec<Nic>,
    /// What started the machine.
    #[serde(default)]
    pub firmware: Firmware,
    /// The TPM, as it describes itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<TpmInfo>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Cpu {
    /// As the processor names itself.
    #[serde(default, deserialize_with = "line::<128, _>")]
    #[cfg_attr(feature = "schema", schemars(length(max = 128)))]
    pub model: String,
    /// As `uname -m` says it.
    #[serde(default, deserialize_with = "line::<32, _>")]
    #[cfg_attr(feature = "schema", schemars(length(max = 32)))]
    pub architecture: String,
    /// Logical processors.
    #[serde(default)]
    pub threads: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    /// Kernel name, such as `/dev/vda`.
    #[serde(deserialize_with = "line::<32, _>")]
    #[cfg_attr(feature = "schema", schemars(length(max = 32)))]
    pub path: String,
    /// As the disk names itself.
    #[serde(default, deserialize_with = "line::<48, _>", skip_serializing_if = "String::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 48)))]
    pub model: String,
    /// As the disk tells it.
    #[serde(default, deserialize_with = "line::<64, _>", skip_serializing_if = "String::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 64)))]
    pub serial: String,
    /// Capacity, in bytes.
    #[serde(default)]
    pub size_bytes: u64,
    /// Whether it has moving parts.
    #[serde(default)]
    pub rotational: bool,
    /// Whether its medium can be taken out.
    #[serde(default)]
    pub removable: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Nic {
    /// Kernel name, such as `eno1`.
    #[serde(deserialize_with = "line::<16, _>")]
    #[cfg_attr(feature = "schema", schemars(length(max = 16)))]
    pub name: String,
    /// Hardware address, in lower-case hex with colons.
    #[serde(default, deserialize_with = "line::<64, _>")]
    #[cfg_attr(feature = "schema", schemars(length(max = 64)))]
    pub mac: String,
    /// The kernel's driver.
    #[serde(default, deserialize_with = "line::<32, _>", skip_serializing_if = "String::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 32)))]
    pub driver: String,
    /// Whether a cable is plugged in, as far as the driver knows.
    #[serde(default)]
    pub link: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Firmware {
    /// Which interface the firmware offers.
    #[serde(default)]
    pub kind: FirmwareKind,
    /// Absent where the firmware cannot tell (BIOS).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure_boot: Option<bool>,
    /// SMBIOS: who made the firmware.
    #[serde(default, deserialize_with = "line::<128, _>", skip_serializing_if = "String::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 128)))]
    pub vendor: String,
    /// SMBIOS: the firmware's version.
    #[serde(default, deserialize_with = "line::<128, _>", skip_serializing_if = "String::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 128)))]
    pub version: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum FirmwareKind {
    #[default]
    #[serde(rename = "BIOS")]
    Bios,
    #[serde(rename = "UEFI")]
    Uefi,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct TpmInfo {
    /// TPM_PT_MANUFACTURER as text, such as `IBM`.
    #[serde(default, deserialize_with = "line::<32, _>")]
    #[cfg_attr(feature = "schema", schemars(length(max = 32)))]
    pub manufacturer: String,
    /// TPM_PT_FIRMWARE_VERSION_1 and _2, hex.
    #[serde(default, deserialize_with = "line::<64, _>")]
    #[cfg_attr(feature = "schema", schemars(length(max = 64)))]
    pub firmware: String,
}

/// An address of the machine, without those of the loopback interface and link-local ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Address {
    /// Kernel name of the network interface.
    #[serde(deserialize_with = "line::<16, _>")]
    #[cfg_attr(feature = "schema", schemars(length(max = 16)))]
    pub interface: String,
    /// IPv4 or IPv6, without prefix length.
    #[serde(deserialize_with = "line::<45, _>")]
    #[cfg_attr(feature = "schema", schemars(length(max = 45)))]
    pub address: String,
}
