//! Reads partition tables (UEFI 2.10, chapter 5) as those do who start a machine: firmware and Linux check the checksums
//! and take the backup where the first table is wrong; GRUB takes the first table as it is.

use super::contents::BYTES;
use super::state::DiskState;
use disk::layout::Role;
use uuid::Uuid;

const MAGIC: &[u8] = b"EFI PART";
const ENTRY: usize = 128;
const ENTRIES: u32 = 128;

/// The entries of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub label: String,
    pub guid: Uuid,
    /// In sectors.
    pub first: u64,
    pub last: u64,
}

impl Table {
    /// The table that firmware and Linux use. `None` if the disk has no protective record or no table whose checksums are
    /// right.
    pub fn checked(disk: &DiskState) -> Option<Self> {
        let record = disk.sector(0);
        let is_protective = record[510..] == [0x55, 0xaa] && record[446 + 4] == 0xee;
        is_protective.then_some(())?;
        Self::read(disk, 1, true).or_else(|| Self::read(disk, disk.sectors() - 1, true))
    }

    /// The table that GRUB uses.
    pub fn unchecked(disk: &DiskState) -> Option<Self> {
        Self::read(disk, 1, false)
    }

    fn read(disk: &DiskState, at: u32, is_checked: bool) -> Option<Self> {
        let header = disk.sector(at);
        if !header.starts_with(MAGIC) {
            return None;
        }
        let short = |offset: usize| u32::from_le_bytes(header[offset..offset + 4].try_into().expect("four bytes"));
        let long = |offset: usize| u64::from_le_bytes(header[offset..offset + 8].try_into().expect("eight bytes"));
        if (short(80), short(84)) != (ENTRIES, ENTRY as u32) {
            return None;
        }
        let first = u32::try_from(long(72)).ok()?;
        let last = first.checked_add(ENTRIES * ENTRY as u32 / BYTES as u32)?;
        if last > disk.sectors() {
            return None;
        }
        let bytes: Vec<u8> = (first..last).flat_map(|sector| disk.sector(sector)).copied().collect();
        if is_checked {
            let length = short(12) as usize;
            let mut summed = header.get(..length)?.to_vec();
            summed.get_mut(16..20)?.fill(0);
            let is_right = crc32fast::hash(&summed) == short(16)
                && crc32fast::hash(&bytes) == short(88)
                && long(24) == u64::from(at);
            is_right.then_some(())?;
        }
        let entries = bytes.chunks_exact(ENTRY).filter(|entry| entry[..16].iter().any(|&byte| byte != 0));
        Some(Self { entries: entries.map(Entry::read).collect() })
    }

    pub fn find(&self, role: Role) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.label == role.label())
    }

    /// The partition that GRUB's core image names by its number, `(,gpt2)`.
    pub fn has_boot_in_second_place(&self) -> bool {
        self.entries.get(1).is_some_and(|entry| entry.label == Role::Boot.label())
    }
}

impl Entry {
    fn read(bytes: &[u8]) -> Self {
        let long = |offset: usize| u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"));
        let units = bytes[56..].chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
        Self {
            label: String::from_utf16_lossy(&units),
            guid: Uuid::from_slice_le(&bytes[16..32]).expect("sixteen bytes"),
            first: long(32),
            last: long(40),
        }
    }
}
