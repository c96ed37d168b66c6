//! Makes the bytes of a GUID partition table (UEFI 2.10, chapter 5) from a layout. Nothing is read from or written to a
//! disk.
//!
//! An installation writes the tables last, and their order on the disk matters. So the bytes have to exist before any
//! of them is written: the crate gpt writes to both ends of a disk in memory.

pub mod change;
mod ends;
mod read;

use crate::layout::{Layout, Partition};
use ends::Ends;
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition_types::{OperatingSystem, Type};
use gpt::{GptConfig, GptError};
pub use read::{boot_partition, disk_guid, partition_guid, partition_path, partition_place};

/// The standard asks for at least 128 entries of 128 bytes.
const ENTRIES_BYTES: u64 = 128 * 128;

/// Both copies of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// Bytes from the start of the disk: protective MBR (without boot code), header and entries.
    pub primary: Vec<u8>,
    /// Bytes from `backup_offset` to the end of the disk: entries and header.
    pub backup: Vec<u8>,
    /// In bytes, a multiple of the sector size.
    pub backup_offset: u64,
}

/// The tables of a layout.
pub fn tables(layout: &Layout) -> Tables {
    made(layout).expect("a layout is within its disk, and its labels fit into an entry")
}

fn made(layout: &Layout) -> Result<Tables, GptError> {
    let sector = u64::from(layout.sector_bytes);
    let sectors = layout.disk_bytes / sector;
    // The head holds one more sector, for the protective MBR.
    let (head, tail) = (2 * sector + ENTRIES_BYTES, sector + ENTRIES_BYTES);
    let sector_size = if sector == 4096 { LogicalBlockSize::Lb4096 } else { LogicalBlockSize::Lb512 };
    let mut disk = GptConfig::new()
        .writable(true)
        .logical_block_size(sector_size)
        .create_from_device(Ends::new(sectors * sector, head, tail), Some(layout.disk_guid))?;
    disk.update_partitions((1..).zip(layout.partitions.iter().map(|part| entry(part, sector))).collect())?;
    let mut ends = disk.write()?;
    let protective = ProtectiveMBR::with_lb_size(u32::try_from(sectors - 1).unwrap_or(u32::MAX));
    ends.head[..512].copy_from_slice(&protective.to_bytes());
    let backup_offset = ends.tail_offset();
    Ok(Tables { primary: ends.head, backup: ends.tail, backup_offset })
}

fn entry(partition: &Partition, sector: u64) -> gpt::partition::Partition {
    gpt::partition::Partition {
        part_type_guid: Type { guid: partition.role.type_guid(), os: OperatingSystem::None },
        part_guid: partition.guid,
        first_lba: partition.offset / sector,
        last_lba: (partition.offset + partition.length) / sector - 1,
        flags: partition.role.attributes(),
        name: partition.role.label().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{MIB, Requirements};
    use std::os::unix::fs::FileExt;
    use std::process::Command;
    use uuid::Uuid;

    fn layout(sector_bytes: u32, disk_bytes: u64) -> Layout {
        let requirements = Requirements { disk_bytes, sector_bytes, root_bytes: 1, minimum_slot_bytes: 64 * MIB };
        requirements.layout(&mut Uuid::new_v4).unwrap()
    }

    #[test]
    fn sgdisk_accepts_both_copies() {
        let layout = layout(512, 2048 * MIB + 512);
        let tables = tables(&layout);
        let disk = tempfile::NamedTempFile::new().unwrap();
        disk.as_file().set_len(layout.disk_bytes).unwrap();
        disk.as_file().write_all_at(&tables.primary, 0).unwrap();
        disk.as_file().write_all_at(&tables.backup, tables.backup_offset).unwrap();
        let output = Command::new("sgdisk").args(["-v", "-p"]).arg(disk.path()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("No problems found"), "{text}");
        for partition in &layout.partitions {
            assert!(text.contains(partition.role.label()), "{text}");
        }
    }

    #[test]
    fn large_sectors_move_the_tables_but_not_the_partitions() {
        let layout = layout(4096, 2048 * MIB);
        let tables = tables(&layout);
        assert_eq!(&tables.primary[4096..4104], b"EFI PART");
        assert_eq!(tables.primary.len(), 2 * 4096 + ENTRIES_BYTES as usize);
        assert_eq!(tables.backup_offset + tables.backup.len() as u64, layout.disk_bytes);
        let first = u64::from_le_bytes(tables.primary[2 * 4096 + 32..][..8].try_into().unwrap());
        assert_eq!(first * 4096, MIB);
    }

    /// The bytes that installers wrote before the crate gpt made the tables. Installed machines and firmware have seen
    /// these.
    #[test]
    fn the_bytes_of_a_table_do_not_change() {
        for (sector_bytes, disk_bytes, expected) in GOLDEN {
            let mut last = 0;
            let mut ids = || {
                last += 1;
                Uuid::from_u128(last)
            };
            let requirements = Requirements { disk_bytes, sector_bytes, root_bytes: 1, minimum_slot_bytes: 64 * MIB };
            let tables = tables(&requirements.layout(&mut ids).unwrap());
            let sums = [&tables.primary, &tables.backup].map(|bytes| format!("{:08x}", crc32fast::hash(bytes)));
            assert_eq!(sums, expected, "sectors of {sector_bytes}, {disk_bytes} bytes");
        }
    }

    /// Sector size and disk size in bytes, and CRC-32 of the primary table and of the backup.
    const GOLDEN: [(u32, u64, [&str; 2]); 3] = [
        (512, 2147484160, ["5398d5dd", "7885ad81"]),
        (4096, 2147483648, ["a39f2ca6", "8290e6a4"]),
        (512, 4398046511104, ["ca5e7a38", "a3e657b9"]),
    ];
}
