//! The firmwares a machine may have, and where Debian's packages put them.

use crate::machine::Chipset;
use crate::process::succeeded;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS, which QEMU brings along.
    Bios,
    Uefi,
    /// UEFI with Microsoft's keys enrolled: runs what their third-party CA signed, and nothing else.
    SecureBoot,
    /// UEFI of 32 bits, which can start no release.
    Uefi32,
}

impl Firmware {
    /// Those that can start a release.
    pub const ALL: [Self; 3] = [Self::Bios, Self::Uefi, Self::SecureBoot];

    pub fn name(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
            Self::SecureBoot => "secureboot",
            Self::Uefi32 => "uefi32",
        }
    }

    /// Code, and the variables that a new machine starts with (packages `ovmf` and `ovmf-ia32`); none for BIOS.
    fn files(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Bios => None,
            Self::Uefi => Some(("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd")),
            Self::SecureBoot => Some(("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd")),
            Self::Uefi32 => Some(("/usr/share/OVMF/OVMF32_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF32_VARS_4M.fd")),
        }
    }

    /// QEMU's `-machine`.
    pub fn machine_type(self, chipset: Chipset) -> &'static str {
        match (chipset, self) {
            (Chipset::Pc, _) => "pc",
            // Only code in system management mode may change the variables that hold the keys.
            (Chipset::Q35, Self::SecureBoot | Self::Uefi32) => "q35,smm=on",
            (Chipset::Q35, Self::Bios | Self::Uefi) => "q35",
        }
    }

    /// Makes the file of the machine's own variables where it is absent, and gives QEMU's arguments. `boot_url`: what new
    /// variables make it load at its first start.
    pub fn arguments(self, variables: &Path, boot_url: Option<&str>) -> Result<Vec<String>> {
        let Some((code, initial)) = self.files() else { return Ok(Vec::new()) };
        if !variables.exists() {
            fs::copy(initial, variables)
                .with_context(|| format!("copying {initial}; install ovmf if it is missing"))?;
            if let Some(url) = boot_url {
                set_boot_url(variables, url)?;
            }
        }
        let mut arguments = vec![
            "-drive".to_owned(),
            format!("if=pflash,unit=0,format=raw,readonly=on,file={code}"),
            "-drive".to_owned(),
            format!("if=pflash,unit=1,format=raw,file={}", variables.display()),
        ];
        if self == Self::SecureBoot {
            arguments.extend(["-global".to_owned(), "driver=cfi.pflash01,property=secure,value=on".to_owned()]);
        }
        Ok(arguments)
    }
}

/// Sets a boot entry for the URL and `BootNext` (package `python3-virt-firmware`).
fn set_boot_url(variables: &Path, url: &str) -> Result<()> {
    succeeded(Command::new("virt-fw-vars").arg("--inplace").arg(variables).args(["--set-boot-uri", url])).map(drop)
}

impl FromStr for Firmware {
    type Err = anyhow::Error;
    fn from_str(name: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|firmware| firmware.name() == name) {
            Some(firmware) => Ok(firmware),
            None => bail!("the firmware {name:?} is not known; use bios, uefi or secureboot"),
        }
    }
}
