//! Reads COS_BOOT as GRUB and the initrd do. The crate fatfs, which does not write it, reads the file system.

use super::contents::{BYTES, Contents};
use super::random::mix;
use super::state::DiskState;
use boot_contract::boot_state::{LENGTH, PATH};
use boot_contract::kernel_arguments::{MODE, ROOT, SLOT, VERITY};
use boot_contract::{BootMode, BootState, KernelArguments, Slot};
use disk::args_cfg;
use disk::layout::Role;
use fatfs::{FileSystem, FsOptions};
use media::seek;
use release::{MANIFEST, ReleaseFile, ReleaseManifest, digest, manifest_digest};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::rc::Rc;

/// No file that is read here is larger.
const LARGEST: usize = 1 << 30;
/// Reading this often is a circle in a damaged file system.
const MOST_READS: u32 = 4_000_000;
/// Files that run before a slot is chosen. The first four are files of a release.
const BOOT_CODE: [&str; 5] =
    ["EFI/BOOT/BOOTX64.EFI", "EFI/BOOT/grubx64.efi", "EFI/BOOT/mmx64.efi", "grub/grub.cfg", "EFI/debian/grub.cfg"];

/// What COS_BOOT says. Only slots that GRUB may start are looked into, and recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootFiles {
    pub state: BootState,
    pub systems: Vec<BootableSystem>,
    /// Digests of the files that run before a slot is chosen.
    pub boot_code: Vec<String>,
}

/// The complete files of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootableSystem {
    pub slot: Slot,
    pub version: String,
    /// The digest of `release.json`.
    pub release: String,
    /// Digests of what the release has for the first four of [`BOOT_CODE`].
    boot_code: [String; 4],
    /// Digest of the root image.
    pub root: String,
    /// GUID of the partition with the root image, in lower case.
    pub root_partition: String,
}

/// SHA-256 of files that were seen before, by the numbers of their sectors.
#[derive(Default)]
pub struct Digests(HashMap<u64, String>);

impl BootFiles {
    /// Reads the files. An error says what is missing or damaged.
    pub fn read(disk: &DiskState, digests: &mut Digests) -> Result<Self, String> {
        let volume = Volume::open(disk).map_err(|error| format!("COS_BOOT cannot be read: {error}"))?;
        let block = volume.bytes(PATH, LENGTH + 1)?;
        let state = BootState::parse(&block).map_err(|error| error.to_string())?;
        let may_start = |slot: &Slot| state.slot(*slot).is_none_or(|boot| boot.may_start());
        let mut systems = Vec::new();
        for slot in Slot::ALL.into_iter().filter(may_start) {
            systems.push(volume.system(slot, digests).map_err(|error| format!("slot {slot}: {error}"))?);
        }
        let mut boot_code = Vec::new();
        for (index, path) in BOOT_CODE.into_iter().enumerate() {
            let (digest, _) = volume.digest(path, digests)?;
            let is_released = systems.iter().any(|system| system.boot_code.get(index).is_none_or(|it| *it == digest));
            if !is_released {
                return Err(format!("{path} is of no release on the disk"));
            }
            boot_code.push(digest);
        }
        Ok(Self { state, systems, boot_code })
    }
}

struct Volume<'a> {
    files: FileSystem<Partition<'a>>,
    contents: &'a Contents,
    read: Rc<ReadSectors>,
}

/// The sectors of a file's content, while it is read.
#[derive(Default)]
struct ReadSectors {
    is_wanted: Cell<bool>,
    numbers: RefCell<Vec<u32>>,
}

impl<'a> Volume<'a> {
    fn open(disk: &'a DiskState) -> io::Result<Self> {
        let read = Rc::<ReadSectors>::default();
        let sectors = disk.places().partition(Role::Boot).clone();
        let parameters = disk.sector(sectors.start);
        let short = |at: usize| u64::from(u16::from_le_bytes([parameters[at], parameters[at + 1]]));
        let long = |at: usize| u64::from(u32::from_le_bytes(parameters[at..at + 4].try_into().expect("four bytes")));
        // Reserved sectors and allocation tables come before the content of files.
        let content = (short(14) + u64::from(parameters[16]) * long(36)).saturating_mul(BYTES as u64);
        let partition = Partition { disk, sectors, position: 0, content, reads: 0, read: read.clone() };
        let files = FileSystem::new(partition, FsOptions::new())?;
        Ok(Self { files, contents: disk.contents(), read })
    }

