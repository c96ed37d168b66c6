//! A complete system of ours on a disk: our marker, and behind it the partition table that our own plan writes. A marker
//! alone does not count: what somebody installs later may leave it where it is.

use super::disks::logical_sector;
use crate::marker::{Marker, OFFSET, State};
use crate::plan::layout::Role;
use anyhow::{Context, Result};
use serde::Serialize;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use uuid::Uuid;

/// What a live system needs to know of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InstalledSystem {
    /// Of the release that was installed; an upgrade since then does not change it.
    pub version: String,
    /// The machine that it was installed for, if the marker names one.
    #[serde(skip)]
    pub identity: Option<String>,
    pub boot: BootPartition,
}

/// COS_BOOT as firmware and kernel find it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BootPartition {
    /// Kernel name, such as `/dev/vda2`.
    pub path: String,
    /// Place in the partition table, from 1.
    pub number: u32,
    /// In sectors of the disk.
    pub first_sector: u64,
    pub sectors: u64,
    /// The partition's own GUID, new with each installation.
    pub guid: Uuid,
}

/// The system on `device`, a disk whose kernel name is `path`. `sector_bytes`: its logical sector.
pub(super) fn probe(device: &Path, path: &str, sector_bytes: u32, marker: Marker) -> Option<InstalledSystem> {
    if marker.state == State::Writing {
        return None;
    }
    let boot = boot_partition(&head(device).ok()?, sector_bytes, path)?;
    Some(InstalledSystem { version: marker.version, identity: marker.identity, boot })
}

/// The GUID that the table of its disk gives the partition with this node, whose label the node has as its name.
pub fn guid_of(node: &Path) -> Result<Uuid> {
    let label = node.file_name().unwrap_or_default().to_string_lossy();
    let partition = fs::canonicalize(node).with_context(|| format!("looking for {}", node.display()))?;
    // sysfs keeps a partition in the folder of its disk.
    let class = Path::new("/sys/class/block").join(partition.file_name().unwrap_or_default());
    let folder = fs::canonicalize(class);
    let folder = folder.with_context(|| format!("looking for the disk of {}", partition.display()))?;
    let disk_folder = folder.parent().context("a partition without a disk")?;
    let disk = Path::new("/dev").join(disk_folder.file_name().unwrap_or_default());
    let head = head(&disk).with_context(|| format!("reading the partition table of {}", disk.display()))?;
    partition_guid(&head, logical_sector(disk_folder), &label)
        .with_context(|| format!("the partition table of {} names no {label}", disk.display()))
}

/// The first bytes of a disk: the table ends before the marker.
fn head(disk: &Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    File::open(disk)?.take(OFFSET).read_to_end(&mut head)?;
    Ok(head)
}

/// COS_BOOT of a partition table that has all our partitions, from the first bytes of a disk.
pub fn boot_partition(head: &[u8], sector_bytes: u32, disk: &str) -> Option<BootPartition> {
    let entries = own_entries(head, sector_bytes)?;
    let (_, number, entry) = entries.iter().find(|(label, ..)| label == Role::Boot.label())?;
    let (first, last) = (u64_at(entry, 32)?, u64_at(entry, 40)?);
    Some(BootPartition {
        path: partition_path(disk, *number),
        number: *number,
        first_sector: first,
        sectors: last.checked_sub(first)?.checked_add(1)?,
        guid: guid(entry)?,
    })
}

/// The GUID of the partition with this label, of a table that has all our partitions.
fn partition_guid(head: &[u8], sector_bytes: u32, label: &str) -> Option<Uuid> {
    own_entries(head, sector_bytes)?.iter().find(|(own, ..)| own == label).and_then(|(_, _, entry)| guid(entry))
}

/// The labels, numbers from 1, and bytes of the entries of a table that has all our partitions (UEFI 2.10, 5.3). Sums are
/// not checked: a table that is damaged elsewhere still says that the disk is not to be erased.
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

/// As the kernel names partitions (`block/partitions/core.c`): `/dev/vda2`, `/dev/nvme0n1p2`.
pub fn partition_path(disk: &str, number: u32) -> String {
    let separator = if disk.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
    format!("{disk}{separator}{number}")
}

/// 36 UTF-16 units from byte 56 of an entry.
fn label(entry: &[u8]) -> String {
    let units = entry[56..128].chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    String::from_utf16_lossy(&units.take_while(|unit| *unit != 0).collect::<Vec<_>>())
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(offset..offset + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execute::gpt::tables;
    use crate::plan::layout::Demand;
    use proptest::prelude::*;
    use std::os::unix::fs::FileExt;

    fn table(sector_bytes: u32) -> (Vec<u8>, BootPartition) {
        let demand = Demand { disk_bytes: 4 << 30, sector_bytes, root_bytes: 64 << 20, minimum_slot_bytes: 64 << 20 };
        let layout = demand.layout(&mut Uuid::new_v4).unwrap();
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
        }
        assert_eq!(partition_path("/dev/vda", 2), "/dev/vda2");
    }

    #[test]
    fn a_marker_counts_where_the_installation_is_complete_and_the_table_ours() {
        let (head, boot) = table(512);
        let disk = tempfile::NamedTempFile::new().unwrap();
        disk.as_file().write_all_at(&head, 0).unwrap();
        let marker = |state| Marker { state, version: "0.1.0".into(), identity: Some("tpm:a".into()) };
        let found = |marker| probe(disk.path(), "/dev/nvme0n1", 512, marker);
        let expected = InstalledSystem { version: "0.1.0".into(), identity: Some("tpm:a".into()), boot };
        assert_eq!(found(marker(State::Complete)), Some(expected.clone()));
        assert_eq!(found(marker(State::Switching)), Some(expected), "the table is there");
        assert_eq!(found(marker(State::Writing)), None);
        // Another system's table: the label of one partition is another one.
        let entry = 1024 + 2 * 128 + 56;
        disk.as_file().write_all_at(b"X", entry).unwrap();
        assert_eq!(found(marker(State::Complete)), None);
        assert_eq!(found(marker(State::Switching)), None);
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
            let _ = boot_partition(&head, 512, "/dev/vda");
        }
    }
}
