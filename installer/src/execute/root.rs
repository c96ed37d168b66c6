//! The root image: read once, hashed on the way, written to several places, and read back from each.
//!
//! A thread of its own does the reading or the hashing, so that the disk is never waiting for the processor; a few
//! buffers go round between the two, and memory stays the same for any size of image.

use super::buffer::AlignedBuffer;
use super::target::Target;
use aws_lc_rs::digest::{Context, SHA256};
use std::io::{self, Read};
use std::sync::mpsc;
use std::thread;

/// Bytes of one transfer.
const CHUNK: usize = 4 << 20;
/// One is filled while one is written; a third covers for hiccups.
const BUFFERS: usize = 3;

/// Copies `length` bytes of `source` to each of `offsets`, padded with zeros to whole sectors. Calls `progress` with
/// the bytes written so far, over all places. Returns the lower-case hex SHA-256 of what was read.
pub fn copy(
    source: impl Read + Send,
    length: u64,
    target: &mut dyn Target,
    offsets: &[u64],
    mut progress: impl FnMut(u64),
) -> Result<String, CopyError> {
    let sector = target.sector_bytes() as usize;
    thread::scope(|scope| {
        let (full_in, full) = mpsc::sync_channel::<(AlignedBuffer, usize)>(BUFFERS);
        let (free_in, free) = mpsc::channel();
        for _ in 0..BUFFERS {
            let _ = free_in.send(AlignedBuffer::new(CHUNK));
        }
        let reader = scope.spawn(move || read_and_hash(source, length, &free, &full_in));
        let mut done = 0;
        while let Ok((mut buffer, bytes)) = full.recv() {
            let padded = bytes.next_multiple_of(sector);
            buffer[bytes..padded].fill(0);
            for (index, offset) in (1..).zip(offsets) {
                target.write_at(offset + done, &buffer[..padded]).map_err(CopyError::Write)?;
                progress(done * offsets.len() as u64 + index * bytes as u64);
            }
            done += bytes as u64;
            // The reader is gone once it has read everything.
            let _ = free_in.send(buffer);
        }
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

fn read_and_hash(
    mut source: impl Read,
    length: u64,
    free: &mpsc::Receiver<AlignedBuffer>,
    full: &mpsc::SyncSender<(AlignedBuffer, usize)>,
) -> io::Result<String> {
    let mut context = Context::new(&SHA256);
    let mut left = length;
    while left > 0 {
        // Either end of the channel closes when writing has failed, which the caller reports.
        let Ok(mut buffer) = free.recv() else { break };
        let bytes = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        source.read_exact(&mut buffer[..bytes])?;
        context.update(&buffer[..bytes]);
        left -= bytes as u64;
        if full.send((buffer, bytes)).is_err() {
            break;
        }
    }
    Ok(hex::encode(context.finish()))
}

/// Reads `length` bytes at `offset` back. Returns their lower-case hex SHA-256.
pub fn digest(target: &mut dyn Target, offset: u64, length: u64, mut progress: impl FnMut(u64)) -> io::Result<String> {
    let sector = target.sector_bytes() as usize;
    thread::scope(|scope| {
        let (full_in, full) = mpsc::sync_channel::<(AlignedBuffer, usize)>(BUFFERS);
        let (free_in, free) = mpsc::channel();
        for _ in 0..BUFFERS {
            let _ = free_in.send(AlignedBuffer::new(CHUNK));
        }
        let hasher = scope.spawn(move || {
            let mut context = Context::new(&SHA256);
            for (buffer, bytes) in full {
                context.update(&buffer[..bytes]);
                let _ = free_in.send(buffer);
            }
            hex::encode(context.finish())
        });
        let mut done = 0;
        while done < length {
            let mut buffer: AlignedBuffer = free.recv().map_err(io::Error::other)?;
            let bytes = usize::try_from(length - done).unwrap_or(CHUNK).min(CHUNK);
            target.read_at(offset + done, &mut buffer[..bytes.next_multiple_of(sector)])?;
            done += bytes as u64;
            full_in.send((buffer, bytes)).map_err(io::Error::other)?;
            progress(done);
        }
        drop(full_in);
        hasher.join().map_err(|_| io::Error::other("the hashing thread ended"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execute::target::Disk;

    #[test]
    fn copies_are_equal_and_their_digest_is_that_of_the_source() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(32 << 20).unwrap();
        let mut disk = Disk::open(file.path()).unwrap();
        let image: Vec<u8> = (0..CHUNK * 2 + 777).map(|i| (i % 251) as u8).collect();
        let mut last = 0;
        let length = image.len() as u64;
        let read = copy(&image[..], length, &mut disk, &[0, 16 << 20], |bytes| last = bytes).unwrap();
        assert_eq!(last, 2 * length);
        disk.flush().unwrap();
        for offset in [0, 16 << 20] {
            assert_eq!(digest(&mut disk, offset, length, |_| {}).unwrap(), read);
        }
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
