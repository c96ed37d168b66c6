//! Reads a disk image of QEMU (docs/interop/qcow2.txt of QEMU), as `qemu-img convert` writes it: one file, without compression,
//! encryption or snapshots.

mod reader;

pub use reader::DiskReader;

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use thiserror::Error;

pub const MAGIC: &[u8; 4] = b"QFI\xfb";
const HEADER_BYTES: usize = 104;
/// 512 bytes to 2 MiB.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// Bits of an entry that hold an offset in the file.
const OFFSET: u64 = 0x00FF_FFFF_FFFF_FE00;
/// Bit of a second-level entry: the cluster is compressed.
const COMPRESSED: u64 = 1 << 62;
/// Bit of a second-level entry: the cluster reads as zeros.
const ZEROS: u64 = 1;

/// Why an image cannot be read.
#[derive(Debug, Error)]
pub enum Qcow2Error {
    #[error("reading it")]
    Read(#[from] io::Error),
    #[error("it is no qcow2 image, or was cut off")]
    NotQcow2,
    #[error("it has {0}; make one without by `qemu-img convert -O qcow2`")]
    Unsupported(&'static str),
    #[error("the place is not stored in one piece; make a new image by `qemu-img convert -O qcow2`")]
    Scattered,
}

/// An opened image.
pub struct Qcow2<R> {
    file: R,
    /// Size of the file in bytes.
    file_bytes: u64,
    cluster_bits: u32,
    /// Size of the disk in bytes.
    pub disk_bytes: u64,
    first_level: Range<u64>,
}

impl<R: Read + Seek> Qcow2<R> {
    pub fn open(mut file: R) -> Result<Self, Qcow2Error> {
        let file_bytes = file.seek(SeekFrom::End(0))?;
        let mut header = [0; HEADER_BYTES];
        file.seek(SeekFrom::Start(0))?;
        match file.read_exact(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(Qcow2Error::NotQcow2),
            result => result?,
        }
        let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let long = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 4));
        let (version, cluster_bits) = (word(4), word(20));
        if !header.starts_with(MAGIC) || !(2..=3).contains(&version) || !CLUSTER_BITS.contains(&cluster_bits) {
            return Err(Qcow2Error::NotQcow2);
        }
        let incompatible = if version == 3 { long(72) } else { 0 };
        let unsupported = [
            (long(8) != 0, "a backing file"),
            (word(32) != 0, "encryption"),
            (word(60) != 0, "snapshots"),
            (incompatible != 0, "features that only QEMU knows"),
        ];
        if let Some((_, what)) = unsupported.into_iter().find(|(has, _)| *has) {
            return Err(Qcow2Error::Unsupported(what));
        }
        let entries = u64::from(word(36));
        let begin = long(40);
        let first_level = begin..begin.saturating_add(entries * 8);
        if first_level.end > file_bytes {
            return Err(Qcow2Error::NotQcow2);
        }
        Ok(Self { file, file_bytes, cluster_bits, disk_bytes: long(24), first_level })
    }

    /// Where these bytes of the disk are in the file.
    pub fn locate(&mut self, range: Range<u64>) -> Result<u64, Qcow2Error> {
        let cluster = 1 << self.cluster_bits;
        let mut found: Option<u64> = None;
        let mut at = range.start;
        while at < range.end {
            let here = self.stored(at)?.ok_or(Qcow2Error::Scattered)?;
            let begin = *found.get_or_insert(here);
            if here != begin + (at - range.start) {
                return Err(Qcow2Error::Scattered);
            }
            at = (at / cluster + 1) * cluster;
        }
        let begin = found.ok_or(Qcow2Error::Scattered)?;
        if begin + (range.end - range.start) > self.file_bytes { Err(Qcow2Error::NotQcow2) } else { Ok(begin) }
    }

    /// Reads bytes of the disk that are stored in one piece.
    pub fn read_at(&mut self, at: u64, buffer: &mut [u8]) -> Result<(), Qcow2Error> {
        let begin = self.locate(at..at + buffer.len() as u64)?;
        self.file.seek(SeekFrom::Start(begin))?;
        Ok(self.file.read_exact(buffer)?)
    }

    /// The offset in the file of this byte of the disk. `None` for one that is not stored, and reads as zero.
    fn stored(&mut self, at: u64) -> Result<Option<u64>, Qcow2Error> {
        let number = at >> self.cluster_bits;
        // An entry has 8 bytes, and a table of the second level one cluster.
        let (first, second) = (number >> (self.cluster_bits - 3), number & ((1 << (self.cluster_bits - 3)) - 1));
        let place = first.checked_mul(8).and_then(|offset| offset.checked_add(self.first_level.start));
        let place = place.filter(|place| *place < self.first_level.end).ok_or(Qcow2Error::NotQcow2)?;
        let table = self.entry(place)? & OFFSET;
        if table == 0 {
            return Ok(None);
        }
        let entry = self.entry(table + second * 8)?;
        if entry & COMPRESSED != 0 {
            return Err(Qcow2Error::Unsupported("compressed clusters"));
        }
        let is_stored = entry & ZEROS == 0 && entry & OFFSET != 0;
        Ok(is_stored.then(|| (entry & OFFSET) + at % (1 << self.cluster_bits)))
    }

