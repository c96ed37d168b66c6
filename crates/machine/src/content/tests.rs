//! Tests of disks with known and with random content.

use super::*;
use disk::gpt;
use disk::layout::{MIB, Requirements};
use proptest::prelude::*;
use std::os::unix::fs::FileExt;
use tempfile::NamedTempFile;
use uuid::Uuid;

const SIZE: u64 = 64 * MIB;

/// A sparse disk of `size` bytes with `marks`, which are bytes and their offsets.
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

/// The anchor header (SNIA DDF 2.0, section 5) with its checksum, which is computed while the field is all ones.
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
fn raid_metadata_at_the_end_of_a_disk_counts_as_content() {
    let intel = [b"Intel Raid ISM Cfg Sig. 1.3.00".as_slice(), &[0; 482]].concat();
    assert_eq!(described(&[(SIZE - 1024, &intel)]), ["Intel RST RAID member"]);
    assert_eq!(described(&[(SIZE - 512, &ddf_header())]), ["DDF RAID member"]);
    // Version 0.90 (md(4)) has magic, major and minor in the last whole 64 KiB.
    let md: Vec<u8> = [0xa92b_4efc_u32, 0, 90].into_iter().flat_map(u32::to_le_bytes).collect();
    assert_eq!(described(&[((SIZE & !0xffff) - 0x1_0000, &md)]), ["Linux RAID member"]);
    // Version 1.0 is 8 KiB before the end. libblkid requires that it holds its own position.
    let mut md = vec![0; 4096];
    md[..8].copy_from_slice(&[0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0]);
    md[144..152].copy_from_slice(&((SIZE - 0x2000) / 512).to_le_bytes());
    assert_eq!(described(&[(SIZE - 0x2000, &md)]), ["Linux RAID member"]);
}

#[test]
fn a_pool_with_labels_left_at_the_end_counts_as_content() {
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
fn an_interrupted_installation_is_unfinished_unless_there_is_other_content() {
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
    let torn = (backup.0 + 4096, &backup.1[4096..]);
    assert!(examined(DISK, &[mark, torn]).unfinished, "a part of the backup");
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

/// Each case runs a program.
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

#[test]
fn entries_at_the_other_place_are_ours_and_do_not_keep_an_installation_from_beginning_again() {
    let requirements =
        Requirements { disk_bytes: 4096 * MIB, sector_bytes: 512, root_bytes: 1, minimum_slot_bytes: 64 * MIB };
    let tables = gpt::tables(&requirements.layout(&mut Uuid::new_v4).unwrap());
    let entries = &tables.primary[1024..];
    for torn in [entries, &entries[512..]] {
        let at = OTHER_ENTRIES_OFFSET + (entries.len() - torn.len()) as u64;
        assert!(examined(SIZE, &[(marker::OFFSET, &begun()), (at, torn)]).unfinished, "{at}");
    }
    assert!(!examined(SIZE, &[(marker::OFFSET, &begun()), (OTHER_ENTRIES_OFFSET, b"x")]).unfinished);
}
