//! Checks a disk image by the plan that made it: the manifest in the image gives that plan, and the plan says what is where.

use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use boot_contract::Slot;
use disk::gpt::{partition_place, tables};
use disk::layout::Role;
use disk::plan::{BootFile, Content, InstallPlan, Step};
use fatfs::{FileSystem, FsOptions};
use media::disk_image::Disk;
use media::seek;
use release::{MANIFEST, ReleaseFile, ReleaseManifest, verity};

use super::{Verified, check};
use crate::format;

/// The code of a BIOS in the first sector is not part of the table.
const BIOS_CODE_BYTES: usize = 440;
/// Holds the first copy of the partition table.
const HEAD_BYTES: u64 = 1 << 20;

/// Checks both partition tables, the files of COS_BOOT, and the root images. Two things are not checked: the code that a
/// BIOS starts, which is fitted to the disk, and COS_OEM and COS_PERSISTENT, which are empty.
pub fn verify(image: impl Read + Seek) -> Result<Verified> {
    let mut disk = Disk::open(image)?;
    let bytes = disk.seek(SeekFrom::End(0)).context("finding its size")?;
    let head = read(&mut disk, 0, HEAD_BYTES.min(bytes)).context("reading its first megabyte")?;
    let boot = partition_place(&head, 512, Role::Boot.label()).context("it has no partition COS_BOOT")?;
    // fatfs counts without checks: a damaged file system makes it panic.
    let checked = panic::catch_unwind(AssertUnwindSafe(|| {
        check_boot_files(Partition::new(&mut disk, boot.offset, boot.length), bytes)
    }));
    let plan = checked.map_err(|_| anyhow!("the file system of COS_BOOT is damaged"))??;

    let expected = tables(&plan.layout);
    let begins = &head[BIOS_CODE_BYTES..expected.primary.len()];
    ensure!(begins == &expected.primary[BIOS_CODE_BYTES..], "its partition table is not that of the release");
    let ends = read(&mut disk, expected.backup_offset, expected.backup.len() as u64).context("reading its end")?;
    ensure!(ends == expected.backup, "the copy of its partition table is not that of the release");
    for step in &plan.steps {
        let Step::Root { image, into } = step else { continue };
        for role in into {
            let offset = plan.layout.partition(*role).offset;
            disk.seek(SeekFrom::Start(offset)).context("finding a slot")?;
            check(role.label(), (&mut disk).take(image.size), image)?;
            disk.seek(SeekFrom::Start(offset)).context("finding a slot")?;
            let root = BufReader::with_capacity(1 << 20, (&mut disk).take(image.size));
            verity::check(root, &plan.release.verity).with_context(|| format!("checking the tree of {role}"))?;
        }
    }
    let files: Vec<ReleaseFile> = [&plan.release.root, &plan.release.kernel, &plan.release.initrd]
        .into_iter()
        .chain([&plan.release.boot.shim, &plan.release.boot.grub])
        .chain([&plan.release.boot.mok_manager, &plan.release.boot.grub_config])
        .cloned()
        .collect();
    let (version, root_hash) = (plan.release.version, plan.release.verity.root_hash);
    Ok(Verified { volume_id: None, version, root_hash, signed_by: None, files })
}

/// Checks the files of COS_BOOT. Gives the plan that made the image of `bytes` bytes.
fn check_boot_files(partition: Partition<impl Read + Seek>, bytes: u64) -> Result<InstallPlan> {
    let files = FileSystem::new(partition, FsOptions::new()).context("reading COS_BOOT")?;
    let manifest = file(&files, &format!("{}/{MANIFEST}", Slot::A.letter()), ReleaseManifest::MAX_BYTES as u64 + 1)?;
    // The time stamp says nothing about what is checked.
    let plan = format::disk::plan(Path::new("the image"), bytes, &manifest, 0).context("reading its release.json")?;
    let boot_files = plan.steps.iter().filter_map(|step| match step {
        Step::Boot { files, .. } => Some(files),
        _ => None,
    });
    for expected in boot_files.flatten() {
        check_boot_file(&files, expected, &manifest)?;
    }
    Ok(plan)
}

type BootFiles<'a, R> = FileSystem<Partition<'a, R>>;

fn check_boot_file<R: Read + Seek>(files: &BootFiles<R>, expected: &BootFile, manifest: &[u8]) -> Result<()> {
    let path = &expected.path;
    let text = match &expected.content {
        Content::Release(of_release) => {
            let found = files.root_dir().open_file(path).with_context(|| format!("opening {path} on COS_BOOT"))?;
            return check(path, found, of_release);
        }
        Content::Manifest => manifest,
        Content::Text(text) => text.as_bytes(),
    };
    let found = file(files, path, text.len() as u64 + 1)?;
    ensure!(found == text, "{path} on COS_BOOT is not that of the release");
    Ok(())
}

/// At most so many bytes of a file.
fn file<R: Read + Seek>(files: &BootFiles<R>, path: &str, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = files.root_dir().open_file(path).with_context(|| format!("opening {path} on COS_BOOT"))?;
    file.take(most).read_to_end(&mut bytes).with_context(|| format!("reading {path} on COS_BOOT"))?;
    Ok(bytes)
}

