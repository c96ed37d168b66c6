//! The log of QEMU's block driver `blklogwrites`: every write and flush of a disk, in the order of completion.
//!
//! The format is that of the kernel's target dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst). A
//! write that completed while a flush was under way stands before that flush.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1;
const DISCARD: u64 = 4;
/// Bytes of a sector of the log and of the disk. [`crate::disk::Disk::recorded`] asks QEMU for it.
pub const SECTOR: u64 = 512;
/// Bytes of an entry's head that are read.
const HEAD: usize = 32;

/// An opened log.
pub struct WriteLog {
    file: File,
    length: u64,
    /// QEMU writes the number of entries at a flush, so there may be more of them.
    counted: u64,
    position: u64,
    read: u64,
}

/// One request of the guest. `offset` and `length` are in bytes of the disk and multiples of [`SECTOR`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub offset: u64,
    pub length: u64,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The bytes are in the log from this offset on.
    Write { at: u64 },
    /// Afterwards the sectors are zero.
    Discard,
    /// Everything that was written before is on the medium.
    Flush,
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WriteLogError {
    #[error("reading the log of writes")]
    Read(#[from] io::Error),
    #[error(
        "this is no log of writes: its first sector has no magic number, version {VERSION} and sectors of {SECTOR} bytes"
    )]
    NoLog,
    #[error("entry {0} of the log of writes is cut off")]
    CutOff(u64),
    #[error(
        "entry {number} of the log of writes has the flags {flags:#x}; only plain writes, discards and flushes are known"
    )]
    Flags { number: u64, flags: u64 },
    #[error("entry {0} of the log of writes lies behind the end of any disk")]
    OutOfRange(u64),
}

impl WriteLog {
    pub fn open(path: &Path) -> Result<Self, WriteLogError> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut head = [0; 28];
        if length < SECTOR {
            return Err(WriteLogError::NoLog);
        }
        file.read_exact_at(&mut head, 0)?;
        let sector = u32::from_le_bytes(head[24..].try_into().expect("four bytes"));
        if number(&head, 0) != MAGIC || number(&head, 8) != VERSION || u64::from(sector) != SECTOR {
            return Err(WriteLogError::NoLog);
        }
        Ok(Self { file, length, counted: number(&head, 16), position: SECTOR, read: 0 })
    }

    /// The next entry. `None` at the end. A killed QEMU may leave an entry cut off behind the counted ones.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, WriteLogError> {
        let is_counted = self.read < self.counted;
        let ended = |number| if is_counted { Err(WriteLogError::CutOff(number)) } else { Ok(None) };
        if self.length.saturating_sub(self.position) < SECTOR {
            return ended(self.read);
        }
        let mut head = [0; HEAD];
        self.file.read_exact_at(&mut head, self.position)?;
        let [sector, sectors, flags] = [0, 8, 16].map(|at| number(&head, at));
        if (sector, sectors, flags) == (0, 0, 0) {
            return ended(self.read);
        }
        let bytes = |sectors: u64| sectors.checked_mul(SECTOR).filter(|bytes| *bytes <= i64::MAX as u64);
        let (Some(offset), Some(length)) = (bytes(sector), bytes(sectors)) else {
            return Err(WriteLogError::OutOfRange(self.read));
        };
        let at = self.position + SECTOR;
        let kind = match flags {
            0 => Kind::Write { at },
            DISCARD => Kind::Discard,
            FLUSH if length == 0 => Kind::Flush,
            _ => return Err(WriteLogError::Flags { number: self.read, flags }),
        };
        if let Kind::Write { at } = kind {
            if self.length - at < length {
                return ended(self.read);
            }
            self.position = at + length;
        } else {
            self.position = at;
        }
        self.read += 1;
        Ok(Some(Entry { offset, length, kind }))
    }

    /// Reads bytes of a write. `at` is from [`Kind::Write`], or up to the entry's length behind it.
    pub fn read_data(&self, at: u64, buffer: &mut [u8]) -> Result<(), WriteLogError> {
        Ok(self.file.read_exact_at(buffer, at)?)
    }
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(counted: u64) -> Vec<u8> {
        let mut bytes = [MAGIC, VERSION, counted].map(u64::to_le_bytes).concat();
        bytes.extend(512u32.to_le_bytes());
        bytes.resize(512, 0);
        bytes
    }

    fn entry(sector: u64, sectors: u64, flags: u64, data: &[u8]) -> Vec<u8> {
        let mut bytes = [sector, sectors, flags, 0].map(u64::to_le_bytes).concat();
        bytes.resize(512, 0);
        bytes.extend(data);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<Entry>, WriteLogError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let mut log = WriteLog::open(file.path())?;
        let mut entries = Vec::new();
        while let Some(entry) = log.next_entry()? {
            if let Kind::Write { at } = entry.kind {
                let mut data = vec![0; entry.length as usize];
                log.read_data(at, &mut data)?;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    #[test]
    fn writes_discards_and_flushes_are_read_also_behind_the_count() {
        let bytes = [
            head(1),
            entry(8, 2, 0, &[7; 1024]),
            entry(0, 0, FLUSH, &[]),
            entry(16, 4, DISCARD, &[]),
            entry(0, 1, 0, &[1; 100]),
        ];
        let expected = [
            Entry { offset: 4096, length: 1024, kind: Kind::Write { at: 1024 } },
            Entry { offset: 0, length: 0, kind: Kind::Flush },
            Entry { offset: 8192, length: 2048, kind: Kind::Discard },
        ];
        assert_eq!(read(&bytes.concat()).unwrap(), expected, "the last entry was cut off when QEMU was killed");
        let counted = [head(2), entry(8, 2, 0, &[7; 1024])].concat();
        assert!(matches!(read(&counted), Err(WriteLogError::CutOff(1))));
    }

    #[test]
    fn anything_else_is_refused() {
        assert!(matches!(read(&[0; 512]), Err(WriteLogError::NoLog)));
        assert!(matches!(read(&head(0)[..511]), Err(WriteLogError::NoLog)));
        let mark = [head(1), entry(0, 0, 8, &[])].concat();
        assert!(matches!(read(&mark), Err(WriteLogError::Flags { number: 0, flags: 8 })));
        let far = [head(1), entry(u64::MAX / 2, 1, 0, &[0; 512])].concat();
        assert!(matches!(read(&far), Err(WriteLogError::OutOfRange(0))));
    }

    proptest! {
        #[test]
        fn no_log_makes_the_parser_panic_or_read_without_end(
            counted: u64,
            entries in proptest::collection::vec((any::<u64>(), 0..9u64, 0..9u64, 0..4096usize), 0..8),
            cut: prop::sample::Index,
        ) {
            let mut bytes = head(counted);
            for (sector, sectors, flags, data) in entries {
                bytes.extend(entry(sector, sectors, flags, &vec![3; data]));
            }
            bytes.truncate(512 + cut.index(bytes.len() - 511));
            let _ = read(&bytes);
        }
    }
}
