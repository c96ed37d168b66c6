//! shim and GRUB of a release on COS_BOOT, for UEFI. They are written to a folder of their own, which the firmware is asked
//! to start once. When the slot was marked as good and was started that way, the boot entry names the new folder. The
//! removable media path stays as it was installed: firmware starts it where the entry leads nowhere.
//!
//! ```text
//! upgrade: folder complete ─► entry "RancherOS on trial" ─► BootNext      good slot: entry "RancherOS" ─► other folders go
//! ```

use super::bios_loader;
use super::error::UpgradeError;
use crate::boot::efi::{self, Adopted};
use crate::boot::partition;
use crate::console;
use crate::installed::files::{sync_folder, write_in_place};
use crate::installed::recovery::compare;
use boot_contract::paths::DEVICES;
use boot_contract::{Slot, partition_label};
use disk::description::BootPartition;
use machine::installed;
use protocol::error_chain;
use release::{BootFiles, ReleaseFile, ReleaseSource, digest, read_manifest};
use std::fs;
use std::io;
use std::path::Path;

/// Beginning of the names of our folders.
const PREFIX: &str = "ros-";
/// Hex digits of a digest in the name of a folder.
const DIGITS: usize = 16;

/// The boot code that a release needs.
#[derive(Debug, PartialEq, Eq)]
enum Loader {
    /// The removable media path holds it.
    AsInstalled,
    /// The name of its folder below `EFI`.
    Folder(String),
}

impl Loader {
    fn of(boot: &Path, files: &BootFiles) -> Self {
        let installed = [("BOOTX64.EFI", &files.shim), ("grubx64.efi", &files.grub), ("mmx64.efi", &files.mok_manager)];
        let folder = boot.join("EFI/BOOT");
        if installed.iter().all(|(name, file)| is_file(&folder.join(name), file)) {
            return Self::AsInstalled;
        }
        let digests = named(files).map(|(_, file)| file.sha256.as_str()).concat();
        Self::Folder(format!("{PREFIX}{}", &digest::of_bytes(digests.as_bytes())[..DIGITS]))
    }

    /// The path for the firmware.
    fn path(&self) -> String {
        match self {
            Self::AsInstalled => efi::REMOVABLE_LOADER.to_owned(),
            Self::Folder(name) => format!(r"\EFI\{name}\shimx64.efi"),
        }
    }
}

