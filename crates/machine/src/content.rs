//! The content of a disk and its partitions in words, so that data is recognised before it is destroyed.
//!
//! Signatures are libblkid's, asked for by `wipefs --no-act` (wipefs(8)): it also knows what stands at the end of a
//! disk, such as the metadata of firmware RAIDs. Two things are added here, because libblkid is silent about them: a GPT
//! without a protective MBR, and bytes that are no signature in the first mebibyte.

use command::Command;
use disk::layout::Role;
use disk::marker::{self, Marker, State};
use serde::Deserialize;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Any data in the first mebibyte counts as content, recognised or not.
const FIRST_MEBIBYTE: u64 = 1 << 20;
/// 128 entries of 128 bytes (UEFI 2.10, section 5.3).
const GPT_ENTRIES_BYTES: usize = 16 * 1024;
const GPT_ENTRY_BYTES: usize = 128;
const GPT_MAGIC: &[u8] = b"EFI PART";
/// What our own installation makes inside of partitions, as libblkid calls it.
const OUR_FILE_SYSTEMS: [&str; 3] = ["vfat", "ext4", "erofs"];

/// A partition of the disk as the kernel sees it.
pub struct Partition {
    pub name: String,
    /// Of the GPT entry; empty for MBR partitions.
    pub label: String,
    pub device: PathBuf,
}

/// What is on a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// In words; empty if the disk is blank or holds only an interrupted installation of ours.
    pub descriptions: Vec<String>,
    /// Whether an interrupted installation of ours is all that the disk holds.
    pub unfinished: bool,
}

/// One signature, as `wipefs --json` lists it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Signature {
    /// Last part of the device's path.
    device: String,
    #[serde(rename = "type")]
    kind: String,
    label: Option<String>,
}

