//! What stands on a disk or partition, in words: somebody's data is recognised before it is destroyed.
//!
//! Signatures are those of libblkid's documentation and the formats' own; only the first bytes are read, and the last
//! ones for the tables that are kept there.

use std::io::{self, Read, Seek, SeekFrom};

/// Everything known stands within this many bytes of the start.
const HEAD: usize = 128 * 1024;
/// The first mebibyte holds no data of an installation that was cut short: data there is somebody's.
const FIRST_MEBIBYTE: u64 = 1 << 20;

/// Descriptions of the tables and file systems on a whole disk; empty if its first mebibyte is zero and its end holds
/// no table. `sector`: logical sector size in bytes.
pub fn of_disk(disk: &mut (impl Read + Seek), sector: u32) -> io::Result<Vec<String>> {
    let head = read_at(disk, 0, HEAD)?;
    let mut found: Vec<String> = Vec::new();
    let gpt = [512, 4096].into_iter().find(|size| bytes(&head, *size, 8) == b"EFI PART");
    match gpt {
        Some(_) => found.push("GPT partition table".to_owned()),
        None if is_mbr(&head) => found.push("MBR partition table".to_owned()),
        None => {}
    }
    found.extend(file_system(&head));
    let size = disk.seek(SeekFrom::End(0))?;
    let last_sector = size.saturating_sub(u64::from(sector));
    if gpt.is_none() && size > HEAD as u64 && read_at(disk, last_sector, 8)? == b"EFI PART" {
        found.push("backup of a GPT partition table".to_owned());
    }
    // MD metadata 1.0 stands 8 KiB before the end, rounded down to 4 KiB (md(4)).
    let md = (size & !0xfff).saturating_sub(0x2000);
    if size > HEAD as u64 && read_at(disk, md, 4)? == [0xfc, 0x4e, 0x2b, 0xa9] {
        found.push("Linux RAID member".to_owned());
    }
    if found.is_empty() && !is_zero(disk, FIRST_MEBIBYTE)? {
        found.push("unrecognised data".to_owned());
    }
    Ok(found)
}

/// What a partition that starts `offset` bytes into the disk holds, if that is known.
pub fn of_partition(disk: &mut (impl Read + Seek), offset: u64) -> io::Result<Option<String>> {
    Ok(file_system(&read_at(disk, offset, HEAD)?))
}

fn file_system(head: &[u8]) -> Option<String> {
    let labelled = |kind: &str, label: &[u8]| {
        let end = label.iter().position(|byte| *byte == 0).unwrap_or(label.len());
        let label = super::sysfs::tidy(&String::from_utf8_lossy(&label[..end]));
        if label.is_empty() { kind.to_owned() } else { format!("{kind} {label:?}") }
    };
    let is_fat = bytes(head, 510, 2) == [0x55, 0xaa];
    if bytes(head, 0x8001, 5) == b"CD001" {
        Some(labelled("ISO 9660", bytes(head, 0x8028, 32)))
    } else if bytes(head, 0x438, 2) == [0x53, 0xef] {
        Some(labelled("ext4 or its like", bytes(head, 0x478, 16)))
    } else if bytes(head, 1024, 4) == [0xe2, 0xe1, 0xf5, 0xe0] {
        Some(labelled("EROFS", bytes(head, 1024 + 64, 16)))
    } else if bytes(head, 0, 4) == b"XFSB" {
        Some(labelled("XFS", bytes(head, 108, 12)))
    } else if bytes(head, 0x10040, 8) == b"_BHRfS_M" {
        Some(labelled("btrfs", bytes(head, 0x1012b, 256)))
    } else if bytes(head, 3, 8) == b"NTFS    " {
        Some("NTFS".to_owned())
    } else if bytes(head, 3, 8) == b"EXFAT   " {
        Some("exFAT".to_owned())
    } else if is_fat && bytes(head, 0x52, 5) == b"FAT32" {
        Some(labelled("FAT32", bytes(head, 0x47, 11)))
    } else if is_fat && bytes(head, 0x36, 3) == b"FAT" {
        Some(labelled("FAT", bytes(head, 0x2b, 11)))
    } else if bytes(head, 0, 6) == b"LUKS\xba\xbe" {
        Some("LUKS encrypted volume".to_owned())
    } else if (0..4).any(|sector| bytes(head, sector * 512, 8) == b"LABELONE") {
        Some("LVM physical volume".to_owned())
    } else if [0, 4096].iter().any(|offset| bytes(head, *offset, 4) == [0xfc, 0x4e, 0x2b, 0xa9]) {
        Some("Linux RAID member".to_owned())
    } else if bytes(head, 4086, 10) == b"SWAPSPACE2" {
        Some("swap space".to_owned())
    } else if bytes(head, 0, 4) == b"hsqs" {
        Some("squashfs".to_owned())
    } else if bytes(head, 1024, 4) == [0x10, 0x20, 0xf5, 0xf2] {
        Some("F2FS".to_owned())
    } else {
        None
    }
}

