//! The file system with the boot loaders that UEFI starts from a medium. GRUB reads the menu and the kernel from the ISO
//! itself. The operator takes GRUB from it for machines that start over the network.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result};
use disk::fat::{self, PlacedFile, Volume};

use crate::build::boot_files::BootFiles;
use media::efi_image::{Place, Places};

/// shim, GRUB and MokManager have 4.3 MB. This is FAT16, which firmware reads from a medium as it reads FAT32.
const BYTES: u64 = 6 << 20;
const SECTOR_BYTES: u32 = 512;
/// GRUB's first script. Its path is built into GRUB.
pub const START_PATH: &str = "grub/grub.cfg";
pub const START: &str = include_str!("start.cfg");
const VOLUME_ID: u32 = 0x5253_4F53;

/// Writes the image into the new file `output`. The same boot loaders give the same bytes.
pub fn write(boot: &BootFiles, output: &Path) -> Result<Places> {
    let files = files(boot);
    let content = |source: &PathBuf| -> Result<Rc<[u8]>> {
        Ok(fs::read(source).with_context(|| format!("reading {}", source.display()))?.into())
    };
    let mut placed =
        files.iter().map(|(path, source)| Ok((*path, content(source)?))).collect::<Result<Vec<PlacedFile>>>()?;
    placed.push((START_PATH, START.as_bytes().into()));
    let volume = Volume { length: BYTES, sector_bytes: SECTOR_BYTES, id: VOLUME_ID, label: "EFI" };
    let written = File::create_new(output).and_then(|image| {
        image.set_len(BYTES)?;
        fat::write(&image, &volume, &placed)
    });
    written.with_context(|| format!("creating the EFI image {}", output.display()))?;
    let image = fs::read(output).with_context(|| format!("reading {}", output.display()))?;
    let grub = fs::read(boot.medium_grub()).context("reading GRUB")?;
    Ok(Places { grub: place(&image, &grub).context("GRUB is not in one piece in the EFI image")? })
}

/// Where `content` lies in the image. Files begin at sectors and are in one piece.
fn place(image: &[u8], content: &[u8]) -> Option<Place> {
    let mut offsets = (0..image.len()).step_by(SECTOR_BYTES as usize);
    let offset = offsets.find(|offset| image[*offset..].starts_with(content))?;
    Some(Place { offset: offset as u64, size: content.len() as u64 })
}

/// UEFI starts `BOOTX64.EFI`, the shim, which finds the others by their names beside it.
fn files(boot: &BootFiles) -> [(&'static str, PathBuf); 3] {
    [
        ("EFI/BOOT/BOOTX64.EFI", boot.shim()),
        ("EFI/BOOT/grubx64.efi", boot.medium_grub()),
        ("EFI/BOOT/mmx64.efi", boot.mok_manager()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use command::Command;

    /// Boot loaders of the given sizes.
    fn boot_files(folder: &Path, sizes: [usize; 3]) -> BootFiles {
        let boot = BootFiles::in_folders(folder.to_owned(), folder.to_owned());
        for (((_, source), size), letter) in files(&boot).iter().zip(sizes).zip(b'a'..) {
            fs::create_dir_all(source.parent().unwrap()).unwrap();
            fs::write(source, vec![letter; size]).unwrap();
        }
        boot
    }

    #[test]
    fn other_programs_find_the_boot_loaders_and_no_damage() {
        let folder = tempfile::tempdir().unwrap();
        let boot = boot_files(folder.path(), [1_036_152, 2_328_000, 873_904]);
        let image = folder.path().join("efi.img");
        let grub = write(&boot, &image).unwrap().grub;
        let bytes = fs::read(&image).unwrap();
        let placed = &bytes[grub.offset as usize..(grub.offset + grub.size) as usize];
        assert!(placed == fs::read(boot.medium_grub()).unwrap(), "GRUB is where it is said to be");
        assert_eq!(fs::metadata(&image).unwrap().len(), BYTES);
        let checked = Command::new("fsck.vfat").args(["-n", "-v"]).arg(&image).text().unwrap();
        assert!(checked.contains("16 bit entries"), "{checked}");
        let mtool = |name: &str, path: &str| Command::new(name).arg("-i").arg(&image).arg(path).run().unwrap();
        for (path, source) in files(&boot) {
            assert!(mtool("mtype", &format!("::{path}")) == fs::read(source).unwrap(), "{path} reads differently");
        }
        let volume = String::from_utf8(mtool("mdir", "::")).unwrap();
        assert!(volume.contains("is EFI") && volume.contains("5253-4F53"), "{volume}");
        let again = folder.path().join("again.img");
        write(&boot, &again).unwrap();
        assert!(fs::read(image).unwrap() == fs::read(again).unwrap());
    }

    #[test]
    fn boot_loaders_that_do_not_fit_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let boot = boot_files(folder.path(), [1 << 20, 6 << 20, 1 << 20]);
        let error = write(&boot, &folder.path().join("efi.img")).unwrap_err();
        assert!(format!("{error:#}").contains("do not fit"), "{error:#}");
    }
}
