//! Changes the partition table of a disk in use: it gives the disk identifiers of its own, and lets the last partition reach
//! to the end of a disk that has grown.
//!
//! ```text
//! new backup at the end of the disk ─┐
//! new entries at the other place    ─┴─► flushed ─► primary header: one sector, which switches
//! ```
//!
//! The entries have two places in front of the first partition: behind the header, and at [`OTHER_ENTRIES_OFFSET`]. A disk writes a
//! sector whole or not at all, so that a power cut leaves the old table or the new one. Format: UEFI 2.10, section 5.3.

use super::ENTRIES_BYTES;
use super::read::{label, u32_at, u64_at};
use crate::layout::{ALIGNMENT, Role};
use crate::target::Target;
use boot_contract::disk_image::OTHER_ENTRIES_OFFSET;
use std::io;
use uuid::Uuid;

const HEADER_BYTES: usize = 92;
const ENTRY_BYTES: usize = 128;

/// A table as it is to be, and where it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Offset and bytes of everything that is written before the switch, in whole sectors.
    before: Vec<(u64, Vec<u8>)>,
    /// Offset and bytes of the primary header.
    switch: (u64, Vec<u8>),
}

/// Why a table is not changed. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("the disk has no partition table of ours")]
    NotOurs,
    #[error("the disk ends before its partitions do: it must be at least as large as the image that it was made from")]
    DiskTooSmall,
    #[error("the checksum of the partition table is wrong: repair it with `sgdisk --verify` and its advice")]
    Damaged,
}

/// The table that the disk is to have. `head`: the first mebibyte of the disk. `ids`: makes new GUIDs, first that of the disk,
/// then one for each partition in order; `None` keeps them. `None` if the table is right as it is.
pub fn change(
    head: &[u8],
    disk_bytes: u64,
    sector_bytes: u32,
    ids: Option<&mut dyn FnMut() -> Uuid>,
) -> Result<Option<Change>, ChangeError> {
    let sector = u64::from(sector_bytes);
    let (mut header, mut entries) = table(head, sector)?;
    let sectors = disk_bytes / sector;
    let persistent = Role::Persistent.number() as usize - 1;
    let ends = entries.chunks(ENTRY_BYTES).filter_map(|entry| u64_at(entry, 40)).max().unwrap_or(0);
    let backup_at = sectors.checked_sub(1 + ENTRIES_BYTES / sector).filter(|place| ends < *place);
    let backup_at = backup_at.ok_or(ChangeError::DiskTooSmall)?;
    let entry = &mut entries[persistent * ENTRY_BYTES..][..ENTRY_BYTES];
    let last = u64_at(entry, 40).unwrap_or(0);
    let end = disk_bytes.saturating_sub(ALIGNMENT) / ALIGNMENT * ALIGNMENT / sector;
    // Somebody may have made another partition behind ours.
    let grows = last == ends && end > last + 1;
    if !grows && ids.is_none() {
        return Ok(None);
    }
    let last = if grows { end - 1 } else { last };
    put(entry, 40, &last.to_le_bytes());
    if let Some(ids) = ids {
        put(&mut header, 56, &ids().to_bytes_le());
        for entry in entries.chunks_mut(ENTRY_BYTES).filter(|entry| entry.iter().any(|byte| *byte != 0)) {
            put(entry, 16, &ids().to_bytes_le());
        }
    }
    let entries_at = if u64_at(&header, 72) == Some(2) { OTHER_ENTRIES_OFFSET } else { 2 * sector };
    put(&mut header, 40, &(ALIGNMENT / sector).to_le_bytes());
    put(&mut header, 48, &(backup_at - 1).to_le_bytes());
    put(&mut header, 88, &crc32fast::hash(&entries).to_le_bytes());
    let primary = sealed(&header, [1, sectors - 1, entries_at / sector], sector);
    let backup = sealed(&header, [sectors - 1, 1, backup_at], sector);
    let mut protective = head[..sector as usize].to_vec();
    put(&mut protective, 446 + 12, &u32::try_from(sectors - 1).unwrap_or(u32::MAX).to_le_bytes());
    Ok(Some(Change {
        before: vec![(backup_at * sector, [&entries[..], &backup].concat()), (entries_at, entries), (0, protective)],
        switch: (sector, primary),
    }))
}

