//! Reads the few fields of ISO 9660 that we use: the volume id, and the extent of a file. It is code of our own,
//! because a change in place needs the extent, which other readers do not give, and because an ISO may come from an
//! unknown source. Formats: ECMA-119, sections 8.4 (volume descriptor) and 9.1 (directory record); names from Rock
//! Ridge (IEEE P1282, `NM`). Scope: one session, blocks of 2048 bytes, files of one extent.

use boot_contract::volume_id;
use std::io::{self, Read, Seek, SeekFrom};

use thiserror::Error;

const BLOCK: u64 = volume_id::BLOCK_BYTES;
/// Most volume descriptors that are read.
const MOST_DESCRIPTORS: u64 = 64;
/// Bytes of the largest directory that is read. It has ten thousand files; our directories have some hundred bytes.
const LARGEST_DIRECTORY: u64 = 1 << 20;
/// Most files and folders below a folder, and how deep they may lie. A release has some ten, one folder deep.
const MOST_BELOW: usize = 1000;
const DEEPEST: usize = 8;

#[derive(Debug, Error)]
pub enum Iso9660Error {
    #[error("this is not an ISO 9660 image: {0}")]
    NotAnImage(&'static str),
    #[error("the image is damaged: {0}")]
    Damaged(&'static str),
    #[error("the image has no {0}")]
    NotFound(String),
    #[error("reading the image")]
    Io(#[from] io::Error),
}

/// The position of a file's content, in bytes from the start of the ISO. It lies within the ISO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub offset: u64,
    pub size: u64,
}

/// A volume whose descriptor has been read.
#[derive(Debug)]
pub struct Volume<R> {
    image: R,
    length: u64,
    /// The volume id without padding. Empty if there is none.
    pub id: String,
    /// Where the volume id is, with its padding.
    pub id_extent: Extent,
    root: Extent,
}

/// A file or a folder below a folder.
#[derive(Debug, PartialEq, Eq)]
pub struct Below {
    /// Relative to the folder, without a slash at its beginning.
    pub path: String,
    /// `None`: a folder.
    pub content: Option<Extent>,
}

/// An entry of a directory.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    is_directory: bool,
    extent: Extent,
}

impl<R: Read + Seek> Volume<R> {
    pub fn open(mut image: R) -> Result<Self, Iso9660Error> {
        let length = image.seek(SeekFrom::End(0))?;
        let mut descriptor = [0; BLOCK as usize];
        for number in 0..MOST_DESCRIPTORS {
            let offset = volume_id::DESCRIPTOR_OFFSET + number * BLOCK;
            if offset + BLOCK > length {
                return Err(Iso9660Error::NotAnImage("it is too short"));
            }
            image.seek(SeekFrom::Start(offset))?;
            image.read_exact(&mut descriptor)?;
            if !volume_id::is_descriptor(&descriptor) {
                return Err(Iso9660Error::NotAnImage("it has no volume descriptor"));
            }
            match descriptor[0] {
                1 => return Self::from_primary(image, length, offset, &descriptor),
                255 => break,
                _ => {}
            }
        }
        Err(Iso9660Error::NotAnImage("it has no primary volume descriptor"))
    }

    fn from_primary(
        image: R,
        length: u64,
        offset: u64,
        descriptor: &[u8; BLOCK as usize],
    ) -> Result<Self, Iso9660Error> {
        if u64::from(u16::from_le_bytes([descriptor[128], descriptor[129]])) != BLOCK {
            return Err(Iso9660Error::Damaged("its blocks are not 2048 bytes long"));
        }
        let blocks = u32::from_le_bytes([descriptor[80], descriptor[81], descriptor[82], descriptor[83]]);
        if u64::from(blocks) * BLOCK > length {
            return Err(Iso9660Error::Damaged("it is shorter than its volume; the download may be incomplete"));
        }
        let id = volume_id::read(descriptor).unwrap_or_default().to_owned();
        let (root, _) = parse_record(&descriptor[156..190], length)?.ok_or(Iso9660Error::Damaged("it has no root"))?;
        if !root.is_directory {
            return Err(Iso9660Error::Damaged("its root is not a directory"));
        }
        let id_extent = Extent { offset: offset + volume_id::ID.start as u64, size: volume_id::ID.len() as u64 };
        Ok(Self { image, length, id, id_extent, root: root.extent })
    }