/// The signature alone also ends boot sectors of FAT and NTFS: a table has an entry in use.
fn is_mbr(head: &[u8]) -> bool {
    let entries = (0..4).map(|entry| bytes(head, 446 + entry * 16, 16));
    bytes(head, 510, 2) == [0x55, 0xaa]
        && entries.clone().all(|entry| matches!(entry.first(), Some(0 | 0x80)))
        && entries.clone().any(|entry| entry.get(4).is_some_and(|kind| *kind != 0))
}

/// `length` bytes from `offset`; what stands beyond the end is missing.
fn bytes(head: &[u8], offset: usize, length: usize) -> &[u8] {
    head.get(offset..).map(|rest| &rest[..length.min(rest.len())]).unwrap_or_default()
}

/// Up to `length` bytes from `offset`: fewer at the end of the disk.
fn read_at(disk: &mut (impl Read + Seek), offset: u64, length: usize) -> io::Result<Vec<u8>> {
    disk.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::with_capacity(length);
    disk.take(length as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn is_zero(disk: &mut (impl Read + Seek), length: u64) -> io::Result<bool> {
    Ok(read_at(disk, 0, usize::try_from(length).unwrap_or(HEAD))?.iter().all(|byte| *byte == 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    /// Bytes at an offset of an otherwise empty disk.
    type Mark<'a> = (usize, &'a [u8]);

    fn disk(marks: &[Mark]) -> Cursor<Vec<u8>> {
        let mut bytes = vec![0; 4 << 20];
        for (offset, mark) in marks {
            bytes[*offset..offset + mark.len()].copy_from_slice(mark);
        }
        Cursor::new(bytes)
    }
    fn described(marks: &[Mark]) -> Vec<String> {
        of_disk(&mut disk(marks), 512).unwrap()
    }

    #[test]
    fn a_blank_disk_is_blank_and_anything_else_is_not() {
        assert_eq!(described(&[]), Vec::<String>::new());
        assert_eq!(described(&[(0xf_ffff, b"x")]), ["unrecognised data"]);
        assert_eq!(described(&[(0x10_0000, b"x")]), Vec::<String>::new(), "behind the first mebibyte nothing is held");
    }

    #[test]
    fn tables_are_recognised_at_both_ends_and_for_both_sector_sizes() {
        assert_eq!(described(&[(512, b"EFI PART")]), ["GPT partition table"]);
        assert_eq!(described(&[(4096, b"EFI PART")]), ["GPT partition table"]);
        assert_eq!(described(&[((4 << 20) - 512, b"EFI PART")]), ["backup of a GPT partition table"]);
        assert_eq!(described(&[(510, &[0x55, 0xaa]), (450, &[0x83])]), ["MBR partition table"]);
        assert_eq!(described(&[((4 << 20) - 0x2000, &[0xfc, 0x4e, 0x2b, 0xa9])]), ["Linux RAID member"]);
    }

    #[test]
    fn file_systems_are_named_with_their_labels() {
        let cases: [(&[Mark], &str); 5] = [
            (&[(0x438, &[0x53, 0xef]), (0x478, b"photos")], "ext4 or its like \"photos\""),
            (&[(510, &[0x55, 0xaa]), (0x52, b"FAT32   "), (0x47, b"COS_BOOT   ")], "FAT32 \"COS_BOOT\""),
            (&[(0x8001, b"CD001"), (0x8028, b"ROS_01234567        ")], "ISO 9660 \"ROS_01234567\""),
            (&[(512, b"LABELONE")], "LVM physical volume"),
            (&[(0, b"LUKS\xba\xbe")], "LUKS encrypted volume"),
        ];
        for (marks, expected) in cases {
            assert_eq!(described(marks), [expected]);
            assert_eq!(of_partition(&mut disk(marks), 0).unwrap().as_deref(), Some(expected));
        }
    }

    proptest! {
        #[test]
        fn junk_is_described_without_failing(junk in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let found = of_disk(&mut Cursor::new(junk.clone()), 512).unwrap();
            prop_assert_eq!(found.is_empty(), junk.iter().all(|byte| *byte == 0));
        }
    }
}