/// Header and entries of a table of ours whose checksums are right.
fn table(head: &[u8], sector: u64) -> Result<(Vec<u8>, Vec<u8>), ChangeError> {
    let header = head.get(sector as usize..).and_then(|rest| rest.get(..HEADER_BYTES)).ok_or(ChangeError::NotOurs)?;
    let sizes = (u32_at(header, 12), u32_at(header, 80), u32_at(header, 84));
    let expected = (Some(HEADER_BYTES as u32), Some((ENTRIES_BYTES / 128) as u32), Some(ENTRY_BYTES as u32));
    if !header.starts_with(b"EFI PART") || sizes != expected {
        return Err(ChangeError::NotOurs);
    }
    let at =
        u64_at(header, 72).and_then(|at| usize::try_from(at.checked_mul(sector)?).ok()).ok_or(ChangeError::NotOurs)?;
    let entries = head.get(at..).and_then(|rest| rest.get(..ENTRIES_BYTES as usize)).ok_or(ChangeError::NotOurs)?;
    let mut plain = header.to_vec();
    put(&mut plain, 16, &[0; 4]);
    if u32_at(header, 16) != Some(crc32fast::hash(&plain)) || u32_at(header, 88) != Some(crc32fast::hash(entries)) {
        return Err(ChangeError::Damaged);
    }
    let labels = entries.chunks(ENTRY_BYTES).zip(Role::ALL);
    if labels.clone().all(|(entry, role)| label(entry) == role.label()) {
        Ok((header.to_vec(), entries.to_vec()))
    } else {
        Err(ChangeError::NotOurs)
    }
}

/// A sector with the header: its own place, that of the other header and that of its entries, in sectors, and its checksum.
fn sealed(header: &[u8], places: [u64; 3], sector: u64) -> Vec<u8> {
    let mut header = header.to_vec();
    for (offset, place) in [24, 32, 72].into_iter().zip(places) {
        put(&mut header, offset, &place.to_le_bytes());
    }
    put(&mut header, 16, &[0; 4]);
    let sum = crc32fast::hash(&header);
    put(&mut header, 16, &sum.to_le_bytes());
    header.resize(sector as usize, 0);
    header
}

fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

