//! The disk that this system runs from, while it runs: identifiers of its own for a disk that was made from an image, and the
//! growth of its last partition.

use crate::path_error::PathError;
use boot_contract::disk_image::{SETTINGS_BYTES, SETTINGS_OFFSET};
use boot_contract::partition_label::{BOOT, OEM as OEM_LABEL, PERSISTENT as PERSISTENT_LABEL};
use boot_contract::paths::{DEVICES, OEM, PERSISTENT};
use disk::fat;
use disk::gpt::change::{ChangeError, change};
use disk::gpt::{disk_guid, partition_place};
use disk::layout::{ALIGNMENT, Role};
use disk::marker::{self, Marker};
use disk::target::{Disk, Target};
use machine::installed::{self, PartitionGuidError};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Unit of sizes in sysfs, in bytes, whatever the sector size of the disk is.
const SYSFS_SECTOR: u64 = 512;
/// Bytes of a block of our file systems.
const EXT4_BLOCK: u64 = 4096;

/// Why the disk is not as it should be. What was not changed is as it was.
#[derive(Debug, thiserror::Error)]
pub enum OwnDiskError {
    #[error(transparent)]
    Disk(#[from] PartitionGuidError),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("changing the partition table of {}", .0.display())]
    Table(PathBuf, #[source] ChangeError),
    #[error("writing the partition table of {}", .0.display())]
    WriteTable(PathBuf, #[source] io::Error),
    #[error("making the identifier of {what}")]
    Identifier { what: &'static str, source: io::Error },
    #[error("telling the kernel that {} has grown", .0.display())]
    Announce(PathBuf, #[source] io::Error),
    #[error("letting the file system on {} grow", .0.display())]
    FileSystem(PathBuf, #[source] io::Error),
}

/// The disk, opened beside its partitions, which are in use.
pub struct OwnDisk {
    path: PathBuf,
    target: Disk,
}

impl OwnDisk {
    pub fn open() -> Result<Self, OwnDiskError> {
        let path = installed::disk_of(&partition(PERSISTENT_LABEL))?;
        let target = Disk::open_in_use(&path).map_err(PathError::of("opening", &path))?;
        Ok(Self { path, target })
    }

    /// The GUID of the disk. `None` if its table is not ours.
    pub fn guid(&mut self) -> Result<Option<Uuid>, OwnDiskError> {
        let head = self.head()?;
        Ok(disk_guid(&head, self.target.sector_bytes()))
    }

    /// Makes new identifiers for the disk, its partitions and its file systems. The table comes last: what holds the old GUID
    /// of the disk is begun again.
    pub fn make_identifiers(&mut self) -> Result<(), OwnDiskError> {
        let failed = |what| move |source| OwnDiskError::Identifier { what, source };
        let boot = partition(BOOT);
        let mut boot = Disk::open_in_use(&boot).map_err(PathError::of("opening", &boot))?;
        fat::set_volume_id(&mut boot, Uuid::new_v4().as_fields().0).map_err(failed(BOOT))?;
        for (label, folder) in [(OEM_LABEL, OEM), (PERSISTENT_LABEL, PERSISTENT)] {
            set_ext4_uuid(Path::new(folder), Uuid::new_v4()).map_err(failed(label))?;
        }
        self.change_table(Some(&mut Uuid::new_v4))
    }

    /// Lets COS_PERSISTENT reach to the end of the disk. Returns its new size in bytes; `None` if it does so already. After a
    /// power cut the next call goes on.
    pub fn grow(&mut self) -> Result<Option<u64>, OwnDiskError> {
        self.change_table(None)?;
        let head = self.head()?;
        let label = Role::Persistent.label();
        let Some(place) = partition_place(&head, self.target.sector_bytes(), label) else { return Ok(None) };
        let node = partition(PERSISTENT_LABEL);
        let node = fs::canonicalize(&node).map_err(PathError::of("finding", &node))?;
        let size = Path::new("/sys/class/block").join(node.file_name().unwrap_or_default()).join("size");
        let sectors = fs::read_to_string(&size).map_err(PathError::of("reading", &size))?;
        if sectors.trim().parse().is_ok_and(|sectors: u64| sectors * SYSFS_SECTOR < place.length) {
            let resized = resize_partition(&self.path, Role::Persistent.number(), place.offset, place.length);
            resized.map_err(|error| OwnDiskError::Announce(node.clone(), error))?;
        }
        // The last attempt may have ended between the two. The kernel refuses to resize a file system that has had an error, so
        // it is asked only where there is room.
        let blocks = place.length / EXT4_BLOCK;
        let failed = |error| OwnDiskError::FileSystem(node.clone(), error);
        let before = ext4_blocks(&node).map_err(failed)?;
        if before >= blocks {
            return Ok(None);
        }
        resize_ext4(Path::new(PERSISTENT), blocks).map_err(failed)?;
        // The kernel leaves out a last group that would be too small.
        Ok((ext4_blocks(&node).map_err(failed)? > before).then_some(place.length))
    }

    /// The settings that came with the image, as their bytes.
    pub fn settings(&mut self) -> Result<Vec<u8>, OwnDiskError> {
        let mut settings = vec![0; SETTINGS_BYTES];
        self.target.read_at(SETTINGS_OFFSET, &mut settings).map_err(PathError::of("reading", &self.path))?;
        Ok(settings)
    }

    /// Erases the settings that came with the image, if they are still there.
    pub fn clear_settings(&mut self) -> Result<(), OwnDiskError> {
        if self.settings()?.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let cleared = self.target.write_at(SETTINGS_OFFSET, &[0; SETTINGS_BYTES]).and_then(|()| self.target.flush());
        Ok(cleared.map_err(PathError::of("writing", &self.path))?)
    }

    /// Names the machine in the marker of the installation.
    pub fn set_identity(&mut self, identity: String) -> Result<(), OwnDiskError> {
        let mut bytes = vec![0; marker::LENGTH];
        self.target.read_at(marker::OFFSET, &mut bytes).map_err(PathError::of("reading", &self.path))?;
        let Some(marker) = Marker::parse(&bytes) else { return Ok(()) };
        let marker = Marker { identity: Some(identity), ..marker }.to_bytes();
        let written = self.target.write_at(marker::OFFSET, &marker).and_then(|()| self.target.flush());
        Ok(written.map_err(PathError::of("writing", &self.path))?)
    }

    fn change_table(&mut self, ids: Option<&mut dyn FnMut() -> Uuid>) -> Result<(), OwnDiskError> {
        let head = self.head()?;
        let change = change(&head, self.target.length(), self.target.sector_bytes(), ids);
        let Some(change) = change.map_err(|error| OwnDiskError::Table(self.path.clone(), error))? else {
            return Ok(());
        };
        change.write(&mut self.target).map_err(|error| OwnDiskError::WriteTable(self.path.clone(), error))
    }

    fn head(&mut self) -> Result<Vec<u8>, OwnDiskError> {
        let mut head = vec![0; ALIGNMENT as usize];
        self.target.read_at(0, &mut head).map_err(PathError::of("reading", &self.path))?;
        Ok(head)
    }
}

fn partition(label: &str) -> PathBuf {
    Path::new(DEVICES).join(label)
}

/// `struct blkpg_ioctl_arg` (linux/blkpg.h).
#[repr(C)]
pub struct BlkpgArgument {
    operation: i32,
    flags: i32,
    length: i32,
    partition: *const BlkpgPartition,
}

/// `struct blkpg_partition` (linux/blkpg.h). Start and length are in bytes.
#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    number: i32,
    names: [u8; 128],
}

const BLKPG_RESIZE_PARTITION: i32 = 3;

/// `struct fsuuid` (fs/ext4/ext4.h) with a UUID.
#[repr(C)]
pub struct Ext4Uuid {
    length: u32,
    flags: u32,
    uuid: [u8; 16],
}

/// The size of `struct fsuuid`, whose UUID is a flexible member.
const EXT4_UUID_HEAD: usize = 8;

mod ioctl {
    nix::ioctl_write_ptr_bad!(blkpg, nix::request_code_none!(0x12, 105), super::BlkpgArgument);
    nix::ioctl_write_ptr!(ext4_resize, b'f', 16, u64);
    nix::ioctl_write_ptr_bad!(
        ext4_set_uuid,
        nix::request_code_write!(b'f', 44, super::EXT4_UUID_HEAD),
        super::Ext4Uuid
    );
}

/// Tells the kernel the new length of a partition that is in use.
fn resize_partition(disk: &Path, number: u32, start: u64, length: u64) -> io::Result<()> {
    let (start, length, number) = (start as i64, length as i64, number as i32);
    let partition = BlkpgPartition { start, length, number, names: [0; 128] };
    let length = size_of::<BlkpgPartition>() as i32;
    let argument = BlkpgArgument { operation: BLKPG_RESIZE_PARTITION, flags: 0, length, partition: &partition };
    let disk = File::open(disk)?;
    // SAFETY: the kernel reads both structures, which outlive the call.
    unsafe { ioctl::blkpg(disk.as_raw_fd(), &argument) }?;
    Ok(())
}

/// The blocks of the ext4 file system on a partition, from its superblock (fs/ext4/ext4.h, `struct ext4_super_block`).
fn ext4_blocks(partition: &Path) -> io::Result<u64> {
    const SUPERBLOCK: u64 = 1024;
    let mut superblock = [0; 1024];
    File::open(partition)?.read_exact_at(&mut superblock, SUPERBLOCK)?;
    let word = |at: usize| {
        let bytes = [superblock[at], superblock[at + 1], superblock[at + 2], superblock[at + 3]];
        u64::from(u32::from_le_bytes(bytes))
    };
    if superblock[0x38..0x3a] != [0x53, 0xef] {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it holds no ext4 file system"));
    }
    Ok((word(0x150) << 32) | word(4))
}

/// Makes the mounted file system at `folder` this many blocks large.
fn resize_ext4(folder: &Path, blocks: u64) -> io::Result<()> {
    let folder = File::open(folder)?;
    // SAFETY: the kernel reads one integer (fs/ext4/ext4.h: EXT4_IOC_RESIZE_FS).
    unsafe { ioctl::ext4_resize(folder.as_raw_fd(), &blocks) }?;
    Ok(())
}

/// Gives the mounted file system at `folder` another UUID. Returns when that is on the disk: it goes through the journal.
fn set_ext4_uuid(folder: &Path, uuid: Uuid) -> io::Result<()> {
    let argument = Ext4Uuid { length: 16, flags: 0, uuid: uuid.into_bytes() };
    let folder = File::open(folder)?;
    // SAFETY: the kernel reads the head of the structure and as many bytes behind it as the head says.
    unsafe { ioctl::ext4_set_uuid(folder.as_raw_fd(), &argument) }?;
    Ok(nix::unistd::syncfs(&folder)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use command::Command;

    #[test]
    fn the_blocks_of_a_file_system_are_read() {
        let image = tempfile::NamedTempFile::new().unwrap();
        assert!(ext4_blocks(image.path()).is_err());
        image.as_file().set_len(64 << 20).unwrap();
        assert!(ext4_blocks(image.path()).is_err());
        let make = Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-b", "4096"]);
        make.arg(image.path()).arg("12345").run().unwrap();
        assert_eq!(ext4_blocks(image.path()).unwrap(), 12345);
    }
}
