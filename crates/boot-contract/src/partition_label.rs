//! Labels in the partition table of an installed disk, as the first release of RancherOS names its partitions.

pub const BIOS: &str = "COS_BIOS";
/// The EFI system partition: boot loader, boot state, and a folder with a kernel for each slot.
pub const BOOT: &str = "COS_BOOT";
pub const STATE_A: &str = "COS_STATE_A";
pub const STATE_B: &str = "COS_STATE_B";
pub const RECOVERY: &str = "COS_RECOVERY";
/// Registration settings, cloud-config and identity of the machine; [`crate::paths::OEM`].
pub const OEM: &str = "COS_OEM";
/// Data that survives a restart; [`crate::paths::PERSISTENT`].
pub const PERSISTENT: &str = "COS_PERSISTENT";
