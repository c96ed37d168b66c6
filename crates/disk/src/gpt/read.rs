//! Finds our partitions in the partition table of a disk. The crate gpt refuses a table whose checksums are wrong. Such
//! a table still means that the disk must not be erased, so it is read here without checking them.

use crate::bios::renew::Place;
use crate::description::BootPartition;
use crate::layout::Role;
use uuid::Uuid;

/// The partition COS_BOOT, from the first bytes of a disk. `None` unless the table has all our partitions.
pub fn boot_partition(head: &[u8], sector_bytes: u32, disk: &str) -> Option<BootPartition> {
    let entries = own_entries(head, sector_bytes)?;
    let (_, number, entry) = entries.iter().find(|(label, ..)| label == Role::Boot.label())?;
    let (first_sector, sectors) = sectors(entry)?;
    Some(BootPartition {
        path: partition_path(disk, *number),
        number: *number,
        first_sector,
        sectors,
        guid: guid(entry)?,
    })
}

/// Where the partition with this label is. `None` unless the table has all our partitions.
pub fn partition_place(head: &[u8], sector_bytes: u32, label: &str) -> Option<Place> {
    let entries = own_entries(head, sector_bytes)?;
    let (_, _, entry) = entries.iter().find(|(own, ..)| own == label)?;
    let (first, sectors) = sectors(entry)?;
    let bytes = |sectors: u64| sectors.checked_mul(sector_bytes.into());
    Some(Place { offset: bytes(first)?, length: bytes(sectors)? })
}

/// The first sector of a partition, and how many it has.
fn sectors(entry: &[u8]) -> Option<(u64, u64)> {
    let (first, last) = (u64_at(entry, 32)?, u64_at(entry, 40)?);
    Some((first, last.checked_sub(first)?.checked_add(1)?))
}

/// The GUID of the partition with this label. `None` unless the table has all our partitions.
pub fn partition_guid(head: &[u8], sector_bytes: u32, label: &str) -> Option<Uuid> {
    own_entries(head, sector_bytes)?.iter().find(|(own, ..)| own == label).and_then(|(_, _, entry)| guid(entry))
}

/// The GUID of the disk. `None` unless it has a GPT.
pub fn disk_guid(head: &[u8], sector_bytes: u32) -> Option<Uuid> {
    let header = head.get(usize::try_from(sector_bytes).ok()?..)?;
    let bytes = header.get(56..72).filter(|_| header.starts_with(b"EFI PART"))?;
    Some(Uuid::from_bytes_le(bytes.try_into().ok()?))
}

/// Label, number from 1, and bytes of each of our entries (UEFI 2.10, 5.3). `None` unless the table has all our
/// partitions. Checksums are not checked: a table that is damaged elsewhere still means that the disk must not be
/// erased.
fn own_entries(head: &[u8], sector_bytes: u32) -> Option<Vec<(String, u32, &[u8])>> {
    let sector = usize::try_from(sector_bytes).ok()?;
    let header = head.get(sector..)?;
    if !header.starts_with(b"EFI PART") {
        return None;
    }
    let entries_at = usize::try_from(u64_at(header, 72)?).ok()?.checked_mul(sector)?;
    let (count, length) = (u32_at(header, 80)?, usize::try_from(u32_at(header, 84)?).ok()?);
    if length < 128 {
        return None;
    }
    let entries = head.get(entries_at..)?.chunks_exact(length).zip(1..=count);
    let named: Vec<(String, u32, &[u8])> = entries.map(|(entry, number)| (label(entry), number, entry)).collect();
    let holds = |role: Role| named.iter().any(|(label, ..)| label == role.label());
    Role::ALL.into_iter().all(holds).then_some(named)
}

fn guid(entry: &[u8]) -> Option<Uuid> {
    Some(Uuid::from_bytes_le(entry.get(16..32)?.try_into().ok()?))
}

/// Device node of a partition, named as the kernel does (`block/partitions/core.c`): `/dev/vda2`, `/dev/nvme0n1p2`.
pub fn partition_path(disk: &str, number: u32) -> String {
    let separator = if disk.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
    format!("{disk}{separator}{number}")
}

/// The label of an entry: 36 UTF-16 units from byte 56.
pub(super) fn label(entry: &[u8]) -> String {
    let units = entry[56..128].chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    String::from_utf16_lossy(&units.take_while(|unit| *unit != 0).collect::<Vec<_>>())
}

pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

pub(super) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(offset..offset + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpt::tables;
    use crate::layout::Requirements;
    use proptest::prelude::*;

    fn table(sector_bytes: u32) -> (Vec<u8>, BootPartition) {
        let requirements =
            Requirements { disk_bytes: 4 << 30, sector_bytes, root_bytes: 64 << 20, minimum_slot_bytes: 64 << 20 };
        let layout = requirements.layout(&mut Uuid::new_v4).unwrap();
        let boot = layout.partition(Role::Boot);
        let sector = u64::from(sector_bytes);
        let expected = BootPartition {
            path: "/dev/nvme0n1p2".into(),
            number: 2,
            first_sector: boot.offset / sector,
            sectors: boot.length / sector,
            guid: boot.guid,
        };
        (tables(&layout).primary, expected)
    }

    #[test]
    fn the_table_that_an_installation_writes_is_recognised() {
        for sector_bytes in [512, 4096] {
            let (head, expected) = table(sector_bytes);
            assert_eq!(partition_guid(&head, sector_bytes, "COS_BOOT"), Some(expected.guid));
            assert!(partition_guid(&head, sector_bytes, "COS_STATE_A").is_some_and(|guid| guid != expected.guid));
            assert_eq!(partition_guid(&head, sector_bytes, "COS_OTHER"), None);
            assert_eq!(boot_partition(&head, sector_bytes, "/dev/nvme0n1"), Some(expected));
            assert_eq!(
                partition_place(&head, sector_bytes, "COS_BIOS"),
                Some(Place { offset: 1 << 20, length: 1 << 20 })
            );
        }
        assert_eq!(partition_path("/dev/vda", 2), "/dev/vda2");
    }

    proptest! {
        #[test]
        fn any_table_is_read_or_is_none(junk in proptest::collection::vec(any::<u8>(), 0..4096), lead: u64, size: u32) {
            let mut head = vec![0; 512];
            head.extend(b"EFI PART");
            head.extend(junk);
            for (at, bytes) in [(512 + 72, &lead.to_le_bytes()[..]), (512 + 84, &size.to_le_bytes()[..])] {
                if let Some(place) = head.get_mut(at..at + bytes.len()) {
                    place.copy_from_slice(bytes);
                }
            }
            let _ = (boot_partition(&head, 512, "/dev/vda"), partition_place(&head, 512, "COS_BIOS"));
        }
    }
}
