//! Both ends of a disk in memory. A partition table is written to nothing else.

use std::io::{self, Read, Seek, SeekFrom, Write};

/// A disk whose ends are in memory. Bytes between them can be neither read nor written.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) head: Vec<u8>,
    pub(super) tail: Vec<u8>,
    /// Size of the disk in bytes.
    length: u64,
    position: u64,
}

impl Ends {
    /// A disk of `length` bytes with `head` zeros at its start and `tail` zeros at its end.
    pub(super) fn new(length: u64, head: u64, tail: u64) -> Self {
        Self { head: vec![0; head as usize], tail: vec![0; tail as usize], length, position: 0 }
    }

    pub(super) fn tail_offset(&self) -> u64 {
        self.length - self.tail.len() as u64
    }

    /// The bytes from the position to the end of this part of the disk, at most `most`.
    fn next(&mut self, most: usize) -> &mut [u8] {
        let from = self.position;
        let (part, start) = match from.checked_sub(self.tail_offset()) {
            Some(start) => (&mut self.tail, start),
            None => (&mut self.head, from),
        };
        let start = usize::try_from(start).unwrap_or(usize::MAX).min(part.len());
        let end = part.len().min(start.saturating_add(most));
        self.position += (end - start) as u64;
        &mut part[start..end]
    }
}

impl Read for Ends {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.next(buffer.len());
        buffer[..bytes.len()].copy_from_slice(bytes);
        Ok(bytes.len())
    }
}

impl Write for Ends {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let place = self.next(bytes.len());
        place.copy_from_slice(&bytes[..place.len()]);
        Ok(place.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Ends {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.length.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
