//! Disk images that no machine has started yet: what release they hold, and where their settings are. An image is raw or
//! qcow2; `boot_contract::disk_image` has its layout.

use std::io::{self, Read, Seek, SeekFrom};

use boot_contract::disk_image::{MARKER_BYTES, MARKER_MAGIC, MARKER_OFFSET, SETTINGS_BYTES, SETTINGS_OFFSET};
use serde::Deserialize;
use thiserror::Error;

use crate::iso9660::Extent;
use crate::qcow2::{self, DiskReader, Qcow2, Qcow2Error};
use crate::reserved_space::RESERVED_BYTES;

const _: () = assert!(SETTINGS_BYTES == RESERVED_BYTES, "an image reserves what an ISO does");

/// What a disk image says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskImage {
    /// Version of the release.
    pub version: String,
    /// Size of the disk in bytes.
    pub disk_bytes: u64,
    /// The settings, as bytes of the file.
    pub settings: Extent,
}

/// Why a file is no disk image whose settings can be changed.
#[derive(Debug, Error)]
pub enum DiskImageError {
    #[error("reading it")]
    Read(#[source] io::Error),
    #[error("reading it as qcow2")]
    Qcow2(#[from] Qcow2Error),
    #[error("it is no disk image of `ros-image build`, or was cut off")]
    NotOurs,
    #[error("a machine was started from it, and has made it its own: use a new copy of the image")]
    Started,
}

#[derive(Deserialize)]
struct Marker {
    version: String,
}

impl DiskImage {
    /// `None` for a file that is no disk image of any kind, such as an ISO.
    pub fn open(file: &mut (impl Read + Seek)) -> Result<Option<Self>, DiskImageError> {
        if is_qcow2(file).map_err(DiskImageError::Read)? {
            return Self::open_qcow2(file).map(Some);
        }
        Self::open_raw(file)
    }

    fn open_qcow2(file: &mut (impl Read + Seek)) -> Result<Self, DiskImageError> {
        let mut image = Qcow2::open(file)?;
        let mut marker = [0; MARKER_BYTES];
        // What is not stored is zero.
        image.read_at(MARKER_OFFSET, &mut marker).map_err(|error| match error {
            Qcow2Error::Scattered => DiskImageError::NotOurs,
            error => error.into(),
        })?;
        let version = version(&marker).ok_or(DiskImageError::NotOurs)?;
        let mut entries = [0; 8];
        image.read_at(ENTRIES, &mut entries)?;
        check_table(entries)?;
        let offset = image.locate(SETTINGS_OFFSET..SETTINGS_OFFSET + SETTINGS_BYTES as u64)?;
        let mut settings = vec![0; SETTINGS_BYTES];
        image.read_at(SETTINGS_OFFSET, &mut settings)?;
        let settings = place(&settings, offset)?;
        Ok(Self { version, disk_bytes: image.disk_bytes, settings })
    }

    fn open_raw(file: &mut (impl Read + Seek)) -> Result<Option<Self>, DiskImageError> {
        let disk_bytes = file.seek(SeekFrom::End(0)).map_err(DiskImageError::Read)?;
        let mut marker = [0; MARKER_BYTES];
        if disk_bytes < MARKER_OFFSET + MARKER_BYTES as u64 {
            return Ok(None);
        }
        read_at(file, MARKER_OFFSET, &mut marker)?;
        if !marker.starts_with(MARKER_MAGIC) {
            return Ok(None);
        }
        let version = version(&marker).ok_or(DiskImageError::NotOurs)?;
        if disk_bytes < SETTINGS_OFFSET + SETTINGS_BYTES as u64 {
            return Err(DiskImageError::NotOurs);
        }
        let mut entries = [0; 8];
        read_at(file, ENTRIES, &mut entries)?;
        check_table(entries)?;
        let mut settings = vec![0; SETTINGS_BYTES];
        read_at(file, SETTINGS_OFFSET, &mut settings)?;
        Ok(Some(Self { version, disk_bytes, settings: place(&settings, SETTINGS_OFFSET)? }))
    }
}

/// The disk in an image from its first byte to its last.
pub enum Disk<R> {
    Raw(R),
    Qcow2(DiskReader<R>),
}

impl<R: Read + Seek> Disk<R> {
    pub fn open(mut file: R) -> Result<Self, DiskImageError> {
        let is_qcow2 = is_qcow2(&mut file).map_err(DiskImageError::Read)?;
        Ok(if is_qcow2 { Self::Qcow2(Qcow2::open(file)?.into()) } else { Self::Raw(file) })
    }
}

impl<R: Read + Seek> Read for Disk<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Raw(file) => file.read(buffer),
            Self::Qcow2(disk) => disk.read(buffer),
        }
    }
}

