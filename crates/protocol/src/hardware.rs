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
    /// Disks, including the medium from which the machine was started.
    #[serde(default, deserialize_with = "list::<64, _, _>", skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 64)))]
    pub disks: Vec<Disk>,
    /// Physical network interfaces.
    #[serde(default, deserialize_with = "list::<32, _, _>", skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 32)))]
    pub nics: Vec<Nic>,
    /// The firmware that started the machine.
    #[serde(default)]
    pub firmware: Firmware,
    /// The TPM, as it identifies itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<TpmInfo>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Cpu {
    /// Model name, as the processor reports it.
    #[serde(default, deserialize_with = "line::<128, _>")]
    #[cfg_attr(feature = "schema", schemars(length(max = 128)))]
    pub model: String,
    /// Architecture, as printed by `uname -m`.
    #[serde(default, deserialize_with = "line::<32, _>")]
    #[cfg_attr(feature = "schema", schemars(length(max = 32)))]
    pub architecture: String,
    /// Number of logical processors.
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
    /// Model name, as the disk reports it.
    #[serde(default, deserialize_with = "line::<48, _>", skip_serializing_if = "String::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 48)))]
    pub model: String,
    /// Serial number, as the disk reports it.
    #[serde(default, deserialize_with = "line::<64, _>", skip_serializing_if = "String::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 64)))]
    pub serial: String,
    /// Capacity, in bytes.
    #[serde(default)]
    pub size_bytes: u64,
    /// Whether the disk rotates.
    #[serde(default)]
    pub rotational: bool,
    /// Whether the drive is removable.
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
    /// MAC address, in lower-case hex with colons.
    #[serde(default, deserialize_with = "line::<64, _>")]
    #[cfg_attr(feature = "schema", schemars(length(max = 64)))]
    pub mac: String,
    /// Name of the kernel driver.
    #[serde(default, deserialize_with = "line::<32, _>", skip_serializing_if = "String::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 32)))]
    pub driver: String,
    /// Whether the driver detects a link.
    #[serde(default)]
    pub link: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Firmware {
    /// Type of the firmware.
    #[serde(default)]
    pub kind: FirmwareKind,
    /// Whether Secure Boot is on. Absent for BIOS firmware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure_boot: Option<bool>,
    /// Vendor of the firmware, from SMBIOS.
    #[serde(default, deserialize_with = "line::<128, _>", skip_serializing_if = "String::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 128)))]
    pub vendor: String,
    /// Version of the firmware, from SMBIOS.
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
    /// Manufacturer (TPM_PT_MANUFACTURER) as text, such as `IBM`.
    #[serde(default, deserialize_with = "line::<32, _>")]
    #[cfg_attr(feature = "schema", schemars(length(max = 32)))]
    pub manufacturer: String,
    /// Firmware version (TPM_PT_FIRMWARE_VERSION_1 and _2) in hex.
    #[serde(default, deserialize_with = "line::<64, _>")]
    #[cfg_attr(feature = "schema", schemars(length(max = 64)))]
    pub firmware: String,
}

/// An address of the machine. Loopback and link-local addresses are left out.
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
