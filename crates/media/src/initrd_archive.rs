//! An archive that the kernel unpacks before it starts the initrd's first program, in the format "newc" (the kernel's
//! `Documentation/driver-api/early-userspace/buffer-format.rst`).

use crate::composed::Composed;
use crate::iso9660::Extent;
use cpio::newc::{Builder, ModeFileType, trailer};
use std::io::{self, ErrorKind, Read, Write};

/// Linux expects what follows a content, and a further archive, at a multiple of this, in bytes.
pub const ALIGNMENT: u64 = 4;

/// An archive that is being written. All files belong to root. Folders come before what is in them.
pub struct Archive<W: Write> {
    writer: W,
    /// Time stamp of every entry, in seconds since 1970.
    epoch: u32,
    inode: u32,
}

impl<W: Write> Archive<W> {
    pub fn new(writer: W, epoch: u32) -> Self {
        Self { writer, epoch, inode: 0 }
    }

    pub fn folder(&mut self, name: &str) -> io::Result<()> {
        self.header(name, ModeFileType::Directory, 0o755, 0)
    }

    /// `size`: of the content, in bytes. The format holds files of less than 4 GiB.
    pub fn file(&mut self, name: &str, mode: u32, size: u64, content: impl Read) -> io::Result<()> {
        self.header(name, ModeFileType::Regular, mode, size)?;
        let copied = io::copy(&mut content.take(size), &mut self.writer)?;
        if copied != size {
            let text = format!("{name} ends after {copied} of {size} bytes");
            return Err(io::Error::new(ErrorKind::UnexpectedEof, text));
        }
        self.pad(size)
    }

    fn header(&mut self, name: &str, kind: ModeFileType, mode: u32, size: u64) -> io::Result<()> {
        self.inode += 1;
        let too_big = |_| io::Error::new(ErrorKind::InvalidInput, format!("{name} is too big for a cpio archive"));
        let length = u32::try_from(size).map_err(too_big)?;
        let builder = Builder::new(name).ino(self.inode).mtime(self.epoch).mode(mode).set_mode_file_type(kind);
        // Without a content it writes the header alone.
        builder.write(&mut self.writer, length).finish().map(drop)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let zeros = [0; ALIGNMENT as usize];
        self.writer.write_all(&zeros[..(size.next_multiple_of(ALIGNMENT) - size) as usize])
    }

    pub fn finish(self) -> io::Result<W> {
        trailer(self.writer)
    }
}

impl Archive<Composed> {
    /// A file whose content is an extent of the source. The format holds files of less than 4 GiB.
    pub fn extent(&mut self, name: &str, mode: u32, extent: Extent) -> io::Result<()> {
        self.header(name, ModeFileType::Regular, mode, extent.size)?;
        self.writer.push(extent);
        self.pad(extent.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpio::newc::Reader;

    #[test]
    fn the_archive_has_types_modes_and_content() {
        let mut archive = Archive::new(Vec::new(), 7);
        archive.folder("dev").unwrap();
        archive.file("init", 0o755, 7, &b"program"[..]).unwrap();
        let bytes = archive.finish().unwrap();
        let folder = Reader::new(bytes.as_slice()).unwrap();
        assert_eq!((folder.entry().name(), folder.entry().mode(), folder.entry().mtime()), ("dev", 0o040_755, 7));
        let mut file = Reader::new(folder.finish().unwrap()).unwrap();
        let mut content = String::new();
        file.read_to_string(&mut content).unwrap();
        assert_eq!((file.entry().name(), file.entry().mode(), content.as_str()), ("init", 0o100_755, "program"));
        assert!(Reader::new(file.finish().unwrap()).unwrap().entry().is_trailer());
    }

    #[test]
    fn an_extent_is_archived_as_its_content_would_be() {
        for size in 0..9 {
            let source: Vec<u8> = (0..20).collect();
            let mut composed = Archive::new(Composed::default(), 7);
            composed.folder("dev").unwrap();
            composed.extent("root.erofs", 0o644, Extent { offset: 3, size }).unwrap();
            let composed = composed.finish().unwrap();
            let mut written = Archive::new(Vec::new(), 7);
            written.folder("dev").unwrap();
            written.file("root.erofs", 0o644, size, &source[3..]).unwrap();
            let part = |range: std::ops::Range<u64>| Ok(source[range.start as usize..range.end as usize].to_vec());
            assert_eq!(composed.read(0..composed.size(), part).unwrap(), written.finish().unwrap());
        }
        let large = Extent { offset: 0, size: 4 << 30 };
        let error = Archive::new(Composed::default(), 0).extent("root.erofs", 0o644, large).unwrap_err();
        assert_eq!(error.to_string(), "root.erofs is too big for a cpio archive");
    }

    #[test]
    fn a_content_that_is_shorter_than_said_is_an_error() {
        let error = Archive::new(Vec::new(), 0).file("root.erofs", 0o644, 9, &b"short"[..]).unwrap_err();
        assert_eq!(error.to_string(), "root.erofs ends after 5 of 9 bytes");
    }
}
