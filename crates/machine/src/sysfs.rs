//! Reads small files of the kernel. Sizes are limited, because drivers and firmware fill these files.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Length of the longest attribute that is read whole, such as a model or a uevent file, in bytes.
pub(crate) const LINE: u64 = 4096;

/// The file as text, at most `limit` bytes of it, without surrounding white space. Empty if it cannot be read.
pub(crate) fn text(path: &Path, limit: u64) -> String {
    String::from_utf8_lossy(&bytes(path, limit)).trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned()
}

/// The first `limit` bytes of the file. Empty if it cannot be read.
pub(crate) fn bytes(path: &Path, limit: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    // After a read error the bytes before it are kept: for display, half a value is better than none.
    let _ = File::open(path).map(|file| file.take(limit).read_to_end(&mut bytes));
    bytes
}

/// The decimal number in the file. 0 if there is none.
pub(crate) fn number(path: &Path) -> u64 {
    text(path, LINE).parse().unwrap_or(0)
}

/// Whether the file holds a number other than 0.
pub(crate) fn flag(path: &Path) -> bool {
    number(path) != 0
}

/// The names in a folder, sorted. Empty if it cannot be read.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The text as one line for a console and a status: printable, single spaces, at most 128 characters.
pub(crate) fn tidy(text: &str) -> String {
    let printable: String = text.chars().map(|c| if c.is_control() || c == '\u{fffd}' { ' ' } else { c }).collect();
    printable.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(128).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_bounded_and_what_is_missing_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        std::fs::write(&path, "  QEMU\tHARD  DISK \0\n").unwrap();
        assert_eq!(tidy(&text(&path, LINE)), "QEMU HARD DISK");
        assert_eq!(text(&path, 6), "QEMU");
        assert_eq!((number(&path), text(&folder.path().join("none"), LINE)), (0, String::new()));
        assert_eq!(tidy(&"x".repeat(1000)).len(), 128);
    }
}