    fn entry(&mut self, at: u64) -> Result<u64, Qcow2Error> {
        if at.checked_add(8).is_none_or(|end| end > self.file_bytes) {
            return Err(Qcow2Error::NotQcow2);
        }
        let mut entry = [0; 8];
        self.file.seek(SeekFrom::Start(at))?;
        self.file.read_exact(&mut entry)?;
        Ok(u64::from_be_bytes(entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    /// An image of one mebibyte in clusters of 64 KiB, whose clusters 4 and 5 are stored, the last one first.
    fn image() -> Vec<u8> {
        let cluster = 1usize << 16;
        let mut image = vec![0; 5 * cluster];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, MAGIC);
        put(4, &3u32.to_be_bytes());
        put(20, &16u32.to_be_bytes());
        put(24, &(1u64 << 20).to_be_bytes());
        put(36, &1u32.to_be_bytes());
        put(40, &(cluster as u64).to_be_bytes());
        let entry = |flag: u64, clusters: usize| (flag | (clusters * cluster) as u64).to_be_bytes();
        let copied = 1 << 63;
        put(cluster, &entry(copied, 2));
        put(2 * cluster + 4 * 8, &entry(copied, 4));
        put(2 * cluster + 5 * 8, &entry(copied, 3));
        put(2 * cluster + 6 * 8, &entry(COMPRESSED, 3));
        put(4 * cluster + 7, b"fourth");
        image
    }

    #[test]
    fn stored_clusters_are_found_where_they_are() {
        let mut image = Qcow2::open(Cursor::new(image())).unwrap();
        assert_eq!(image.disk_bytes, 1 << 20);
        assert_eq!(image.locate((4 << 16)..(5 << 16)).unwrap(), 4 << 16);
        assert_eq!(image.locate((5 << 16) + 7..(5 << 16) + 9).unwrap(), (3 << 16) + 7);
        let mut read = [0; 6];
        image.read_at((4 << 16) + 7, &mut read).unwrap();
        assert_eq!(&read, b"fourth");
        assert!(matches!(image.locate((4 << 16)..(6 << 16)), Err(Qcow2Error::Scattered)), "in another order");
        assert!(matches!(image.locate(0..9), Err(Qcow2Error::Scattered)), "not stored");
        assert!(matches!(image.locate((6 << 16)..(7 << 16)), Err(Qcow2Error::Unsupported("compressed clusters"))));
    }

    #[test]
    fn a_reader_gives_what_is_stored_and_zeros_between() {
        let mut disk = DiskReader::from(Qcow2::open(Cursor::new(image())).unwrap());
        let mut read = vec![9; 6 << 16];
        disk.read_exact(&mut read).unwrap();
        assert!(read[..4 << 16].iter().all(|byte| *byte == 0));
        assert_eq!(&read[(4 << 16) + 7..][..6], b"fourth");
        assert_eq!(disk.read(&mut read).unwrap_err().to_string(), compressed(), "cluster 6");
        disk.seek(SeekFrom::End(-2)).unwrap();
        assert_eq!(disk.read(&mut read).unwrap(), 2);
        assert_eq!(disk.read(&mut read).unwrap(), 0);
    }

    fn compressed() -> String {
        Qcow2Error::Unsupported("compressed clusters").to_string()
    }

    #[test]
    fn what_cannot_be_changed_in_place_is_refused_by_name() {
        let changed = |at: usize, value: u8| {
            let mut image = image();
            image[at] = value;
            Qcow2::open(Cursor::new(image)).map(|_| ()).unwrap_err().to_string()
        };
        for (at, value, named) in [
            (15, 9, "a backing file"),
            (35, 1, "encryption"),
            (63, 1, "snapshots"),
            (79, 1, "features"),
            (0, 0, "no qcow2"),
        ] {
            assert!(changed(at, value).contains(named), "{named}");
        }
        assert!(Qcow2::open(Cursor::new(&image()[..1000])).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            changes in proptest::collection::vec((0usize..0x2_0100, any::<u8>()), 0..40),
            at in prop_oneof![0u64..2 << 20, any::<u64>()], length in 0u64..1 << 20,
        ) {
            let mut image = image();
            for (place, value) in changes {
                image[place] = value;
            }
            if let Ok(mut image) = Qcow2::open(Cursor::new(image)) {
                let _ = image.locate(at..at.saturating_add(length));
                let mut disk = DiskReader::from(image);
                let _ = disk.seek(SeekFrom::Start(at)).and_then(|_| disk.read(&mut vec![0; length as usize]));
            }
        }
    }
}
