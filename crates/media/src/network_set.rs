//! The files from which a machine starts over the network. The scripts and the registration are written; all others are
//! parts of an ISO.
//!
//! ```text
//! boot.ipxe ────────────────────────────────────────► vmlinuz, initrd     of the release
//!                                                     medium.cpio         the whole release, at /medium/release
//! shimx64.efi ─► grubx64.efi ─► /grub/grub.cfg ─┐     registration.cpio   /medium/registration.yaml, for root only
//!                                               └► grub.cfg ─► the same
//! ```
//!
//! The last two files are archives that the kernel unpacks beside the initrd. GRUB is Debian's signed GRUB for networks. The
//! path of its first script is built into it: the root of the server, whatever the folder of the other files is.

use crate::composed::Composed;
use crate::efi_image::{self, EfiImageError};
use crate::initrd_archive::Archive;
use crate::iso9660::{Iso9660Error, Volume};
use crate::manifest::{self, MediumManifestError};
use boot_contract::BootMode;
use boot_contract::kernel_arguments::{self, MEDIUM_IN_INITRD, MODE};
use release::ReleaseFile;
use std::io::{self, Read, Seek};
use thiserror::Error;

pub const KERNEL: &str = "vmlinuz";
pub const INITRD: &str = "initrd";
pub const MEDIUM_ARCHIVE: &str = "medium.cpio";
pub const REGISTRATION_ARCHIVE: &str = "registration.cpio";
pub const IPXE_SCRIPT: &str = "boot.ipxe";
/// What UEFI starts, by PXE or HTTP. It loads [`GRUB`] from beside it.
pub const SHIM: &str = "shimx64.efi";
pub const GRUB: &str = "grubx64.efi";
/// Shim starts it where somebody wants to enrol a key.
pub const MOK_MANAGER: &str = "mmx64.efi";
/// GRUB's first script, relative to the root of the server.
pub const GRUB_START: &str = "grub/grub.cfg";
/// GRUB's second script, beside the other files.
pub const GRUB_SCRIPT: &str = "grub.cfg";
/// In GRUB's scripts, the folder from which shim was loaded.
pub const GRUB_FOLDER: &str = "$fw_path/";

/// The folder in the initrd that becomes the medium of the live system, without a slash at its beginning.
const MEDIUM: &str = "medium";
/// The path of the release in [`MEDIUM_ARCHIVE`], without a slash at its beginning.
const RELEASE: &str = "medium/release";
const REGISTRATION: &str = "medium/registration.yaml";

/// The files of a release, which are the same for every registration. The source of each is the ISO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSet {
    kernel: Composed,
    initrd: Composed,
    medium: Composed,
    shim: Composed,
    grub: Composed,
    mok_manager: Composed,
    /// Kernel arguments of the release.
    pub arguments: String,
}

