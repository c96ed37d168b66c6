//! A file that is put together while it is read, and stored nowhere: bytes in memory, and extents of another file, its
//! source.

use crate::iso9660::Extent;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use thiserror::Error;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Composed {
    parts: Vec<Part>,
    size: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Bytes(Vec<u8>),
    Source(Extent),
}

/// What the next bytes of a file are.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    Bytes(&'a [u8]),
    /// These bytes of the source.
    Source(Range<u64>),
}

/// Which side of [`Composed::write`] failed.
#[derive(Debug, Error)]
pub enum WriteError {
    #[error("reading the medium")]
    Source(#[source] io::Error),
    #[error("writing")]
    Output(#[source] io::Error),
}

/// Bytes of the source that are copied at once.
const BUFFER: usize = 1 << 20;

impl Composed {
    /// Appends an extent of the source.
    pub fn push(&mut self, extent: Extent) {
        self.parts.push(Part::Source(extent));
        self.size += extent.size;
    }

    /// Appends bytes.
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        match self.parts.last_mut() {
            Some(Part::Bytes(last)) => last.extend_from_slice(bytes),
            _ => self.parts.push(Part::Bytes(bytes.to_vec())),
        }
        self.size += bytes.len() as u64;
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What the bytes of `range` are, in their order. What is behind the end is left out.
    pub fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = Piece<'_>> {
        let mut end = 0;
        self.parts.iter().filter_map(move |part| {
            let begin = end;
            end += part.size();
            let from = range.start.clamp(begin, end) - begin;
            let to = range.end.clamp(begin, end) - begin;
            (from < to).then(|| part.piece(from..to))
        })
    }

    /// Writes the whole file. A source that ends too early is an error.
    pub fn write(&self, mut source: impl Read + Seek, output: &mut impl Write) -> Result<(), WriteError> {
        let mut buffer = vec![0; BUFFER];
        for piece in self.pieces(0..self.size) {
            match piece {
                Piece::Bytes(bytes) => output.write_all(bytes).map_err(WriteError::Output)?,
                Piece::Source(range) => {
                    source.seek(SeekFrom::Start(range.start)).map_err(WriteError::Source)?;
                    for at in range.clone().step_by(BUFFER) {
                        let part = &mut buffer[..(range.end - at).min(BUFFER as u64) as usize];
                        source.read_exact(part).map_err(WriteError::Source)?;
                        output.write_all(part).map_err(WriteError::Output)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads the bytes of `range`, which lies within the size. `source` reads a range of the source.
    pub fn read(
        &self,
        range: Range<u64>,
        mut source: impl FnMut(Range<u64>) -> io::Result<Vec<u8>>,
    ) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for piece in self.pieces(range) {
            match piece {
                Piece::Bytes(part) => bytes.extend_from_slice(part),
                // The usual case, a range within one extent, is not copied.
                Piece::Source(range) if bytes.is_empty() => bytes = source(range)?,
                Piece::Source(range) => bytes.append(&mut source(range)?),
            }
        }
        Ok(bytes)
    }
}

impl From<Extent> for Composed {
    fn from(extent: Extent) -> Self {
        let mut file = Self::default();
        file.push(extent);
        file
    }
}

impl Part {
    fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Source(extent) => extent.size,
        }
    }

    /// `range` lies within the size.
    fn piece(&self, range: Range<u64>) -> Piece<'_> {
        match self {
            Self::Bytes(bytes) => Piece::Bytes(&bytes[range.start as usize..range.end as usize]),
            Self::Source(extent) => Piece::Source(extent.offset + range.start..extent.offset + range.end),
        }
    }
}

impl Write for Composed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push_bytes(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn from(source: &[u8]) -> impl FnMut(Range<u64>) -> io::Result<Vec<u8>> {
        |range| Ok(source[range.start as usize..range.end as usize].to_vec())
    }

    #[test]
    fn an_error_of_the_source_is_passed_on() {
        let mut file = Composed::default();
        file.push_bytes(b"head");
        file.push(Extent { offset: 5, size: 9 });
        assert_eq!(file.read(0..4, |_| Err(io::ErrorKind::TimedOut.into())).unwrap(), b"head");
        assert!(file.read(0..5, |_| Err(io::ErrorKind::TimedOut.into())).is_err());
        assert_eq!(file.pieces(2..6).collect::<Vec<_>>(), [Piece::Bytes(b"ad"), Piece::Source(5..7)]);
    }

    #[test]
    fn a_source_that_is_cut_off_is_an_error() {
        let mut file = Composed::default();
        file.push(Extent { offset: 0, size: 9 });
        let mut written = Vec::new();
        let cut = file.write(io::Cursor::new([7; 8]), &mut written);
        assert!(matches!(cut, Err(WriteError::Source(error)) if error.kind() == io::ErrorKind::UnexpectedEof));
    }

    proptest! {
        #[test]
        fn every_part_is_a_slice_of_the_whole(
            parts in proptest::collection::vec(
                (proptest::collection::vec(any::<u8>(), 0..9), 0u64..90, 0u64..9, any::<bool>()), 0..8,
            ),
            start in 0u64..90, length in 0u64..90,
        ) {
            let source: Vec<u8> = (100..200).collect();
            let (mut file, mut whole) = (Composed::default(), Vec::new());
            for (bytes, offset, size, is_extent) in parts {
                if is_extent {
                    file.push(Extent { offset, size });
                    whole.extend(&source[offset as usize..(offset + size) as usize]);
                } else {
                    file.push_bytes(&bytes);
                    whole.extend(bytes);
                }
            }
            prop_assert_eq!(file.size(), whole.len() as u64);
            let mut written = Vec::new();
            file.write(io::Cursor::new(&source), &mut written).unwrap();
            prop_assert_eq!(&written, &whole);
            let start = start.min(file.size());
            let end = (start + length).min(file.size());
            prop_assert_eq!(file.read(start..end, from(&source)).unwrap(), &whole[start as usize..end as usize]);
            let behind = file.read(start..end + 1000, from(&source)).unwrap();
            prop_assert_eq!(behind, &whole[start as usize..], "what is behind the end is left out");
        }
    }
}
