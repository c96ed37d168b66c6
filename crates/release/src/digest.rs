//! SHA-256 of bytes, files and streams, as lower-case hex.

use aws_lc_rs::digest::{Context, SHA256, digest};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

/// Bytes of one read.
const BUFFER_BYTES: usize = 1 << 20;

/// The digest of everything that `reader` gives, and the number of bytes.
pub fn of_reader(mut reader: impl Read) -> io::Result<(String, u64)> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut size = 0;
    loop {
        let read = match reader.read(&mut buffer) {
            Ok(0) => return Ok((hex::encode(context.finish()), size)),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        context.update(&buffer[..read]);
        size += read as u64;
    }
}

/// The digest of a file, and its size in bytes.
pub fn of_file(path: &Path) -> io::Result<(String, u64)> {
    of_reader(File::open(path)?)
}

/// Takes what is written to it for its digest, and keeps nothing.
pub struct Writer(Context);

impl Default for Writer {
    fn default() -> Self {
        Self(Context::new(&SHA256))
    }
}

impl Writer {
    pub fn finish(self) -> String {
        hex::encode(self.0.finish())
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub fn of_bytes(bytes: &[u8]) -> String {
    hex::encode(digest(&SHA256, bytes))
}