    /// The extent of the file at `path`, such as `/release/release.json`.
    pub fn find(&mut self, path: &str) -> Result<Extent, Iso9660Error> {
        let trimmed = path.trim_end_matches('/');
        let (folder, name) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
        let entries = self.folder(folder)?.map(|folder| self.list(folder)).transpose()?.unwrap_or_default();
        let file = entries.into_iter().find(|entry| entry.name == name && !entry.is_directory);
        file.map(|entry| entry.extent).ok_or_else(|| Iso9660Error::NotFound(path.to_owned()))
    }

    /// The names of the files in the folder at `path`. `None`: there is no such folder.
    pub fn files(&mut self, path: &str) -> Result<Option<Vec<String>>, Iso9660Error> {
        let Some(directory) = self.folder(path)? else { return Ok(None) };
        let files = self.list(directory)?.into_iter().filter(|entry| !entry.is_directory);
        Ok(Some(files.map(|entry| entry.name).collect()))
    }

    /// Everything below the folder at `path`, in the order of the names. A folder comes before what is in it.
    pub fn below(&mut self, path: &str) -> Result<Vec<Below>, Iso9660Error> {
        let directory = self.folder(path)?.ok_or_else(|| Iso9660Error::NotFound(path.to_owned()))?;
        let mut found = Vec::new();
        self.collect(directory, "", 1, &mut found)?;
        Ok(found)
    }

    fn collect(
        &mut self,
        directory: Extent,
        prefix: &str,
        depth: usize,
        found: &mut Vec<Below>,
    ) -> Result<(), Iso9660Error> {
        if depth > DEEPEST {
            return Err(Iso9660Error::Damaged("its folders are too deep"));
        }
        let mut entries = self.list(directory)?;
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        for entry in entries {
            if found.len() == MOST_BELOW {
                return Err(Iso9660Error::Damaged("a folder has too many files"));
            }
            let path = format!("{prefix}{}", entry.name);
            let content = (!entry.is_directory).then_some(entry.extent);
            let within = format!("{path}/");
            found.push(Below { path, content });
            if entry.is_directory {
                self.collect(entry.extent, &within, depth + 1, found)?;
            }
        }
        Ok(())
    }

    /// The extent of the folder at `path`. `None`: there is no such folder.
    fn folder(&mut self, path: &str) -> Result<Option<Extent>, Iso9660Error> {
        let mut directory = self.root;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let mut entries = self.list(directory)?.into_iter();
            match entries.find(|entry| entry.name == part && entry.is_directory) {
                Some(entry) => directory = entry.extent,
                None => return Ok(None),
            }
        }
        Ok(Some(directory))
    }

    /// A file's bytes, if it has at most `limit`.
    pub fn read(&mut self, path: &str, limit: u64) -> Result<Vec<u8>, Iso9660Error> {
        let extent = self.find(path)?;
        if extent.size > limit {
            return Err(Iso9660Error::Damaged("a file is too large"));
        }
        self.read_extent(extent)
    }

    /// A reader that gives exactly the file's bytes.
    pub fn reader(&mut self, path: &str) -> Result<io::Take<&mut R>, Iso9660Error> {
        let extent = self.find(path)?;
        self.image.seek(SeekFrom::Start(extent.offset))?;
        Ok((&mut self.image).take(extent.size))
    }

    fn read_extent(&mut self, extent: Extent) -> Result<Vec<u8>, Iso9660Error> {
        let size = usize::try_from(extent.size).map_err(|_| Iso9660Error::Damaged("an extent is too large"))?;
        let mut content = vec![0; size];
        self.image.seek(SeekFrom::Start(extent.offset))?;
        self.image.read_exact(&mut content)?;
        Ok(content)
    }

    fn list(&mut self, directory: Extent) -> Result<Vec<Entry>, Iso9660Error> {
        if directory.size > LARGEST_DIRECTORY {
            return Err(Iso9660Error::Damaged("a directory is too large"));
        }
        let content = self.read_extent(directory)?;
        let mut entries = Vec::new();
        // Records do not cross blocks; a length of zero ends a block's records.
        for block in content.chunks(BLOCK as usize) {
            let mut rest = block;
            while let Some((entry, length)) = parse_record(rest, self.length)? {
                if !is_self_or_parent(&entry) {
                    entries.push(entry);
                }
                rest = &rest[length..];
            }
        }
        Ok(entries)
    }
}

/// A directory begins with a record of itself and one of the directory above it, whose names are these bytes.
fn is_self_or_parent(entry: &Entry) -> bool {
    entry.is_directory && matches!(entry.name.as_str(), "\0" | "\x01")
}