    fn bytes(&self, path: &str, most: usize) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let file = self.files.root_dir().open_file(path);
        file.and_then(|file| file.take(most as u64).read_to_end(&mut bytes))
            .map_err(|error| format!("{path}: {error}"))?;
        Ok(bytes)
    }

    /// SHA-256 and length of a file.
    fn digest(&self, path: &str, digests: &mut Digests) -> Result<(String, u64), String> {
        let (numbers, length) = self.sectors(path).map_err(|error| format!("{path}: {error}"))?;
        let key = numbers.iter().fold(mix(length as u64), |key, number| mix(key ^ u64::from(*number)));
        let digest = digests.0.entry(key).or_insert_with(|| {
            let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| self.contents.bytes(*number)).copied().collect();
            bytes.truncate(length);
            digest::of_bytes(&bytes)
        });
        Ok((digest.clone(), length as u64))
    }

    /// The contents of a file's sectors, and its length in bytes.
    fn sectors(&self, path: &str) -> io::Result<(Vec<u32>, usize)> {
        let mut file = self.files.root_dir().open_file(path)?;
        let mut buffer = vec![0; 1 << 16];
        let mut length = 0;
        self.read.is_wanted.set(true);
        self.read.numbers.borrow_mut().clear();
        let outcome = loop {
            match file.read(&mut buffer) {
                Ok(0) => break Ok(()),
                Ok(_) if length > LARGEST => break Err(io::Error::other("the file has no end")),
                Ok(more) => length += more,
                Err(error) => break Err(error),
            }
        };
        self.read.is_wanted.set(false);
        outcome.map(|()| (self.read.numbers.take(), length))
    }

    fn system(&self, slot: Slot, digests: &mut Digests) -> Result<BootableSystem, String> {
        let folder = slot.letter();
        let manifest = self.bytes(&format!("{folder}/{MANIFEST}"), ReleaseManifest::MAX_BYTES + 1)?;
        let release = manifest_digest(&manifest);
        let manifest = ReleaseManifest::parse(&manifest).map_err(|error| error.to_string())?;
        self.check(&format!("{folder}/vmlinuz"), &manifest.kernel, digests)?;
        self.check(&format!("{folder}/initrd"), &manifest.initrd, digests)?;
        let text = self.bytes(&format!("{folder}/args.cfg"), 1 << 16)?;
        let text = String::from_utf8(text).map_err(|error| error.to_string())?;
        let line = args_cfg::read(&text).ok_or("args.cfg sets no arguments")?;
        let arguments = KernelArguments::parse(line);
        let mode = if slot == Slot::Recovery { BootMode::Recovery } else { BootMode::System };
        let expected =
            [(MODE, mode.to_string()), (SLOT, folder.to_owned()), (VERITY, manifest.verity.argument().to_string())];
        if let Some((name, value)) = expected.iter().find(|(name, value)| arguments.value(name) != Some(value)) {
            return Err(format!("args.cfg has {name}={:?}; expected {value}", arguments.value(name)));
        }
        if !line.contains(&manifest.kernel_arguments) {
            return Err("args.cfg lacks arguments of the release".into());
        }
        let root_partition = arguments.value(ROOT).unwrap_or_default().to_owned();
        let boot = &manifest.boot;
        let boot_code = [&boot.shim, &boot.grub, &boot.mok_manager, &boot.grub_config].map(|file| file.sha256.clone());
        let (version, root) = (manifest.version, manifest.root.sha256);
        Ok(BootableSystem { slot, version, release, boot_code, root, root_partition })
    }

    fn check(&self, path: &str, expected: &ReleaseFile, digests: &mut Digests) -> Result<(), String> {
        let (digest, length) = self.digest(path, digests)?;
        if (digest.as_str(), length) != (&expected.sha256, expected.size) {
            return Err(format!("{path} has {length} bytes with SHA-256 {digest}; release.json says another"));
        }
        Ok(())
    }
}

/// The partition as a file for fatfs. It cannot be written.
struct Partition<'a> {
    disk: &'a DiskState,
    sectors: Range<u32>,
    position: u64,
    /// Where the content of files begins, in bytes.
    content: u64,
    reads: u32,
    read: Rc<ReadSectors>,
}

impl Read for Partition<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reads += 1;
        if self.reads > MOST_READS {
            return Err(io::Error::other("the file system has a circle"));
        }
        let length = buffer.len() as u64;
        let sector = |position: u64| {
            let sector = u64::from(self.sectors.start) + position / BYTES as u64;
            let sector = u32::try_from(sector).ok().filter(|sector| self.sectors.contains(sector));
            sector.ok_or_else(|| io::Error::other("the file system leads out of its partition"))
        };
        let first = sector(self.position)?;
        // A file's content is read in whole clusters. It is not copied: the numbers of its sectors say all.
        if self.read.is_wanted.get() && self.position >= self.content {
            let last = sector(self.position + length.saturating_sub(1))?;
            self.read.numbers.borrow_mut().extend((first..=last).map(|sector| self.disk.number(sector)));
            self.position += length;
            return Ok(buffer.len());
        }
        let within = (self.position % BYTES as u64) as usize;
        let bytes = &self.disk.sector(first)[within..];
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for Partition<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let length = u64::from(self.sectors.end - self.sectors.start) * BYTES as u64;
        self.position = seek::position(to, self.position, length)?;
        Ok(self.position)
    }
}

/// fatfs marks a file system that it closes, although it wrote nothing. That is forgotten.
impl Write for Partition<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
