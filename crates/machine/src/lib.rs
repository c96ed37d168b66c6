//! Probes of the machine that this program runs on. Later decisions use only the value that they fill.

pub mod addresses;
pub mod consoles;
pub mod content;
pub mod cpu;
pub mod disks;
pub mod firmware;
pub mod installed;
mod mounts;
pub mod nics;
pub mod smbios;
mod sysfs;

use boot_contract::{KernelArguments, kernel_arguments};
use disk::DiskDescription;
use disk::description::InstalledSystem;
use disk::plan::Host;
use protocol::SmbiosDocument;
use protocol::hardware::{self, FirmwareKind, Hardware};
use protocol::message::Slot;
use serde::Serialize;
use std::path::Path;

/// The host as found by one probe.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    pub smbios: SmbiosDocument,
    /// The report for the operator. It holds the firmware kind and whether Secure Boot is on.
    pub hardware: Hardware,
    /// The same disks as in `hardware`, with more fields, which only the planner needs. Sorted by path.
    pub disks: Vec<DiskDescription>,
    pub boot: Boot,
    /// Names that an installation's marker may use for this machine (`identity::Identity::name`), the name for a new
    /// one first. Empty until the identity is known: a probe does not use the TPM.
    #[serde(skip)]
    pub identities: Vec<String>,
}

impl Machine {
    /// Reads everything below `root` (`/` on a real machine), in its folders `sys`, `proc`, `dev` and `run`, and only
    /// the first sectors of disks and partitions. Never fails: what is missing or unreadable stays empty. Does not use
    /// the TPM.
    pub fn probe(root: &Path) -> Self {
        let (smbios, boot) = (smbios::probe(root), Boot::probe(root));
        let disks = disks::probe(root);
        let hardware = Hardware {
            cpu: cpu::probe(root),
            memory_bytes: cpu::memory_bytes(root),
            disks: disks.iter().map(summary).collect(),
            nics: nics::probe(root),
            firmware: firmware::probe(root, &smbios),
            tpm: None,
        };
        Self { smbios, hardware, disks, boot, identities: Vec::new() }
    }

    /// The input that a plan takes from this machine.
    pub fn host(&self) -> Host<'_> {
        Host {
            architecture: &self.hardware.cpu.architecture,
            is_bios: self.hardware.firmware.kind == FirmwareKind::Bios,
            disks: &self.disks,
            identities: &self.identities,
        }
    }

    /// The disks that hold a system of this machine; see [`Host::own_systems`].
    pub fn own_systems(&self) -> impl Iterator<Item = (&DiskDescription, &InstalledSystem)> {
        self.host().own_systems()
    }
}

/// The fields of a disk that are reported to the operator.
fn summary(disk: &DiskDescription) -> hardware::Disk {
    hardware::Disk {
        path: disk.path.clone(),
        model: disk.model.clone(),
        serial: disk.serial.clone(),
        size_bytes: disk.size_bytes,
        rotational: disk.rotational,
        removable: disk.removable,
    }
}

/// How the running system was started.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Boot {
    pub mode: BootMode,
    /// Absent on a machine that was not started by `ros-init`.
    pub slot: Option<Slot>,
    /// Volume id of the installation medium (`ros.medium=`), in live mode.
    pub medium: Option<String>,
}

/// The kernel argument `ros.mode=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum BootMode {
    /// The machine was not started by `ros-init`, such as a developer's.
    #[default]
    Foreign,
    Live,
    System,
    Recovery,
}

impl Boot {
    /// Reads the kernel command line.
    pub fn probe(root: &Path) -> Self {
        let arguments = KernelArguments::parse(&sysfs::text(&root.join("proc/cmdline"), sysfs::LINE));
        let mode = match arguments.value(kernel_arguments::MODE).and_then(|mode| mode.parse().ok()) {
            Some(boot_contract::BootMode::Live) => BootMode::Live,
            Some(boot_contract::BootMode::System) => BootMode::System,
            Some(boot_contract::BootMode::Recovery) => BootMode::Recovery,
            None => BootMode::Foreign,
        };
        let letter = arguments.value(kernel_arguments::SLOT);
        let slot = match (mode, letter.and_then(boot_contract::Slot::from_letter)) {
            (BootMode::Live, _) => Some(Slot::Live),
            (_, slot) => slot.map(Slot::from),
        };
        Self { mode, slot, medium: arguments.value(kernel_arguments::MEDIUM).map(str::to_owned) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_command_line_says_how_the_system_was_started() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("proc")).unwrap();
        let cmdline = |text: &str| {
            std::fs::write(root.path().join("proc/cmdline"), text).unwrap();
            Boot::probe(root.path())
        };
        let live = cmdline("quiet ros.mode=live ros.medium=ROS_01234567\n");
        assert_eq!(
            (live.mode, live.slot, live.medium.as_deref()),
            (BootMode::Live, Some(Slot::Live), Some("ROS_01234567"))
        );
        assert_eq!(cmdline("ros.mode=system ros.slot=B").slot, Some(Slot::B));
        assert_eq!(cmdline("root=/dev/sda1"), Boot::default());
        assert_eq!(cmdline("ros.mode=system ros.slot=A note=\"x ros.slot=B\"").slot, Some(Slot::A), "quoted words");
    }

    /// `ros-init` and the kernel use the last value. The installer once used the first one.
    #[test]
    fn of_several_values_of_a_kernel_argument_the_last_one_counts() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("proc")).unwrap();
        let line = "ros.mode=live ros.medium=ROS_0 ros.slot=A ros.mode=recovery ros.slot=R ros.medium=ROS_1\n";
        std::fs::write(root.path().join("proc/cmdline"), line).unwrap();
        let boot = Boot::probe(root.path());
        assert_eq!((boot.mode, boot.slot), (BootMode::Recovery, Some(Slot::Recovery)));
        assert_eq!(boot.medium.as_deref(), Some("ROS_1"));
    }

    #[test]
    fn an_empty_machine_is_a_machine() {
        let root = tempfile::tempdir().unwrap();
        let machine = Machine::probe(root.path());
        assert!(machine.disks.is_empty() && machine.smbios.0.is_empty());
    }
}