/// The record at the start of `bytes` and its length; `None` if there is none.
fn parse_record(bytes: &[u8], image_length: u64) -> Result<Option<(Entry, usize)>, Iso9660Error> {
    const FIXED: usize = 33;
    const DIRECTORY: u8 = 0x02;
    const MULTIPLE_EXTENTS: u8 = 0x80;
    let length = usize::from(bytes.first().copied().unwrap_or(0));
    if length == 0 {
        return Ok(None);
    }
    let record = bytes.get(..length).ok_or(Iso9660Error::Damaged("a directory record is cut off"))?;
    if length < FIXED {
        return Err(Iso9660Error::Damaged("a directory record is too short"));
    }
    let number =
        |at: usize| u64::from(u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]]));
    let name_end = FIXED + usize::from(record[32]);
    let name = record.get(FIXED..name_end).ok_or(Iso9660Error::Damaged("a name is cut off"))?;
    // The name is padded to an even position; behind it is the system use area.
    let system_use = record.get(name_end + usize::from(name.len().is_multiple_of(2))..).unwrap_or_default();
    let extent = Extent { offset: number(2) * BLOCK, size: number(10) };
    let flags = record[25];
    if flags & MULTIPLE_EXTENTS != 0 {
        return Err(Iso9660Error::Damaged("a file has several extents"));
    }
    if extent.offset + extent.size > image_length {
        return Err(Iso9660Error::Damaged("a file is behind the end of the image; the download may be incomplete"));
    }
    let name = rock_ridge_name(system_use).unwrap_or_else(|| plain_name(name));
    Ok(Some((Entry { name, is_directory: flags & DIRECTORY != 0, extent }, length)))
}

/// The name in the `NM` fields of a system use area.
fn rock_ridge_name(mut area: &[u8]) -> Option<String> {
    const HEADER: usize = 5;
    let mut name = Vec::new();
    while let [a, b, length, ..] = *area {
        let field = area.get(..usize::from(length)).filter(|field| field.len() >= 4)?;
        if [a, b] == *b"NM" && field.len() > HEADER {
            name.extend_from_slice(&field[HEADER..]);
        }
        area = &area[field.len()..];
    }
    if name.is_empty() { None } else { String::from_utf8(name).ok() }
}

