//! Copies the root image: it is read once, written to several partitions, and read back from each.
//!
//! A second thread reads or hashes, so that the disk does not wait for the processor. The threads exchange a fixed
//! number of buffers, so memory does not depend on the size of the image.

use crate::target::Target;
use crate::target::buffer::AlignedBuffer;
use aws_lc_rs::digest::{Context, SHA256};
use std::io::{self, Read};
use std::sync::mpsc;
use std::thread;

/// Bytes of one transfer.
const CHUNK: usize = 4 << 20;
/// Unit in which a place that cannot be read or written is looked for, in bytes: a multiple of every sector size.
const BLOCK: usize = 4096;
/// One buffer is filled while another is written. The third evens out delays.
const BUFFERS: usize = 3;

/// Hashes what is read through it.
pub struct Hashing<R> {
    source: R,
    context: Context,
}

impl<R> Hashing<R> {
    pub fn new(source: R) -> Self {
        Self { source, context: Context::new(&SHA256) }
    }

    /// The lower-case hex SHA-256 of what was read.
    pub fn finish(self) -> String {
        hex::encode(self.context.finish())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.context.update(&buffer[..count]);
        Ok(count)
    }
}

/// Copies `length` bytes of `source` to each of `offsets`, padded with zeros to whole sectors. Calls `progress` with
/// the bytes written so far to all offsets together.
pub fn copy(
    mut source: impl Read + Send,
    length: u64,
    target: &mut dyn Target,
    offsets: &[u64],
    mut progress: impl FnMut(u64),
) -> Result<(), CopyError> {
    let sector = target.sector_bytes() as usize;
    thread::scope(|scope| {
        let (filler, drainer) = ring();
        let reader =
            scope.spawn(move || filler.fill(length, |_, buffer, bytes| source.read_exact(&mut buffer[..bytes])));
        drainer.drain(|done, buffer, bytes| {
            let padded = bytes.next_multiple_of(sector);
            buffer[bytes..padded].fill(0);
            for (index, offset) in (1..).zip(offsets) {
                write(target, offset + done, &buffer[..padded]).map_err(CopyError::Write)?;
                progress(done * offsets.len() as u64 + index * bytes as u64);
            }
            Ok(())
        })?;
        reader.join().unwrap_or_else(|_| Err(io::Error::other("the reading thread ended"))).map_err(CopyError::Read)
    })
}