impl<R: Read + Seek> Seek for Disk<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Self::Raw(file) => file.seek(to),
            Self::Qcow2(disk) => disk.seek(to),
        }
    }
}

fn is_qcow2(file: &mut (impl Read + Seek)) -> io::Result<bool> {
    let mut magic = [0; qcow2::MAGIC.len()];
    file.seek(SeekFrom::Start(0))?;
    match file.read_exact(&mut magic) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| magic == *qcow2::MAGIC),
    }
}

fn read_at(file: &mut (impl Read + Seek), at: u64, buffer: &mut [u8]) -> Result<(), DiskImageError> {
    file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(buffer)).map_err(DiskImageError::Read)
}

fn version(marker: &[u8]) -> Option<String> {
    let line = marker.strip_prefix(MARKER_MAGIC)?.split(|byte| *byte == b'\n').next()?;
    serde_json::from_slice(line).ok().map(|marker: Marker| marker.version)
}

/// Where the header of the partition table says at which sector its entries begin (UEFI 2.10, section 5.3.2).
const ENTRIES: u64 = 512 + 72;

/// A machine that starts from an image moves the entries of its partition table when it makes identifiers of its own.
fn check_table(entries: [u8; 8]) -> Result<(), DiskImageError> {
    if u64::from_le_bytes(entries) == 2 { Ok(()) } else { Err(DiskImageError::Started) }
}

/// The extent of settings that no machine has taken.
fn place(settings: &[u8], offset: u64) -> Result<Extent, DiskImageError> {
    if settings.contains(&0) {
        return Err(DiskImageError::Started);
    }
    Ok(Extent { offset, size: settings.len() as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn raw() -> Vec<u8> {
        let mut image = vec![0; 1 << 20];
        let marker = [MARKER_MAGIC, b"{\"state\":\"complete\",\"version\":\"0.1.0\"}\n"].concat();
        image[MARKER_OFFSET as usize..][..marker.len()].copy_from_slice(&marker);
        image[SETTINGS_OFFSET as usize..][..SETTINGS_BYTES].fill(b'\n');
        image[ENTRIES as usize] = 2;
        image
    }

    #[test]
    fn an_image_names_its_release_and_the_place_of_its_settings() {
        let image = DiskImage::open(&mut Cursor::new(raw())).unwrap().unwrap();
        let settings = Extent { offset: SETTINGS_OFFSET, size: SETTINGS_BYTES as u64 };
        assert_eq!(image, DiskImage { version: "0.1.0".into(), disk_bytes: 1 << 20, settings });
    }

    #[test]
    fn other_files_are_none_and_used_images_are_refused() {
        assert_eq!(DiskImage::open(&mut Cursor::new(vec![0; 1 << 20])).unwrap(), None);
        assert_eq!(DiskImage::open(&mut Cursor::new(b"ab")).unwrap(), None);
        assert!(matches!(DiskImage::open(&mut Cursor::new(&raw()[..200 << 10])), Err(DiskImageError::NotOurs)));
        let mut started = raw();
        started[SETTINGS_OFFSET as usize..][..SETTINGS_BYTES].fill(0);
        assert!(matches!(DiskImage::open(&mut Cursor::new(started)), Err(DiskImageError::Started)));
        let mut moved = raw();
        moved[ENTRIES as usize..][..2].copy_from_slice(&256u16.to_le_bytes());
        assert!(matches!(DiskImage::open(&mut Cursor::new(moved)), Err(DiskImageError::Started)), "not registered yet");
    }

    proptest! {
        #[test]
        fn no_marker_makes_it_panic(junk in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut image = raw();
            let at = MARKER_OFFSET as usize + MARKER_MAGIC.len();
            image[at..at + junk.len()].copy_from_slice(&junk);
            let _ = DiskImage::open(&mut Cursor::new(image));
        }
    }
}
