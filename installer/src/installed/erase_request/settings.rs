//! The settings on COS_OEM, forgotten in a reset.

use super::{EraseError, Reinstall, Request, Reset};
use crate::installed::files::{remove_if_present, sync_folder, write_secret};
use crate::path_error::PathError;
use crate::settings::document::{self, INSTALLED_FILE, PREVIOUS_FILE};
use crate::upgrade::{attempt, order};
use boot_contract::paths::{OEM, OEM_CLOUD_CONFIG, OEM_IDENTITY, below};
use std::fs;
use std::path::{Path, PathBuf};

/// What stays: the identity, how the operator is reached, which requests were honoured, and what is known about releases:
/// the oldest that is taken, the one that failed, and the operator's order.
fn kept(root: &Path) -> [PathBuf; 7] {
    let [newest, previous] = [INSTALLED_FILE, PREVIOUS_FILE].map(|file| below(root, file));
    let [identity, reinstall, reset, attempt, order] =
        [OEM_IDENTITY, Reinstall::RECORD, Reset::RECORD, attempt::FILE, order::FILE].map(|path| below(root, path));
    [newest, previous, identity, reinstall, reset, attempt, order]
}

/// Forgets the cloud-config, except what `cloud_config::kept_over_reset` names, and every file that is not ours. A power
/// failure leaves the cloud-config as it was or as it will be.
pub fn forget(root: &Path) -> Result<(), EraseError> {
    let config = below(root, OEM_CLOUD_CONFIG);
    if let Some(before) = document::read(&config)? {
        let after = cloud_config::kept_over_reset(&before);
        write_secret(&config, after.to_yaml().as_bytes()).map_err(PathError::of("writing", &config))?;
    }
    let folder = below(root, OEM);
    let kept = kept(root);
    let entries = fs::read_dir(&folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    for entry in entries.map_err(PathError::of("reading", &folder))? {
        let path = entry.path();
        if path == config || kept.contains(&path) {
            continue;
        }
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_folder { fs::remove_dir_all(&path) } else { remove_if_present(&path) };
        removed.map_err(PathError::of("removing", &path))?;
    }
    Ok(sync_folder(&folder).map_err(PathError::of("writing", &folder))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_itself_and_reaches_its_operator_and_has_forgotten_the_rest() {
        let root = tempfile::tempdir().unwrap();
        let oem = root.path().join("oem");
        for folder in ["identity/etc", "somebody's/folder", "lost+found"] {
            fs::create_dir_all(oem.join(folder)).unwrap();
        }
        let kept = ["registration.yaml", "registration.previous.yaml", "identity/etc/machine-id", "reinstall.json"];
        let kept = [&kept[..], &["reset.json", "upgrade.json", "upgrade-order.json"]].concat();
        for file in [&kept[..], &["other.yaml", "somebody's/folder/x", ".ros-interrupted"]].concat() {
            fs::write(oem.join(file), file).unwrap();
        }
        let config = "hostname: h\nusers: [{name: u}]\nnetwork: {version: 2}\nruncmd: [x]\n";
        fs::write(oem.join("cloud-config.yaml"), config).unwrap();
        for _ in 0..2 {
            forget(root.path()).unwrap();
            for file in &kept {
                assert_eq!(fs::read_to_string(oem.join(file)).unwrap(), *file);
            }
            assert_eq!(fs::read_dir(&oem).unwrap().count(), kept.len() + 1);
            let config = fs::read_to_string(oem.join("cloud-config.yaml")).unwrap();
            assert!(config.contains("hostname: h") && config.contains("version: 2"), "{config}");
            assert!(!config.contains("users") && !config.contains("runcmd"), "{config}");
        }
    }

    #[test]
    fn a_cloud_config_that_cannot_be_read_is_named_and_stays() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("oem")).unwrap();
        fs::write(root.path().join("oem/cloud-config.yaml"), "{").unwrap();
        fs::write(root.path().join("oem/other.yaml"), "").unwrap();
        let error = protocol::error_chain(&forget(root.path()).unwrap_err());
        assert!(error.contains("cloud-config.yaml"), "{error}");
        assert!(root.path().join("oem/other.yaml").exists());
    }
}
