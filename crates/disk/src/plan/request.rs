//! The input of a plan: the request and the machine.

use super::ConfigFile;
use crate::DiskDescription;
use crate::description::InstalledSystem;
use serde::Serialize;
use std::ops::Deref;

/// The request for an installation. This crate does not know where settings come from, so each [`Choice`] names its
/// origin for messages.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Path of the disk or one of its links.
    pub device: Choice<Option<String>>,
    /// Properties of the disk, for a request without `device`.
    pub selector: Choice<DeviceSelector>,
    /// Whether the present content of the disk may be destroyed.
    pub wipe: bool,
    /// Whether a person at the console typed the name of the disk. Then even this machine's own system may be erased.
    pub erase_own_system: bool,
    /// Whether the system is for UEFI alone, without boot code for BIOS.
    pub uefi_only: Choice<bool>,
    /// Whether to keep the existing partitions.
    pub keep_partitions: Choice<bool>,
    /// Console of the installed system, such as `ttyS0` or `ttyS0,115200`.
    pub console: Option<String>,
    /// For a disk image, from which many machines are made. Each makes its own identifiers at its first boot.
    pub image: Option<DiskImage>,
    /// Whether to power off after the installation instead of rebooting.
    pub power_off: bool,
    /// The files at the top of COS_OEM.
    pub configuration: Vec<ConfigFile>,
    /// Warnings that the plan repeats beside its own.
    pub warnings: Vec<String>,
}

/// What a disk image needs beside an installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskImage {
    /// Time stamp of everything in its file systems, in seconds since 1970.
    pub epoch: u32,
}

/// A value and its origin, in words that fit into "from the kernel command line".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice<T> {
    pub value: T,
    pub origin: String,
}

impl<T> Choice<T> {
    pub fn new(value: T, origin: impl Into<String>) -> Self {
        Self { value, origin: origin.into() }
    }
}

impl<T> Deref for Choice<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// Properties that the target must have. All that are given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceSelector {
    /// Name of a link below `/dev/disk/by-id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Part of the model name. Case is ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Smallest size in bytes, inclusive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_size: Option<u64>,
    /// Largest size in bytes, inclusive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<u64>,
}

impl DeviceSelector {
    /// Whether no property is given.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The properties of the machine that an installation depends on.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    /// Machine name as `uname -m` prints it. Empty if it is unknown.
    pub architecture: &'a str,
    /// Whether the machine was started by BIOS and not by UEFI.
    pub is_bios: bool,
    pub disks: &'a [DiskDescription],
    /// Names that an installation marker may use for this machine, the name for a new marker first. Empty while no
    /// identity is known.
    pub identities: &'a [String],
}

impl<'a> Host<'a> {
    /// The disks that hold a complete system of this machine. The system is started, and the disk is written to only if
    /// a person explicitly asks for it. If the marker or the machine has no identity, the marker alone decides.
    pub fn own_systems(self) -> impl Iterator<Item = (&'a DiskDescription, &'a InstalledSystem)> {
        let usable = self.disks.iter().filter(|disk| !disk.is_boot_medium);
        usable.filter_map(|disk| Some((disk, disk.installed.as_ref()?))).filter(move |(_, system)| self.owns(system))
    }

    fn owns(self, system: &InstalledSystem) -> bool {
        self.identities.is_empty() || system.identity.as_ref().is_none_or(|name| self.identities.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_the_machines_own_unless_its_marker_names_another_machine() {
        let own = |marker: Option<&str>, machine: &[&str], is_boot_medium| {
            let installed = Some(InstalledSystem { identity: marker.map(str::to_owned), ..InstalledSystem::default() });
            let disks = [
                DiskDescription::default(),
                DiskDescription { installed, is_boot_medium, ..DiskDescription::default() },
            ];
            let identities: Vec<String> = machine.iter().map(|name| (*name).to_owned()).collect();
            Host { architecture: "", is_bios: false, disks: &disks, identities: &identities }.own_systems().count()
        };
        assert_eq!(own(Some("tpm:a"), &["tpm:a"], false), 1);
        assert_eq!(own(Some("secret:b"), &["tpm:a", "secret:b"], false), 1);
        assert_eq!(own(Some("tpm:a"), &["tpm:b"], false), 0);
        assert_eq!(own(None, &["tpm:a"], false), 1, "a marker without an identity");
        assert_eq!(own(Some("tpm:a"), &[], false), 1, "a machine without an identity");
        assert_eq!(own(Some("tpm:a"), &["tpm:a"], true), 0, "the medium");
    }
}
