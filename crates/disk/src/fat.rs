//! Writes a FAT32 file system in one pass from files that are all known, as firmware and GRUB read it ("Microsoft
//! Extensible Firmware Initiative FAT32 File System Specification", version 1.03).
//!
//! Every file is contiguous, which the in-place rewriting of `grubenv` relies on. This is our own code because the
//! crate fatfs (0.3.6) gives `.` and `..` long names, which `fsck.vfat` reports as damage. `ros-image` makes the small
//! FAT of its ISO with mtools, because it has too few clusters for FAT32. The live system has no mtools for this file
//! system.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

/// Sectors before the first table: boot sector, FSInfo, and copies of both from sector 6 on.
const RESERVED_SECTORS: u64 = 32;
const BACKUP_BOOT_SECTOR: u64 = 6;
const TABLES: u64 = 2;
/// The smallest number of clusters with which a driver takes a file system for FAT32.
const SMALLEST_CLUSTERS: u64 = 65525;
const CLUSTER_BYTES: u64 = 2048;
const ENTRY_BYTES: usize = 32;
const END_OF_CHAIN: u32 = 0x0FFF_FFFF;
const ROOT_CLUSTER: u32 = 2;
const ATTRIBUTE_LABEL: u8 = 0x08;
const ATTRIBUTE_FOLDER: u8 = 0x10;
const ATTRIBUTE_FILE: u8 = 0x20;
const ATTRIBUTE_LONG_NAME: u8 = 0x0F;
/// Flag in the sequence number of the entry that holds the end of a long name.
const LAST_LONG_NAME: u8 = 0x40;
/// 1 January 1980. The clock of a machine that is being installed may be wrong.
const DATE: u16 = 0x0021;
/// UTF-16 units in one entry of a long name.
const LONG_NAME_UNITS: usize = 13;

/// Path and content of a file. Several paths may share one content.
pub type PlacedFile<'a> = (&'a str, Rc<[u8]>);

/// Properties of the file system, besides its files.
pub struct Volume<'a> {
    /// In bytes, a multiple of the sector size.
    pub length: u64,
    pub sector_bytes: u32,
    pub id: u32,
    /// Label of at most 11 characters of `[A-Z0-9_]`.
    pub label: &'a str,
}

/// Writes the file system into an empty file of the volume's length. Paths are relative, use `/`, and are ASCII.
pub fn write(image: &File, volume: &Volume, files: &[PlacedFile]) -> io::Result<()> {
    let mut root = Folder::default();
    for (path, content) in files {
        root.insert(path, content);
    }
    let geometry = Geometry::of(volume)?;
    // The first two entries of a table stand for no clusters.
    let mut writer = Writer { image, geometry, table: vec![0x0FFF_FFF8, END_OF_CHAIN] };
    writer.folder(&root, None, volume.label)?;
    writer.tables()?;
    writer.boot_sectors(volume)
}

#[derive(Default)]
struct Folder<'a>(BTreeMap<&'a str, Node<'a>>);

