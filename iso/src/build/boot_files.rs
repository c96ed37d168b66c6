//! The files that the firmware starts: shim and GRUB from Debian's signed packages for UEFI, and images of GRUB for
//! BIOS.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::archive::Archive;
use super::tools::Tools;
use crate::cache::Cache;

const PACKAGES: &[&str] = &["grub-efi-amd64-signed", "shim-helpers-amd64-signed", "shim-signed"];
/// The packages whose files are in a release. That with GRUB for BIOS is among the tools.
pub const RELEASED: [&str; 4] = ["grub-efi-amd64-signed", "grub-pc-bin", "shim-helpers-amd64-signed", "shim-signed"];
const DISK_MENU: &str = include_str!("grub/disk.cfg");

/// GRUB's folder on COS_BOOT, the second partition of the disk that the BIOS started. A label could also match another
/// disk.
const DISK_PREFIX: &str = "(,gpt2)/grub";

/// The GRUB modules of the BIOS image for disks alone: the boot partition's file system, the digests of kernels, and what the
/// args.cfg of a disk image asks for.
const DISK_MODULES: &[&str] = &["fat", "hashsum", "gcry_sha256", "regexp", "probe"];

/// The GRUB modules of both BIOS images. The image for media also has ISO 9660.
const BIOS_MODULES: &[&str] = &[
    "biosdisk",
    "part_gpt",
    "normal",
    "linux",
    "configfile",
    "test",
    "echo",
    "serial",
    "search",
    "search_label",
    "loadenv",
    "minicmd",
    "all_video",
    "keystatus",
    "sleep",
    "reboot",
];

pub struct BootFiles {
    signed: PathBuf,
    tools: PathBuf,
}

impl BootFiles {
    pub fn prepare(cache: &Cache, archive: &Archive, tools: &Tools) -> Result<Self> {
        Ok(Self::in_folders(archive.unpacked(cache, PACKAGES)?, tools.root().to_owned()))
    }

    /// Boot files below the folders of the unpacked packages and tools.
    pub fn in_folders(signed: PathBuf, tools: PathBuf) -> Self {
        Self { signed, tools }
    }

    pub fn shim(&self) -> PathBuf {
        self.signed.join("usr/lib/shim/shimx64.efi.signed")
    }

    pub fn mok_manager(&self) -> PathBuf {
        self.signed.join("usr/lib/shim/mmx64.efi.signed")
    }

    /// GRUB that finds its menu on the partition it was started from.
    pub fn disk_grub(&self) -> PathBuf {
        self.signed.join("usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed")
    }

    /// GRUB for media and for networks. It finds its menu as /grub/grub.cfg: on the ISO where that is a CD, in the file
    /// system of the boot loaders where it is a disk, and on the server from which it was loaded. Debian's `gcdx64.efi`,
    /// which is for CDs alone, would be the same again without the network.
    pub fn medium_grub(&self) -> PathBuf {
        self.signed.join("usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed")
    }

    /// Code of a hybrid medium's master boot record.
    pub fn hybrid_boot_record(&self) -> PathBuf {
        self.tools.join("usr/lib/grub/i386-pc/boot_hybrid.img")
    }

    /// Writes the boot files that a release carries for a disk into `folder`.
    pub fn write_disk_files(&self, tools: &Tools, folder: &Path) -> Result<()> {
        let boot_record = self.tools.join("usr/lib/grub/i386-pc/boot.img");
        for (source, name) in [
            (self.shim(), "shimx64.efi"),
            (self.disk_grub(), "grubx64.efi"),
            (self.mok_manager(), "mmx64.efi"),
            (boot_record, "boot.img"),
        ] {
            fs::copy(&source, folder.join(name)).with_context(|| format!("copying {}", source.display()))?;
        }
        let menu = folder.join("grub.cfg");
        fs::write(&menu, DISK_MENU).with_context(|| format!("writing {}", menu.display()))?;
        self.make_image(tools, "i386-pc", DISK_PREFIX, DISK_MODULES, &folder.join("core.img"))
    }

    /// Writes the El Torito image of GRUB, with which a BIOS starts a medium.
    pub fn write_medium_image(&self, tools: &Tools, output: &Path) -> Result<()> {
        self.make_image(tools, "i386-pc-eltorito", "/boot/grub", &["iso9660", "part_msdos", "probe"], output)
    }

    fn make_image(&self, tools: &Tools, format: &str, prefix: &str, own_modules: &[&str], output: &Path) -> Result<()> {
        tools
            .command("grub-mkimage", "grub-mkimage")
            .arg("-d")
            .arg(self.tools.join("usr/lib/grub/i386-pc"))
            .args(["-O", format, "-p", prefix, "-o"])
            .arg(output)
            .args(own_modules)
            .args(BIOS_MODULES)
            .run()?;
        Ok(())
    }
}
