//! Reads the files that every start needs into the page cache while systemd starts. systemd keeps one processor busy and
//! waits for each page of each program to be read, checked and decompressed; the other processors are idle meanwhile.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Below the root: one path per line, in the order of use, without the leading slash.
const LIST: &str = "usr/lib/ros/read-ahead.conf";

/// Starts reading the listed files of `root` into the page cache. Files that cannot be read are skipped.
pub fn start(root: &Path) {
    let Ok(list) = fs::read_to_string(root.join(LIST)) else { return };
    // A child process, because a thread would end when PID 1 becomes systemd. systemd reaps the child.
    // SAFETY: this program has one thread, so the child may do whatever the parent may.
    if unsafe { libc::fork() } == 0 {
        // Relative paths work even when the root is moved meanwhile.
        if std::env::set_current_dir(root).is_ok() {
            read_all(&list);
        }
        // SAFETY: ends the child without the parent's clean-up.
        unsafe { libc::_exit(0) }
    }
}

fn read_all(list: &str) {
    let mut buffer = vec![0; 1 << 20];
    for file in files(list) {
        let _ = File::open(file).and_then(|file| read_to_end(file, &mut buffer));
    }
}

fn read_to_end(mut file: File, buffer: &mut [u8]) -> io::Result<()> {
    while file.read(buffer)? > 0 {}
    Ok(())
}

/// The files of a list. The image builder checks it against the image.
fn files(list: &str) -> impl Iterator<Item = &str> {
    list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_the_image_is_relative_to_the_root() {
        let list = include_str!("../../../overlay/usr/lib/ros/read-ahead.conf");
        assert!(files(list).count() > 10);
        assert!(files(list).all(|file| file.starts_with("usr/") && !file.contains("..")), "{list}");
    }
}
