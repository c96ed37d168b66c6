//! SHA-256 of files and streams.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result};
use aws_lc_rs::digest;
use protocol::release::ReleaseFile;

const BUFFER_BYTES: usize = 1 << 20;

/// Lower-case hex digest of everything `reader` gives, and the number of bytes.
pub fn of_reader(mut reader: impl Read) -> io::Result<(String, u64)> {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut size = 0;
    loop {
        let read = match reader.read(&mut buffer) {
            Ok(0) => return Ok((hex::encode(context.finish()), size)),
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        context.update(&buffer[..read]);
        size += read as u64;
    }
}

pub fn of_bytes(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

pub fn of_file(path: &Path) -> Result<String> {
    release_file(path, "").map(|file| file.sha256)
}

/// Size and digest of the file at `path`, to be listed as `name`.
pub fn release_file(path: &Path, name: &str) -> Result<ReleaseFile> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let (sha256, size) = of_reader(file).with_context(|| format!("reading {}", path.display()))?;
    Ok(ReleaseFile { name: name.to_owned(), size, sha256 })
}
