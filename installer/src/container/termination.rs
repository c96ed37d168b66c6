//! The termination message of the container, which the kubelet puts into the status of the pod.

use protocol::bounded::cut;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// The most that the kubelet takes.
const LONGEST: usize = 4096;

/// The file of the message. It is opened before the root folder of this process changes.
#[derive(Debug)]
pub struct TerminationMessage(Option<File>);

impl TerminationMessage {
    /// Outside Kubernetes there is no such file, and it is not made.
    pub fn open(path: &Path) -> io::Result<Self> {
        match OpenOptions::new().write(true).open(path) {
            Ok(file) => Ok(Self(Some(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self(None)),
            Err(error) => Err(error),
        }
    }

    /// Replaces the message of an earlier run of the same container.
    pub fn write(&mut self, text: &str) -> io::Result<()> {
        let Some(file) = &mut self.0 else { return Ok(()) };
        file.set_len(0)?;
        file.write_all(cut(text, LONGEST).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_message_is_one_line_of_at_most_4096_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("termination-log");
        TerminationMessage::open(&path).unwrap().write("nobody asks").unwrap();
        assert!(!path.exists());
        fs::write(&path, "of an earlier run, which was longer").unwrap();
        TerminationMessage::open(&path).unwrap().write("a\nb").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "a b");
        TerminationMessage::open(&path).unwrap().write(&"é".repeat(5000)).unwrap();
        assert_eq!(fs::read(&path).unwrap().len(), 4096);
    }
}
