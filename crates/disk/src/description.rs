//! A disk as a probe describes it. Plans are made from this description.

use serde::Serialize;
use uuid::Uuid;

/// A whole disk (no partition, no loop device, no CD drive), eligible or not.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskDescription {
    /// Kernel name, such as `/dev/vda`.
    pub path: String,
    pub size_bytes: u64,
    /// 512 or 4096; the unit of the partition table.
    pub logical_sector_bytes: u32,
    pub model: String,
    pub serial: String,
    /// World-wide name, such as `naa.5000c500a1b2c3d4` or `eui.0025388b71b2c3d4`; empty if there is none.
    pub wwn: String,
    /// Links that udev made for the disk, such as `/dev/disk/by-id/virtio-S1`. Sorted.
    pub links: Vec<String>,
    /// Whether the disk is attached by USB.
    pub usb: bool,
    /// Loadable kernel modules that drive the disk and every device on the way to it. Sorted.
    pub modules: Vec<String>,
    pub read_only: bool,
    /// Whether the disk has moving parts.
    #[serde(skip)]
    pub rotational: bool,
    /// Whether the medium can be taken out of the drive.
    #[serde(skip)]
    pub removable: bool,
    /// Whether the running system was started from the disk. Such a disk is never a target.
    pub is_boot_medium: bool,
    /// The content of the disk in words: partition tables, file systems and their labels. Empty for a blank disk and for an
    /// `unfinished` one.
    pub content: Vec<String>,
    /// Whether the disk holds nothing but an interrupted installation of ours.
    pub unfinished: bool,
    /// The complete system of ours on the disk, whichever machine it was installed for.
    pub installed: Option<InstalledSystem>,
    /// Current mount points of the disk and its partitions.
    pub mounted: Vec<String>,
    /// Kernel names of devices on top of the disk or of its partitions, such as `md127`. Sorted.
    pub holders: Vec<String>,
}

/// A complete system of ours on a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InstalledSystem {
    /// Version of the release that was installed. An upgrade does not change it.
    pub version: String,
    /// The machine that it was installed for, if the marker names one.
    #[serde(skip)]
    pub identity: Option<String>,
    pub boot: BootPartition,
}

/// The partition COS_BOOT as firmware and kernel identify it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BootPartition {
    /// Kernel name, such as `/dev/vda2`.
    pub path: String,
    /// Number in the partition table, from 1.
    pub number: u32,
    /// In sectors of the disk.
    pub first_sector: u64,
    pub sectors: u64,
    /// GUID of the partition. Each installation makes a new one.
    pub guid: Uuid,
}