/// Examines the disk `device` and its partitions. A part that cannot be read is described as unreadable and counts as
/// content.
pub fn examine(device: &Path, sector: u32, partitions: &[Partition]) -> Content {
    let unreadable = |error: &dyn std::error::Error| Content {
        descriptions: vec![format!("unreadable ({})", chain(error))],
        unfinished: false,
    };
    let ends = match Ends::read(device, sector) {
        Ok(ends) => ends,
        // A card reader without a card.
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

/// An error and its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Labels are foreign bytes and need not be UTF-8.
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

/// Whether an installation that was cut short left everything that is here: no table but the one that our plan
/// writes last, no other signature, and nothing else in the first mebibyte.
fn is_only_ours(ends: &Ends, whole: &[&Signature], inside: &[(&Partition, Vec<&Signature>)]) -> bool {
    let is_table = |found: &&Signature| matches!(found.kind.as_str(), "gpt" | "PMBR");
    let ours = |(partition, found): &(&Partition, Vec<&Signature>)| {
        Role::ALL.iter().any(|role| role.label() == partition.label)
            && found.iter().all(|found| OUR_FILE_SYSTEMS.contains(&found.kind.as_str()))
    };
    let tables_are_ours = ends.tables.is_empty()
        || (ends.tables.iter().all(|table| table.ours != Ours::No)
            && ends.tables.iter().any(|table| table.ours == Ours::Whole));
    tables_are_ours && ends.is_rest_of_head_zero && whole.iter().all(is_table) && inside.iter().all(ours)
}

/// libblkid's name of a format in words; names that speak for themselves stay.
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
    /// The same without our marker, our boot sector and our table.
    is_rest_of_head_zero: bool,
    marker_state: Option<State>,
    tables: Vec<Table>,
}

/// A GPT whose header is there.
struct Table {
    is_primary: bool,
    ours: Ours,
}

/// Whether the entries of a table are those that our plan writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ours {
    Whole,
    /// Some entries are ours, the others are zero: a power cut while the table was written.
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
        // A disk this small ends where its head does.
        if size >= FIRST_MEBIBYTE + tail_bytes {
            let tail = read_at(&mut disk, size - tail_bytes, tail_bytes)?;
            if bytes(&tail, GPT_ENTRIES_BYTES, GPT_MAGIC.len()) == GPT_MAGIC {
                tables.push(Table { is_primary: false, ours: Ours::judge(bytes(&tail, 0, GPT_ENTRIES_BYTES)) });
            }
        }
        let is_head_zero = is_zero(&head);
        let marker_at = marker::OFFSET as usize;
        let marker_state = Marker::parse(bytes(&head, marker_at, marker::LENGTH)).map(|marker| marker.state);
        let mut clear = |from: usize, length: usize| {
            let end = head.len().min(from + length);
            head.get_mut(from..end).unwrap_or_default().fill(0);
        };
        clear(marker_at, marker::LENGTH);
        if let Some(size) = primary {
            clear(size, size + GPT_ENTRIES_BYTES);
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

/// UEFI 2.10, table 5.6: type in the first 16 bytes, the label from byte 56 in UTF-16.
fn is_entry_of(entry: &[u8], role: Role) -> bool {
    let mut label: Vec<u8> = role.label().encode_utf16().flat_map(u16::to_le_bytes).collect();
    label.resize(72, 0);
    bytes(entry, 0, 16) == role.type_guid().to_bytes_le() && bytes(entry, 56, 72) == label
}

/// UEFI 2.10, section 5.2.3: one record of type 0xEE and no other.
fn is_protective(head: &[u8]) -> bool {
    bytes(head, 510, 2) == [0x55, 0xaa] && bytes(head, 450, 1) == [0xee] && is_zero(bytes(head, 462, 48))
}

/// `length` bytes from `offset`; what stands beyond the end is missing.
fn bytes(all: &[u8], offset: usize, length: usize) -> &[u8] {
    all.get(offset..).map(|rest| &rest[..length.min(rest.len())]).unwrap_or_default()
}

/// Up to `length` bytes from `offset`: fewer at the end of the disk.
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
mod tests {
    use super::*;
    use disk::gpt;
    use disk::layout::{MIB, Requirements};
    use proptest::prelude::*;
    use std::os::unix::fs::FileExt;
    use tempfile::NamedTempFile;
    use uuid::Uuid;

    const SIZE: u64 = 64 * MIB;

    /// A sparse disk of `size` bytes with bytes at offsets.
    fn disk(size: u64, marks: &[(u64, &[u8])]) -> NamedTempFile {
        let file = NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        marks.iter().for_each(|(offset, mark)| file.as_file().write_all_at(mark, *offset).unwrap());
        file
    }

    fn examined(size: u64, marks: &[(u64, &[u8])]) -> Content {
        examine(disk(size, marks).path(), 512, &[])
    }

    fn described(marks: &[(u64, &[u8])]) -> Vec<String> {
        examined(SIZE, marks).descriptions
    }

    fn begun() -> Vec<u8> {
        Marker { state: State::Writing, version: "0.1.0".into(), identity: None }.to_bytes()
    }

    #[test]
    fn a_blank_disk_is_blank_and_anything_else_is_not() {
        assert_eq!(described(&[]), [""; 0]);
        assert_eq!(described(&[(0xf_ffff, b"x")]), ["unrecognised data"]);
        assert_eq!(described(&[(0x10_0000, b"x")]), [""; 0], "behind the first mebibyte only signatures count");
        assert_eq!(examined(4096, &[(100, b"x")]).descriptions, ["unrecognised data"]);
    }

    #[test]
    fn tables_are_recognised_at_both_ends_and_for_both_sector_sizes() {
        assert_eq!(described(&[(512, b"EFI PART")]), ["GPT partition table"]);
        assert_eq!(described(&[(4096, b"EFI PART")]), ["GPT partition table"]);
        assert_eq!(described(&[(SIZE - 512, b"EFI PART")]), ["backup of a GPT partition table"]);
        let record = [0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0];
        assert_eq!(described(&[(510, &[0x55, 0xaa]), (446, &record)]), ["MBR partition table"]);
    }

    /// SNIA DDF 2.0, section 5: the anchor header with its checksum, which is computed with the field at all ones.
    fn ddf_header() -> Vec<u8> {
        let mut header = vec![0; 512];
        header[..4].copy_from_slice(&[0xde, 0x11, 0xde, 0x11]);
        header[4..8].fill(0xff);
        header[8..32].copy_from_slice(b"Vendor  0123456789abcdef");
        header[32..40].copy_from_slice(b"02.00.00");
        let checksum = crc32fast::hash(&header);
        header[4..8].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    #[test]
    fn raid_metadata_at_the_end_of_a_disk_is_somebodys() {
        let intel = [b"Intel Raid ISM Cfg Sig. 1.3.00".as_slice(), &[0; 482]].concat();
        assert_eq!(described(&[(SIZE - 1024, &intel)]), ["Intel RST RAID member"]);
        assert_eq!(described(&[(SIZE - 512, &ddf_header())]), ["DDF RAID member"]);
        // Version 0.90 (md(4)): magic, major, minor in the last whole 64 KiB.
        let md: Vec<u8> = [0xa92b_4efc_u32, 0, 90].into_iter().flat_map(u32::to_le_bytes).collect();
        assert_eq!(described(&[((SIZE & !0xffff) - 0x1_0000, &md)]), ["Linux RAID member"]);
        // Version 1.0: 8 KiB before the end. libblkid wants its own place in it.
        let mut md = vec![0; 4096];
        md[..8].copy_from_slice(&[0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0]);
        md[144..152].copy_from_slice(&((SIZE - 0x2000) / 512).to_le_bytes());
        assert_eq!(described(&[(SIZE - 0x2000, &md)]), ["Linux RAID member"]);
    }

    #[test]
    fn a_pool_whose_labels_at_the_end_are_left_is_somebodys() {
        const LABEL: u64 = 256 * 1024;
        let uberblock = 0x00ba_b10c_u64.to_le_bytes();
        let places = [2, 1]
            .into_iter()
            .flat_map(|label| (0..4u64).map(move |number| SIZE - label * LABEL + LABEL / 2 + number * 1024));
        let marks: Vec<(u64, &[u8])> = places.map(|place| (place, uberblock.as_slice())).collect();
        assert_eq!(described(&marks), ["ZFS pool member"]);
    }

    #[test]
    fn file_systems_are_named_with_their_labels() {
        let disk = disk(SIZE, &[]);
        Command::new("mkfs.ext4").args(["-q", "-L", "photos"]).arg(disk.path()).run().unwrap();
        assert_eq!(examine(disk.path(), 512, &[]).descriptions, ["ext4 \"photos\""]);
        let partition = Partition { name: "vda1".into(), label: "data".into(), device: disk.path().into() };
        let whole = super::tests::disk(SIZE, &[]);
        let found = examine(whole.path(), 512, &[partition]);
        assert_eq!(found.descriptions, ["partition vda1 \"data\": ext4 \"photos\""]);
    }

    #[test]
    fn a_disk_or_partition_that_cannot_be_read_is_not_blank() {
        let gone = examine(Path::new("/no/such/disk"), 512, &[]);
        assert!(gone.descriptions[0].starts_with("unreadable"), "{gone:?}");
        let partition = Partition { name: "vda1".into(), label: String::new(), device: "/no/such/partition".into() };
        let gone = examine(disk(SIZE, &[]).path(), 512, &[partition]);
        assert!(gone.descriptions[0].starts_with("unreadable"), "{gone:?}");
    }

    #[test]
    fn an_installation_that_was_cut_short_is_nobodys_unless_something_else_is_there() {
        let mark = (marker::OFFSET, &begun()[..]);
        let nothing = Content { descriptions: Vec::new(), unfinished: true };
        assert_eq!(examined(SIZE, &[mark]), nothing);

        let foreign: [&[(u64, &[u8])]; 4] = [
            &[(3, b"NTFS    ")],
            &[(510, &[0x55, 0xaa]), (450, &[0x83])],
            &[(512, b"EFI PART")],
            &[(SIZE - 512, &ddf_header())],
        ];
        for marks in foreign {
            let found = examined(SIZE, &[&[mark], marks].concat());
            assert!(!found.unfinished && !found.descriptions.is_empty(), "{marks:?}: {found:?}");
        }
        let done = Marker { state: State::Complete, version: "0.1.0".into(), identity: None }.to_bytes();
        assert!(!examined(SIZE, &[(marker::OFFSET, &done)]).descriptions.is_empty());
    }

    #[test]
    fn the_table_that_ends_an_installation_may_be_there_whole_or_in_part() {
        const DISK: u64 = 2048 * MIB;
        let mark = (marker::OFFSET, &begun()[..]);
        let demand = Requirements { disk_bytes: DISK, sector_bytes: 512, root_bytes: 1, minimum_slot_bytes: 64 * MIB };
        let tables = gpt::tables(&demand.layout(&mut Uuid::new_v4).unwrap());
        let backup = (tables.backup_offset, &tables.backup[..]);
        assert!(examined(DISK, &[mark, backup]).unfinished, "the backup alone");
        assert!(examined(DISK, &[mark, backup, (0, &tables.primary)]).unfinished, "both");
        assert!(examined(DISK, &[mark, backup, (0, &tables.primary[..1536])]).unfinished, "a torn table");
        assert!(!examined(DISK, &[mark, (0, &tables.primary[..1024])]).unfinished, "an empty table is not ours");

        // Somebody formatted one of our partitions, or added one.
        let ntfs = disk(SIZE, &[(3, b"NTFS    "), (510, &[0x55, 0xaa]), (11, &[0, 2, 8])]);
        Command::new("mkswap").arg(ntfs.path()).run().unwrap();
        let disk = disk(DISK, &[mark, backup, (0, &tables.primary)]);
        let inside = |label: &str| Partition { name: "vda7".into(), label: label.into(), device: ntfs.path().into() };
        assert!(!examine(disk.path(), 512, &[inside("COS_PERSISTENT")]).unfinished);
        let blank = |label: &str| Partition { device: "/dev/null".into(), ..inside(label) };
        assert!(!examine(disk.path(), 512, &[blank("Basic data partition")]).unfinished);
    }

    /// Each is a program's run.
    fn fewer() -> ProptestConfig {
        let usual = ProptestConfig::default();
        ProptestConfig { cases: usual.cases.div_ceil(4), ..usual }
    }

    proptest! {
        #![proptest_config(fewer())]

        #[test]
        fn junk_is_described_without_failing(junk in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let found = examined(junk.len() as u64, &[(0, &junk)]);
            prop_assert_eq!(found.descriptions.is_empty(), junk.iter().all(|byte| *byte == 0), "{:?}", found);
        }

        #[test]
        fn any_answer_of_wipefs_is_parsed_or_refused(output: Vec<u8>) {
            let _ = parse(&output);
        }
    }
}
