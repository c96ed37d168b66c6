//! Folders and files that `ros-init` makes for the system that it starts, and files that the installer leaves for it.
//! `overlay/README.md` lists them for people.

use std::path::{Path, PathBuf};

/// The folder of `ros-init`. It is in memory and lasts until the machine stops.
pub const RUN: &str = "/run/ros";
/// The installation medium, in live mode.
pub const MEDIUM: &str = "/run/ros/medium";
/// The folder in the initrd that becomes [`MEDIUM`] when the machine was started from the network.
pub const INITRD_MEDIUM: &str = "/medium";
/// The folder with the release on the medium.
pub const MEDIUM_RELEASE: &str = "/run/ros/medium/release";
/// The root image of the live system.
pub const MEDIUM_ROOT_IMAGE: &str = "/run/ros/medium/release/root.erofs";
/// The registration settings on the medium.
pub const MEDIUM_REGISTRATION: &str = "/run/ros/medium/registration.yaml";
/// A link for each labelled partition of the disk that the system was started from.
pub const DEVICES: &str = "/run/ros/dev";
/// The mount point of [`crate::partition_label::PERSISTENT`].
pub const PERSISTENT: &str = "/run/ros/persistent";

/// The mount point of [`crate::partition_label::OEM`], for root only.
pub const OEM: &str = "/oem";
/// The registration settings of an installed system.
pub const OEM_REGISTRATION: &str = "/oem/registration.yaml";
/// The cloud-config of an installed system.
pub const OEM_CLOUD_CONFIG: &str = "/oem/cloud-config.yaml";
/// The cloud-config that an image brings. That of [`OEM_CLOUD_CONFIG`] is laid over it.
pub const IMAGE_CLOUD_CONFIG: &str = "/usr/lib/ros/cloud-config.yaml";
/// A copy of [`MACHINE_ID`] and [`SSH_HOST_KEYS`] for the recovery system. It survives the persistent partition.
pub const OEM_IDENTITY: &str = "/oem/identity";

/// This file exists until a machine that was made from a disk image has its configuration. It holds the GUID that the disk has
/// in the image.
pub const OEM_FIRST_BOOT: &str = "/oem/first-boot";

/// The list of the paths that the persistent partition keeps. It is in the root image.
pub const KEPT_PATHS: &str = "/usr/lib/ros/persist.conf";
/// Identity of the system, a file that [`KEPT_PATHS`] lists.
pub const MACHINE_ID: &str = "/etc/machine-id";
/// Host keys of sshd, a folder that [`KEPT_PATHS`] lists.
pub const SSH_HOST_KEYS: &str = "/etc/ssh/host-keys";

/// The public keys by which the system takes releases, files `*.pem`, in the root image. It holds none if the folder is
/// absent.
pub const RELEASE_KEYS: &str = "/usr/lib/ros/release-keys.d";
/// Programs of the release that must succeed before a slot is marked as good.
pub const HEALTH_CHECKS: &str = "/usr/lib/ros/health.d";
/// The same of the user. A file replaces the release's of the same name.
pub const USER_HEALTH_CHECKS: &str = "/etc/ros/health.d";

/// Programs of the release that make the machine a node of its cluster.
pub const JOIN_PROGRAMS: &str = "/usr/lib/ros/join.d";
/// The same of the user. A file replaces the release's of the same name.
pub const USER_JOIN_PROGRAMS: &str = "/etc/ros/join.d";

/// An absolute path of the system whose root is `root`.
pub fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_is_kept() {
        let list = include_str!("../../../overlay/usr/lib/ros/persist.conf");
        for path in [MACHINE_ID, SSH_HOST_KEYS] {
            assert!(list.lines().any(|line| line.split_whitespace().nth(1) == Some(path)), "{path}");
        }
    }
}
