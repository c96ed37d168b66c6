//! Writes a FAT file system in one pass from files that are all known, as firmware and GRUB read it ("Microsoft
//! Extensible Firmware Initiative FAT32 File System Specification", version 1.03). COS_BOOT is FAT32; the image with
//! which UEFI starts a medium has too few clusters for that and is FAT16.
//!
//! Every file is contiguous, which the in-place rewriting of `grubenv` relies on, and equal files give equal bytes. This
//! is our own code because the crate fatfs (0.3.6) gives `.` and `..` long names, which `fsck.vfat` reports as damage.

mod boot_sector;
mod directory;
mod geometry;

use boot_sector::MEDIA;
pub use boot_sector::set_volume_id;
use directory::{
    ATTRIBUTE_FILE, ATTRIBUTE_FOLDER, ATTRIBUTE_LABEL, ENTRY_BYTES, entry, long_name, long_name_entries, padded,
    short_names,
};
use geometry::{Geometry, TABLES};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

/// FAT16 has the lower half of this in its table.
const END_OF_CHAIN: u32 = 0x0FFF_FFFF;

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

/// Writes the file system into an empty file of the volume's length. Paths are relative, use `/`, and are ASCII. The
/// length decides between FAT16 and FAT32; one below 3 MB, in sectors of 512 bytes, is an error.
pub fn write(image: &File, volume: &Volume, files: &[PlacedFile]) -> io::Result<()> {
    let mut root = Folder::default();
    for (path, content) in files {
        root.insert(path, content);
    }
    let geometry = Geometry::of(volume)?;
    // The first two entries of a table stand for no clusters.
    let mut writer = Writer { image, geometry, table: vec![0x0FFF_FF00 | u32::from(MEDIA), END_OF_CHAIN] };
    writer.folder(&root, None, volume.label)?;
    writer.tables()?;
    let used = writer.table.len() as u64 - 2;
    image.write_all_at(&boot_sector::reserved(&writer.geometry, volume, used), 0)
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
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the files do not fit into the file system"));
        }
        self.table.extend((first + 1..first + count).map(|next| next as u32));
        self.table.push(END_OF_CHAIN);
        Ok(first as u32)
    }

    /// Finds the place of a folder with `bytes` bytes. Returns its first cluster, its offset and the bytes that it fills.
    fn place(&mut self, bytes: usize, is_root: bool) -> io::Result<(u32, u64, usize)> {
        if let Some(root) = self.geometry.fixed_root().filter(|_| is_root) {
            let room = (root.end - root.start) as usize;
            if bytes > room {
                let text = format!("the root folder of FAT16 has room for {} entries", room / ENTRY_BYTES);
                return Err(io::Error::new(io::ErrorKind::StorageFull, text));
            }
            return Ok((0, root.start, room));
        }
        let cluster = self.allocate(bytes)?;
        let filled = bytes.next_multiple_of(self.geometry.cluster as usize);
        Ok((cluster, self.geometry.offset(cluster), filled))
    }

    /// Writes a folder and everything below it. Returns its first cluster. `parent` is what `..` names. Only the root
    /// has no parent and has the label.
    fn folder(&mut self, folder: &Folder, parent: Option<u32>, label: &str) -> io::Result<u32> {
        let names = short_names(folder.0.keys().copied());
        let extra = if parent.is_some() { 2 } else { 1 };
        let entries: usize =
            extra + names.iter().map(|(name, short)| 1 + long_name_entries(name, short)).sum::<usize>();
        let (own, offset, filled) = self.place(entries * ENTRY_BYTES, parent.is_none())?;
        let mut bytes = Vec::with_capacity(filled);
        match parent {
            None => bytes.extend(entry(&padded(label, ""), ATTRIBUTE_LABEL, 0, 0)),
            Some(parent) => {
                bytes.extend(entry(&padded(".", ""), ATTRIBUTE_FOLDER, own, 0));
                bytes.extend(entry(&padded("..", ""), ATTRIBUTE_FOLDER, parent, 0));
            }
        }
        // `..` names the root as cluster 0, wherever it is.
        let named = if parent.is_none() { 0 } else { own };
        for (name, short) in &names {
            let (attribute, cluster, length) = match &folder.0[name] {
                Node::Folder(below) => (ATTRIBUTE_FOLDER, self.folder(below, Some(named), label)?, 0),
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
        // Zeros in the rest mark the end of the folder. They are written, because the disk may hold old data.
        bytes.resize(filled, 0);
        self.image.write_all_at(&bytes, offset)?;
        Ok(own)
    }

    fn tables(&self) -> io::Result<()> {
        // The lowest byte is first, so that FAT16 takes the lower half.
        let entry_bytes = self.geometry.kind.table_entry_bytes() as usize;
        let mut bytes: Vec<u8> =
            self.table.iter().flat_map(|next| next.to_le_bytes().into_iter().take(entry_bytes)).collect();
        bytes.resize((self.geometry.table_sectors * self.geometry.sector) as usize, 0);
        (0..TABLES).try_for_each(|copy| self.image.write_all_at(&bytes, self.geometry.table(copy)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use command::Command;
    use proptest::prelude::*;
    use release::digest;
    use std::fs;
    use tempfile::NamedTempFile;

    type Files = BTreeMap<String, Vec<u8>>;

    fn made(length: u64, sector_bytes: u32, files: &Files) -> io::Result<NamedTempFile> {
        let volume = Volume { length, sector_bytes, id: 0xABCD_1234, label: "COS_BOOT" };
        let image = NamedTempFile::new()?;
        image.as_file().set_len(volume.length)?;
        let given: Vec<PlacedFile> =
            files.iter().map(|(path, content)| (path.as_str(), content.as_slice().into())).collect();
        write(image.as_file(), &volume, &given)?;
        Ok(image)
    }

    fn run(program: &str, arguments: &[&str], image: &NamedTempFile, path: &str) -> String {
        let command = Command::new(program).args(arguments).arg(image.path());
        let command = if path.is_empty() { command } else { command.arg(path) };
        String::from_utf8_lossy(&command.run().unwrap()).into_owned()
    }

    fn check_by_other_programs(image: &NamedTempFile, files: &Files) -> String {
        let checked = run("fsck.vfat", &["-n", "-v"], image, "");
        assert!(!checked.contains("Free cluster summary"), "{checked}");
        let folder = tempfile::tempdir().unwrap();
        Command::new("mcopy").args(["-s", "-i"]).arg(image.path()).arg("::").arg(folder.path()).run().unwrap();
        let mut read = Files::new();
        collect(folder.path(), "", &mut read);
        assert!(read.keys().eq(files.keys()), "{:?} are there, {:?} were written", read.keys(), files.keys());
        for (path, content) in files {
            assert!(read[path] == *content, "{path} reads differently");
        }
        checked
    }

    fn collect(folder: &std::path::Path, prefix: &str, files: &mut Files) {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                collect(&entry.path(), &format!("{path}/"), files);
            } else {
                files.insert(path, fs::read(entry.path()).unwrap());
            }
        }
    }

    /// Files with short and long names, an empty one, and a folder with more entries than one cluster of 2 KiB holds.
    fn sample() -> Files {
        let long = "A/a name that is rather long.json";
        let mut files: Files =
            ["EFI/BOOT/BOOTX64.EFI", "EFI/BOOT/grubx64.efi", "grub/grubenv", "A/release.json", "A/empty", long]
                .iter()
                .enumerate()
                .map(|(index, path)| (path.to_string(), vec![b'a' + index as u8; index * 7000]))
                .collect();
        files.insert("A/empty".to_owned(), Vec::new());
        files.extend((0..100).map(|n| (format!("many/file-{n}.text"), format!("{n}").into_bytes())));
        files
    }

    #[test]
    fn other_programs_read_every_file_and_find_no_damage() {
        let mut files = sample();
        files.insert("A/release.json5".to_owned(), vec![b'5'; 5]);
        files.insert("a name that is rather long for this kind of file system.json".to_owned(), vec![b'l'; 9000]);
        for (length, bits) in [(3 << 20, 16), (6 << 20, 16), (20 << 20, 16), (120 << 20, 16), (288 << 20, 32)] {
            let image = made(length, 512, &files).unwrap();
            let checked = check_by_other_programs(&image, &files);
            assert!(checked.contains(&format!("{bits} bit entries")), "{length}: {checked}");
            assert!(run("mlabel", &["-s", "-i"], &image, "::").contains("COS_BOOT"));
            let listing = run("mdir", &["-b", "-i"], &image, "::/EFI/BOOT");
            assert_eq!(listing, "::/EFI/BOOT/BOOTX64.EFI\n::/EFI/BOOT/grubx64.efi\n");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn generated_files_read_back(
            length in 3u64..300,
            files in prop::collection::btree_map(
                "(Folder[1-3]/){0,4}[a-z]{1,10}( [a-z]{1,20})?(\\.[a-z]{1,4})?",
                prop::collection::vec(any::<u8>(), 0..20_000),
                0..25,
            ),
        ) {
            check_by_other_programs(&made(length << 20, 512, &files).unwrap(), &files);
        }
    }

    /// COS_BOOT, as earlier programs wrote it.
    #[test]
    fn the_bytes_of_fat32_stay_the_same() {
        for (length, sector, expected) in [
            (160 << 20, 512, "295a5e1b926b43d2e6eee11b084d7917c392e2ba5e00944cb861afe3feb55240"),
            (288 << 20, 4096, "7e2cc759e1e98d1da8dde5697e53c9f5b1f4023b6293238c0798ab001857745a"),
        ] {
            let image = made(length, sector, &sample()).unwrap();
            let (actual, _) = digest::of_file(image.path()).unwrap();
            assert_eq!(actual, expected, "sectors of {sector}");
        }
    }

    #[test]
    fn large_sectors_are_accepted_by_fsck() {
        for (length, bits) in [(40 << 20, 16), (288 << 20, 32)] {
            let image = made(length, 4096, &sample()).unwrap();
            let checked = run("fsck.vfat", &["-n", "-v"], &image, "");
            assert!(checked.contains(&format!("{bits} bit entries")), "{checked}");
        }
    }

    #[test]
    fn files_that_do_not_fit_are_refused() {
        assert!(made(1 << 20, 512, &Files::new()).is_err());
        for length in [4 << 20, 256 << 20] {
            let large = Files::from([("large".to_owned(), vec![0; length as usize])]);
            assert_eq!(made(length, 512, &large).unwrap_err().kind(), io::ErrorKind::StorageFull);
        }
    }

    #[test]
    fn only_the_root_of_fat16_has_a_largest_number_of_entries() {
        let files = |folder: &str| (0..512).map(|n| (format!("{folder}F{n}"), vec![1])).collect::<Files>();
        let error = made(6 << 20, 512, &files("")).unwrap_err();
        assert!(error.to_string().contains("512 entries"), "{error}");
        // One entry is the label.
        let mut most = files("");
        most.pop_last();
        for (length, files) in [(6 << 20, most), (6 << 20, files("A/")), (160 << 20, files(""))] {
            check_by_other_programs(&made(length, 512, &files).unwrap(), &files);
        }
    }
}