/// The files of a folder. shim starts the GRUB that lies beside it under this name.
fn named(files: &BootFiles) -> [(&'static str, &ReleaseFile); 3] {
    [("shimx64.efi", &files.shim), ("grubx64.efi", &files.grub), ("mmx64.efi", &files.mok_manager)]
}

fn is_file(path: &Path, file: &ReleaseFile) -> bool {
    fs::metadata(path).is_ok_and(|found| found.len() == file.size) && compare(path, file).is_ok()
}

/// Brings the boot code of a release to this machine and has the firmware start it once. Returns whether it will. Does
/// nothing on a machine that was started by BIOS, and where the release's boot code is in use.
pub fn try_once(root: &Path, release: &ReleaseSource) -> Result<bool, UpgradeError> {
    if !efi::is_there(root) {
        return Ok(false);
    }
    let boot = boot_partition()?;
    let files = &release.manifest().boot;
    let loader = partition::with_mounted(true, |folder| Ok::<_, UpgradeError>(Loader::of(folder, files)))?;
    if efi::uses_loader(root, &boot, &loader.path()).map_err(UpgradeError::Firmware)? {
        return Ok(false);
    }
    if let Loader::Folder(name) = &loader {
        partition::with_mounted(false, |folder| write(folder, name, release))?;
        partition::with_mounted(true, |folder| check(folder, name, files))?;
    }
    efi::try_loader(root, &boot, &loader.path()).map_err(UpgradeError::Firmware)?;
    Ok(true)
}

/// Keeps the boot code of the release in `slot`, which was marked as good, if this system was started by it. Removes the
/// boot code that is not in use any more. On a machine that was started by BIOS, see [`bios_loader`].
pub fn adopt(root: &Path, slot: Slot) -> Result<(), UpgradeError> {
    if !efi::is_there(root) {
        return bios_loader::adopt(slot);
    }
    let boot = boot_partition()?;
    let loader = partition::with_mounted(true, |folder| {
        let (manifest, _) = read_manifest(&folder.join(slot.letter()))?;
        Ok::<_, UpgradeError>(Loader::of(folder, &manifest.boot))
    })?;
    match efi::adopt_loader(root, &boot, &loader.path()).map_err(UpgradeError::Firmware)? {
        Adopted::NothingOnTrial => return Ok(()),
        Adopted::Yes => console::note(format!("the firmware starts {} from now on", loader.path())),
        Adopted::NotStarted => {
            console::note("the boot code on trial has not started this system; that of before stays")
        }
    }
    let is_used = efi::uses_loader(root, &boot, &loader.path()).map_err(UpgradeError::Firmware)?;
    if is_used { partition::with_mounted(false, |folder| remove_others(folder, &loader)) } else { Ok(()) }
}

/// The same, where a failure must not keep a slot from being good: the boot code of before still starts it.
pub fn adopt_or_say(root: &Path, slot: Slot) {
    if let Err(error) = adopt(root, slot) {
        tracing::warn!("{}", error_chain(&error));
    }
}

fn boot_partition() -> Result<BootPartition, UpgradeError> {
    Ok(installed::boot_partition_of(&Path::new(DEVICES).join(partition_label::BOOT))?)
}

/// Writes a folder. A file that is already right is not touched: the folder may be in use.
fn write(boot: &Path, name: &str, release: &ReleaseSource) -> Result<(), UpgradeError> {
    let folder = boot.join("EFI").join(name);
    let failed = |source| UpgradeError::BootFiles { folder: folder.clone(), source };
    fs::create_dir_all(&folder).map_err(failed)?;
    for (name, file) in named(&release.manifest().boot) {
        let path = folder.join(name);
        if !is_file(&path, file) {
            write_in_place(&path, &release.read(file)?).map_err(failed)?;
        }
    }
    sync_folder(&folder).and_then(|()| sync_folder(&boot.join("EFI"))).map_err(failed)
}

/// Reads a folder back. The partition was unmounted after [`write`].
fn check(boot: &Path, name: &str, files: &BootFiles) -> Result<(), UpgradeError> {
    let folder = boot.join("EFI").join(name);
    match named(files).into_iter().find(|(name, file)| !is_file(&folder.join(name), file)) {
        Some((name, _)) => Err(UpgradeError::BootFileDiffers(folder.join(name))),
        None => Ok(()),
    }
}

fn remove_others(boot: &Path, used: &Loader) -> Result<(), UpgradeError> {
    let folder = boot.join("EFI");
    let failed = |source| UpgradeError::BootFiles { folder: folder.clone(), source };
    let entries = fs::read_dir(&folder).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(failed)?;
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(PREFIX) && *used != Loader::Folder(name) {
            fs::remove_dir_all(entry.path()).map_err(failed)?;
        }
    }
    sync_folder(&folder).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::fixtures::tiny_release;

    /// A boot partition with the removable path of this release.
    fn installed(release: &ReleaseSource) -> tempfile::TempDir {
        let boot = tempfile::tempdir().unwrap();
        let folder = boot.path().join("EFI/BOOT");
        fs::create_dir_all(&folder).unwrap();
        let files = &release.manifest().boot;
        for (name, file) in
            [("BOOTX64.EFI", &files.shim), ("grubx64.efi", &files.grub), ("mmx64.efi", &files.mok_manager)]
        {
            fs::write(folder.join(name), release.read(file).unwrap()).unwrap();
        }
        boot
    }

    #[test]
    fn other_boot_code_gets_a_folder_of_its_own_and_the_removable_path_stays() {
        let folder = tiny_release(&[5; 8192]);
        let release = ReleaseSource::open(folder.path()).unwrap();
        let boot = installed(&release);
        let files = &release.manifest().boot;
        assert_eq!(Loader::of(boot.path(), files), Loader::AsInstalled);
        let removable = boot.path().join("EFI/BOOT/grubx64.efi");
        fs::write(&removable, "an older GRUB").unwrap();
        let Loader::Folder(name) = Loader::of(boot.path(), files) else { panic!("it is another GRUB") };
        assert!(Loader::Folder(name.clone()).path().starts_with(r"\EFI\ros-"));
        assert!(check(boot.path(), &name, files).is_err());
        fs::create_dir_all(boot.path().join("EFI").join(&name)).unwrap();
        fs::write(boot.path().join("EFI").join(&name).join("shimx64.efi"), "half").unwrap();
        write(boot.path(), &name, &release).unwrap();
        check(boot.path(), &name, files).unwrap();
        assert_eq!(fs::read(removable).unwrap(), b"an older GRUB");
    }

    #[test]
    fn folders_that_are_not_in_use_go() {
        let boot = tempfile::tempdir().unwrap();
        for name in ["BOOT", "debian", "ros-1", "ros-2"] {
            fs::create_dir_all(boot.path().join("EFI").join(name)).unwrap();
        }
        let left = || {
            let entries = fs::read_dir(boot.path().join("EFI")).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        remove_others(boot.path(), &Loader::Folder("ros-2".into())).unwrap();
        assert_eq!(left(), ["BOOT", "debian", "ros-2"]);
        remove_others(boot.path(), &Loader::AsInstalled).unwrap();
        assert_eq!(left(), ["BOOT", "debian"]);
    }
}
