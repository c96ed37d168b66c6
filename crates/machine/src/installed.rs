//! Finds a complete system of ours on a disk by our marker and the partition table that our plan writes. A marker alone
//! is not enough, because another installer may leave it in place.

use crate::disks::logical_sector;
use boot_contract::partition_label;
use disk::bios::renew::Place;
use disk::description::{BootPartition, InstalledSystem};
use disk::gpt::{boot_partition, partition_guid, partition_place};
use disk::layout::ALIGNMENT;
use disk::marker::{Marker, State};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// The system on `device`, a disk whose kernel name is `path` and whose logical sector has `sector_bytes` bytes.
pub(crate) fn probe(device: &Path, path: &str, sector_bytes: u32, marker: Marker) -> Option<InstalledSystem> {
    if marker.state == State::Writing {
        return None;
    }
    let boot = boot_partition(&head(device).ok()?, sector_bytes, path)?;
    Some(InstalledSystem { version: marker.version, identity: marker.identity, boot })
}

/// Why the GUID of a partition is unknown.
#[derive(Debug, thiserror::Error)]
pub enum PartitionGuidError {
    #[error("finding {}", .0.display())]
    Missing(PathBuf, #[source] io::Error),
    #[error("reading the partition table of {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error("the partition table of {} has no partition {label}", .disk.display())]
    NotNamed { disk: PathBuf, label: String },
}

/// The GUID of the partition with this device node, from the table of its disk. The name of the node is the partition's
/// label.
pub fn partition_guid_of(node: &Path) -> Result<Uuid, PartitionGuidError> {
    let Table { disk, head, sector_bytes, label } = table_of(node)?;
    partition_guid(&head, sector_bytes, &label).ok_or(PartitionGuidError::NotNamed { disk, label })
}

/// The GUID of the partition with this label beside the one with this device node.
pub fn partition_guid_beside(node: &Path, label: &str) -> Result<Uuid, PartitionGuidError> {
    let Table { disk, head, sector_bytes, .. } = table_of(node)?;
    partition_guid(&head, sector_bytes, label).ok_or(PartitionGuidError::NotNamed { disk, label: label.to_owned() })
}

/// COS_BOOT, which has this device node, as the firmware identifies it.
pub fn boot_partition_of(node: &Path) -> Result<BootPartition, PartitionGuidError> {
    let Table { disk, head, sector_bytes, label } = table_of(node)?;
    boot_partition(&head, sector_bytes, &disk.to_string_lossy()).ok_or(PartitionGuidError::NotNamed { disk, label })
}

/// The disk that the partition with this device node is on.
pub fn disk_of(node: &Path) -> Result<PathBuf, PartitionGuidError> {
    table_of(node).map(|table| table.disk)
}

/// The disk that the partition with this device node is on, and COS_BIOS on that disk.
pub fn bios_partition_beside(node: &Path) -> Result<(PathBuf, Place), PartitionGuidError> {
    let Table { disk, head, sector_bytes, .. } = table_of(node)?;
    match partition_place(&head, sector_bytes, partition_label::BIOS) {
        Some(place) => Ok((disk, place)),
        None => Err(PartitionGuidError::NotNamed { disk, label: partition_label::BIOS.into() }),
    }
}

/// The partition table of the disk that a partition is on.
struct Table {
    disk: PathBuf,
    /// The first bytes of the disk.
    head: Vec<u8>,
    sector_bytes: u32,
    /// The label of the partition.
    label: String,
}

fn table_of(node: &Path) -> Result<Table, PartitionGuidError> {
    let missing = |path: &Path| {
        let path = path.to_owned();
        |error| PartitionGuidError::Missing(path, error)
    };
    let label = node.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let partition = fs::canonicalize(node).map_err(missing(node))?;
    // In sysfs the folder of a partition is in the folder of its disk.
    let class = Path::new("/sys/class/block").join(partition.file_name().unwrap_or_default());
    let folder = fs::canonicalize(&class).map_err(missing(&class))?;
    let disk_folder = folder.parent().unwrap_or(Path::new("/"));
    let disk = Path::new("/dev").join(disk_folder.file_name().unwrap_or_default());
    let head = head(&disk).map_err(|error| PartitionGuidError::Read(disk.clone(), error))?;
    Ok(Table { disk, head, sector_bytes: logical_sector(disk_folder), label })
}

/// The first bytes of a disk, up to the first partition. The table is among them.
fn head(disk: &Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    File::open(disk)?.take(ALIGNMENT).read_to_end(&mut head)?;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::gpt::tables;
    use disk::layout::Requirements;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_marker_counts_where_the_installation_is_complete_and_the_table_ours() {
        let requirements =
            Requirements { disk_bytes: 4 << 30, sector_bytes: 512, root_bytes: 64 << 20, minimum_slot_bytes: 64 << 20 };
        let head = tables(&requirements.layout(&mut Uuid::new_v4).unwrap()).primary;
        let boot = boot_partition(&head, 512, "/dev/nvme0n1").unwrap();
        let disk = tempfile::NamedTempFile::new().unwrap();
        disk.as_file().write_all_at(&head, 0).unwrap();
        let marker = |state| Marker { state, version: "0.1.0".into(), identity: Some("tpm:a".into()) };
        let found = |marker| probe(disk.path(), "/dev/nvme0n1", 512, marker);
        let expected = InstalledSystem { version: "0.1.0".into(), identity: Some("tpm:a".into()), boot };
        assert_eq!(found(marker(State::Complete)), Some(expected.clone()));
        assert_eq!(found(marker(State::Switching)), Some(expected), "the table is there");
        assert_eq!(found(marker(State::Writing)), None);
        // The label of one partition changes, so that the table is another system's.
        let entry = 1024 + 2 * 128 + 56;
        disk.as_file().write_all_at(b"X", entry).unwrap();
        assert_eq!(found(marker(State::Complete)), None);
        assert_eq!(found(marker(State::Switching)), None);
    }
}
