//! The content of a file of a tree, where it is a part of another file: of an archive, or all of it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};

/// Where a content lies. Between its parts are zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    path: Arc<Path>,
    size: u64,
    /// In their order, without overlaps.
    parts: Vec<Part>,
}

/// Offsets and lengths are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Where it begins in the content.
    pub(super) at: u64,
    /// Where it begins in the file.
    pub(super) from: u64,
    pub(super) length: u64,
}

impl Stored {
    /// All of the file at `path`, as long as it is now.
    pub fn whole(path: &Path) -> Result<Self> {
        let length = path.metadata().with_context(|| format!("inspecting {}", path.display()))?.len();
        Ok(Self { path: path.into(), size: length, parts: vec![Part { at: 0, from: 0, length }] })
    }

    /// `None` if the parts overlap, or do not lie in the content.
    pub(super) fn new(path: &Arc<Path>, size: u64, parts: Vec<Part>) -> Option<Self> {
        let mut end = 0;
        for part in &parts {
            let begins_after = part.at >= end;
            end = part.at.checked_add(part.length).filter(|end| begins_after && *end <= size)?;
        }
        Some(Self { path: path.clone(), size, parts })
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads exactly `size` bytes. A file that has become shorter is an error.
    pub fn open(&self) -> Result<impl Read> {
        let file = File::open(&self.path).with_context(|| format!("opening {}", self.path.display()))?;
        Ok(Reader { file, stored: self, position: 0, part: 0 })
    }
}

struct Reader<'a> {
    file: File,
    stored: &'a Stored,
    position: u64,
    /// The part that is read, or that comes next.
    part: usize,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let up_to = |bytes: u64| buffer.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
        let next = self.stored.parts[self.part..].iter().find(|part| part.at + part.length > self.position);
        let read = match next {
            Some(part) if part.at <= self.position => {
                let inside = self.position - part.at;
                let limit = up_to(part.length - inside);
                self.file.seek(SeekFrom::Start(part.from + inside))?;
                let read = self.file.read(&mut buffer[..limit])?;
                if read == 0 && limit > 0 {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"));
                }
                read
            }
            between => {
                let end = between.map_or(self.stored.size, |part| part.at);
                let limit = up_to(end - self.position);
                buffer[..limit].fill(0);
                limit
            }
        };
        self.position += read as u64;
        while self.stored.parts.get(self.part).is_some_and(|part| part.at + part.length <= self.position) {
            self.part += 1;
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    proptest! {
        #[test]
        fn parts_and_the_zeros_between_them_are_read(
            parts in prop::collection::vec((0u64..50, 0u64..50, 0u64..200), 0..6), end in 0u64..50, piece in 1usize..70
        ) {
            let file = tempfile::NamedTempFile::new().unwrap();
            let bytes: Vec<u8> = (0..=249).collect();
            fs::write(file.path(), &bytes).unwrap();
            let (mut expected, mut taken) = (Vec::new(), Vec::new());
            for (gap, length, from) in parts {
                expected.resize(expected.len() + gap as usize, 0);
                taken.push(Part { at: expected.len() as u64, from, length });
                expected.extend(&bytes[from as usize..(from + length) as usize]);
            }
            expected.resize(expected.len() + end as usize, 0);
            let stored = Stored::new(&file.path().into(), expected.len() as u64, taken).unwrap();
            let (mut read, mut buffer, mut reader) = (Vec::<u8>::new(), vec![0xff; piece], stored.open().unwrap());
            loop {
                match reader.read(&mut buffer).unwrap() {
                    0 => break,
                    count => read.extend(&buffer[..count]),
                }
            }
            prop_assert_eq!(read, expected);
        }
    }

    #[test]
    fn parts_that_cannot_be_are_refused() {
        let stored = |size, parts: &[(u64, u64)]| {
            let parts = parts.iter().map(|(at, length)| Part { at: *at, from: 0, length: *length }).collect();
            Stored::new(&Path::new("x").into(), size, parts)
        };
        assert!(stored(10, &[(0, 4), (4, 6)]).is_some());
        for (size, parts) in [(10, vec![(0, 11)]), (10, vec![(0, 4), (3, 1)]), (u64::MAX, vec![(u64::MAX, 2)])] {
            assert_eq!(stored(size, &parts), None, "{parts:?}");
        }
    }
}
