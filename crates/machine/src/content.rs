//! Describes the content of a disk and its partitions in words, so that data is noticed before it is destroyed.
//!
//! `wipefs --no-act` (wipefs(8)) finds the signatures that libblkid knows, including those at the end of a disk, such
//! as the metadata of firmware RAIDs. Two things that libblkid does not report are found here: a GPT without a
//! protective MBR, and bytes that are no signature in the first mebibyte.

use boot_contract::disk_image::OTHER_ENTRIES_OFFSET;
use command::Command;
use disk::layout::Role;
use disk::marker::{self, Marker, State};
use protocol::error_chain;
use serde::Deserialize;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Size of the area in which any data counts as content, recognised or not.
const FIRST_MEBIBYTE: u64 = 1 << 20;
/// 128 entries of 128 bytes (UEFI 2.10, section 5.3).
const GPT_ENTRIES_BYTES: usize = 16 * 1024;
const GPT_ENTRY_BYTES: usize = 128;
const GPT_MAGIC: &[u8] = b"EFI PART";
/// libblkid's names of the file systems that our installation makes in partitions.
const OUR_FILE_SYSTEMS: [&str; 3] = ["vfat", "ext4", "erofs"];

/// A partition of the disk as the kernel sees it.
pub struct Partition {
    pub name: String,
    /// Label of the GPT entry. Empty for MBR partitions.
    pub label: String,
    pub device: PathBuf,
}

/// The content of a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Descriptions for a person. Empty if the disk is blank or holds only an interrupted installation of ours.
    pub descriptions: Vec<String>,
    /// Whether the disk holds nothing but an interrupted installation of ours.
    pub unfinished: bool,
}

/// One signature, as `wipefs --json` lists it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Signature {
    /// Last component of the device's path.
    device: String,
    #[serde(rename = "type")]
    kind: String,
    label: Option<String>,
}

/// Examines the disk `device` and its partitions. A part that cannot be read is described as unreadable and counts as
/// content.
pub fn examine(device: &Path, sector: u32, partitions: &[Partition]) -> Content {
    let unreadable = |error: &dyn std::error::Error| Content {
        descriptions: vec![format!("unreadable ({})", error_chain(error))],
        unfinished: false,
    };
    let ends = match Ends::read(device, sector) {
        Ok(ends) => ends,
        // The device is a card reader without a card.
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOMEDIUM) => return Content::default(),
        Err(error) => return unreadable(&error),
    };
    let devices = std::iter::once(device).chain(partitions.iter().map(|partition| partition.device.as_path()));
    let listed = Command::new("wipefs").args(["--no-act", "--json", "--"]).args(devices).run();
    let signatures = match listed {
        Ok(output) => parse(&output),
        Err(error) => return unreadable(&error),
    };
    match signatures {
        Ok(signatures) => judge(device, &ends, partitions, &signatures),
        Err(error) => unreadable(&error),
    }
}

/// Labels come from other systems and may not be UTF-8.
fn parse(output: &[u8]) -> serde_json::Result<Vec<Signature>> {
    #[derive(Deserialize)]
    struct Listing {
        signatures: Vec<Signature>,
    }
    if output.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    Ok(serde_json::from_str::<Listing>(&String::from_utf8_lossy(output))?.signatures)
}

