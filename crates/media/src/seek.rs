//! The position of a reader that has no file of its own.

use std::io::{self, SeekFrom};

/// Where a reader of `length` bytes that is at `position` comes to. It may be behind the end, as in a file. An error for a
/// place before the beginning.
pub fn position(to: SeekFrom, position: u64, length: u64) -> io::Result<u64> {
    let position = match to {
        SeekFrom::Start(offset) => Some(offset),
        SeekFrom::End(offset) => length.checked_add_signed(offset),
        SeekFrom::Current(offset) => position.checked_add_signed(offset),
    };
    Ok(position.ok_or(io::ErrorKind::InvalidInput)?)
}