impl Change {
    /// Writes the table. Returns when it is on the disk.
    pub fn write(&self, disk: &mut dyn Target) -> io::Result<()> {
        for (offset, bytes) in &self.before {
            disk.write_at(*offset, bytes)?;
        }
        disk.flush()?;
        disk.write_at(self.switch.0, &self.switch.1)?;
        disk.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpt::{disk_guid, partition_guid, partition_place, tables};
    use crate::layout::{Layout, MIB, Requirements};
    use crate::target::Disk;
    use proptest::prelude::*;
    use std::os::unix::fs::FileExt;
    use std::process::Command;
    use tempfile::NamedTempFile;

    const BYTES: u64 = 2048 * MIB;

    fn disk(sector_bytes: u32) -> (Layout, NamedTempFile) {
        let requirements =
            Requirements { disk_bytes: BYTES, sector_bytes, root_bytes: 1, minimum_slot_bytes: 64 * MIB };
        let layout = requirements.layout(&mut Uuid::new_v4).unwrap();
        let tables = tables(&layout);
        let disk = NamedTempFile::new().unwrap();
        disk.as_file().set_len(BYTES).unwrap();
        disk.as_file().write_all_at(&tables.primary, 0).unwrap();
        disk.as_file().write_all_at(&tables.backup, tables.backup_offset).unwrap();
        (layout, disk)
    }

    fn head(disk: &NamedTempFile) -> Vec<u8> {
        let mut head = vec![0; MIB as usize];
        disk.as_file().read_exact_at(&mut head, 0).unwrap();
        head
    }

    fn checked_by_sgdisk(disk: &NamedTempFile) -> String {
        let output = Command::new("sgdisk").args(["-v", "-p"]).arg(disk.path()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("No problems found"), "{text}");
        text
    }

    #[test]
    fn sgdisk_accepts_each_table_of_a_disk_that_grows_and_grows() {
        let (layout, disk) = disk(512);
        let first = layout.partition(Role::Persistent).offset;
        assert_eq!(change(&head(&disk), BYTES, 512, None), Ok(None));
        for gibibytes in [3, 5, 9] {
            let bytes = (gibibytes << 30) + 512;
            disk.as_file().set_len(bytes).unwrap();
            let change = change(&head(&disk), bytes, 512, None).unwrap().unwrap();
            change.write(&mut Disk::open(disk.path()).unwrap()).unwrap();
            let place = partition_place(&head(&disk), 512, "COS_PERSISTENT").unwrap();
            assert_eq!((place.offset, place.offset + place.length), (first, (gibibytes << 30) - MIB));
            checked_by_sgdisk(&disk);
            assert_eq!(super::change(&head(&disk), bytes, 512, None), Ok(None), "it has grown");
            let guid = partition_guid(&head(&disk), 512, "COS_BOOT");
            assert_eq!(guid, Some(layout.partition(Role::Boot).guid), "nothing else changes");
        }
    }

    #[test]
    fn every_identifier_is_new() {
        for sector_bytes in [512, 4096] {
            let (layout, disk) = disk(sector_bytes);
            let mut ids = Uuid::new_v4;
            let change = change(&head(&disk), BYTES, sector_bytes, Some(&mut ids)).unwrap().unwrap();
            change.write(&mut Disk::open(disk.path()).unwrap()).unwrap();
            let head = head(&disk);
            for partition in &layout.partitions {
                let guid = partition_guid(&head, sector_bytes, partition.role.label());
                assert!(guid.is_some_and(|guid| guid != partition.guid), "{}", partition.role);
            }
            assert!(disk_guid(&head, sector_bytes).is_some_and(|guid| guid != layout.disk_guid));
            if sector_bytes == 512 {
                checked_by_sgdisk(&disk);
            }
        }
    }

    #[test]
    fn a_partition_behind_ours_and_a_damaged_table_are_left_alone() {
        let (_, disk) = disk(512);
        disk.as_file().set_len(2 * BYTES).unwrap();
        assert!(change(&head(&disk), 2 * BYTES, 512, None).unwrap().is_some());
        let more = Command::new("sgdisk").args(["-e", "-n", "8:5000000:6000000"]).arg(disk.path()).output().unwrap();
        assert!(more.status.success());
        let mut head = head(&disk);
        assert_eq!(change(&head, 2 * BYTES, 512, None), Ok(None));
        assert_eq!(change(&head, BYTES, 512, None), Err(ChangeError::DiskTooSmall));
        head[1024 + 900] ^= 1;
        assert_eq!(change(&head, 4 * BYTES, 512, None), Err(ChangeError::Damaged));
        head[512] = 0;
        assert_eq!(change(&head, 4 * BYTES, 512, None), Err(ChangeError::NotOurs));
    }

    /// A disk that loses power after so many sectors. Sectors between two flushes arrive in any order.
    #[test]
    fn a_power_cut_leaves_the_old_table_or_the_new_one() {
        let (layout, disk) = disk(512);
        let before = head(&disk);
        let mut ids = Uuid::new_v4;
        let change = change(&before, BYTES, 512, Some(&mut ids)).unwrap().unwrap();
        let sectors: Vec<(u64, &[u8])> = change
            .before
            .iter()
            .flat_map(|(offset, bytes)| {
                bytes.chunks(512).enumerate().map(move |(n, part)| (offset + 512 * n as u64, part))
            })
            .filter(|(offset, _)| *offset < MIB)
            .collect();
        let (mut head, mut backwards) = (before.clone(), before.clone());
        for (forward, backward) in sectors.iter().zip(sectors.iter().rev()) {
            for (head, (offset, part)) in [(&mut head, forward), (&mut backwards, backward)] {
                head[*offset as usize..][..512].copy_from_slice(part);
                table(head, 512).unwrap();
                assert_eq!(disk_guid(head, 512), Some(layout.disk_guid));
            }
        }
        head[512..1024].copy_from_slice(&change.switch.1);
        table(&head, 512).unwrap();
        assert!(disk_guid(&head, 512).is_some_and(|guid| guid != layout.disk_guid));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(junk in proptest::collection::vec(any::<u8>(), 0..4096), bytes: u64, large: bool) {
            let mut head = vec![0; 512];
            head.extend(b"EFI PART");
            head.extend(junk);
            let _ = change(&head, bytes, if large { 4096 } else { 512 }, None);
        }

        /// Numbers of an entry and of the header, with checksums that are right.
        #[test]
        fn no_numbers_of_a_table_make_it_panic(
            numbers in proptest::collection::vec((0usize..7, prop_oneof![Just(32usize), Just(40)], any::<u64>()), 0..6),
            places in proptest::collection::vec((prop_oneof![Just(24usize), Just(32), Just(40), Just(48)], any::<u64>()), 0..4),
            bytes in prop_oneof![any::<u64>(), 0u64..4 * BYTES],
        ) {
            let requirements = Requirements { disk_bytes: BYTES, sector_bytes: 512, root_bytes: 1, minimum_slot_bytes: 64 * MIB };
            let mut head = tables(&requirements.layout(&mut Uuid::new_v4).unwrap()).primary;
            for (entry, field, number) in numbers {
                put(&mut head, 1024 + entry * ENTRY_BYTES + field, &number.to_le_bytes());
            }
            for (field, number) in places {
                put(&mut head, 512 + field, &number.to_le_bytes());
            }
            let sum = crc32fast::hash(&head[1024..1024 + ENTRIES_BYTES as usize]);
            put(&mut head, 512 + 88, &sum.to_le_bytes());
            put(&mut head, 512 + 16, &[0; 4]);
            let sum = crc32fast::hash(&head[512..512 + HEADER_BYTES]);
            put(&mut head, 512 + 16, &sum.to_le_bytes());
            let mut ids = Uuid::new_v4;
            let changed = change(&head, bytes, 512, Some(&mut ids));
            prop_assert!(matches!(changed, Ok(Some(_)) | Err(ChangeError::DiskTooSmall)), "{changed:?}");
        }
    }
}
