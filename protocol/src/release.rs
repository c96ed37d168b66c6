//! The manifest of an OS release: what `release.json` says of the files beside it.

use serde::{Deserialize, Serialize};

/// `release.json`. Names are relative to the folder it stands in; they hold no `..` and are not absolute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseManifest {
    pub version: String,
    /// As `uname -m` says it.
    pub architecture: String,
    /// EROFS with the verity tree appended: the bytes of a slot.
    pub root: ReleaseFile,
    pub verity: Verity,
    pub kernel: ReleaseFile,
    pub initrd: ReleaseFile,
    /// Files of the EFI system partition and of BIOS boot, by their role.
    pub boot: BootFiles,
    /// The smallest slot, in bytes, that this release's successors are expected to fit.
    pub minimum_slot_bytes: u64,
    /// Kernel arguments that do not depend on the slot.
    pub kernel_arguments: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseFile {
    pub name: String,
    pub size: u64,
    /// Lower-case hex.
    pub sha256: String,
}

/// Parameters of the dm-verity target, for data and hash blocks of 4096 bytes and SHA-256.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verity {
    pub data_blocks: u64,
    /// Block at which the hash tree starts (there is no superblock).
    pub hash_start: u64,
    /// Lower-case hex.
    pub root_hash: String,
    /// Lower-case hex, or `-` for none.
    pub salt: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BootFiles {
    /// shim, signed by Microsoft: `EFI/BOOT/BOOTX64.EFI`.
    pub shim: ReleaseFile,
    /// GRUB, signed by Debian: `EFI/BOOT/grubx64.efi`.
    pub grub: ReleaseFile,
    /// MokManager: `EFI/BOOT/mmx64.efi`.
    pub mok_manager: ReleaseFile,
    /// The one menu of installed systems: `grub/grub.cfg`.
    pub grub_config: ReleaseFile,
    /// First 440 bytes of a BIOS disk.
    pub bios_boot: ReleaseFile,
    /// GRUB's core image for the BIOS boot partition.
    pub bios_core: ReleaseFile,
}

impl Verity {
    /// The kernel argument's value: `datablocks:hashstart:roothash:salt`.
    pub fn kernel_argument(&self) -> String {
        format!("{}:{}:{}:{}", self.data_blocks, self.hash_start, self.root_hash, self.salt)
    }
}
