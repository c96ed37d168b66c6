//! Block devices as sysfs lists them.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use boot_contract::volume_id::{self, DESCRIPTOR_BYTES, DESCRIPTOR_OFFSET};

use crate::partition_table;
use crate::uevent::Uevent;

const CLASS: &str = "/sys/class/block";

/// A partition of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its folder in sysfs; the disk's is the parent.
    sysfs: PathBuf,
    /// Its node in /dev.
    pub node: PathBuf,
    /// Its GPT label, if that is a safe file name.
    pub label: Option<String>,
}

impl Partition {
    /// The partition with this unique GUID, in any case of its hex digits.
    pub fn find(uuid: &str) -> Option<Self> {
        let uuid = uuid.to_ascii_lowercase();
        all().find_map(|(sysfs, uevent)| {
            let found = guid(&sysfs, uevent.partition_number?)? == uuid;
            if found { Self::from_uevent(sysfs, &uevent) } else { None }
        })
    }

    /// All partitions of the disk that this one is on, itself included. Partitions of other disks with the same labels
    /// are left out, such as those of a second installed disk.
    pub fn same_disk(&self) -> Vec<Self> {
        all()
            .filter(|(sysfs, _)| sysfs.parent() == self.sysfs.parent() && sysfs.join("partition").exists())
            .filter_map(|(sysfs, uevent)| Self::from_uevent(sysfs, &uevent))
            .collect()
    }

    fn from_uevent(sysfs: PathBuf, uevent: &Uevent) -> Option<Self> {
        let node = Path::new("/dev").join(uevent.name.as_deref()?);
        Some(Self { sysfs, node, label: uevent.safe_label().map(str::to_owned) })
    }
}

/// The unique GUID of a partition. `None` if the disk cannot be read: it is not the boot disk then.
fn guid(partition: &Path, number: u32) -> Option<String> {
    let disk = partition.parent()?;
    let sector_bytes = fs::read_to_string(disk.join("queue/logical_block_size")).ok()?.trim().parse().ok()?;
    let name = Uevent::parse(&fs::read_to_string(disk.join("uevent")).ok()?).name?;
    let mut device = File::open(Path::new("/dev").join(name)).ok()?;
    partition_table::unique_guid(&mut device, sector_bytes, number).ok()?
}

/// The whole device that holds the ISO 9660 volume with this id.
pub fn find_medium(volume: &str) -> Option<PathBuf> {
    all()
        .filter(|(sysfs, _)| !sysfs.join("partition").exists())
        .filter_map(|(_, uevent)| Some(Path::new("/dev").join(uevent.name?)))
        .find(|node| holds_volume(node, volume))
}

fn holds_volume(node: &Path, volume: &str) -> bool {
    let read = || {
        let mut descriptor = [0; DESCRIPTOR_BYTES];
        let mut device = File::open(node)?;
        device.seek(SeekFrom::Start(DESCRIPTOR_OFFSET))?;
        device.read_exact(&mut descriptor)?;
        std::io::Result::Ok(descriptor)
    };
    // An empty drive, or a disk that is shorter than the offset, is not the medium.
    read().is_ok_and(|descriptor| volume_id::read(&descriptor) == Some(volume))
}

/// Every block device: its folder below /sys/devices, and its uevent.
fn all() -> impl Iterator<Item = (PathBuf, Uevent)> {
    let entries = fs::read_dir(CLASS).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let sysfs = fs::canonicalize(entry.path()).ok()?;
        let uevent = Uevent::parse(&fs::read_to_string(sysfs.join("uevent")).ok()?);
        Some((sysfs, uevent))
    })
}
