//! The end of a file to which another program appends lines.

use anyhow::{Context, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

pub struct LogTail {
    file: File,
    /// The line without an end yet.
    unfinished: Vec<u8>,
}

impl LogTail {
    /// Begins at the end that the file has now.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        file.seek(SeekFrom::End(0)).with_context(|| format!("finding the end of {}", path.display()))?;
        Ok(Self { file, unfinished: Vec::new() })
    }

    /// The lines that were completed since the last call. Bytes that are no UTF-8 are replaced.
    pub fn lines(&mut self) -> Result<Vec<String>> {
        self.file.read_to_end(&mut self.unfinished).context("reading a log")?;
        let Some(end) = self.unfinished.iter().rposition(|&byte| byte == b'\n') else { return Ok(Vec::new()) };
        let rest = self.unfinished.split_off(end + 1);
        let complete = std::mem::replace(&mut self.unfinished, rest);
        Ok(String::from_utf8_lossy(&complete).lines().map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn lines_come_once_and_when_they_are_complete() {
        let mut log = tempfile::NamedTempFile::new().unwrap();
        log.write_all(b"before\n").unwrap();
        let mut tail = LogTail::open(log.path()).unwrap();
        log.write_all(b"one\ntw").unwrap();
        assert_eq!(tail.lines().unwrap(), ["one"]);
        log.write_all(b"o\r\n\xff\n").unwrap();
        assert_eq!(tail.lines().unwrap(), ["two", "\u{fffd}"]);
        assert!(tail.lines().unwrap().is_empty());
    }
}