/// Why an ISO does not give the files of a network boot.
#[derive(Debug, Error)]
pub enum NetworkSetError {
    #[error(transparent)]
    Manifest(#[from] MediumManifestError),
    #[error(transparent)]
    Image(#[from] Iso9660Error),
    #[error("finding the boot loaders")]
    BootLoaders(#[from] EfiImageError),
    #[error("archiving the release")]
    Archive(#[source] io::Error),
}

impl NetworkSet {
    /// The names of all files.
    pub const FILES: [&str; 6] = [KERNEL, INITRD, MEDIUM_ARCHIVE, SHIM, GRUB, MOK_MANAGER];

    pub fn of_iso(volume: &mut Volume<impl Read + Seek>) -> Result<Self, NetworkSetError> {
        let (release, _) = manifest::read(volume)?;
        let mut file =
            |file: &ReleaseFile| volume.find(&format!("{}/{}", manifest::RELEASE, file.name)).map(Composed::from);
        Ok(Self {
            kernel: file(&release.kernel)?,
            initrd: file(&release.initrd)?,
            shim: file(&release.boot.shim)?,
            mok_manager: file(&release.boot.mok_manager)?,
            grub: efi_image::network_grub(volume)?.into(),
            medium: medium_archive(volume)?,
            arguments: release.kernel_arguments,
        })
    }

    /// The file of this name.
    pub fn file(&self, name: &str) -> Option<&Composed> {
        match name {
            KERNEL => Some(&self.kernel),
            INITRD => Some(&self.initrd),
            MEDIUM_ARCHIVE => Some(&self.medium),
            SHIM => Some(&self.shim),
            GRUB => Some(&self.grub),
            MOK_MANAGER => Some(&self.mok_manager),
            _ => None,
        }
    }
}

/// The same release gives the same bytes.
fn medium_archive(volume: &mut Volume<impl Read + Seek>) -> Result<Composed, NetworkSetError> {
    let below = volume.below(manifest::RELEASE)?;
    let write = || {
        let mut archive = Archive::new(Composed::default(), 0);
        archive.folder(MEDIUM)?;
        archive.folder(RELEASE)?;
        for entry in below {
            let name = format!("{RELEASE}/{}", entry.path);
            match entry.content {
                None => archive.folder(&name)?,
                Some(extent) => archive.extent(&name, 0o644, extent)?,
            }
        }
        archive.finish()
    };
    write().map_err(NetworkSetError::Archive)
}

/// The script for iPXE. `files`: where those of [`NetworkSet`] are, as a URL relative to the script that ends with a slash;
/// empty if they are beside it. The archive of the registration is beside it. `arguments`: those of the release.
pub fn ipxe_script(files: &str, arguments: &str) -> String {
    let live = live_arguments();
    // Where iPXE is a UEFI program, Linux asks it for the archives by these names: iPXE before 2021 knows no other way. A
    // BIOS kernel gets all of them anyway.
    let initrds = [INITRD, MEDIUM_ARCHIVE, REGISTRATION_ARCHIVE].map(|name| format!("initrd={name}")).join(" ");
    format!(
        "#!ipxe\n\
         kernel {files}{KERNEL} {initrds} {live} {arguments} || goto failed\n\
         initrd {files}{INITRD} || goto failed\n\
         initrd {files}{MEDIUM_ARCHIVE} || goto failed\n\
         initrd {REGISTRATION_ARCHIVE} || goto failed\n\
         boot || goto failed\n\
         :failed\n\
         echo ros-boot: a file of the network boot could not be loaded; trying again in 10 seconds\n\
         imgfree\n\
         sleep 10\n\
         chain --replace --autofree {IPXE_SCRIPT} || goto failed\n"
    )
}

/// [`GRUB_START`]. It tries again for ever, as the script of iPXE does.
pub fn grub_start() -> String {
    format!(
        "while true; do\n\
         \x20 configfile {GRUB_FOLDER}{GRUB_SCRIPT}\n\
         \x20 echo \"ros-boot: a file of the network boot could not be loaded; trying again in 10 seconds\"\n\
         \x20 sleep 10\n\
         done\n"
    )
}

/// [`GRUB_SCRIPT`]. `files`: where the kernel, the initrd and the medium are, with a slash at the end: [`GRUB_FOLDER`], or a
/// path of the server. `arguments`: those of the release.
pub fn grub_script(files: &str, arguments: &str) -> String {
    let live = live_arguments();
    format!(
        "if linux {files}{KERNEL} {live} {arguments}; then\n\
         \x20 if initrd {files}{INITRD} {files}{MEDIUM_ARCHIVE} {GRUB_FOLDER}{REGISTRATION_ARCHIVE}; then\n\
         \x20   boot\n\
         \x20 fi\n\
         fi\n"
    )
}

/// Kernel arguments of every network boot.
fn live_arguments() -> String {
    // EROFS mounts a file that is in a ramfs, and none that is in a tmpfs, which cannot read single pages.
    format!(
        "rootfstype=ramfs {MODE}={} systemd.unit=ros-live.target {}={MEDIUM_IN_INITRD}",
        BootMode::Live,
        kernel_arguments::MEDIUM
    )
}

/// [`REGISTRATION_ARCHIVE`] with these settings. An empty text stands for none.
pub fn registration_archive(settings: &[u8]) -> io::Result<Vec<u8>> {
    let mut archive = Archive::new(Vec::new(), 0);
    archive.folder(MEDIUM)?;
    archive.file(REGISTRATION, 0o600, settings.len() as u64, settings)?;
    archive.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use boot_contract::paths::INITRD_MEDIUM;
    use cpio::newc::Reader;
    use std::io::Read;

    #[test]
    fn only_root_reads_the_registration() {
        let bytes = registration_archive(b"a: 1\n").unwrap();
        let folder = Reader::new(bytes.as_slice()).unwrap();
        assert_eq!((folder.entry().name(), folder.entry().mode()), ("medium", 0o040_755));
        let mut file = Reader::new(folder.finish().unwrap()).unwrap();
        let mut content = String::new();
        file.read_to_string(&mut content).unwrap();
        assert_eq!((file.entry().name(), file.entry().mode()), ("medium/registration.yaml", 0o100_600));
        assert_eq!(content, "a: 1\n");
    }

    #[test]
    fn the_paths_are_those_that_the_initrd_knows() {
        assert_eq!(format!("/{MEDIUM}"), INITRD_MEDIUM);
        let live = |path: &str| path.replacen(INITRD_MEDIUM, boot_contract::paths::MEDIUM, 1);
        assert_eq!(live(&format!("/{RELEASE}")), boot_contract::paths::MEDIUM_RELEASE);
        assert_eq!(live(&format!("/{REGISTRATION}")), boot_contract::paths::MEDIUM_REGISTRATION);
    }

    #[test]
    fn grub_loads_the_same_with_the_same_arguments() {
        let script = grub_script("/files/1/", "console=ttyS0");
        let arguments = "rootfstype=ramfs ros.mode=live systemd.unit=ros-live.target ros.medium=initrd console=ttyS0";
        assert!(script.contains(&format!("linux /files/1/vmlinuz {arguments};")), "{script}");
        assert!(ipxe_script("", "console=ttyS0").contains(arguments));
        let archives = "initrd /files/1/initrd /files/1/medium.cpio $fw_path/registration.cpio;";
        assert!(script.contains(archives) && grub_start().contains("configfile $fw_path/grub.cfg"), "{script}");
    }

    #[test]
    fn the_script_loads_every_file_and_no_settings_are_kernel_arguments() {
        let script = ipxe_script("", "console=ttyS0 panic=10");
        assert!(script.starts_with("#!ipxe\n"), "{script}");
        for file in [INITRD, MEDIUM_ARCHIVE, REGISTRATION_ARCHIVE] {
            assert!(script.contains(&format!("\ninitrd {file} ||")), "{script}");
        }
        let kernel = script.lines().find(|line| line.starts_with("kernel ")).unwrap();
        assert_eq!(
            kernel,
            "kernel vmlinuz initrd=initrd initrd=medium.cpio initrd=registration.cpio rootfstype=ramfs ros.mode=live \
             systemd.unit=ros-live.target ros.medium=initrd console=ttyS0 panic=10 || goto failed"
        );
        let elsewhere = ipxe_script("/files/1/", "console=ttyS0");
        for file in [
            "kernel /files/1/vmlinuz",
            "initrd /files/1/initrd",
            "initrd /files/1/medium.cpio",
            "initrd registration.cpio",
        ] {
            assert!(elsewhere.contains(&format!("\n{file} ")), "{elsewhere}");
        }
    }
}
