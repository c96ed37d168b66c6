//! Everything learned about the host, as a value: what is decided later is decided from this alone.

pub mod addresses;
pub mod content;
pub mod cpu;
pub mod disks;
pub mod firmware;
pub mod installed;
mod mounts;
pub mod nics;
pub mod smbios;
pub(crate) mod sysfs;

use installed::InstalledSystem;
use protocol::SmbiosDocument;
use protocol::hardware::Hardware;
use protocol::message::Slot;
use serde::Serialize;
use std::path::Path;
use std::str::FromStr;

/// The host as found by one probe.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    pub smbios: SmbiosDocument,
    /// What the operator is told; holds the firmware kind and whether Secure Boot is on.
    pub hardware: Hardware,
    /// The same disks as in `hardware`, with what only the planner needs to know. Sorted by path.
    pub disks: Vec<DiskDetail>,
    pub boot: Boot,
    /// What an installation's marker may call this machine (`identity::Identity::name`), the name for a new one first.
    /// Empty as long as nothing is known: a probe does not ask the TPM.
    #[serde(skip)]
    pub identities: Vec<String>,
}

impl Machine {
    /// Reads everything below `root` (`/` on a real machine; `sys`, `proc`, `dev` and `run` in it), and nothing but
    /// the first sectors of disks and partitions. What is missing or unreadable stays empty: no machine is so odd that
    /// probing it fails. The TPM is not asked here.
    pub fn probe(root: &Path) -> Self {
        let (smbios, boot) = (smbios::probe(root), Boot::probe(root));
        let disks = disks::probe(root);
        let hardware = Hardware {
            cpu: cpu::probe(root),
            memory_bytes: cpu::memory_bytes(root),
            disks: disks.iter().map(|disk| disk.summary.clone()).collect(),
            nics: nics::probe(root),
            firmware: firmware::probe(root, &smbios),
            tpm: None,
        };
        Self {
            smbios,
            hardware,
            disks: disks.into_iter().map(|disk| disk.detail).collect(),
            boot,
            identities: Vec::new(),
        }
    }

    /// The disks that hold this machine's own system, complete: they are started, and never written to unless somebody
    /// asks for exactly that. Where the marker or the machine has no identity, the marker alone decides.
    pub fn own_systems(&self) -> impl Iterator<Item = (&DiskDetail, &InstalledSystem)> {
        let usable = self.disks.iter().filter(|disk| !disk.is_boot_medium);
        usable.filter_map(|disk| Some((disk, disk.installed.as_ref()?))).filter(|(_, system)| self.owns(system))
    }

    fn owns(&self, system: &InstalledSystem) -> bool {
        self.identities.is_empty() || system.identity.as_ref().is_none_or(|name| self.identities.contains(name))
    }
}

/// A whole disk (no partition, no loop device, no CD drive), eligible or not.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskDetail {
    /// Kernel name, such as `/dev/vda`.
    pub path: String,
    pub size_bytes: u64,
    /// 512 or 4096; the unit of the partition table.
    pub logical_sector_bytes: u32,
    pub model: String,
    pub serial: String,
    /// World-wide name, such as `naa.5000c500a1b2c3d4` or `eui.0025388b71b2c3d4`; empty if there is none.
    pub wwn: String,
    /// Links that udev made for the disk, such as `/dev/disk/by-id/virtio-S1`. Sorted.
    pub links: Vec<String>,
    /// Whether it is attached by USB.
    pub usb: bool,
    /// Loadable kernel modules that drive the disk and every device on the way to it. Sorted.
    pub modules: Vec<String>,
    pub read_only: bool,
    /// Whether the running system was started from it: never a target.
    pub is_boot_medium: bool,
    /// What stands on the disk, in words: partition tables, file systems and their labels. Empty means blank, or
    /// `unfinished`.
    pub content: Vec<String>,
    /// Whether an installation of ours began on the disk and never ended, and nothing else is there.
    pub unfinished: bool,
    /// The complete system of ours that the disk holds, for whichever machine.
    pub installed: Option<InstalledSystem>,
    /// Mount points that the disk or one of its partitions has now.
    pub mounted: Vec<String>,
    /// Kernel names of what is built on the disk or one of its partitions, such as `md127`. Sorted.
    pub holders: Vec<String>,
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
    /// Neither: a machine that was not started by `ros-init`, such as a developer's.
    #[default]
    Foreign,
    Live,
    System,
    Recovery,
}

impl Boot {
    /// From the kernel command line.
    pub fn probe(root: &Path) -> Self {
        let line = sysfs::text(&root.join("proc/cmdline"), sysfs::LINE);
        let argument = |key: &str| line.split_ascii_whitespace().find_map(|word| word.strip_prefix(key));
        let mode = argument("ros.mode=").and_then(|mode| mode.parse().ok()).unwrap_or_default();
        let slot = match (mode, argument("ros.slot=")) {
            (BootMode::Live, _) => Some(Slot::Live),
            (_, Some("A")) => Some(Slot::A),
            (_, Some("B")) => Some(Slot::B),
            (_, Some("R")) => Some(Slot::Recovery),
            _ => None,
        };
        Self { mode, slot, medium: argument("ros.medium=").map(str::to_owned) }
    }
}

impl FromStr for BootMode {
    type Err = UnknownBootMode;
    fn from_str(mode: &str) -> Result<Self, UnknownBootMode> {
        match mode {
            "live" => Ok(Self::Live),
            "system" => Ok(Self::System),
            "recovery" => Ok(Self::Recovery),
            _ => Err(UnknownBootMode),
        }
    }
}

/// `ros.mode=` names none of the modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the boot mode is one of live, system, recovery")]
pub struct UnknownBootMode;

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
    }

    #[test]
    fn a_disk_is_the_machines_own_unless_its_marker_names_another_machine() {
        let own = |marker: Option<&str>, machine: &[&str], is_boot_medium| {
            let installed = Some(InstalledSystem { identity: marker.map(str::to_owned), ..InstalledSystem::default() });
            let disks = vec![DiskDetail::default(), DiskDetail { installed, is_boot_medium, ..DiskDetail::default() }];
            let identities = machine.iter().map(|name| (*name).to_owned()).collect();
            Machine { disks, identities, ..Machine::default() }.own_systems().count()
        };
        assert_eq!(own(Some("tpm:a"), &["tpm:a"], false), 1);
        assert_eq!(own(Some("secret:b"), &["tpm:a", "secret:b"], false), 1);
        assert_eq!(own(Some("tpm:a"), &["tpm:b"], false), 0);
        assert_eq!(own(None, &["tpm:a"], false), 1, "a marker without an identity");
        assert_eq!(own(Some("tpm:a"), &[], false), 1, "a machine without an identity");
        assert_eq!(own(Some("tpm:a"), &["tpm:a"], true), 0, "the medium");
    }

    #[test]
    fn an_empty_machine_is_a_machine() {
        let root = tempfile::tempdir().unwrap();
        let machine = Machine::probe(root.path());
        assert!(machine.disks.is_empty() && machine.smbios.0.is_empty());
    }
}
