//! Makes slot A's folder on COS_BOOT from that of recovery.

use crate::installed::files::{sync_folder, write_in_place};
use crate::installed::recovery::{self, CompareError};
use crate::path_error::PathError;
use boot_contract::kernel_arguments::{MODE, ROOT, SLOT};
use boot_contract::{BootMode, Slot};
use disk::args_cfg;
use release::{ReleaseError, read_manifest};
use std::fs;
use std::path::Path;
use uuid::Uuid;

/// Why slot A's folder is not that of recovery.
#[derive(Debug, thiserror::Error)]
pub enum SlotFilesError {
    #[error("slot A's {file}")]
    File { file: &'static str, source: CompareError },
    #[error("recovery's args.cfg contains no arguments")]
    NoArguments,
    #[error(transparent)]
    Release(#[from] ReleaseError),
    #[error(transparent)]
    Path(#[from] PathError),
}

/// Gives slot A, whose partition has the GUID `root`, the kernel, initrd, arguments and manifest of recovery. A file
/// that is already right is not touched.
pub fn copy_recovery_to_a(boot: &Path, root: Uuid) -> Result<(), SlotFilesError> {
    let (from, to) = (boot.join(Slot::Recovery.letter()), boot.join(Slot::A.letter()));
    let (manifest, manifest_bytes) = read_manifest(&from)?;
    fs::create_dir_all(&to).map_err(PathError::of("creating", &to))?;
    for (name, file) in [("vmlinuz", &manifest.kernel), ("initrd", &manifest.initrd)] {
        let copy = to.join(name);
        if recovery::compare(&copy, file).is_err() {
            write(&copy, &read(&from.join(name))?)?;
        }
        recovery::compare(&copy, file).map_err(|source| SlotFilesError::File { file: name, source })?;
    }
    let arguments = from.join("args.cfg");
    let arguments = fs::read_to_string(&arguments).map_err(PathError::of("reading", &arguments))?;
    let arguments = args_cfg::read(&arguments).ok_or(SlotFilesError::NoArguments)?;
    let arguments = args_cfg::write(&of_slot_a(arguments, root));
    for (name, bytes) in [("args.cfg", arguments.into_bytes()), ("release.json", manifest_bytes)] {
        if fs::read(to.join(name)).ok().as_deref() != Some(&bytes[..]) {
            write(&to.join(name), &bytes)?;
        }
    }
    Ok(sync_folder(&to).map_err(PathError::of("writing", &to))?)
}

/// The kernel arguments of slot A, made from those of recovery.
fn of_slot_a(arguments: &str, root: Uuid) -> String {
    let own = |argument: &str| match argument.split_once('=') {
        Some((MODE, _)) => format!("{MODE}={}", BootMode::System),
        Some((SLOT, _)) => format!("{SLOT}={}", Slot::A.letter()),
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
            copy_recovery_to_a(boot.path(), guid).unwrap();
            for name in ["vmlinuz", "initrd", "release.json"] {
                let of = |slot: &str| fs::read(boot.path().join(slot).join(name)).unwrap();
                assert!(of("A") == of("R"), "{name}");
            }
            assert_eq!(fs::read_to_string(boot.path().join("A/args.cfg")).unwrap(), arguments);
        }
    }

    #[test]
    fn a_damaged_recovery_is_copied_nowhere() {
        let (boot, _, guid) = installed();
        fs::write(boot.path().join("R/initrd"), "damaged").unwrap();
        let error = copy_recovery_to_a(boot.path(), guid).unwrap_err().to_string();
        assert!(error.contains("slot A's initrd"), "{error}");
        fs::write(boot.path().join("R/args.cfg"), "").unwrap();
        assert!(copy_recovery_to_a(boot.path(), guid).is_err());
    }
}
