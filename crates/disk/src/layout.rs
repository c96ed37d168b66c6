//! Computes the partitions of a disk from its size. Everything here is a pure value.

use boot_contract::partition_label;
use serde::{Serialize, Serializer};
use std::fmt;
use uuid::Uuid;

pub const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Partitions begin at multiples of this. The first and the last megabyte are for the partition tables.
pub const ALIGNMENT: u64 = MIB;
const BIOS_BYTES: u64 = MIB;
/// Room for kernel and initrd of three slots, twice.
const BOOT_BYTES: u64 = 256 * MIB;
/// FAT32 has at least 65525 clusters of at least one sector. With sectors of 4096 bytes, 256 MiB are too few.
const BOOT_BYTES_LARGE_SECTORS: u64 = 288 * MIB;
const OEM_BYTES: u64 = 64 * MIB;
/// The minimum for logs and one container image. COS_PERSISTENT takes the rest of the disk.
const MINIMUM_PERSISTENT_BYTES: u64 = 256 * MIB;
/// A slot takes 1/20 of the disk, because releases grow and a slot cannot.
const SLOT_SHARE: u64 = 20;
/// No release is expected to need more.
const LARGEST_SHARE: u64 = 4 * GIB;

/// A partition's role. `Display` is its label, the name in the partition table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Bios,
    Boot,
    StateA,
    StateB,
    Recovery,
    Oem,
    Persistent,
}

impl Role {
    /// All partitions, in the order of the table.
    pub const ALL: [Self; 7] =
        [Self::Bios, Self::Boot, Self::StateA, Self::StateB, Self::Recovery, Self::Oem, Self::Persistent];

    pub fn label(self) -> &'static str {
        match self {
            Self::Bios => partition_label::BIOS,
            Self::Boot => partition_label::BOOT,
            Self::StateA => partition_label::STATE_A,
            Self::StateB => partition_label::STATE_B,
            Self::Recovery => partition_label::RECOVERY,
            Self::Oem => partition_label::OEM,
            Self::Persistent => partition_label::PERSISTENT,
        }
    }

    /// The number of the partition in the table, from 1.
    pub fn number(self) -> u32 {
        Self::ALL.iter().take_while(|role| **role != self).count() as u32 + 1
    }

    /// Partition type. Sources are UEFI 2.10, table 5.7, for the system partition, GRUB's manual for BIOS boot, and the
    /// Discoverable Partitions Specification for x86-64 roots and generic Linux data.
    pub fn type_guid(self) -> Uuid {
        Uuid::from_u128(match self {
            Self::Bios => 0x21686148_6449_6E6F_744E_656564454649,
            Self::Boot => 0xC12A7328_F81F_11D2_BA4B_00A0C93EC93B,
            Self::StateA | Self::StateB | Self::Recovery => 0x4F68BCE3_E8CD_4DB1_96E7_FBCAF984B709,
            Self::Oem | Self::Persistent => 0x0FC63DAF_8483_4772_8E79_3D69D8477DE4,
        })
    }

    /// GPT attribute bits. The Discoverable Partitions Specification defines for roots that slots are read-only (60)
    /// and are not mounted automatically (63).
    pub fn attributes(self) -> u64 {
        match self {
            Self::StateA | Self::StateB | Self::Recovery => 1 << 60 | 1 << 63,
            _ => 0,
        }
    }
}

impl Serialize for Role {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

/// One partition. Offsets and lengths are in bytes and multiples of [`ALIGNMENT`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Partition {
    pub role: Role,
    pub guid: Uuid,
    pub offset: u64,
    pub length: u64,
}

/// Layout of a whole disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Layout {
    pub disk_guid: Uuid,
    pub disk_bytes: u64,
    /// 512 or 4096.
    pub sector_bytes: u32,
    /// One partition for each [`Role`], in the order of the roles and of the offsets.
    pub partitions: Vec<Partition>,
}

/// The disk and the release that a layout is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requirements {
    pub disk_bytes: u64,
    /// 512 or 4096.
    pub sector_bytes: u32,
    /// Size of the root image to install.
    pub root_bytes: u64,
    /// The smallest slot that the release allows.
    pub minimum_slot_bytes: u64,
}

/// Why a layout cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    #[error("it has {actual}; this release needs at least {needed}", actual = Size(*.actual), needed = Size(*.needed))]
    TooSmall { actual: u64, needed: u64 },
    #[error("its sectors have {0} bytes; 512 and 4096 are supported")]
    SectorSize(u32),
}

impl Requirements {
    fn smallest_slot(&self) -> u64 {
        self.root_bytes.max(self.minimum_slot_bytes).next_multiple_of(ALIGNMENT)
    }

    fn boot(&self) -> u64 {
        if self.sector_bytes == 4096 { BOOT_BYTES_LARGE_SECTORS } else { BOOT_BYTES }
    }

    /// Size in bytes of the smallest disk that fits.
    pub fn smallest_disk(&self) -> u64 {
        2 * ALIGNMENT + BIOS_BYTES + self.boot() + 3 * self.smallest_slot() + OEM_BYTES + MINIMUM_PERSISTENT_BYTES
    }

    /// Whether a layout can be made.
    pub fn check(&self) -> Result<(), LayoutError> {
        if !matches!(self.sector_bytes, 512 | 4096) {
            return Err(LayoutError::SectorSize(self.sector_bytes));
        }
        if self.disk_bytes < self.smallest_disk() {
            return Err(LayoutError::TooSmall { actual: self.disk_bytes, needed: self.smallest_disk() });
        }
        Ok(())
    }

