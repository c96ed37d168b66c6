//! Disks of virtual machines: sparse files, perhaps with a fault built in.

use crate::write_log;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Clone, Debug)]
pub struct Disk {
    pub file: PathBuf,
    /// What the guest sees as serial number (virtio: at most 20 bytes).
    pub serial: String,
    pub fault: Option<WriteFault>,
    /// Where QEMU logs every write and flush; see [`crate::write_log`].
    pub log: Option<PathBuf>,
}

/// Every write that touches this byte ends in an input/output error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteFault {
    pub at_byte: u64,
}

pub const GIB: u64 = 1 << 30;

impl Disk {
    /// A disk of zeros; takes no room until it is written to.
    pub fn empty(folder: &Path, serial: &str, bytes: u64) -> Result<Self> {
        let file = folder.join(format!("{serial}.img"));
        File::create(&file)
            .and_then(|created| created.set_len(bytes))
            .with_context(|| format!("creating the disk {}", file.display()))?;
        Ok(Self { file, serial: serial.to_owned(), fault: None, log: None })
    }

    /// A disk of `bytes` bytes that begins with the disk image in `file`, which becomes the disk. An image that QEMU knows as
    /// qcow2 has that ending.
    pub fn of_image(file: &Path, serial: &str, bytes: u64) -> Result<Self> {
        let disk = Self { file: file.to_owned(), serial: serial.to_owned(), fault: None, log: None };
        disk.enlarge(bytes)?;
        Ok(disk)
    }

    /// Makes the disk larger while no machine runs.
    pub fn enlarge(&self, bytes: u64) -> Result<()> {
        let what = || format!("enlarging {}", self.file.display());
        let resize = ["resize", "-q", "-f", self.format()];
        let resized = Command::new("qemu-img").args(resize).arg(&self.file).arg(bytes.to_string()).output();
        let resized = resized.with_context(what)?;
        ensure!(resized.status.success(), "{}: {}", what(), String::from_utf8_lossy(&resized.stderr).trim());
        Ok(())
    }

    fn format(&self) -> &'static str {
        if self.file.extension().is_some_and(|ending| ending == "qcow2") { "qcow2" } else { "raw" }
    }

    pub fn with_fault(self, fault: WriteFault) -> Self {
        Self { fault: Some(fault), ..self }
    }

    /// Every write and flush from now on is logged in a file beside the disk's.
    pub fn recorded(self) -> Result<Self> {
        let log = self.file.with_extension("writes");
        File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        Ok(Self { log: Some(log), ..self })
    }

    /// Puts bytes onto it while no machine runs.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut file = File::options().write(true).open(&self.file).context("opening a disk")?;
        file.seek(SeekFrom::Start(offset)).and_then(|_| file.write_all(bytes)).context("writing to a disk")
    }

    pub fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let mut file = File::open(&self.file).context("opening a disk")?;
        file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(&mut bytes)).context("reading a disk")?;
        Ok(bytes)
    }

    /// Where the partition with this GPT label begins, in bytes; `None` on a disk without it.
    pub fn partition(&self, label: &str) -> Result<Option<u64>> {
        Ok(self.extent(label)?.map(|extent| extent.start))
    }

    /// The partition with this label as a sparse file of its own, for tools that know no offsets.
    pub fn extract(&self, label: &str, folder: &Path) -> Result<PathBuf> {
        const PIECE: u64 = 1 << 20;
        let extent = self.extent(label)?.with_context(|| format!("finding {label} on {}", self.file.display()))?;
        let path = folder.join(label);
        let mut file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        file.set_len(extent.end - extent.start).context("growing a partition's copy")?;
        for at in extent.clone().step_by(PIECE as usize) {
            let piece = self.read_at(at, PIECE.min(extent.end - at) as usize)?;
            if piece.iter().any(|&byte| byte != 0) {
                let place = SeekFrom::Start(at - extent.start);
                file.seek(place).and_then(|_| file.write_all(&piece)).context("copying a partition")?;
            }
        }
        Ok(path)
    }

    /// In bytes (UEFI 2.10, section 5.3.3).
    fn extent(&self, label: &str) -> Result<Option<Range<u64>>> {
        const SECTOR: usize = 512;
        const ENTRY: usize = 128;
        let number = |field: &[u8]| field.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte));
        let header = self.read_at(SECTOR as u64, SECTOR)?;
        if !header.starts_with(b"EFI PART") {
            return Ok(None);
        }
        let entries = self.read_at(number(&header[72..80]) * SECTOR as u64, 128 * ENTRY)?;
        let name: Vec<u8> = label.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        let entry = entries.chunks_exact(ENTRY).find(|entry| entry[56..].starts_with(&name));
        Ok(entry.map(|entry| number(&entry[32..40]) * SECTOR as u64..(number(&entry[40..48]) + 1) * SECTOR as u64))
    }

    /// QEMU's `-blockdev` of the disk with node name `node`.
    pub fn block_device(&self, node: &str) -> Value {
        // Flushes are not passed on: a power cut here is the end of QEMU, which the host's page cache survives.
        let file = json!({"driver": "file", "filename": self.file, "discard": "unmap", "cache": {"no-flush": true}});
        let below = match self.fault {
            None => file,
            Some(fault) => json!({
                "driver": "blkdebug",
                "image": file,
                // The event `none` arms the rule when the node is made.
                "inject-error": [{"event": "none", "iotype": "write", "sector": fault.at_byte / 512, "errno": 5, "once": false}],
            }),
        };
        let below = match &self.log {
            None => below,
            Some(log) => {
                let mut logging = json!({
                    "driver": "blklogwrites",
                    "file": below,
                    "log": {"driver": "file", "filename": log, "cache": {"no-flush": true}},
                    "discard": "unmap",
                });
                // The log of an earlier power-on goes on. It says itself how large its sectors are.
                let goes_on = log.metadata().is_ok_and(|log| log.len() > 0);
                let option =
                    if goes_on { ("log-append", json!(true)) } else { ("log-sector-size", json!(write_log::SECTOR)) };
                logging[option.0] = option.1;
                logging
            }
        };
        json!({"driver": self.format(), "node-name": node, "discard": "unmap", "file": below})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_keeps_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::empty(folder.path(), "root", GIB).unwrap();
        disk.write_at(GIB - 3, b"end").unwrap();
        assert_eq!(disk.read_at(GIB - 4, 4).unwrap(), b"\0end");
        assert_eq!(disk.partition("COS_STATE_A").unwrap(), None);
    }

    #[test]
    fn a_partition_is_found_by_its_whole_label() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::empty(folder.path(), "root", GIB).unwrap();
        let output = Command::new("sgdisk")
            .args(["-n", "1:2048:4095", "-c", "1:COS_STATE_AB", "-n", "2:4096:8191", "-c", "2:COS_STATE_A"])
            .arg(&disk.file)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(disk.partition("COS_STATE_A").unwrap(), Some(4096 * 512));
        disk.write_at(8191 * 512, b"last sector").unwrap();
        let copy = std::fs::read(disk.extract("COS_STATE_A", folder.path()).unwrap()).unwrap();
        assert_eq!((copy.len(), &copy[4095 * 512..][..11]), (4096 * 512, &b"last sector"[..]));
    }
}
