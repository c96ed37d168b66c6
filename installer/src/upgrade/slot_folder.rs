//! The folder of a slot on COS_BOOT while the slot is empty: kernel, initrd, arguments and manifest.
//!
//! Nothing is renamed: after a rename and an fsync of the folder, Linux's vfat was seen to leave entries without content.
//! The slot is empty in the boot state until everything here is on the disk.

use super::error::UpgradeError;
use crate::free_space::free_bytes;
use crate::installed::files::{remove_if_present, sync_folder, write_in_place};
use boot_contract::Slot;
use boot_contract::slot_files::{ARGUMENTS, INITRD, KERNEL};
use disk::bios::{BOOT_IMAGE, CORE_IMAGE};
use disk::{args_cfg, sums};
use release::{MANIFEST, ReleaseFile, ReleaseManifest, ReleaseSource, digest};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Bytes for the three small files and for what a cluster leaves unused.
const SPARE: u64 = 1 << 20;

/// Whether the files fit once those of the slot are removed. Nothing is written.
pub fn check_room(boot: &Path, slot: Slot, release: &ReleaseManifest) -> Result<(), UpgradeError> {
    let folder = boot.join(slot.letter());
    let failed = |source| UpgradeError::BootFiles { folder: folder.clone(), source };
    let length = |name: &&str| fs::metadata(folder.join(name)).map_or(0, |file| file.len());
    let held: u64 = [KERNEL, INITRD, BOOT_IMAGE, CORE_IMAGE].iter().map(length).sum();
    let files = [&release.kernel, &release.initrd, &release.boot.bios_boot, &release.boot.bios_core];
    let needed = files.iter().fold(SPARE, |sum, file| sum.saturating_add(file.size));
    let free = free_bytes(boot).map_err(failed)? + held;
    if free < needed { Err(UpgradeError::BootPartitionFull { needed, free }) } else { Ok(()) }
}

/// Writes the files of an empty slot. `boot` is the mounted partition. Returns when they are on the disk.
pub fn write(boot: &Path, slot: Slot, release: &ReleaseSource, arguments: &str) -> Result<(), UpgradeError> {
    let folder = boot.join(slot.letter());
    let failed = |source| UpgradeError::BootFiles { folder: folder.clone(), source };
    fs::create_dir_all(&folder).map_err(failed)?;
    // The old files make room for the new ones.
    for name in [KERNEL, INITRD, BOOT_IMAGE, CORE_IMAGE, sums::FILE, ARGUMENTS, MANIFEST] {
        remove_if_present(&folder.join(name)).map_err(failed)?;
    }
    sync_folder(&folder).map_err(failed)?;
    let manifest = release.manifest();
    for (name, bytes) in [
        (KERNEL, release.read(&manifest.kernel)?),
        (INITRD, release.read(&manifest.initrd)?),
        (BOOT_IMAGE, release.read(&manifest.boot.bios_boot)?),
        (CORE_IMAGE, release.read(&manifest.boot.bios_core)?),
        (sums::FILE, sums::of(manifest).into_bytes()),
        (ARGUMENTS, args_cfg::write(arguments).into_bytes()),
        (MANIFEST, release.manifest_bytes().to_vec()),
    ] {
        write_in_place(&folder.join(name), &bytes).map_err(failed)?;
    }
    sync_folder(&folder).and_then(|()| sync_folder(boot)).map_err(failed)
}

/// Reads the files back. The partition was unmounted after [`write`], so that they come from the disk.
pub fn check(boot: &Path, slot: Slot, release: &ReleaseSource) -> Result<(), UpgradeError> {
    let folder = boot.join(slot.letter());
    let manifest = release.manifest();
    for (name, file) in [(KERNEL, &manifest.kernel), (INITRD, &manifest.initrd)] {
        let path = folder.join(name);
        let is_same =
            has_digest(&path, file).map_err(|source| UpgradeError::BootFiles { folder: path.clone(), source })?;
        if !is_same {
            return Err(UpgradeError::BootFileDiffers(path));
        }
    }
    Ok(())
}

fn has_digest(path: &Path, file: &ReleaseFile) -> io::Result<bool> {
    let (sha256, size) = digest::of_reader(File::open(path)?.take(file.size + 1))?;
    Ok(size == file.size && sha256 == file.sha256)
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::fixtures::tiny_release;

    #[test]
    fn a_kernel_that_does_not_fit_is_refused_and_the_files_of_the_slot_make_room() {
        let (boot, folder) = (tempfile::tempdir().unwrap(), tiny_release(&[5; 8192]));
        let release = ReleaseSource::open(folder.path()).unwrap();
        check_room(boot.path(), Slot::B, release.manifest()).unwrap();
        let mut too_big = release.manifest().clone();
        too_big.kernel.size = u64::MAX;
        let error = check_room(boot.path(), Slot::B, &too_big).unwrap_err();
        assert_eq!(error.reason(), "BootPartitionFull");
    }

    #[test]
    fn a_slot_holds_the_files_of_the_release_and_nothing_of_the_one_before() {
        let (boot, folder) = (tempfile::tempdir().unwrap(), tiny_release(&[5; 8192]));
        let release = ReleaseSource::open(folder.path()).unwrap();
        fs::create_dir(boot.path().join("B")).unwrap();
        fs::write(boot.path().join("B/initrd"), [7; 100_000]).unwrap();
        write(boot.path(), Slot::B, &release, "ros.slot=B").unwrap();
        check(boot.path(), Slot::B, &release).unwrap();
        let read = |name: &str| fs::read(boot.path().join("B").join(name)).unwrap();
        assert_eq!(read("initrd"), b"initrd");
        assert_eq!(read("sums.txt"), sums::of(release.manifest()).as_bytes());
        assert_eq!(read("release.json"), release.manifest_bytes());
        assert_eq!(args_cfg::read(std::str::from_utf8(&read("args.cfg")).unwrap()), Some("ros.slot=B"));
        for damaged in ["Initrd", "initrd and more"] {
            fs::write(boot.path().join("B/initrd"), damaged).unwrap();
            let error = check(boot.path(), Slot::B, &release).unwrap_err();
            assert!(matches!(&error, UpgradeError::BootFileDiffers(path) if path.ends_with("B/initrd")), "{error}");
        }
    }
}
