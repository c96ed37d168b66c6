//! The boot menu of a release on COS_BOOT: `grub/menu-N.cfg`, which `grub/grub.cfg` reads after it has counted the start.
//! N is in the boot state, one sector with the slot that is started. `grub.cfg` itself stays as it was installed.
//!
//! A menu is written under a new number. The one that is in use is never touched.

use super::error::UpgradeError;
use crate::installed::files::{remove_if_present, sync_folder, write_in_place};
use boot_contract::BootState;
use release::ReleaseSource;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Puts the menu of a release on the mounted partition `boot` and returns its number: 0 for a release that has none. Menus
/// that `state` does not name are removed, those that an interrupted upgrade left half included.
pub fn write(boot: &Path, state: &BootState, release: &ReleaseSource) -> Result<u16, UpgradeError> {
    let folder = boot.join("grub");
    let failed = |source| UpgradeError::BootFiles { folder: folder.clone(), source };
    let Some(file) = &release.manifest().boot.menu else { return Ok(0) };
    let menu = release.read(file)?;
    let in_use = state.menu;
    if in_use != 0 && fs::read(path(&folder, in_use)).is_ok_and(|held| held == menu) {
        return Ok(in_use);
    }
    for number in numbers(&folder).map_err(failed)?.into_iter().filter(|number| *number != in_use) {
        remove_if_present(&path(&folder, number)).map_err(failed)?;
    }
    let number = if in_use == 1 { 2 } else { 1 };
    write_in_place(&path(&folder, number), &menu).and_then(|()| sync_folder(&folder)).map_err(failed)?;
    Ok(number)
}

/// Reads the menu back. The partition was unmounted after [`write`], so that it comes from the disk.
pub fn check(boot: &Path, number: u16, release: &ReleaseSource) -> Result<(), UpgradeError> {
    let Some(file) = &release.manifest().boot.menu else { return Ok(()) };
    let path = path(&boot.join("grub"), number);
    let held = fs::read(&path).map_err(|source| UpgradeError::BootFiles { folder: path.clone(), source })?;
    if held == release.read(file)? { Ok(()) } else { Err(UpgradeError::BootFileDiffers(path)) }
}

fn path(folder: &Path, number: u16) -> PathBuf {
    folder.join(format!("menu-{number}.cfg"))
}

/// The numbers of all menus.
fn numbers(folder: &Path) -> io::Result<Vec<u16>> {
    let number = |name: &str| name.strip_prefix("menu-")?.strip_suffix(".cfg")?.parse().ok();
    let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    Ok(entries.iter().filter_map(|entry| number(entry.file_name().to_str()?)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::fixtures::tiny_release;
    use release::{MANIFEST, ReleaseFile, digest};

    /// A release with this menu.
    fn release(menu: Option<&str>) -> (tempfile::TempDir, ReleaseSource) {
        let folder = tiny_release(&[5; 8192]);
        let mut manifest = ReleaseSource::open(folder.path()).unwrap().manifest().clone();
        manifest.boot.menu = menu.map(|menu| {
            fs::write(folder.path().join("boot/menu.cfg"), menu).unwrap();
            let (size, sha256) = (menu.len() as u64, digest::of_bytes(menu.as_bytes()));
            ReleaseFile { name: "boot/menu.cfg".into(), size, sha256 }
        });
        fs::write(folder.path().join(MANIFEST), serde_json::to_vec(&manifest).unwrap()).unwrap();
        let source = ReleaseSource::open(folder.path()).unwrap();
        (folder, source)
    }

    #[test]
    fn a_menu_gets_a_number_that_is_not_in_use() {
        let boot = tempfile::tempdir().unwrap();
        let grub = boot.path().join("grub");
        fs::create_dir(&grub).unwrap();
        let mut state = BootState::INSTALLED;
        let (_first, first) = release(Some("echo first\n"));
        let (_second, second) = release(Some("echo second\n"));
        assert_eq!(write(boot.path(), &state, &first).unwrap(), 1);
        // The power fails before the state names it, and half of it is on the disk.
        fs::write(grub.join("menu-1.cfg"), "ec").unwrap();
        fs::write(grub.join("menu-7.cfg"), "left").unwrap();
        assert_eq!(write(boot.path(), &state, &first).unwrap(), 1);
        check(boot.path(), 1, &first).unwrap();
        state.menu = 1;
        assert_eq!(write(boot.path(), &state, &first).unwrap(), 1, "it is the one in use");
        assert_eq!(write(boot.path(), &state, &second).unwrap(), 2);
        assert_eq!(fs::read_to_string(grub.join("menu-1.cfg")).unwrap(), "echo first\n");
        assert_eq!(fs::read_dir(&grub).unwrap().count(), 2);
        check(boot.path(), 2, &second).unwrap();
        fs::write(grub.join("menu-2.cfg"), "damaged").unwrap();
        assert_eq!(check(boot.path(), 2, &second).unwrap_err().reason(), "VerificationFailed");
        let (_none, none) = release(None);
        assert_eq!(write(boot.path(), &state, &none).unwrap(), 0);
        check(boot.path(), 0, &none).unwrap();
    }
}
