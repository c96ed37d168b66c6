//! Starts an installed system from a live one without the firmware, by kexec_file_load(2). The kernel checks the
//! signature of the next kernel, as Secure Boot requires.

use crate::boot::{partition, state_file};
use crate::console;
use crate::path_error::PathError;
use boot_contract::kernel_arguments::{LOADER, LOADER_KEXEC};
use boot_contract::slot_files::{ARGUMENTS, INITRD, KERNEL};
use boot_contract::{BootState, Slot};
use command::{Command, CommandError};
use disk::args_cfg;
use machine::installed::{PartitionGuidError, partition_guid_beside};
use nix::libc;
use protocol::error_chain;
use std::ffi::{CString, NulError};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Why no installed system was started.
#[derive(Debug, thiserror::Error)]
pub enum KexecError {
    #[error("finding a system to start")]
    NoSystem(#[source] SlotError),
    #[error("reading the kernel's arguments")]
    Arguments(#[source] NulError),
    #[error("loading the kernel of slot {0} (kexec_file_load)")]
    Load(Slot, #[source] io::Error),
    #[error("starting the loaded kernel")]
    Start(#[source] CommandError),
    #[error(transparent)]
    Disk(#[from] PartitionGuidError),
    #[error(transparent)]
    Path(#[from] PathError),
}

/// Why a slot cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    #[error("{} is empty", .0.display())]
    Empty(PathBuf),
    #[error("{} has no arguments", .0.display())]
    NoArguments(PathBuf),
    #[error(transparent)]
    Path(#[from] PathError),
}

/// Starts what GRUB would start from this partition, `COS_BOOT` of a disk, and counts the start as GRUB does. Returns
/// when the restart has begun.
pub fn start(boot_partition: &Path) -> Result<(), KexecError> {
    partition::with_mounted_device(boot_partition, false, |boot| -> Result<(), KexecError> {
        let mut next = KexecTarget::choose(boot)?;
        if args_cfg::is_of_image(&next.arguments) {
            let root = partition_guid_beside(boot_partition, next.slot.partition_label())?;
            next.arguments = args_cfg::resolved(&next.arguments, root);
        }
        next.load(boot)?;
        if let Some(state) = next.state {
            state_file::overwrite(boot, &state)?;
        }
        Ok(())
    })?;
    // systemd starts the kernel, because it also stops a watchdog that the next system may not feed in time.
    Command::new("systemctl").args(["kexec", "--force"]).run().map_err(KexecError::Start)?;
    Ok(())
}

/// The slot that is started, with its kernel arguments.
#[derive(Debug, PartialEq)]
struct KexecTarget {
    slot: Slot,
    arguments: String,
    /// The boot state after the start was counted. `None` if it cannot be read: GRUB counts nothing then either.
    state: Option<BootState>,
}

impl KexecTarget {
    /// Chooses the slot as GRUB does. A slot without arguments or kernel uses up its starts, because it could never be
    /// started.
    fn choose(boot: &Path) -> Result<Self, KexecError> {
        let mut state = state_file::read(boot).ok().flatten();
        let mut reported = None;
        loop {
            let slot = state.as_mut().map_or(Slot::Recovery, BootState::start);
            match arguments(&boot.join(slot.letter())) {
                Ok(arguments) => return Ok(Self { slot, arguments, state }),
                Err(error) if slot == Slot::Recovery => return Err(KexecError::NoSystem(error)),
                Err(error) if reported.replace(slot) != Some(slot) => {
                    console::note(format!("slot {slot} cannot be started: {}", error_chain(&error)));
                }
                Err(_) => {}
            }
        }
    }

    fn load(&self, boot: &Path) -> Result<(), KexecError> {
        let folder = boot.join(self.slot.letter());
        let open = |name: &str| {
            let path = folder.join(name);
            File::open(&path).map_err(PathError::of("opening", &path))
        };
        let (kernel, initrd) = (open(KERNEL)?, open(INITRD)?);
        // The argument tells the started system that the firmware did not start it.
        let line =
            CString::new(format!("{} {LOADER}={LOADER_KEXEC}", self.arguments)).map_err(KexecError::Arguments)?;
        let line = line.as_bytes_with_nul();
        // SAFETY: two open files, and a line with its length, which includes the zero at its end.
        let result = unsafe {
            libc::syscall(
                libc::SYS_kexec_file_load,
                kernel.as_raw_fd(),
                initrd.as_raw_fd(),
                line.len(),
                line.as_ptr(),
                0 as libc::c_ulong,
            )
        };
        if result != 0 {
            return Err(KexecError::Load(self.slot, io::Error::last_os_error()));
        }
        Ok(())
    }
}

/// The kernel arguments in the folder, which must have every file that a start needs.
fn arguments(folder: &Path) -> Result<String, SlotError> {
    for name in [KERNEL, INITRD] {
        let path = folder.join(name);
        let length = fs::metadata(&path).map_err(PathError::of("inspecting", &path))?.len();
        if length == 0 {
            return Err(SlotError::Empty(path));
        }
    }
    let path = folder.join(ARGUMENTS);
    let text = fs::read_to_string(&path).map_err(PathError::of("reading", &path))?;
    args_cfg::read(&text).map(str::to_owned).ok_or(SlotError::NoArguments(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use boot_contract::boot_state::{PATH, SlotBoot, SlotState};

    /// A boot partition with these slots.
    fn boot(slots: &[&str], state: Option<&BootState>) -> tempfile::TempDir {
        let boot = tempfile::tempdir().unwrap();
        for slot in slots {
            let folder = boot.path().join(slot);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("args.cfg"), format!("set slot_args=\"ros.slot={slot} console=tty0\"\n")).unwrap();
            fs::write(folder.join("vmlinuz"), "kernel").unwrap();
            fs::write(folder.join("initrd"), "initrd").unwrap();
        }
        fs::create_dir(boot.path().join("grub")).unwrap();
        if let Some(state) = state {
            fs::write(boot.path().join(PATH), state.to_bytes()).unwrap();
        }
        boot
    }

    #[test]
    fn the_slot_that_grub_would_start_is_chosen_and_the_start_is_counted() {
        let boot = boot(&["A", "R"], Some(&BootState::INSTALLED));
        let next = KexecTarget::choose(boot.path()).unwrap();
        let mut counted = BootState::INSTALLED;
        assert_eq!(counted.start(), Slot::A);
        assert_eq!(
            next,
            KexecTarget { slot: Slot::A, arguments: "ros.slot=A console=tty0".into(), state: Some(counted) }
        );
    }

    #[test]
    fn a_slot_that_cannot_be_loaded_gives_way_to_the_other_and_to_recovery() {
        let mut both = BootState::INSTALLED;
        both.b = SlotBoot::new(SlotState::Good);
        let broken = boot(&["B", "R"], Some(&both));
        assert_eq!(KexecTarget::choose(broken.path()).unwrap().slot, Slot::B);
        fs::write(broken.path().join("B/args.cfg"), "").unwrap();
        assert_eq!(KexecTarget::choose(broken.path()).unwrap().slot, Slot::Recovery);
        assert!(KexecTarget::choose(boot(&[], Some(&both)).path()).is_err());
    }

    #[test]
    fn a_state_that_cannot_be_read_leads_to_recovery_and_stays_as_it_is() {
        let next = KexecTarget::choose(boot(&["A", "R"], None).path()).unwrap();
        assert_eq!((next.slot, next.state), (Slot::Recovery, None));
    }
}
