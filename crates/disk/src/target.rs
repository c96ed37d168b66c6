//! The target of an installation: a block device or an image file. Tests use targets that fail on purpose.

pub(crate) mod buffer;

use buffer::{AlignedBuffer, MEMORY_ALIGNMENT};
use nix::libc;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Storage of a fixed number of bytes. Offsets and lengths are multiples of the sector size.
pub trait Target {
    fn length(&self) -> u64;
    /// 512 or 4096.
    fn sector_bytes(&self) -> u32;
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Reads from the device and not from the page cache. Call [`Target::flush`] before.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Returns when everything written is on the medium.
    fn flush(&mut self) -> io::Result<()>;
    /// Tells the kernel that the partition table has changed.
    fn announce(&mut self) -> io::Result<()>;
}

/// A block device, written without the page cache, or an image file.
pub struct Disk {
    file: File,
    length: u64,
    sector_bytes: u32,
    kind: Kind,
}

enum Kind {
    /// Holds a bounce buffer for bytes that are not aligned in memory as direct transfers require.
    Device(AlignedBuffer),
    Image,
}

mod ioctl {
    nix::ioctl_read!(block_device_bytes, 0x12, 114, u64);
    nix::ioctl_read_bad!(logical_sector_bytes, nix::request_code_none!(0x12, 104), nix::libc::c_int);
    nix::ioctl_none!(reread_partition_table, 0x12, 95);
}

/// Size of the bounce buffer in bytes.
const BOUNCE: usize = 1 << 20;

impl Disk {
    /// Opens a block device or a file for an installation. The kernel refuses a device that is mounted or otherwise in
    /// use with `EBUSY`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let is_device = std::fs::metadata(path)?.file_type().is_block_device();
        if is_device { Self::device(path, libc::O_EXCL) } else { Self::image(path) }
    }

    /// Opens a block device whose partitions are in use, or a file. The caller writes only what is on no partition in use.
    pub fn open_in_use(path: &Path) -> io::Result<Self> {
        if std::fs::metadata(path)?.file_type().is_block_device() { Self::device(path, 0) } else { Self::image(path) }
    }

    fn device(path: &Path, flags: libc::c_int) -> io::Result<Self> {
        let flags = flags | libc::O_DIRECT | libc::O_CLOEXEC;
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
        let mut length = 0;
        let mut sector = 0;
        // SAFETY: both requests write one integer of the type that is passed (linux/fs.h: BLKGETSIZE64, BLKSSZGET).
        unsafe {
            ioctl::block_device_bytes(file.as_raw_fd(), &mut length)?;
            ioctl::logical_sector_bytes(file.as_raw_fd(), &mut sector)?;
        }
        let sector_bytes = u32::try_from(sector).map_err(io::Error::other)?;
        Ok(Self { file, length, sector_bytes, kind: Kind::Device(AlignedBuffer::new(BOUNCE)) })
    }

    fn image(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let length = file.metadata()?.len();
        Ok(Self { file, length, sector_bytes: 512, kind: Kind::Image })
    }
}

impl Target for Disk {
    fn length(&self) -> u64 {
        self.length
    }

    fn sector_bytes(&self) -> u32 {
        self.sector_bytes
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match &mut self.kind {
            Kind::Device(bounce) if !is_aligned(bytes) => {
                for (index, part) in bytes.chunks(BOUNCE).enumerate() {
                    bounce[..part.len()].copy_from_slice(part);
                    self.file.write_all_at(&bounce[..part.len()], offset + (index * BOUNCE) as u64)?;
                }
                Ok(())
            }
            _ => self.file.write_all_at(bytes, offset),
        }
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match &mut self.kind {
            Kind::Device(bounce) if !is_aligned(buffer) => {
                for (index, part) in buffer.chunks_mut(BOUNCE).enumerate() {
                    self.file.read_exact_at(&mut bounce[..part.len()], offset + (index * BOUNCE) as u64)?;
                    part.copy_from_slice(&bounce[..part.len()]);
                }
                Ok(())
            }
            _ => self.file.read_exact_at(buffer, offset),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_all()?;
        if matches!(self.kind, Kind::Image) {
            // An image is written through the page cache. It has to be read back from the file system below, not from
            // the cache.
            let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
            nix::fcntl::posix_fadvise(&self.file, 0, 0, advice)?;
        }
        Ok(())
    }

    fn announce(&mut self) -> io::Result<()> {
        if matches!(self.kind, Kind::Device(_)) {
            // SAFETY: BLKRRPART takes no argument (linux/fs.h).
            unsafe { ioctl::reread_partition_table(self.file.as_raw_fd()) }?;
        }
        Ok(())
    }
}

fn is_aligned(bytes: &[u8]) -> bool {
    (bytes.as_ptr() as usize).is_multiple_of(MEMORY_ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_written_and_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8192).unwrap();
        let mut disk = Disk::open(file.path()).unwrap();
        disk.write_at(4096, &[7; 512]).unwrap();
        disk.flush().unwrap();
        let mut read = [0; 1024];
        disk.read_at(4096, &mut read).unwrap();
        assert_eq!((read[511], read[512]), (7, 0));
        assert_eq!(disk.length(), 8192);
        assert!(disk.read_at(8192, &mut read).is_err(), "an image does not grow");
    }
}
