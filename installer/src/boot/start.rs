//! Boots the installed system from a live system when the medium precedes the disk in the boot order.
//!
//! On UEFI the firmware is asked to start the disk at the next start. If it cannot be asked, or started the medium
//! again after it was asked, the disk's kernel is started by kexec.

use crate::boot::efi::{self, Position};
use crate::boot::kexec::{self, KexecError};
use crate::console::{self, announce};
use boot_contract::KernelArguments;
use boot_contract::Milestone;
use boot_contract::kernel_arguments::{LOADER, LOADER_KEXEC};
use command::{Command, CommandError};
use disk::DiskDescription;
use disk::description::InstalledSystem;
use disk::plan::InstallPlan;
use machine::Machine;
use protocol::hardware::FirmwareKind;
use std::fs;
use std::path::Path;

/// Why the live system was not left.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("leaving the live system")]
    Restart(#[source] CommandError),
    #[error("starting the system on {disk}: remove the medium, or put the disk before it in the boot order")]
    Kexec { disk: String, source: KexecError },
}

/// This machine's own system to start: the one on the disk that the settings name, else the first.
pub fn own_system<'a>(
    machine: &'a Machine,
    device: Option<&str>,
) -> Option<(&'a DiskDescription, &'a InstalledSystem)> {
    let named =
        |disk: &DiskDescription| device.is_some_and(|name| disk.path == name || disk.links.iter().any(|l| l == name));
    machine.own_systems().find(|(disk, _)| named(disk)).or_else(|| machine.own_systems().next())
}

/// Leaves this live system for the one on the disk. Returns when the restart has begun.
pub fn start(
    machine: &Machine,
    disk: &DiskDescription,
    system: &InstalledSystem,
    root: &Path,
) -> Result<(), StartError> {
    for (other, _) in machine.own_systems().filter(|(other, _)| other.path != disk.path) {
        console::note(format!("{} also holds a system of this machine; it stays unchanged", other.path));
    }
    if asks_firmware(machine, system, root) {
        announce(Milestone::Rebooting, format!("into the system on {}, which the firmware starts next", disk.path));
        Command::new("systemctl").args(["reboot", "--force"]).run().map_err(StartError::Restart)?;
        return Ok(());
    }
    announce(Milestone::Rebooting, format!("into the system on {}, started from here", disk.path));
    kexec::start(Path::new(&system.boot.path)).map_err(|source| StartError::Kexec { disk: disk.path.clone(), source })
}

/// Asks the firmware to start the disk. Returns whether it will.
fn asks_firmware(machine: &Machine, system: &InstalledSystem, root: &Path) -> bool {
    if machine.hardware.firmware.kind != FirmwareKind::Uefi {
        return false;
    }
    if efi::has_led_elsewhere(root, &system.boot) {
        console::note("the firmware was asked to start the disk, and started this medium again");
        return false;
    }
    let asked = efi::start_next(root, &system.boot, Position::Kept);
    if let Err(error) = &asked {
        console::note(format!("the firmware's boot menu cannot be written: {error}"));
    }
    asked.is_ok()
}

/// Records on an installed system that it came up, so that the firmware may be asked again. Does nothing if the disk
/// was started by kexec.
pub fn has_started(root: &Path) {
    let arguments = KernelArguments::parse(&fs::read_to_string(root.join("proc/cmdline")).unwrap_or_default());
    if arguments.value(LOADER) != Some(LOADER_KEXEC)
        && let Err(error) = efi::has_started(root)
    {
        tracing::warn!("recording for the firmware that the disk has started: {error}");
    }
}

/// Puts the disk first in the firmware's boot order after an installation, also for the next start. If that fails, the
/// console says what to do.
pub fn put_first(plan: &InstallPlan, firmware: FirmwareKind, root: &Path) {
    let asked = match firmware {
        FirmwareKind::Uefi => efi::start_next(root, &plan.boot_partition(), Position::First).map_err(|e| e.to_string()),
        FirmwareKind::Bios => Err("a BIOS has no boot menu that a program can write".to_owned()),
    };
    match asked {
        Ok(()) => console::note("RancherOS is now the first entry in the firmware's boot menu"),
        Err(cause) => console::note(format!(
            "the firmware's boot menu is unchanged: {cause}. Put the disk first, or remove the medium; a medium that \
             comes first starts the installed system"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::fixtures::blank_disk;

    #[test]
    fn the_named_disk_is_started_and_the_first_where_none_is_named() {
        let own = |path: &str| DiskDescription { installed: Some(InstalledSystem::default()), ..blank_disk(path) };
        let machine =
            Machine { disks: vec![blank_disk("/dev/vda"), own("/dev/vdb"), own("/dev/vdc")], ..Machine::default() };
        let chosen = |device| own_system(&machine, device).map(|(disk, _)| disk.path.as_str());
        assert_eq!(chosen(None), Some("/dev/vdb"));
        assert_eq!(chosen(Some("/dev/vdc")), Some("/dev/vdc"));
        assert_eq!(chosen(Some("/dev/vda")), Some("/dev/vdb"), "a disk without a system");
        let empty = Machine { disks: vec![blank_disk("/dev/vda")], ..Machine::default() };
        assert_eq!(own_system(&empty, None), None, "an empty disk in a known machine is installed to");
    }
}
