//! Makes the host's root folder that of this process. Every absolute path then means what it means on the host, symbolic
//! links included, so that an upgrade from a container is the code of an upgrade by hand.
//!
//! What is mounted from here on is mounted for this process alone, and is gone when it ends, however it ends.

use crate::path_error::PathError;
use boot_contract::paths::{RUN, below};
use nix::libc;
use nix::mount::{MsFlags, mount};
use std::fs;
use std::io;
use std::os::unix::fs::chroot;
use std::path::{Path, PathBuf};

/// Where the release of the container is mounted on the host.
const RELEASE: &str = "/run/ros/container-release";

/// Why the host cannot be upgraded from here.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("{} is not the root folder of a RancherOS host: mount the host's / there, with everything below it", .0.display())]
    NotAHost(PathBuf),
    #[error("making a mount namespace: run the container privileged")]
    Namespace(#[source] io::Error),
    #[error(transparent)]
    Path(#[from] PathError),
}

/// Changes the root folder to `host`, where the host's is mounted with everything below it. Returns where `release`, a
/// folder of the container, is from now on.
pub fn enter(host: &Path, release: &Path) -> Result<PathBuf, HostError> {
    if !below(host, RUN).is_dir() || !below(host, "/proc/1").is_dir() {
        return Err(HostError::NotAHost(host.to_owned()));
    }
    // SAFETY: unshare(2) takes a number and touches no memory.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(HostError::Namespace(io::Error::last_os_error()));
    }
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    change(None, host, private).map_err(PathError::of("separating the mounts of", host))?;
    let inside = below(host, RELEASE);
    fs::create_dir_all(&inside).map_err(PathError::of("creating", &inside))?;
    change(Some(release), &inside, MsFlags::MS_BIND).map_err(PathError::of("mounting", release))?;
    chroot(host).and_then(|()| std::env::set_current_dir("/")).map_err(PathError::of("changing into", host))?;
    Ok(PathBuf::from(RELEASE))
}

fn change(source: Option<&Path>, target: &Path, flags: MsFlags) -> nix::Result<()> {
    mount(source, target, None::<&str>, flags, None::<&str>)
}
