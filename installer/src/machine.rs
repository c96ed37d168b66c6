//! Everything learned about the host, as a value: what is decided later is decided from this alone.

use protocol::SmbiosDocument;
use protocol::hardware::Hardware;
use protocol::message::Slot;
use serde::Serialize;

/// The host as found by one probe.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    pub smbios: SmbiosDocument,
    /// What the operator is told; holds the firmware kind and whether Secure Boot is on.
    pub hardware: Hardware,
    /// The same disks as in `hardware`, with what only the planner needs to know. Sorted by path.
    pub disks: Vec<DiskDetail>,
    pub boot: Boot,
}

/// A whole disk (no partition, no loop device, no CD drive), eligible or not.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskDetail {
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
    pub removable: bool,
    pub read_only: bool,
    /// Whether the running system was started from it: never a target.
    pub is_boot_medium: bool,
    /// What stands on the disk, in words: partition tables, file systems and their labels. Empty means blank.
    pub content: Vec<String>,
    /// Whether an installation of ours began on the disk and never ended: what stands there is nobody's data.
    /// Read by `marker::Marker::read`.
    pub unfinished: bool,
    /// Mount points that the disk or one of its partitions has now.
    pub mounted: Vec<String>,
}

/// How the running system was started.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Boot {
    pub mode: BootMode,
    /// Absent on a machine that was not started by `ros-init`.
    pub slot: Option<Slot>,
    /// Volume id of the installation medium (`ros.medium=`), in live mode.
    pub medium: Option<String>,
}

/// The kernel argument `ros.mode=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum BootMode {
    /// Neither: a machine that was not started by `ros-init`, such as a developer's.
    #[default]
    Foreign,
    Live,
    System,
    Recovery,
}
