//! Where things are in an installed system, be it the running one or one below some folder.

use std::path::{Path, PathBuf};

/// Where the installer left the configuration.
pub const CLOUD_CONFIG: &str = "/oem/cloud-config.yaml";
/// Where rancherd looks first.
pub const RANCHERD_CONFIG: &str = "/etc/rancher/rancherd/config.yaml";

/// A path of the system that has its root here.
pub fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}
