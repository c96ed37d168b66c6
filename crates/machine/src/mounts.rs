//! Mounted file systems and swap spaces, by device number.

use crate::sysfs;
use std::path::Path;

/// A mounted file system, or swap space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// `major:minor`, as in the `dev` attribute of sysfs. Absent for swap.
    pub(crate) device_number: Option<String>,
    /// Device path, such as `/dev/vda1`, if the kernel gives one.
    pub(crate) source: String,
    /// Mount point, or `[swap]`.
    pub(crate) point: String,
}

impl Mount {
    /// Whether this mount keeps the block device in use.
    pub(crate) fn uses(&self, device_number: &str, path: &str) -> bool {
        // btrfs and overlay have an anonymous device number. For btrfs the source names the device.
        self.device_number.as_deref() == Some(device_number) || self.source == path
    }
}

/// Reads `/proc/self/mountinfo` (proc(5)) and `/proc/swaps`.
pub(crate) fn probe(root: &Path) -> Vec<Mount> {
    const TABLE: u64 = 1 << 20;
    let mountinfo = sysfs::text(&root.join("proc/self/mountinfo"), TABLE);
    let swaps = sysfs::text(&root.join("proc/swaps"), TABLE);
    let mounted = mountinfo.lines().filter_map(mount);
    let swapped = swaps.lines().skip(1).filter_map(|line| {
        let source = unescape(line.split_ascii_whitespace().next()?);
        Some(Mount { device_number: None, source, point: "[swap]".to_owned() })
    });
    mounted.chain(swapped).collect()
}

/// Parses a line such as `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`.
fn mount(line: &str) -> Option<Mount> {
    let (front, back) = line.split_once(" - ")?;
    let mut front = front.split(' ').skip(2);
    Some(Mount {
        device_number: Some(front.next()?.to_owned()),
        point: unescape(front.nth(1)?),
        source: unescape(back.split(' ').nth(1)?),
    })
}

/// Decodes space, tab, line feed and backslash, which the kernel writes as a backslash and three octal digits.
fn unescape(text: &str) -> String {
    let mut rest = text;
    let mut plain = String::with_capacity(text.len());
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(u8::is_ascii);
        (plain, rest) = match code {
            Some(code) => (plain + &char::from(code).to_string(), &after[3..]),
            None => (plain + "\\", after),
        };
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_with_their_escapes() {
        let found = mount("36 35 254:1 / /mnt/my\\040disk rw,noatime shared:1 - ext4 /dev/vda1 rw").unwrap();
        assert_eq!(found.point, "/mnt/my disk");
        assert!(
            found.uses("254:1", "/dev/other") && found.uses("0:1", "/dev/vda1") && !found.uses("254:2", "/dev/vda2")
        );
        assert_eq!(mount("36 35 254:1"), None);
        assert_eq!(unescape("a\\9\\"), "a\\9\\");
    }
}