fn judge(device: &Path, ends: &Ends, partitions: &[Partition], signatures: &[Signature]) -> Content {
    let of = |device: &Path| -> Vec<&Signature> {
        signatures.iter().filter(|found| Some(found.device.as_ref()) == device.file_name()).collect()
    };
    let whole = of(device);
    let inside: Vec<(&Partition, Vec<&Signature>)> = partitions.iter().map(|p| (p, of(&p.device))).collect();
    let has_our_table = ends.tables.iter().any(|table| table.is_primary && table.ours == Ours::Whole);
    let was_cut_short = match ends.marker_state {
        Some(State::Writing) => true,
        Some(State::Switching) => !has_our_table,
        Some(State::Complete) | None => false,
    };
    if was_cut_short && is_only_ours(ends, &whole, &inside) {
        return Content { descriptions: Vec::new(), unfinished: true };
    }
    let mut descriptions: Vec<String> = Vec::new();
    if !ends.tables.is_empty() && !whole.iter().any(|found| found.kind == "gpt") {
        descriptions.push(if ends.tables.iter().any(|table| table.is_primary) {
            "GPT partition table".to_owned()
        } else {
            "backup of a GPT partition table".to_owned()
        });
    }
    for signature in whole {
        let text = describe(signature);
        if !descriptions.contains(&text) {
            descriptions.push(text);
        }
    }
    if descriptions.is_empty() && !ends.is_head_zero {
        descriptions.push("unrecognised data".to_owned());
    }
    for (partition, found) in inside {
        let label = if partition.label.is_empty() { String::new() } else { format!(" {:?}", partition.label) };
        let mut kinds: Vec<String> = found.into_iter().map(describe).collect();
        kinds.dedup();
        let kinds = if kinds.is_empty() { "no known content".to_owned() } else { kinds.join(", ") };
        descriptions.push(format!("partition {}{label}: {kinds}", partition.name));
    }
    Content { descriptions, unfinished: false }
}

/// Whether everything here was left by an interrupted installation of ours. There is no table but the one that our plan
/// writes last, no other signature, and nothing else in the first mebibyte.
fn is_only_ours(ends: &Ends, whole: &[&Signature], inside: &[(&Partition, Vec<&Signature>)]) -> bool {
    let is_table = |found: &&Signature| matches!(found.kind.as_str(), "gpt" | "PMBR");
    let ours = |(partition, found): &(&Partition, Vec<&Signature>)| {
        Role::ALL.iter().any(|role| role.label() == partition.label)
            && found.iter().all(|found| OUR_FILE_SYSTEMS.contains(&found.kind.as_str()))
    };
    // The backup is written first, so that a power cut may leave it torn and alone.
    let tables_are_ours = ends.tables.iter().all(|table| table.ours != Ours::No)
        && (ends.tables.iter().any(|table| table.ours == Ours::Whole)
            || ends.tables.iter().all(|table| !table.is_primary));
    tables_are_ours && ends.is_rest_of_head_zero && whole.iter().all(is_table) && inside.iter().all(ours)
}

/// The name of a format in words. libblkid's name is kept where it is clear enough.
fn describe(signature: &Signature) -> String {
    let kind = match signature.kind.as_str() {
        "gpt" | "PMBR" => "GPT partition table",
        "dos" => "MBR partition table",
        "crypto_LUKS" => "LUKS encrypted volume",
        "LVM1_member" | "LVM2_member" => "LVM physical volume",
        "linux_raid_member" => "Linux RAID member",
        "isw_raid_member" => "Intel RST RAID member",
        "ddf_raid_member" => "DDF RAID member",
        "zfs_member" => "ZFS pool member",
        "swap" => "swap space",
        "vfat" => "FAT",
        "iso9660" => "ISO 9660",
        "ntfs" => "NTFS",
        "erofs" => "EROFS",
        "xfs" => "XFS",
        other => &crate::sysfs::tidy(other).replace("_raid_member", " RAID member"),
    };
    let label = crate::sysfs::tidy(signature.label.as_deref().unwrap_or_default());
    if label.is_empty() { kind.to_owned() } else { format!("{kind} {label:?}") }
}

/// What is read from both ends of a disk without libblkid.
struct Ends {
    is_head_zero: bool,
    /// Whether the head is zero without our marker, our boot sector and our table.
    is_rest_of_head_zero: bool,
    marker_state: Option<State>,
    tables: Vec<Table>,
}

/// A GPT whose header was found.
struct Table {
    is_primary: bool,
    ours: Ours,
}

/// Whether a table has the entries that our plan writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ours {
    Whole,
    /// Some entries are ours and the others are zero, after a power cut while the table was written.
    Torn,
    No,
}

