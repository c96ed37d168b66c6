//! `sums.txt` in a slot's folder on the boot partition: the digests of kernel and initrd in the form of sha256sum(1). GRUB
//! for BIOS checks them before it starts a slot (`hashsum` in `grub.cfg`): a kernel that was damaged would not come back.

use boot_contract::slot_files::{INITRD, KERNEL};
use release::ReleaseManifest;

/// Name of the file.
pub const FILE: &str = "sums.txt";

/// The content of the file.
pub fn of(release: &ReleaseManifest) -> String {
    let line = |name: &str, sha256: &str| format!("{sha256}  {name}\n");
    line(KERNEL, &release.kernel.sha256) + &line(INITRD, &release.initrd.sha256)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::tiny_release;
    use command::Command;
    use release::read_manifest;

    #[test]
    fn another_program_reads_it() {
        let folder = tiny_release(&[5; 8192]);
        let (manifest, _) = read_manifest(folder.path()).unwrap();
        std::fs::write(folder.path().join(FILE), of(&manifest)).unwrap();
        Command::new("sha256sum").args(["--check", "--strict", FILE]).current_dir(folder.path()).run().unwrap();
    }
}