enum Node<'a> {
    File(&'a [u8]),
    Folder(Folder<'a>),
}

impl<'a> Folder<'a> {
    fn insert(&mut self, path: &'a str, content: &'a [u8]) {
        let Some((first, rest)) = path.split_once('/') else {
            self.0.insert(path, Node::File(content));
            return;
        };
        if let Node::Folder(folder) = self.0.entry(first).or_insert_with(|| Node::Folder(Folder::default())) {
            folder.insert(rest, content);
        }
    }
}

struct Geometry {
    sector: u64,
    cluster: u64,
    sectors: u64,
    table_sectors: u64,
    clusters: u64,
}

impl Geometry {
    fn of(volume: &Volume) -> io::Result<Self> {
        let sector = u64::from(volume.sector_bytes);
        let cluster = CLUSTER_BYTES.max(sector);
        let sectors = volume.length / sector;
        // The table is sized for more clusters than there are, because its own sectors are counted as clusters too.
        let table_sectors = (sectors * sector / cluster + 2).div_ceil(sector / 4);
        let clusters = sectors.saturating_sub(RESERVED_SECTORS + TABLES * table_sectors) * sector / cluster;
        if clusters < SMALLEST_CLUSTERS || u32::try_from(sectors).is_err() {
            let text = format!("{} bytes in sectors of {sector} cannot be FAT32", volume.length);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(Self { sector, cluster, sectors, table_sectors, clusters })
    }

    fn offset(&self, cluster: u32) -> u64 {
        let data = (RESERVED_SECTORS + TABLES * self.table_sectors) * self.sector;
        data + u64::from(cluster - ROOT_CLUSTER) * self.cluster
    }
}

struct Writer<'a> {
    image: &'a File,
    geometry: Geometry,
    /// One entry for each cluster in use. Clusters are allocated in order.
    table: Vec<u32>,
}

impl Writer<'_> {
    /// Allocates consecutive clusters for `bytes` bytes. Returns the first one, or 0 if `bytes` is 0.
    fn allocate(&mut self, bytes: usize) -> io::Result<u32> {
        let count = (bytes as u64).div_ceil(self.geometry.cluster);
        if count == 0 {
            return Ok(0);
        }
        let first = self.table.len() as u64;
        if first + count > self.geometry.clusters + 2 {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the files do not fit into the boot partition"));
        }
        self.table.extend((first + 1..first + count).map(|next| next as u32));
        self.table.push(END_OF_CHAIN);
        Ok(first as u32)
    }

    /// Writes a folder and everything below it. Returns its first cluster. Only the root has no parent and has the
    /// label.
    fn folder(&mut self, folder: &Folder, parent: Option<u32>, label: &str) -> io::Result<u32> {
        let names = short_names(folder.0.keys().copied());
        let extra = if parent.is_some() { 2 } else { 1 };
        let entries: usize =
            extra + names.iter().map(|(name, short)| 1 + long_name_entries(name, short)).sum::<usize>();
        let own = self.allocate(entries * ENTRY_BYTES)?;
        let mut bytes = Vec::with_capacity(entries * ENTRY_BYTES);
        match parent {
            None => bytes.extend(entry(&padded(label, ""), ATTRIBUTE_LABEL, 0, 0)),
            Some(parent) => {
                bytes.extend(entry(&padded(".", ""), ATTRIBUTE_FOLDER, own, 0));
                // `..` names the root as cluster 0, wherever it is.
                let parent = if parent == ROOT_CLUSTER { 0 } else { parent };
                bytes.extend(entry(&padded("..", ""), ATTRIBUTE_FOLDER, parent, 0));
            }
        }
        for (name, short) in &names {
            let (attribute, cluster, length) = match &folder.0[name] {
                Node::Folder(below) => (ATTRIBUTE_FOLDER, self.folder(below, Some(own), label)?, 0),
                Node::File(content) => {
                    let cluster = self.allocate(content.len())?;
                    if cluster != 0 {
                        self.image.write_all_at(content, self.geometry.offset(cluster))?;
                    }
                    (ATTRIBUTE_FILE, cluster, u32::try_from(content.len()).map_err(io::Error::other)?)
                }
            };
            bytes.extend(long_name(name, short));
            bytes.extend(entry(short, attribute, cluster, length));
        }
        // Zeros in the rest of the last cluster mark the end of the folder. They are written, because the disk may hold
        // old data.
        bytes.resize(bytes.len().next_multiple_of(self.geometry.cluster as usize), 0);
        self.image.write_all_at(&bytes, self.geometry.offset(own))?;
        Ok(own)
    }

    fn tables(&self) -> io::Result<()> {
        let length = (self.geometry.table_sectors * self.geometry.sector) as usize;
        let mut bytes: Vec<u8> = self.table.iter().flat_map(|next| next.to_le_bytes()).collect();
        bytes.resize(length, 0);
        for copy in 0..TABLES {
            self.image.write_all_at(&bytes, RESERVED_SECTORS * self.geometry.sector + copy * length as u64)?;
        }
        Ok(())
    }

    fn boot_sectors(&self, volume: &Volume) -> io::Result<()> {
        let mut reserved = vec![0; (RESERVED_SECTORS * self.geometry.sector) as usize];
        for at in [0, BACKUP_BOOT_SECTOR] {
            let sector = self.geometry.sector as usize;
            let at = at as usize * sector;
            reserved[at..at + 512].copy_from_slice(&self.boot_sector(volume));
            reserved[at + sector..at + sector + 512].copy_from_slice(&self.information());
        }
        self.image.write_all_at(&reserved, 0)
    }

    /// Section "Boot Sector and BPB".
    fn boot_sector(&self, volume: &Volume) -> [u8; 512] {
        let geometry = &self.geometry;
        let mut boot = [0; 512];
        let mut put = |offset: usize, bytes: &[u8]| boot[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(0, &[0xEB, 0x58, 0x90]);
        put(3, b"ROS     ");
        put(11, &(geometry.sector as u16).to_le_bytes());
        put(13, &[(geometry.cluster / geometry.sector) as u8]);
        put(14, &(RESERVED_SECTORS as u16).to_le_bytes());
        put(16, &[TABLES as u8]);
        put(21, &[0xF8]);
        put(24, &32u16.to_le_bytes());
        put(26, &64u16.to_le_bytes());
        put(32, &(geometry.sectors as u32).to_le_bytes());
        put(36, &(geometry.table_sectors as u32).to_le_bytes());
        put(44, &ROOT_CLUSTER.to_le_bytes());
        put(48, &1u16.to_le_bytes());
        put(50, &(BACKUP_BOOT_SECTOR as u16).to_le_bytes());
        put(64, &[0x80, 0, 0x29]);
        put(67, &volume.id.to_le_bytes());
        put(71, &padded(volume.label, ""));
        put(82, b"FAT32   ");
        put(510, &[0x55, 0xAA]);
        boot
    }

    /// Section "FSInfo Sector Structure".
    fn information(&self) -> [u8; 512] {
        let used = self.table.len() as u64 - 2;
        let mut information = [0; 512];
        let mut put = |offset: usize, value: u32| information[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        put(0, 0x4161_5252);
        put(484, 0x6141_7272);
        put(488, (self.geometry.clusters - used) as u32);
        put(492, self.table.len() as u32);
        put(508, 0xAA55_0000);
        information
    }
}

/// Section "FAT Directory Structure".
fn entry(short: &[u8; 11], attribute: u8, cluster: u32, length: u32) -> [u8; ENTRY_BYTES] {
    let mut entry = [0; ENTRY_BYTES];
    entry[..11].copy_from_slice(short);
    entry[11] = attribute;
    for date in [16, 18, 24] {
        entry[date..date + 2].copy_from_slice(&DATE.to_le_bytes());
    }
    entry[20..22].copy_from_slice(&((cluster >> 16) as u16).to_le_bytes());
    entry[26..28].copy_from_slice(&(cluster as u16).to_le_bytes());
    entry[28..32].copy_from_slice(&length.to_le_bytes());
    entry
}

/// The short name of each name: the name itself in capitals if it fits, otherwise six letters, `~` and a number.
fn short_names<'a>(names: impl Iterator<Item = &'a str>) -> Vec<(&'a str, [u8; 11])> {
    let mut taken: Vec<(&str, [u8; 11])> = Vec::new();
    for name in names {
        let (base, extension) = name.rsplit_once('.').unwrap_or((name, ""));
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        let fits = (1..=8).contains(&base.len()) && extension.len() <= 3 && plain(base) && plain(extension);
        let letters = |text: &str, most: usize| -> String {
            text.chars().filter(char::is_ascii_alphanumeric).take(most).collect()
        };
        let numbered = (1..).map(|n| padded(&format!("{}~{n}", letters(base, 6)), &letters(extension, 3)));
        let whole = fits.then(|| padded(base, extension));
        let free = |short: &[u8; 11]| taken.iter().all(|(_, other)| other != short);
        let short = whole.into_iter().chain(numbered).find(free);
        taken.push((name, short.expect("there are more numbers than files")));
    }
    taken
}

/// Base and extension in capitals, padded with blanks.
fn padded(base: &str, extension: &str) -> [u8; 11] {
    let mut short = [b' '; 11];
    for (place, byte) in short[..8].iter_mut().zip(base.bytes()) {
        *place = byte.to_ascii_uppercase();
    }
    // A label continues where a name has its extension.
    let rest = if base.len() > 8 { &base[8..] } else { extension };
    for (place, byte) in short[8..].iter_mut().zip(rest.bytes()) {
        *place = byte.to_ascii_uppercase();
    }
    short
}

/// Number of entries that the long name takes. 0 if the short name is enough.
fn long_name_entries(name: &str, short: &[u8; 11]) -> usize {
    let base = String::from_utf8_lossy(&short[..8]).trim_end().to_owned();
    let extension = String::from_utf8_lossy(&short[8..]).trim_end().to_owned();
    let shown = if extension.is_empty() { base } else { format!("{base}.{extension}") };
    if shown == name { 0 } else { name.encode_utf16().count().div_ceil(LONG_NAME_UNITS) }
}

/// Section "FAT Long Directory Entries": the last part of the name is the first entry.
fn long_name(name: &str, short: &[u8; 11]) -> Vec<u8> {
    let count = long_name_entries(name, short);
    let checksum = short.iter().fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    let mut units: Vec<u16> = name.encode_utf16().collect();
    if !units.len().is_multiple_of(LONG_NAME_UNITS) {
        units.push(0);
    }
    units.resize(count * LONG_NAME_UNITS, 0xFFFF);
    let mut bytes = Vec::new();
    for (index, part) in units.chunks(LONG_NAME_UNITS).enumerate().take(count).rev() {
        let mut entry = [0; ENTRY_BYTES];
        let last = if index + 1 == count { LAST_LONG_NAME } else { 0 };
        entry[0] = (index as u8 + 1) | last;
        entry[11] = ATTRIBUTE_LONG_NAME;
        entry[13] = checksum;
        let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain((28..32).step_by(2));
        for (place, unit) in places.zip(part) {
            entry[place..place + 2].copy_from_slice(&unit.to_le_bytes());
        }
        bytes.extend(entry);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use command::Command;
    use tempfile::NamedTempFile;

    fn made(sector_bytes: u32, files: &[PlacedFile]) -> NamedTempFile {
        let volume = Volume { length: 288 << 20, sector_bytes, id: 0xABCD_1234, label: "COS_BOOT" };
        let image = NamedTempFile::new().unwrap();
        image.as_file().set_len(volume.length).unwrap();
        write(image.as_file(), &volume, files).unwrap();
        image
    }

    fn run(program: &str, arguments: &[&str], image: &NamedTempFile, path: &str) -> String {
        let command = Command::new(program).args(arguments).arg(image.path());
        let command = if path.is_empty() { command } else { command.arg(path) };
        String::from_utf8_lossy(&command.run().unwrap()).into_owned()
    }

    #[test]
    fn other_programs_read_every_file_and_find_no_damage() {
        let long = "a name that is rather long for this kind of file system.json";
        let mut files: Vec<(String, Vec<u8>)> = ["EFI/BOOT/BOOTX64.EFI", "EFI/BOOT/grubx64.efi", "EFI/debian/grub.cfg"]
            .iter()
            .chain(&["grub/grubenv", "A/release.json", "A/release.json5", "A/empty", long])
            .enumerate()
            .map(|(index, path)| (path.to_string(), vec![b'a' + index as u8; index * 7000]))
            .collect();
        files[6].1.clear();
        // A folder with more entries than one cluster holds.
        files.extend((0..100).map(|n| (format!("many/file-{n}.text"), format!("{n}").into_bytes())));
        let given: Vec<PlacedFile> =
            files.iter().map(|(path, content)| (path.as_str(), content.as_slice().into())).collect();
        let image = made(512, &given);
        let checked = run("fsck.vfat", &["-n", "-v"], &image, "");
        assert!(!checked.contains("Free cluster summary"), "{checked}");
        for (path, content) in &files {
            let read = run("mtype", &["-i"], &image, &format!("::/{path}"));
            assert!(read.as_bytes() == content, "{path} reads differently");
        }
        assert!(run("mlabel", &["-s", "-i"], &image, "::").contains("COS_BOOT"));
        let listing = run("mdir", &["-b", "-i"], &image, "::/EFI/BOOT");
        assert_eq!(listing, "::/EFI/BOOT/BOOTX64.EFI\n::/EFI/BOOT/grubx64.efi\n");
    }

    #[test]
    fn large_sectors_are_accepted_by_fsck() {
        let image = made(4096, &[("A/release.json", [7u8; 10_000].into())]);
        run("fsck.vfat", &["-n"], &image, "");
    }

    #[test]
    fn files_that_do_not_fit_are_refused() {
        let small = Volume { length: 64 << 20, sector_bytes: 512, id: 0, label: "L" };
        assert!(write(&tempfile::tempfile().unwrap(), &small, &[]).is_err());
        let volume = Volume { length: 256 << 20, ..small };
        let image = tempfile::tempfile().unwrap();
        let error = write(&image, &volume, &[("large", vec![0u8; 256 << 20].into())]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn short_names_are_unique() {
        let names = short_names(["release.json", "release.jsonx", "GRUB.CFG", "grub.cfg"].into_iter());
        let shown: Vec<_> = names.iter().map(|(_, short)| String::from_utf8_lossy(short)).collect();
        assert_eq!(shown, ["RELEAS~1JSO", "RELEAS~2JSO", "GRUB    CFG", "GRUB~1  CFG"]);
    }
}