impl Ends {
    fn read(device: &Path, sector: u32) -> io::Result<Self> {
        let mut disk = File::open(device)?;
        let mut head = read_at(&mut disk, 0, FIRST_MEBIBYTE)?;
        let size = disk.seek(SeekFrom::End(0))?;
        let sector = u64::from(sector);
        let tail_bytes = GPT_ENTRIES_BYTES as u64 + sector;
        let mut tables = Vec::new();
        let primary = [512, 4096].into_iter().find(|size| bytes(&head, *size, GPT_MAGIC.len()) == GPT_MAGIC);
        if let Some(size) = primary {
            let entries = bytes(&head, 2 * size, GPT_ENTRIES_BYTES);
            tables.push(Table { is_primary: true, ours: Ours::judge(entries) });
        }
        // On a smaller disk the tail is part of the head.
        if size >= FIRST_MEBIBYTE + tail_bytes {
            let tail = read_at(&mut disk, size - tail_bytes, tail_bytes)?;
            if bytes(&tail, GPT_ENTRIES_BYTES, GPT_MAGIC.len()) == GPT_MAGIC {
                tables.push(Table { is_primary: false, ours: Ours::judge(bytes(&tail, 0, GPT_ENTRIES_BYTES)) });
            }
        }
        let is_head_zero = is_zero(&head);
        let marker_at = marker::OFFSET as usize;
        let marker_state = Marker::parse(bytes(&head, marker_at, marker::LENGTH)).map(|marker| marker.state);
        // A power cut may leave our entries without the header in front of them.
        let table_at = primary.unwrap_or(sector as usize);
        let has_entries = primary.is_some() || Ours::judge(bytes(&head, 2 * table_at, GPT_ENTRIES_BYTES)) != Ours::No;
        let mut clear = |from: usize, length: usize| {
            let end = head.len().min(from + length);
            head.get_mut(from..end).unwrap_or_default().fill(0);
        };
        clear(marker_at, marker::LENGTH);
        if has_entries {
            clear(table_at, table_at + GPT_ENTRIES_BYTES);
        }
        // A table that was changed has its entries there. An installation that erases it may be cut short as well.
        let other = OTHER_ENTRIES_OFFSET as usize;
        if Ours::judge(bytes(&head, other, GPT_ENTRIES_BYTES)) != Ours::No {
            let end = head.len().min(other + GPT_ENTRIES_BYTES);
            head.get_mut(other..end).unwrap_or_default().fill(0);
        }
        if is_protective(&head) {
            head[..512].fill(0);
        }
        Ok(Self { is_head_zero, is_rest_of_head_zero: is_zero(&head), marker_state, tables })
    }
}

impl Ours {
    fn judge(entries: &[u8]) -> Self {
        let expected = |index: usize| Role::ALL.get(index).copied();
        let mut missing = false;
        for (index, entry) in entries.chunks(GPT_ENTRY_BYTES).enumerate() {
            match expected(index) {
                Some(role) if is_entry_of(entry, role) => {}
                Some(_) if is_zero(entry) => missing = true,
                None if is_zero(entry) => {}
                _ => return Self::No,
            }
        }
        if missing || entries.len() < GPT_ENTRIES_BYTES { Self::Torn } else { Self::Whole }
    }
}

/// Whether an entry has the type (first 16 bytes) and the label (from byte 56, UTF-16) of this role (UEFI 2.10, table
/// 5.6).
fn is_entry_of(entry: &[u8], role: Role) -> bool {
    let mut label: Vec<u8> = role.label().encode_utf16().flat_map(u16::to_le_bytes).collect();
    label.resize(72, 0);
    bytes(entry, 0, 16) == role.type_guid().to_bytes_le() && bytes(entry, 56, 72) == label
}

/// Whether the MBR is protective: one record of type 0xEE and no other (UEFI 2.10, section 5.2.3).
fn is_protective(head: &[u8]) -> bool {
    bytes(head, 510, 2) == [0x55, 0xaa] && bytes(head, 450, 1) == [0xee] && is_zero(bytes(head, 462, 48))
}

/// `length` bytes from `offset`, or fewer if `all` ends before.
fn bytes(all: &[u8], offset: usize, length: usize) -> &[u8] {
    all.get(offset..).map(|rest| &rest[..length.min(rest.len())]).unwrap_or_default()
}

/// Up to `length` bytes from `offset`, or fewer at the end of the disk.
fn read_at(disk: &mut File, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    disk.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    disk.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod power_cuts;

#[cfg(test)]
mod tests;
