//! Copies a file system from a sparse temporary file to its partition.
//!
//! A missing or failing tool is noticed before the disk is written. No partition node or loop device is needed, and
//! every byte goes through one [`Target`]. Only the parts of the file that hold data are written: a new ext4 file
//! system of any size has some megabytes of them.

use crate::target::Target;
use crate::target::buffer::AlignedBuffer;
use nix::unistd::{Whence, lseek};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Bytes of one transfer.
const CHUNK: usize = 1 << 20;
/// Unit in which holes are found, in bytes.
const BLOCK: u64 = 4096;

/// Writes the data of `image` to the target from `offset` on.
pub fn write(image: &File, target: &mut dyn Target, offset: u64) -> io::Result<()> {
    let mut buffer = AlignedBuffer::new(CHUNK);
    for range in chunks(image)? {
        let bytes = &mut buffer[..(range.end - range.start) as usize];
        image.read_exact_at(bytes, range.start)?;
        target.write_at(offset + range.start, bytes)?;
    }
    Ok(())
}

/// Whether the target holds the data of `image` from `offset` on.
pub fn compare(image: &File, target: &mut dyn Target, offset: u64) -> io::Result<bool> {
    let (mut expected, mut actual) = (AlignedBuffer::new(CHUNK), AlignedBuffer::new(CHUNK));
    for range in chunks(image)? {
        let length = (range.end - range.start) as usize;
        image.read_exact_at(&mut expected[..length], range.start)?;
        target.read_at(offset + range.start, &mut actual[..length])?;
        if expected[..length] != actual[..length] {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The data of a sparse file in pieces of at most [`CHUNK`] bytes, in whole blocks. The file's length must be a
/// multiple of [`BLOCK`].
fn chunks(image: &File) -> io::Result<Vec<Range<u64>>> {
    let length = image.metadata()?.len();
    let mut chunks = Vec::new();
    let mut at = 0;
    while at < length {
        let start = match lseek(image, at as i64, Whence::SeekData) {
            Ok(start) => start as u64 / BLOCK * BLOCK,
            // There is no data up to the end of the file.
            Err(nix::errno::Errno::ENXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = (lseek(image, start as i64, Whence::SeekHole)? as u64).next_multiple_of(BLOCK).min(length);
        let mut from = start;
        while from < end {
            let to = end.min(from + CHUNK as u64);
            chunks.push(from..to);
            from = to;
        }
        at = end;
    }
    Ok(chunks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Disk;

    #[test]
    fn data_is_written_and_holes_are_not() {
        let image = tempfile::tempfile().unwrap();
        image.set_len(64 << 20).unwrap();
        image.write_all_at(&[3; 10], 5000).unwrap();
        image.write_all_at(&[4; 3 << 20], 40 << 20).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(80 << 20).unwrap();
        file.as_file().write_all_at(b"old", 20 << 20).unwrap();
        let mut disk = Disk::open(file.path()).unwrap();
        write(&image, &mut disk, 1 << 20).unwrap();
        disk.flush().unwrap();
        assert!(compare(&image, &mut disk, 1 << 20).unwrap());
        let mut old = [0; 512];
        disk.read_at(20 << 20, &mut old).unwrap();
        assert_eq!(&old[..3], b"old", "a hole was written");
        disk.write_at(41 << 20, &[0; 512]).unwrap();
        disk.flush().unwrap();
        assert!(!compare(&image, &mut disk, 1 << 20).unwrap());
    }
}
