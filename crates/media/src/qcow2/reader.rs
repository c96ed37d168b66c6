//! Reads the disk of an image as if it were a file.

use super::{Qcow2, Qcow2Error};
use crate::seek;
use std::io::{self, Read, Seek, SeekFrom};

/// The disk from its first byte to its last. What is not stored reads as zeros.
pub struct DiskReader<R> {
    image: Qcow2<R>,
    /// On the disk, in bytes. It may be behind the end.
    position: u64,
}

impl<R> From<Qcow2<R>> for DiskReader<R> {
    fn from(image: Qcow2<R>) -> Self {
        Self { image, position: 0 }
    }
}

impl<R: Read + Seek> Read for DiskReader<R> {
    /// Reads up to the end of a cluster.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let cluster = 1 << self.image.cluster_bits;
        let left = self.image.disk_bytes.saturating_sub(self.position).min(cluster - self.position % cluster);
        let count = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let buffer = &mut buffer[..count];
        if count > 0 {
            match self.image.stored(self.position)? {
                None => buffer.fill(0),
                Some(offset) => {
                    self.image.file.seek(SeekFrom::Start(offset))?;
                    self.image.file.read_exact(buffer)?;
                }
            }
        }
        self.position += count as u64;
        Ok(count)
    }
}

impl<R> Seek for DiskReader<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = seek::position(to, self.position, self.image.disk_bytes)?;
        Ok(self.position)
    }
}

impl From<Qcow2Error> for io::Error {
    fn from(error: Qcow2Error) -> Self {
        match error {
            Qcow2Error::Read(error) => error,
            error => Self::other(error),
        }
    }
}
