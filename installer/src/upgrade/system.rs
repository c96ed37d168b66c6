//! What the running system and its slots hold.

use super::error::UpgradeError;
use super::plan::{ReleaseName, Slots};
use crate::boot::{partition, state_file};
use boot_contract::kernel_arguments::SLOT;
use boot_contract::{KernelArguments, Slot};
use release::{manifest_digest, read_manifest};
use std::fs;
use std::path::Path;

/// Reads the running slot, the boot state, and the release of each slot.
pub fn slots() -> Result<Slots, UpgradeError> {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let running = running(&line).ok_or(UpgradeError::NotInstalled)?;
    let state = state_file::current()?;
    partition::with_mounted(true, |boot| {
        let release = |slot: Slot| release_in(&boot.join(slot.letter()));
        Ok(Slots { running, state, a: release(Slot::A), b: release(Slot::B) })
    })
}

fn running(line: &str) -> Option<Slot> {
    Slot::from_letter(KernelArguments::parse(line).value(SLOT)?)
}

/// The release in a slot's folder. `None` if there is none, or if its manifest cannot be used.
fn release_in(folder: &Path) -> Option<ReleaseName> {
    match read_manifest(folder) {
        Ok((manifest, bytes)) => Some(ReleaseName { version: manifest.version, digest: manifest_digest(&bytes) }),
        Err(error) => {
            tracing::debug!("{error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::fixtures::tiny_release;

    #[test]
    fn the_running_slot_is_named_by_the_kernel_command_line() {
        assert_eq!(running("ros.mode=system ros.slot=B quiet"), Some(Slot::B));
        assert_eq!(running("ros.mode=live"), None);
    }

    #[test]
    fn a_slot_without_a_usable_manifest_holds_no_release() {
        let folder = tiny_release(&[5; 8192]);
        let found = release_in(folder.path()).unwrap();
        assert!(found.version == "0.1.0" && found.digest.starts_with("sha256:"));
        fs::write(folder.path().join("release.json"), "{").unwrap();
        assert_eq!(release_in(folder.path()), None);
    }
}
