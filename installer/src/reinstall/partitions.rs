//! The GUID by which `ros-init` finds the partition of a slot.

use crate::machine::installed;
use crate::marker;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use uuid::Uuid;

/// The GUID that the table of its disk gives the partition with this node, whose label it has as its name.
pub fn guid_of(node: &Path) -> Result<Uuid> {
    let label = node.file_name().unwrap_or_default().to_string_lossy();
    let partition = fs::canonicalize(node).with_context(|| format!("looking for {}", node.display()))?;
    let name = partition.file_name().unwrap_or_default();
    // sysfs keeps a partition in the folder of its disk.
    let folder = fs::canonicalize(Path::new("/sys/class/block").join(name))
        .with_context(|| format!("looking for the disk of {}", partition.display()))?;
    let disk = folder.parent().and_then(Path::file_name).context("a partition without a disk")?;
    let sector = fs::read_to_string(Path::new("/sys/class/block").join(disk).join("queue/logical_block_size"));
    let sector = sector.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(512);
    let disk = Path::new("/dev").join(disk);
    let mut head = Vec::new();
    let opened = File::open(&disk).and_then(|file| file.take(marker::OFFSET).read_to_end(&mut head));
    opened.with_context(|| format!("reading the partition table of {}", disk.display()))?;
    installed::partition_guid(&head, sector, &label)
        .with_context(|| format!("the partition table of {} names no {label}", disk.display()))
}