/// A name without Rock Ridge, in lower case and without its version.
fn plain_name(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    let base = name.split(';').next().unwrap_or_default();
    base.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    /// A directory record with a Rock Ridge name.
    fn record(name: &str, flags: u8, block: u32, size: u32) -> Vec<u8> {
        let mut record = vec![0; 33];
        record[2..6].copy_from_slice(&block.to_le_bytes());
        record[10..14].copy_from_slice(&size.to_le_bytes());
        record[25] = flags;
        let plain = b"NAME.;1";
        record[32] = plain.len() as u8;
        record.extend(plain);
        record.extend(b"NM");
        record.extend([5 + name.len() as u8, 1, 0]);
        record.extend(name.as_bytes());
        record.resize(record.len().next_multiple_of(2), 0);
        record[0] = record.len() as u8;
        record
    }

    /// The record of a directory itself or, with the number 1, of the one above it.
    fn dots(number: u8, block: u32) -> Vec<u8> {
        let mut record = record("x", 2, block, 2048);
        record.truncate(34);
        (record[0], record[32], record[33]) = (34, 1, number);
        record
    }

    /// Block 18: root directory; 19: /release; 20 and 21: files; 22: /release/boot.
    fn image() -> Vec<u8> {
        let mut image = vec![0; 23 * BLOCK as usize];
        let put = |image: &mut Vec<u8>, at: u64, bytes: &[u8]| {
            image[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        };
        let descriptor = 16 * BLOCK;
        put(&mut image, descriptor, b"\x01CD001\x01");
        put(&mut image, descriptor + 40, b"ROS_0123abcd                    ");
        put(&mut image, descriptor + 80, &23u32.to_le_bytes());
        put(&mut image, descriptor + 128, &2048u16.to_le_bytes());
        put(&mut image, descriptor + 156, &dots(0, 18));
        put(&mut image, 17 * BLOCK, b"\xffCD001\x01");
        let listing = [record("release", 2, 19, 2048), record("registration.yaml", 0, 20, 5)].concat();
        put(&mut image, 18 * BLOCK, &listing);
        let release = [
            dots(0, 19),
            dots(1, 18),
            record("release.json", 0, 21, 3),
            record("boot", 2, 22, 2048),
            record("Abc", 0, 20, 2),
        ];
        put(&mut image, 19 * BLOCK, &release.concat());
        put(&mut image, 22 * BLOCK, &[dots(0, 22), dots(1, 19), record("grub.cfg", 0, 20, 4)].concat());
        put(&mut image, 20 * BLOCK, b"hello");
        put(&mut image, 21 * BLOCK, b"{}\n");
        image
    }

    #[test]
    fn files_are_found_by_their_path() {
        let mut volume = Volume::open(Cursor::new(image())).unwrap();
        assert_eq!(volume.id, "ROS_0123abcd");
        assert_eq!(volume.find("/registration.yaml").unwrap(), Extent { offset: 20 * BLOCK, size: 5 });
        assert_eq!(volume.read("/release/release.json", 10).unwrap(), b"{}\n");
        let mut content = String::new();
        volume.reader("/registration.yaml").unwrap().read_to_string(&mut content).unwrap();
        assert_eq!(content, "hello");
    }

    #[test]
    fn the_files_of_a_folder_are_listed() {
        let mut volume = Volume::open(Cursor::new(image())).unwrap();
        assert_eq!(volume.files("/release").unwrap().unwrap(), ["release.json", "Abc"]);
        assert_eq!(volume.files("/").unwrap().unwrap(), ["registration.yaml"]);
        for path in ["/nothing", "/release/nothing", "/registration.yaml"] {
            assert_eq!(volume.files(path).unwrap(), None, "{path}");
        }
    }

    #[test]
    fn everything_below_a_folder_is_listed_in_order() {
        let mut volume = Volume::open(Cursor::new(image())).unwrap();
        let file = |path: &str, block: u64, size| Below {
            path: path.to_owned(),
            content: Some(Extent { offset: block * BLOCK, size }),
        };
        let boot = Below { path: "boot".to_owned(), content: None };
        let expected = [file("Abc", 20, 2), boot, file("boot/grub.cfg", 20, 4), file("release.json", 21, 3)];
        assert_eq!(volume.below("/release").unwrap(), expected);
        assert!(matches!(volume.below("/nothing"), Err(Iso9660Error::NotFound(path)) if path == "/nothing"));
    }

    #[test]
    fn a_folder_in_itself_is_damage() {
        let mut image = image();
        let within = record("again", 2, 22, 2048);
        image[22 * BLOCK as usize..22 * BLOCK as usize + within.len()].copy_from_slice(&within);
        let error = Volume::open(Cursor::new(image)).unwrap().below("/release").unwrap_err();
        assert_eq!(error.to_string(), "the image is damaged: its folders are too deep");
    }

    #[test]
    fn a_missing_file_is_named() {
        let mut volume = Volume::open(Cursor::new(image())).unwrap();
        for path in ["/nothing", "/release", "/release/nothing", "/registration.yaml/below", "/"] {
            let error = volume.find(path).unwrap_err();
            assert!(matches!(&error, Iso9660Error::NotFound(name) if name == path), "{path}: {error}");
        }
        assert!(matches!(volume.read("/registration.yaml", 4), Err(Iso9660Error::Damaged(_))));
    }

    #[test]
    fn other_files_are_not_images() {
        for content in [Vec::new(), vec![0; 100], vec![0; 40 * BLOCK as usize], vec![b'C'; 40 * BLOCK as usize]] {
            assert!(matches!(Volume::open(Cursor::new(content)), Err(Iso9660Error::NotAnImage(_))));
        }
    }

    #[test]
    fn a_truncated_image_is_refused_when_it_is_opened() {
        let whole = image();
        let error = Volume::open(Cursor::new(whole[..whole.len() - 1].to_vec())).unwrap_err();
        assert!(error.to_string().contains("the download may be incomplete"), "{error}");
    }

    fn read_everything(image: Vec<u8>) {
        if let Ok(mut volume) = Volume::open(Cursor::new(image)) {
            let _ = volume.read("/registration.yaml", 1 << 16);
            let _ = volume.read("/release/release.json", 1 << 16);
            let _ = volume.files("/release");
            let _ = volume.below("/");
        }
    }

    proptest! {
        #[test]
        fn no_truncated_image_makes_it_panic(length in 0usize..23 * BLOCK as usize) {
            read_everything(image()[..length].to_vec());
        }

        #[test]
        fn damaged_images_do_not_panic(changes in proptest::collection::vec((0usize..4 * BLOCK as usize, any::<u8>()), 1..40)) {
            let mut image = image();
            for (position, byte) in changes {
                image[16 * BLOCK as usize + position] = byte;
            }
            read_everything(image);
        }

        #[test]
        fn no_directory_makes_it_panic(junk in proptest::collection::vec(any::<u8>(), BLOCK as usize)) {
            let mut image = image();
            image[18 * BLOCK as usize..19 * BLOCK as usize].copy_from_slice(&junk);
            read_everything(image);
        }
    }
}