fn read(disk: &mut (impl Read + Seek), at: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length as usize];
    disk.seek(SeekFrom::Start(at))?;
    disk.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A partition as a file for the crate fatfs, which wants one that it can write. Writing is an error.
struct Partition<'a, R> {
    disk: &'a mut R,
    offset: u64,
    length: u64,
    /// In the partition.
    position: u64,
    /// Bytes that may still be read. fatfs follows a folder that leads back to itself for ever.
    budget: u64,
}

impl<'a, R> Partition<'a, R> {
    fn new(disk: &'a mut R, offset: u64, length: u64) -> Self {
        Self { disk, offset, length, position: 0, budget: length.saturating_mul(2) }
    }
}

impl<R: Read + Seek> Read for Partition<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.length.saturating_sub(self.position);
        let count = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let place = self.offset.checked_add(self.position).ok_or(io::ErrorKind::InvalidInput)?;
        let spent = self.budget.checked_sub(count as u64);
        self.budget = spent.ok_or_else(|| io::Error::other("the file system leads back to itself"))?;
        self.disk.seek(SeekFrom::Start(place))?;
        let count = self.disk.read(&mut buffer[..count])?;
        self.position += count as u64;
        Ok(count)
    }
}

impl<R> Seek for Partition<'_, R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = seek::position(to, self.position, self.length)?;
        Ok(self.position)
    }
}

impl<R> Write for Partition<'_, R> {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::DiskSize;
    use crate::format::disk::write_raw;
    use proptest::prelude::*;
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt;
    use std::sync::LazyLock;
    use tempfile::NamedTempFile;

    /// A disk image of a tiny release. The file has no name any more.
    static IMAGE: LazyLock<File> = LazyLock::new(|| {
        let (folder, image) = (tempfile::tempdir().unwrap(), NamedTempFile::new().unwrap());
        let root = folder.path().join("root");
        fs::write(&root, [5; 8192]).unwrap();
        let verity = verity::append(&root).unwrap();
        release::fixtures::write_tiny_release(folder.path(), &fs::read(&root).unwrap());
        let (manifest, _) = release::read_manifest(folder.path()).unwrap();
        let manifest = serde_json::to_vec(&ReleaseManifest { verity, ..manifest }).unwrap();
        fs::write(folder.path().join(MANIFEST), manifest).unwrap();
        write_raw(folder.path(), DISK, 7, &image).unwrap();
        image.into_file()
    });
    const DISK: DiskSize = DiskSize(2 << 30);

    /// The image with other bytes at a place.
    struct Changed {
        position: u64,
        at: u64,
        bytes: Vec<u8>,
    }

    impl Read for Changed {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let from = self.position;
            let count = IMAGE.read_at(buffer, from)?;
            self.position += count as u64;
            for (offset, byte) in (self.at..).zip(&self.bytes) {
                if (from..self.position).contains(&offset) {
                    buffer[(offset - from) as usize] = *byte;
                }
            }
            Ok(count)
        }
    }

    impl Seek for Changed {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.position = seek::position(to, self.position, DISK.0)?;
            Ok(self.position)
        }
    }

    fn place(role: Role) -> u64 {
        let mut head = vec![0; HEAD_BYTES as usize];
        IMAGE.read_exact_at(&mut head, 0).unwrap();
        partition_place(&head, 512, role.label()).unwrap().offset
    }

    fn changed(at: u64, bytes: Vec<u8>) -> Result<Verified> {
        verify(Changed { position: 0, at, bytes })
    }

    #[test]
    fn an_image_is_what_its_manifest_says() {
        let verified = changed(0, Vec::new()).unwrap();
        assert_eq!(verified.files.len(), 7);
        assert_eq!(verified.volume_id, None);
    }

    #[test]
    fn a_changed_byte_is_found_and_its_place_is_named() {
        let mut boot = vec![0; 32 << 20];
        IMAGE.read_exact_at(&mut boot, place(Role::Boot)).unwrap();
        let kernel = boot.windows(8).position(|window| window == [b'k'; 8]).unwrap() as u64;
        for (at, named) in [
            (1024 + 130, "partition table"),
            (DISK.0 - 512 + 60, "the copy of its partition table"),
            (place(Role::Boot) + kernel, "vmlinuz"),
            (place(Role::StateA) + 5, "COS_STATE_A has the digest"),
            (place(Role::Recovery) + 5, "COS_RECOVERY has the digest"),
        ] {
            let mut byte = [0];
            IMAGE.read_exact_at(&mut byte, at).unwrap();
            let error = format!("{:#}", changed(at, vec![byte[0] ^ 1]).unwrap_err());
            assert!(error.contains(named), "{named} is not in: {error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.min(10_000)))]

        #[test]
        fn no_file_system_makes_it_panic_or_hang(
            at in prop_oneof![0u64..512, 512u64..4 << 20], bytes in proptest::collection::vec(any::<u8>(), 1..64),
        ) {
            let _ = changed(place(Role::Boot) + at, bytes);
        }
    }
}
