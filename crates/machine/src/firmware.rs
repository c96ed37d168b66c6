//! The kind of firmware that started this system, and whether it checks signatures.

use crate::sysfs;
use protocol::SmbiosDocument;
use protocol::hardware::{Firmware, FirmwareKind};
use std::path::Path;

/// EFI_GLOBAL_VARIABLE `SecureBoot` (UEFI specification 2.10, section 3.3). The file in efivarfs has four bytes of
/// attributes, then one byte that is 1 if signatures are checked.
const SECURE_BOOT: &str = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

pub fn probe(root: &Path, smbios: &SmbiosDocument) -> Firmware {
    let bios = |field: &str| {
        smbios.0.get("BIOS Information").and_then(|section| section.get(field)).cloned().unwrap_or_default()
    };
    let is_uefi = root.join("sys/firmware/efi").is_dir();
    Firmware {
        kind: if is_uefi { FirmwareKind::Uefi } else { FirmwareKind::Bios },
        secure_boot: match sysfs::bytes(&root.join(SECURE_BOOT), 16)[..] {
            [_, _, _, _, state] => Some(state == 1),
            _ => None,
        },
        vendor: bios("Vendor"),
        version: bios("Version"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secure_boot_is_on_off_or_unknown() {
        let root = tempfile::tempdir().unwrap();
        let probe = || probe(root.path(), &SmbiosDocument::default());
        assert_eq!((probe().kind, probe().secure_boot), (FirmwareKind::Bios, None));
        let variable = root.path().join(SECURE_BOOT);
        std::fs::create_dir_all(variable.parent().unwrap()).unwrap();
        assert_eq!((probe().kind, probe().secure_boot), (FirmwareKind::Uefi, None));
        for (bytes, expected) in [(&[6, 0, 0, 0, 1][..], Some(true)), (&[6, 0, 0, 0, 0], Some(false)), (&[6], None)] {
            std::fs::write(&variable, bytes).unwrap();
            assert_eq!(probe().secure_boot, expected);
        }
    }
}
