//! Archives that are compressed by gzip, zstd or xz. Their first bytes say how, whatever they are called.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use flate2::read::MultiGzDecoder;
use release::digest;

/// More than any of the beginnings.
const BEGINNING_BYTES: u64 = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    Gzip,
    Zstd,
    Xz,
}

impl Compression {
    /// RFC 1952, RFC 8878, and the XZ file format.
    fn of(beginning: &[u8]) -> Option<Self> {
        let kinds: [(&[u8], Self); 3] =
            [(b"\x1f\x8b", Self::Gzip), (b"\x28\xb5\x2f\xfd", Self::Zstd), (b"\xfd7zXZ\0", Self::Xz)];
        kinds.iter().find_map(|(magic, kind)| beginning.starts_with(magic).then_some(*kind))
    }
}

/// The archive at `path` without compression: itself, or a file in `folder`. It has at most `limit` bytes.
pub fn plain(path: &Path, folder: &Path, limit: u64) -> Result<PathBuf> {
    let open = || File::open(path).with_context(|| format!("opening {}", path.display()));
    ensure!(path.is_file(), "{} is not a file", path.display());
    let mut beginning = Vec::new();
    open()?.take(BEGINNING_BYTES).read_to_end(&mut beginning).with_context(|| format!("reading {}", path.display()))?;
    if Compression::of(&beginning).is_none() {
        return Ok(path.to_owned());
    }
    let to = folder.join("plain.tar");
    unpack(open()?, &to, limit).with_context(|| format!("unpacking {}", path.display()))?;
    Ok(to)
}

/// Writes what `reader` has into the file `to`, decompressed, at most `limit` bytes. Returns how many they are, and their
/// SHA-256 in hex.
pub fn unpack(reader: impl Read, to: &Path, limit: u64) -> Result<(u64, String)> {
    let mut reader = BufReader::new(reader);
    let mut beginning = Vec::new();
    reader.by_ref().take(BEGINNING_BYTES).read_to_end(&mut beginning).context("reading the archive")?;
    let compression = Compression::of(&beginning);
    let mut reader = beginning.chain(reader);
    let file = File::create(to).with_context(|| format!("creating {}", to.display()))?;
    let mut writer = Limited { file: BufWriter::new(file), digest: digest::Writer::default(), written: 0, limit };
    match compression {
        None => copy(&mut reader, &mut writer),
        Some(Compression::Gzip) => copy(&mut MultiGzDecoder::new(reader), &mut writer),
        Some(Compression::Zstd) => {
            copy(&mut zstd::Decoder::with_buffer(reader).context("starting decompression")?, &mut writer)
        }
        Some(Compression::Xz) => lzma_rs::xz_decompress(&mut reader, &mut writer)
            .map_err(|error| anyhow!("decompressing it by xz: {error:?}")),
    }?;
    writer.flush().with_context(|| format!("writing {}", to.display()))?;
    Ok((writer.written, writer.digest.finish()))
}

fn copy(reader: &mut impl Read, writer: &mut impl Write) -> Result<()> {
    io::copy(reader, writer).map(drop).context("decompressing it")
}

/// A file that has no more than so many bytes.
struct Limited {
    file: BufWriter<File>,
    /// Of what was written.
    digest: digest::Writer,
    written: u64,
    limit: u64,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.written + bytes.len() as u64 > self.limit {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it has more bytes than a system: 64 GiB"));
        }
        let written = self.file.write(bytes)?;
        self.digest.write_all(&bytes[..written])?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    fn compressed(content: &[u8]) -> [Vec<u8>; 4] {
        let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(content).unwrap();
        let mut xz = Vec::new();
        lzma_rs::xz_compress(&mut &*content, &mut xz).unwrap();
        [content.to_vec(), gzip.finish().unwrap(), zstd::encode_all(content, 1).unwrap(), xz]
    }

    #[test]
    fn every_compression_is_known_by_its_first_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let (content, from) = (b"content of an archive".repeat(100), folder.path().join("from"));
        for bytes in compressed(&content) {
            std::fs::write(&from, bytes).unwrap();
            let plain = plain(&from, folder.path(), 5000).unwrap();
            assert_eq!(std::fs::read(&plain).unwrap(), content);
        }
    }

    #[test]
    fn a_bomb_ends_at_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("to");
        for bytes in compressed(&vec![0; 1 << 20]) {
            assert!(unpack(bytes.as_slice(), &to, (1 << 20) - 1).is_err());
            assert!(to.metadata().unwrap().len() < 1 << 20);
            let (written, digest) = unpack(bytes.as_slice(), &to, 1 << 20).unwrap();
            assert_eq!((written, digest), (1 << 20, digest::of_bytes(&vec![0; 1 << 20])));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_reader_panic(kind in 0usize..4, bytes: Vec<u8>) {
            let folder = tempfile::tempdir().unwrap();
            let beginning = [&b""[..], b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0"][kind];
            let _ = unpack([beginning, &bytes].concat().as_slice(), &folder.path().join("to"), 1 << 20);
        }
    }
}
