//! Disks of virtual machines: sparse files, perhaps with a fault built in.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug)]
pub struct Disk {
    pub file: PathBuf,
    /// What the guest sees as serial number (virtio: at most 20 bytes).
    pub serial: String,
    pub fault: Option<WriteFault>,
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
            .with_context(|| format!("making the disk {}", file.display()))?;
        Ok(Self { file, serial: serial.to_owned(), fault: None })
    }

    pub fn with_fault(self, fault: WriteFault) -> Self {
        Self { fault: Some(fault), ..self }
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
        json!({"driver": "raw", "node-name": node, "discard": "unmap", "file": below})
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
    }
}
