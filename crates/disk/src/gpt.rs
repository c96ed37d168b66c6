//! A layout as the bytes of a GUID partition table (UEFI 2.10, chapter 5), with nothing read and nothing written.
//!
//! Own code instead of a library, because the tables are the last thing an installation writes and their order on the
//! disk matters: the bytes have to exist as values before any of them is written.

mod read;

use crate::layout::{Layout, Partition};
pub use read::{boot_partition, partition_guid, partition_path};
use uuid::Uuid;

/// Entries in the table; 128 of 128 bytes are the minimum the standard asks for.
const ENTRIES: usize = 128;
const ENTRY_BYTES: usize = 128;
const HEADER_BYTES: usize = 92;

/// Both copies of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// From the start of the disk: protective MBR (without boot code), header and entries.
    pub primary: Vec<u8>,
    /// At `backup_offset`, up to the end of the disk: entries and header.
    pub backup: Vec<u8>,
    /// In bytes, a multiple of the sector size.
    pub backup_offset: u64,
}

/// The tables of a layout.
pub fn tables(layout: &Layout) -> Tables {
    let sector = u64::from(layout.sector_bytes);
    let last = layout.disk_bytes / sector - 1;
    let entries = entries(layout);
    let entry_sectors = entries.len() as u64 / sector;
    let header = |own, other, entries_at| {
        let ends =
            Ends { own, other, entries_at, first_usable: 2 + entry_sectors, last_usable: last - entry_sectors - 1 };
        header(layout, &ends, &entries)
    };
    let backup_at = last - entry_sectors;
    Tables {
        primary: [protective_mbr(layout.sector_bytes, last), header(1, last, 2), entries.clone()].concat(),
        backup: [entries.clone(), header(last, 1, backup_at)].concat(),
        backup_offset: backup_at * sector,
    }
}

/// Logical block addresses that a header names.
struct Ends {
    own: u64,
    other: u64,
    entries_at: u64,
    first_usable: u64,
    last_usable: u64,
}

/// UEFI 2.10, table 5.5; one sector.
fn header(layout: &Layout, ends: &Ends, entries: &[u8]) -> Vec<u8> {
    let mut header = Vec::with_capacity(layout.sector_bytes as usize);
    header.extend(b"EFI PART");
    header.extend(0x0001_0000u32.to_le_bytes());
    header.extend((HEADER_BYTES as u32).to_le_bytes());
    // The checksum of this header, filled in below, and a reserved field.
    header.extend([0; 8]);
    for address in [ends.own, ends.other, ends.first_usable, ends.last_usable] {
        header.extend(address.to_le_bytes());
    }
    header.extend(layout.disk_guid.to_bytes_le());
    header.extend(ends.entries_at.to_le_bytes());
    header.extend((ENTRIES as u32).to_le_bytes());
    header.extend((ENTRY_BYTES as u32).to_le_bytes());
    header.extend(crc32fast::hash(entries).to_le_bytes());
    let checksum = crc32fast::hash(&header);
    header[16..20].copy_from_slice(&checksum.to_le_bytes());
    header.resize(layout.sector_bytes as usize, 0);
    header
}

fn entries(layout: &Layout) -> Vec<u8> {
    let mut entries: Vec<u8> = layout.partitions.iter().flat_map(|p| entry(p, layout.sector_bytes)).collect();
    entries.resize(ENTRIES * ENTRY_BYTES, 0);
    entries
}

/// UEFI 2.10, table 5.6.
fn entry(partition: &Partition, sector_bytes: u32) -> Vec<u8> {
    let sector = u64::from(sector_bytes);
    let first = partition.offset / sector;
    let mut entry = Vec::with_capacity(ENTRY_BYTES);
    let guid = |guid: Uuid| guid.to_bytes_le();
    entry.extend(guid(partition.role.type_guid()));
    entry.extend(guid(partition.guid));
    entry.extend(first.to_le_bytes());
    entry.extend((first + partition.length / sector - 1).to_le_bytes());
    entry.extend(partition.role.attributes().to_le_bytes());
    entry.extend(partition.role.label().encode_utf16().flat_map(u16::to_le_bytes));
    entry.resize(ENTRY_BYTES, 0);
    entry
}

/// UEFI 2.10, section 5.2.3: one partition over the whole disk, so that older tools see it as full.
fn protective_mbr(sector_bytes: u32, last: u64) -> Vec<u8> {
    let mut mbr = vec![0; sector_bytes as usize];
    let record = &mut mbr[446..462];
    record[1..4].copy_from_slice(&[0x00, 0x02, 0x00]);
    record[4] = 0xEE;
    record[5..8].copy_from_slice(&[0xFF, 0xFF, 0xFF]);
    record[8..12].copy_from_slice(&1u32.to_le_bytes());
    record[12..16].copy_from_slice(&u32::try_from(last).unwrap_or(u32::MAX).to_le_bytes());
    mbr[510..512].copy_from_slice(&[0x55, 0xAA]);
    mbr
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{MIB, Requirements};
    use std::os::unix::fs::FileExt;
    use std::process::Command;

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
        assert_eq!(tables.primary.len(), 2 * 4096 + ENTRIES * ENTRY_BYTES);
        assert_eq!(tables.backup_offset + tables.backup.len() as u64, layout.disk_bytes);
        let first = u64::from_le_bytes(tables.primary[2 * 4096 + 32..][..8].try_into().unwrap());
        assert_eq!(first * 4096, MIB);
    }
}
