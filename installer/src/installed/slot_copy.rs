//! Makes a slot's folder on COS_BOOT from that of another slot.

use crate::installed::files::{remove_if_present, sync_folder, write_in_place};
use crate::installed::recovery::{self, CompareError};
use crate::path_error::PathError;
use boot_contract::kernel_arguments::{MODE, ROOT, SLOT};
use boot_contract::slot_files::{ARGUMENTS, INITRD, KERNEL};
use boot_contract::{BootMode, Slot};
use disk::bios::{BOOT_IMAGE, CORE_IMAGE};
use disk::{args_cfg, sums};
use release::{MANIFEST, ReleaseError, read_manifest};
use std::fs;
use std::path::Path;
use uuid::Uuid;

/// Why a slot's folder is not a copy.
#[derive(Debug, thiserror::Error)]
pub enum SlotCopyError {
    #[error("slot {slot}'s {file}")]
    File { slot: Slot, file: &'static str, source: CompareError },
    #[error("slot {0}'s args.cfg contains no arguments")]
    NoArguments(Slot),
    #[error(transparent)]
    Release(#[from] ReleaseError),
    #[error(transparent)]
    Path(#[from] PathError),
}

/// Removes arguments and manifest of a slot that is about to be written: GRUB starts another slot instead of it.
pub fn begin(boot: &Path, slot: Slot) -> Result<(), SlotCopyError> {
    let folder = boot.join(slot.letter());
    for path in [folder.join(ARGUMENTS), folder.join(MANIFEST)] {
        remove_if_present(&path).map_err(PathError::of("removing", &path))?;
    }
    match sync_folder(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => Ok(result.map_err(PathError::of("writing", &folder))?),
    }
}

/// Gives slot `target`, whose partition has the GUID `root`, the kernel, initrd, arguments and manifest of slot `source`. A
/// file that is already right is not touched. GRUB of another release goes: the disk keeps the one that it starts.
pub fn copy(boot: &Path, source: Slot, target: Slot, root: Uuid) -> Result<(), SlotCopyError> {
    let (from, to) = (boot.join(source.letter()), boot.join(target.letter()));
    let (manifest, manifest_bytes) = read_manifest(&from)?;
    fs::create_dir_all(&to).map_err(PathError::of("creating", &to))?;
    for (name, file) in [(KERNEL, &manifest.kernel), (INITRD, &manifest.initrd)] {
        let copy = to.join(name);
        if recovery::compare(&copy, file).is_err() {
            write(&copy, &read(&from.join(name))?)?;
        }
        recovery::compare(&copy, file).map_err(|source| SlotCopyError::File { slot: target, file: name, source })?;
    }
    for path in [to.join(BOOT_IMAGE), to.join(CORE_IMAGE)] {
        remove_if_present(&path).map_err(PathError::of("removing", &path))?;
    }
    let arguments = from.join(ARGUMENTS);
    let arguments = fs::read_to_string(&arguments).map_err(PathError::of("reading", &arguments))?;
    let arguments = args_cfg::read(&arguments).ok_or(SlotCopyError::NoArguments(source))?;
    let arguments = args_cfg::write(&of_slot(arguments, target, root));
    let sums = sums::of(&manifest).into_bytes();
    for (name, bytes) in [(sums::FILE, sums), (ARGUMENTS, arguments.into_bytes()), (MANIFEST, manifest_bytes)] {
        if fs::read(to.join(name)).ok().as_deref() != Some(&bytes[..]) {
            write(&to.join(name), &bytes)?;
        }
    }
    Ok(sync_folder(&to).map_err(PathError::of("writing", &to))?)
}

/// The kernel arguments of a slot, made from those of another one.
fn of_slot(arguments: &str, slot: Slot, root: Uuid) -> String {
    let mode = if slot == Slot::Recovery { BootMode::Recovery } else { BootMode::System };
    let own = |argument: &str| match argument.split_once('=') {
        Some((MODE, _)) => format!("{MODE}={mode}"),
        Some((SLOT, _)) => format!("{SLOT}={}", slot.letter()),
        Some((ROOT, _)) => format!("{ROOT}={root}"),
        _ => argument.to_owned(),
    };
    arguments.split_ascii_whitespace().map(own).collect::<Vec<_>>().join(" ")
}

fn read(path: &Path) -> Result<Vec<u8>, PathError> {
    fs::read(path).map_err(PathError::of("reading", path))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), PathError> {
    write_in_place(path, bytes).map_err(PathError::of("writing", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::fixtures::{blank_disk, plan_for, tiny_release};
    use disk::layout::Role;
    use disk::plan::{Content, Request, Step};

    /// The folder of recovery as an installation writes it, and slot A's arguments and GUID in that installation.
    fn installed() -> (tempfile::TempDir, String, Uuid) {
        let release = tiny_release(&[5; 8192]);
        let plan = plan_for(blank_disk("/dev/vda"), &Request::default()).unwrap();
        let files = plan.steps.iter().find_map(|step| match step {
            Step::Boot { files, .. } => Some(files),
            _ => None,
        });
        let text = |path: &str| match &files.unwrap().iter().find(|file| file.path == path).unwrap().content {
            Content::Text(text) => text.clone(),
            other => panic!("{other:?}"),
        };
        let boot = tempfile::tempdir().unwrap();
        let recovery = boot.path().join("R");
        fs::create_dir(&recovery).unwrap();
        for name in ["vmlinuz", "initrd", "release.json"] {
            fs::copy(release.path().join(name), recovery.join(name)).unwrap();
        }
        fs::write(recovery.join("args.cfg"), text("R/args.cfg")).unwrap();
        (boot, text("A/args.cfg"), plan.layout.partition(Role::StateA).guid)
    }

    #[test]
    fn slot_a_is_what_an_installation_makes_of_it() {
        let (boot, arguments, guid) = installed();
        for damage in [None, Some("initrd"), Some("args.cfg"), Some("release.json")] {
            if let Some(name) = damage {
                fs::write(boot.path().join("A").join(name), "damaged").unwrap();
            }
            copy(boot.path(), Slot::Recovery, Slot::A, guid).unwrap();
            for name in ["vmlinuz", "initrd", "release.json"] {
                let of = |slot: &str| fs::read(boot.path().join(slot).join(name)).unwrap();
                assert!(of("A") == of("R"), "{name}");
            }
            assert_eq!(fs::read_to_string(boot.path().join("A/args.cfg")).unwrap(), arguments);
        }
    }

    #[test]
    fn recovery_becomes_a_copy_of_a_slot() {
        let (boot, _, guid) = installed();
        let arguments = fs::read_to_string(boot.path().join("R/args.cfg")).unwrap();
        let recovery: Uuid = arguments.split("ros.root=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        copy(boot.path(), Slot::Recovery, Slot::A, guid).unwrap();
        fs::write(boot.path().join("R/initrd"), "older").unwrap();
        begin(boot.path(), Slot::Recovery).unwrap();
        assert!(!boot.path().join("R/args.cfg").exists() && !boot.path().join("R/release.json").exists());
        begin(boot.path(), Slot::B).unwrap();
        copy(boot.path(), Slot::A, Slot::Recovery, recovery).unwrap();
        assert_eq!(fs::read_to_string(boot.path().join("R/args.cfg")).unwrap(), arguments);
        assert_eq!(fs::read(boot.path().join("R/initrd")).unwrap(), b"initrd");
    }

    #[test]
    fn a_damaged_recovery_is_copied_nowhere() {
        let (boot, _, guid) = installed();
        fs::write(boot.path().join("R/initrd"), "damaged").unwrap();
        let error = copy(boot.path(), Slot::Recovery, Slot::A, guid).unwrap_err().to_string();
        assert!(error.contains("slot A's initrd"), "{error}");
        fs::write(boot.path().join("R/args.cfg"), "").unwrap();
        assert!(copy(boot.path(), Slot::Recovery, Slot::A, guid).is_err());
    }
}
