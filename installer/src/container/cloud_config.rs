//! The cloud-config of a ManagedOSImage, which is merged over that of the host. It is applied at the next start.

use crate::installed::files::write_secret;
use crate::path_error::PathError;
use crate::settings::document::{self, DocumentError};
use ::cloud_config::{CloudConfig, Lists};
use boot_contract::paths::{OEM_CLOUD_CONFIG, below};
use std::path::Path;

/// The cloud-config of the host below `root` with `over` merged over it. `None` if that changes nothing.
pub fn merged(root: &Path, over: &CloudConfig) -> Result<Option<CloudConfig>, DocumentError> {
    let own = document::read(&below(root, OEM_CLOUD_CONFIG))?.unwrap_or_default();
    let mut merged = own.clone();
    merged.merge(over.clone(), Lists::Replace);
    Ok(Some(merged).filter(|merged| *merged != own))
}

/// Replaces the cloud-config of the host below `root`.
pub fn store(root: &Path, config: &CloudConfig) -> Result<(), PathError> {
    let path = below(root, OEM_CLOUD_CONFIG);
    write_secret(&path, config.to_yaml().as_bytes()).map_err(PathError::of("writing", &path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_cloud_config_is_merged_once() {
        let root = tempfile::tempdir().unwrap();
        let over = CloudConfig::parse("ntp: {servers: [b]}\nhostname: h\n").unwrap();
        assert_eq!(merged(root.path(), &over).unwrap(), Some(over.clone()), "a host without one");
        fs::create_dir(root.path().join("oem")).unwrap();
        let own = CloudConfig::parse("ntp: {enabled: true, servers: [a]}\ntimezone: UTC\n").unwrap();
        store(root.path(), &own).unwrap();
        let expected = CloudConfig::parse("ntp: {enabled: true, servers: [b]}\ntimezone: UTC\nhostname: h\n").unwrap();
        let found = merged(root.path(), &over).unwrap().unwrap();
        assert_eq!(found, expected);
        store(root.path(), &found).unwrap();
        assert_eq!(merged(root.path(), &over).unwrap(), None);
    }
}
