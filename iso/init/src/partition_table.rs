//! The unique GUID of a partition, read from the partition table of its disk. Linux shows it in sysfs only since 6.13.
//! Format: UEFI 2.10, sections 5.3.2 (header) and 5.3.3 (entries).

use std::io::{self, Read, Seek, SeekFrom};

const SIGNATURE: &[u8; 8] = b"EFI PART";
/// An entry has 128 × 2^n bytes. Larger ones than this are not in use.
const LARGEST_ENTRY: u32 = 4096;

/// The GUID of partition `number` (from 1), in lower case; `None` if there is no such entry or no GPT. The table's
/// checksums are not checked here, because the kernel checks them before it lists a partition.
pub fn unique_guid(disk: &mut (impl Read + Seek), sector_bytes: u64, number: u32) -> io::Result<Option<String>> {
    let mut header = [0; 92];
    disk.seek(SeekFrom::Start(sector_bytes))?;
    disk.read_exact(&mut header)?;
    let word = |offset: usize| u32::from_le_bytes(header[offset..offset + 4].try_into().expect("four bytes"));
    let first_entry = u64::from_le_bytes(header[72..80].try_into().expect("eight bytes"));
    let (entries, entry_bytes) = (word(80), word(84));
    if &header[..8] != SIGNATURE || !(1..=entries).contains(&number) || !(128..=LARGEST_ENTRY).contains(&entry_bytes) {
        return Ok(None);
    }
    let offset = first_entry
        .checked_mul(sector_bytes)
        .and_then(|start| start.checked_add(u64::from(number - 1) * u64::from(entry_bytes)));
    let Some(offset) = offset else { return Ok(None) };
    let mut entry = [0; 32];
    disk.seek(SeekFrom::Start(offset))?;
    disk.read_exact(&mut entry)?;
    let in_use = entry[..16].iter().any(|&byte| byte != 0);
    Ok(in_use.then(|| text(&entry[16..])))
}

/// A GUID as text. Its first three groups are little-endian numbers, the others are bytes in order.
fn text(guid: &[u8]) -> String {
    const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::with_capacity(36);
    for (position, &index) in ORDER.iter().enumerate() {
        if matches!(position, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{:02x}", guid[index]));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn disk(sector_bytes: usize) -> Vec<u8> {
        let mut disk = vec![0; sector_bytes * 6];
        let header = sector_bytes;
        disk[header..header + 8].copy_from_slice(SIGNATURE);
        disk[header + 72] = 2;
        disk[header + 80] = 4;
        disk[header + 84] = 128;
        let second = sector_bytes * 2 + 128;
        disk[second] = 1;
        for byte in 0..16 {
            disk[second + 16 + byte] = byte as u8;
        }
        disk
    }

    #[test]
    fn the_guid_is_spelled_as_everywhere_else() {
        for sector_bytes in [512, 4096] {
            let mut disk = Cursor::new(disk(sector_bytes));
            let mut guid = |number| unique_guid(&mut disk, sector_bytes as u64, number).unwrap();
            assert_eq!(guid(2).as_deref(), Some("03020100-0504-0706-0809-0a0b0c0d0e0f"));
            assert_eq!((guid(0), guid(1), guid(5)), (None, None, None));
        }
    }

    proptest! {
        #[test]
        fn no_table_makes_it_panic(fields in any::<[u8; 84]>(), number in any::<u32>()) {
            let mut disk = disk(512);
            disk[520..604].copy_from_slice(&fields);
            let _ = unique_guid(&mut Cursor::new(disk), 512, number);
        }
    }
}
