//! GRUB of a release, for BIOS: two files in the folder of its slot. When the slot was marked as good, the disk starts that
//! GRUB. A BIOS cannot be asked to start it only once.

use super::error::UpgradeError;
use crate::boot::partition;
use crate::console;
use boot_contract::paths::DEVICES;
use boot_contract::{Slot, partition_label};
use disk::bios::renew::{Loader, Renewed, renew};
use disk::bios::{BOOT_IMAGE, CORE_IMAGE};
use disk::target::Disk;
use machine::installed;
use release::{digest, read_manifest};
use std::fs;
use std::path::Path;

/// Makes the disk start the GRUB of the release in `slot`, which was marked as good. Does nothing if the slot is as it was
/// installed.
pub fn adopt(slot: Slot) -> Result<(), UpgradeError> {
    let images = partition::with_mounted(true, |boot| images(&boot.join(slot.letter())))?;
    let Some([boot_image, core_image]) = images else { return Ok(()) };
    let (disk, place) = installed::bios_partition_beside(&Path::new(DEVICES).join(partition_label::BOOT))?;
    let mut target = Disk::open_in_use(&disk).map_err(|source| UpgradeError::Device(disk.clone(), source))?;
    let loader = Loader { boot_image: &boot_image, core_image: &core_image };
    if let Renewed::Yes = renew(&mut target, place, &loader)? {
        console::note("the BIOS starts the GRUB of this release from now on");
    }
    Ok(())
}

/// boot.img and core.img. `None` if they are not there.
fn images(folder: &Path) -> Result<Option<[Vec<u8>; 2]>, UpgradeError> {
    if !folder.join(CORE_IMAGE).exists() {
        return Ok(None);
    }
    let (manifest, _) = read_manifest(folder)?;
    let [boot_image, core_image] =
        [(BOOT_IMAGE, manifest.boot.bios_boot), (CORE_IMAGE, manifest.boot.bios_core)].map(|(name, file)| {
            let path = folder.join(name);
            let bytes = fs::read(&path).map_err(|source| UpgradeError::BootFiles { folder: path.clone(), source })?;
            if digest::of_bytes(&bytes) == file.sha256 { Ok(bytes) } else { Err(UpgradeError::BootFileDiffers(path)) }
        });
    Ok(Some([boot_image?, core_image?]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upgrade::slot_folder;
    use disk::fixtures::tiny_release;
    use release::ReleaseSource;

    #[test]
    fn the_images_of_an_upgraded_slot_are_found_and_checked() {
        let (boot, release) = (tempfile::tempdir().unwrap(), tiny_release(&[5; 8192]));
        let release = ReleaseSource::open(release.path()).unwrap();
        let folder = boot.path().join("B");
        assert_eq!(images(&folder).unwrap(), None);
        slot_folder::write(boot.path(), Slot::B, &release, "ros.slot=B").unwrap();
        let files = &release.manifest().boot;
        let expected = [&files.bios_boot, &files.bios_core].map(|file| release.read(file).unwrap());
        assert_eq!(images(&folder).unwrap(), Some(expected));
        fs::write(folder.join(CORE_IMAGE), "damaged").unwrap();
        assert_eq!(images(&folder).unwrap_err().reason(), "VerificationFailed");
    }
}
