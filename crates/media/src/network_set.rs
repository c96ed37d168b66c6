//! The files from which a machine starts over the network, and what holds its registration settings: an archive that the
//! kernel unpacks beside the initrd.
//!
//! ```text
//! boot.ipxe ─► vmlinuz, initrd             of the release
//!              medium.cpio                 the whole release, at /medium/release
//!              registration.cpio           /medium/registration.yaml, for root only
//! ```

use crate::initrd_archive::Archive;
use boot_contract::BootMode;
use boot_contract::kernel_arguments::{self, MEDIUM_IN_INITRD, MODE};
use std::io;

pub const KERNEL: &str = "vmlinuz";
pub const INITRD: &str = "initrd";
pub const MEDIUM_ARCHIVE: &str = "medium.cpio";
pub const REGISTRATION_ARCHIVE: &str = "registration.cpio";
pub const IPXE_SCRIPT: &str = "boot.ipxe";

/// The folder in the initrd that becomes the medium of the live system, without a slash at its beginning.
pub const MEDIUM: &str = "medium";
/// The path of the release in [`MEDIUM_ARCHIVE`], without a slash at its beginning.
pub const RELEASE: &str = "medium/release";
const REGISTRATION: &str = "medium/registration.yaml";

/// The script for iPXE. All files are beside it. `arguments`: those of the release.
pub fn ipxe_script(arguments: &str) -> String {
    // EROFS mounts a file that is in a ramfs, and none that is in a tmpfs, which cannot read single pages.
    let live = format!(
        "rootfstype=ramfs {MODE}={} systemd.unit=ros-live.target {}={MEDIUM_IN_INITRD}",
        BootMode::Live,
        kernel_arguments::MEDIUM
    );
    // Where iPXE is a UEFI program, Linux asks it for the initrd by this name. A BIOS kernel gets all of them anyway.
    format!(
        "#!ipxe\n\
         kernel {KERNEL} initrd=initrd.magic {live} {arguments} || goto failed\n\
         initrd {INITRD} || goto failed\n\
         initrd {MEDIUM_ARCHIVE} || goto failed\n\
         initrd {REGISTRATION_ARCHIVE} || goto failed\n\
         boot || goto failed\n\
         :failed\n\
         echo ros-boot: a file of the network boot could not be loaded; trying again in 10 seconds\n\
         sleep 10\n\
         chain --replace --autofree {IPXE_SCRIPT} || goto failed\n"
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
    fn the_script_loads_every_file_and_no_settings_are_kernel_arguments() {
        let script = ipxe_script("console=ttyS0 panic=10");
        assert!(script.starts_with("#!ipxe\n"), "{script}");
        for file in [INITRD, MEDIUM_ARCHIVE, REGISTRATION_ARCHIVE] {
            assert!(script.contains(&format!("\ninitrd {file} ||")), "{script}");
        }
        let kernel = script.lines().find(|line| line.starts_with("kernel ")).unwrap();
        assert_eq!(
            kernel,
            "kernel vmlinuz initrd=initrd.magic rootfstype=ramfs ros.mode=live systemd.unit=ros-live.target ros.medium=initrd \
             console=ttyS0 panic=10 || goto failed"
        );
    }
}