/// Which side of a copy failed.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("reading")]
    Read(#[source] io::Error),
    #[error("writing")]
    Write(#[source] io::Error),
}

/// The first place of a transfer that failed. An operating system says only that the whole transfer did.
#[derive(Debug, thiserror::Error)]
#[error("at byte {byte}, which is sector {} of 512 bytes, of the partition or disk", .byte / 512)]
struct FailedAt {
    byte: u64,
    source: io::Error,
}

fn write(target: &mut dyn Target, offset: u64, bytes: &[u8]) -> io::Result<()> {
    target.write_at(offset, bytes).map_err(|error| {
        let parts = (offset..).step_by(BLOCK).zip(bytes.chunks(BLOCK));
        first_failure(parts.map(|(byte, part)| (byte, target.write_at(byte, part)))).unwrap_or(error)
    })
}

fn read(target: &mut dyn Target, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    target.read_at(offset, buffer).map_err(|error| {
        let parts = (offset..).step_by(BLOCK).zip(buffer.chunks_mut(BLOCK));
        first_failure(parts.map(|(byte, part)| (byte, target.read_at(byte, part)))).unwrap_or(error)
    })
}

/// The first failure of a transfer that is tried again block by block. `None` if each block succeeds by itself.
fn first_failure(mut parts: impl Iterator<Item = (u64, io::Result<()>)>) -> Option<io::Error> {
    parts.find_map(|(byte, result)| {
        let source = result.err()?;
        Some(io::Error::new(source.kind(), FailedAt { byte, source }))
    })
}

/// Reads `length` bytes back from `offset`. Returns their lower-case hex SHA-256.
pub fn digest(target: &mut dyn Target, offset: u64, length: u64, mut progress: impl FnMut(u64)) -> io::Result<String> {
    let sector = target.sector_bytes() as usize;
    thread::scope(|scope| {
        let (filler, drainer) = ring();
        let hasher = scope.spawn(move || {
            let mut context = Context::new(&SHA256);
            drainer.drain(|_, buffer, bytes| {
                context.update(&buffer[..bytes]);
                Ok::<(), io::Error>(())
            })?;
            Ok(hex::encode(context.finish()))
        });
        filler.fill(length, |done, buffer, bytes| {
            read(target, offset + done, &mut buffer[..bytes.next_multiple_of(sector)])?;
            progress(done + bytes as u64);
            Ok(())
        })?;
        hasher.join().unwrap_or_else(|_| Err(io::Error::other("the hashing thread ended")))
    })
}

/// The end of the ring that receives empty buffers and passes them on full.
struct Filler {
    free: mpsc::Receiver<AlignedBuffer>,
    full: mpsc::SyncSender<(AlignedBuffer, usize)>,
}

/// The end of the ring that receives full buffers and passes them back empty.
struct Drainer {
    full: mpsc::Receiver<(AlignedBuffer, usize)>,
    free: mpsc::Sender<AlignedBuffer>,
}

/// A few buffers that circulate between two threads.
fn ring() -> (Filler, Drainer) {
    let (full_in, full) = mpsc::sync_channel(BUFFERS);
    let (free_in, free) = mpsc::channel();
    for _ in 0..BUFFERS {
        let _ = free_in.send(AlignedBuffer::new(CHUNK));
    }
    (Filler { free, full: full_in }, Drainer { full, free: free_in })
}

impl Filler {
    /// Calls `fill` until `length` bytes are in buffers. Its arguments are the number of bytes before, a buffer, and
    /// the number of bytes to put into it. Ends early if `fill` fails, or if the drainer is gone.
    fn fill(
        self,
        length: u64,
        mut fill: impl FnMut(u64, &mut AlignedBuffer, usize) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < length {
            let mut buffer = self.free.recv().map_err(io::Error::other)?;
            let bytes = usize::try_from(length - done).unwrap_or(CHUNK).min(CHUNK);
            fill(done, &mut buffer, bytes)?;
            self.full.send((buffer, bytes)).map_err(|_| io::Error::other("the writing thread ended"))?;
            done += bytes as u64;
        }
        Ok(())
    }
}

impl Drainer {
    /// Calls `take` with every full buffer until the filler is gone. Its arguments are the number of bytes before, the
    /// buffer, and the number of bytes in it. Ends early with the error of `take`.
    fn drain<E>(self, mut take: impl FnMut(u64, &mut AlignedBuffer, usize) -> Result<(), E>) -> Result<(), E> {
        let mut done = 0;
        while let Ok((mut buffer, bytes)) = self.full.recv() {
            take(done, &mut buffer, bytes)?;
            done += bytes as u64;
            // The send fails when the filler has passed on everything and is gone.
            let _ = self.free.send(buffer);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Disk;

    #[test]
    fn copies_are_equal_and_their_digest_is_that_of_the_source() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(32 << 20).unwrap();
        let mut disk = Disk::open(file.path()).unwrap();
        let image: Vec<u8> = (0..CHUNK * 2 + 777).map(|i| (i % 251) as u8).collect();
        let mut last = 0;
        let length = image.len() as u64;
        let mut source = Hashing::new(&image[..]);
        copy(&mut source, length, &mut disk, &[0, 16 << 20], |bytes| last = bytes).unwrap();
        let read = source.finish();
        assert_eq!(last, 2 * length);
        disk.flush().unwrap();
        for offset in [0, 16 << 20] {
            assert_eq!(digest(&mut disk, offset, length, |_| {}).unwrap(), read);
        }
    }

    /// A disk of which one sector can be neither written nor read.
    struct BadSector {
        disk: Disk,
        byte: u64,
        may_write: bool,
    }

    impl BadSector {
        fn check(&self, offset: u64, length: usize) -> io::Result<()> {
            let is_bad = (offset..offset + length as u64).contains(&self.byte);
            if is_bad { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
        }
    }

    impl Target for BadSector {
        fn length(&self) -> u64 {
            self.disk.length()
        }
        fn sector_bytes(&self) -> u32 {
            self.disk.sector_bytes()
        }
        fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            if !self.may_write {
                self.check(offset, bytes.len())?;
            }
            self.disk.write_at(offset, bytes)
        }
        fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
            self.check(offset, buffer.len())?;
            self.disk.read_at(offset, buffer)
        }
        fn flush(&mut self) -> io::Result<()> {
            self.disk.flush()
        }
        fn announce(&mut self) -> io::Result<()> {
            self.disk.announce()
        }
    }

    #[test]
    fn a_bad_sector_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(16 << 20).unwrap();
        let byte = (CHUNK + 3 * BLOCK) as u64;
        let image = vec![7; 2 * CHUNK];
        let length = image.len() as u64;
        let expected = format!("at byte {byte}, which is sector {} of", byte / 512);
        let mut bad = BadSector { disk: Disk::open(file.path()).unwrap(), byte: byte + 1024, may_write: false };
        let error = protocol::error_chain(&copy(&image[..], length, &mut bad, &[0], |_| {}).unwrap_err());
        assert!(error.contains(&expected) && error.contains("Input/output error"), "{error}");
        bad.may_write = true;
        copy(&image[..], length, &mut bad, &[0], |_| {}).unwrap();
        let error = protocol::error_chain(&digest(&mut bad, 0, length, |_| {}).unwrap_err());
        assert!(error.contains(&expected), "{error}");
    }

    #[test]
    fn a_source_that_ends_early_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let mut disk = Disk::open(file.path()).unwrap();
        let error = copy(&b"short"[..], 100, &mut disk, &[0], |_| {}).unwrap_err();
        assert!(matches!(error, CopyError::Read(_)), "{error}");
    }
}