    /// Lays the disk out. Takes GUIDs from `ids`: first that of the disk, then one for each partition in order.
    pub fn layout(&self, ids: &mut dyn FnMut() -> Uuid) -> Result<Layout, LayoutError> {
        self.check()?;
        let spare = self.disk_bytes - self.smallest_disk();
        let share = (self.disk_bytes / SLOT_SHARE).min(LARGEST_SHARE) / ALIGNMENT * ALIGNMENT;
        // The growth of the three slots takes at most half of the space that is left for data.
        let growth = share.saturating_sub(self.smallest_slot()).min(spare / 6 / ALIGNMENT * ALIGNMENT);
        let slot = self.smallest_slot() + growth;

        let disk_guid = ids();
        let mut offset = ALIGNMENT;
        let end = (self.disk_bytes - ALIGNMENT) / ALIGNMENT * ALIGNMENT;
        let partitions = Role::ALL.map(|role| {
            let length = match role {
                Role::Bios => BIOS_BYTES,
                Role::Boot => self.boot(),
                Role::StateA | Role::StateB | Role::Recovery => slot,
                Role::Oem => OEM_BYTES,
                Role::Persistent => end - offset,
            };
            let partition = Partition { role, guid: ids(), offset, length };
            offset += length;
            partition
        });
        Ok(Layout {
            disk_guid,
            disk_bytes: self.disk_bytes,
            sector_bytes: self.sector_bytes,
            partitions: partitions.into(),
        })
    }
}

impl Layout {
    /// The partition with this role. Every layout has one.
    pub fn partition(&self, role: Role) -> &Partition {
        self.partitions.iter().find(|p| p.role == role).expect("a layout has one partition for each role")
    }
}

/// A number of bytes. `Display` shows it in the largest unit that leaves a digit before the point, such as `8.0 GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
        let mut unit = 0;
        let mut size = self.0 as f64;
        while size >= 1024.0 && unit + 1 < UNITS.len() {
            size /= 1024.0;
            unit += 1;
        }
        f.pad(&if unit == 0 { format!("{} {}", self.0, UNITS[0]) } else { format!("{size:.1} {}", UNITS[unit]) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counting() -> impl FnMut() -> Uuid {
        let mut last = 0;
        move || {
            last += 1;
            Uuid::from_u128(last)
        }
    }

    fn requirements() -> impl Strategy<Value = Requirements> {
        (0u64..8 << 40, prop_oneof![Just(512), Just(4096)], 1u64..2 * GIB, 0u64..4 * GIB).prop_map(
            |(disk_bytes, sector_bytes, root_bytes, minimum_slot_bytes)| Requirements {
                disk_bytes,
                sector_bytes,
                root_bytes,
                minimum_slot_bytes,
            },
        )
    }

    proptest! {
        #[test]
        fn partitions_are_aligned_in_bounds_and_apart(wanted in requirements()) {
            let layout = match wanted.layout(&mut counting()) {
                Ok(layout) => layout,
                Err(error) => {
                    prop_assert!(wanted.disk_bytes < wanted.smallest_disk(), "{error}");
                    return Ok(());
                }
            };
            let mut free = ALIGNMENT;
            for partition in &layout.partitions {
                prop_assert_eq!(partition.offset, free);
                prop_assert!(partition.length > 0 && partition.length % ALIGNMENT == 0);
                free += partition.length;
            }
            prop_assert!(free + ALIGNMENT <= wanted.disk_bytes);
            for role in [Role::StateA, Role::StateB, Role::Recovery] {
                let slot = layout.partition(role).length;
                prop_assert!(slot >= wanted.root_bytes.max(wanted.minimum_slot_bytes));
            }
            prop_assert!(layout.partition(Role::Persistent).length >= MINIMUM_PERSISTENT_BYTES);
        }

        #[test]
        fn the_smallest_disk_fits_and_one_byte_less_does_not(mut wanted in requirements()) {
            wanted.disk_bytes = wanted.smallest_disk();
            prop_assert!(wanted.layout(&mut counting()).is_ok());
            wanted.disk_bytes -= 1;
            prop_assert!(wanted.layout(&mut counting()).is_err());
        }
    }

    #[test]
    fn slots_grow_with_the_disk_up_to_a_limit() {
        let slot = |disk_bytes| {
            let requirements =
                Requirements { disk_bytes, sector_bytes: 512, root_bytes: 60 * MIB, minimum_slot_bytes: 128 * MIB };
            requirements.layout(&mut counting()).unwrap().partition(Role::StateA).length
        };
        assert_eq!(slot(GIB), 128 * MIB);
        assert_eq!(slot(8 * GIB), 409 * MIB);
        assert_eq!(slot(1000 * GIB), 4 * GIB);
    }

    #[test]
    fn a_refusal_says_how_much_is_needed() {
        let requirements =
            Requirements { disk_bytes: GIB / 2, sector_bytes: 512, root_bytes: 1, minimum_slot_bytes: 256 * MIB };
        let error = requirements.layout(&mut counting()).unwrap_err().to_string();
        assert_eq!(error, "it has 512.0 MiB; this release needs at least 1.3 GiB");
        let odd = Requirements { sector_bytes: 520, disk_bytes: 8 * GIB, ..requirements };
        assert_eq!(odd.layout(&mut counting()), Err(LayoutError::SectorSize(520)));
    }
}
