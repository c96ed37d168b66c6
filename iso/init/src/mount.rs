//! Mounts, with errors that name the source and the target.

use std::ffi::CString;
use std::fs;
use std::path::Path;

use boot_contract::paths;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::Result;

/// Mounts proc, sysfs, devtmpfs and an empty /run. All files of ros-init are below /run/ros.
pub fn kernel_filesystems() -> Result<()> {
    let hardened = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", hardened, "")?;
    mount("sysfs", "/sys", "sysfs", hardened, "")?;
    mount("devtmpfs", "/dev", "devtmpfs", MountFlags::NOSUID, "mode=0755")?;
    mount("tmpfs", "/run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, "mode=0755,size=20%")?;
    create_directory(Path::new(paths::RUN))
}

/// Mounts `source` at `target`, which is made if it is missing.
pub fn mount(
    source: impl AsRef<Path>,
    target: impl AsRef<Path>,
    kind: &str,
    flags: MountFlags,
    options: &str,
) -> Result<()> {
    let (source, target) = (source.as_ref(), target.as_ref());
    create_directory(target)?;
    let text = CString::new(options).map_err(|_| format!("the mount options {options:?} contain a zero byte"))?;
    // Without options the kernel gets a null pointer, not an empty text.
    let text = (!options.is_empty()).then_some(text.as_c_str());
    rustix::mount::mount(source, target, kind, flags, text).map_err(|error| failed(source, target, error))
}

/// Bind-mounts `source`, a folder or a file, at `target`, which exists and is of the same kind.
pub fn bind(source: &Path, target: &Path) -> Result<()> {
    rustix::mount::mount_bind(source, target).map_err(|error| failed(source, target, error))
}

/// Unmounts the topmost mount at `target`.
pub fn unmount(target: &Path) -> Result<()> {
    rustix::mount::unmount(target, UnmountFlags::DETACH)
        .map_err(|error| format!("unmounting {}: {error}", target.display()))
}

/// Moves the mount at `source` with everything below it to `target`, which exists.
pub fn move_mount(source: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<()> {
    let (source, target) = (source.as_ref(), target.as_ref());
    rustix::mount::mount_move(source, target).map_err(|error| failed(source, target, error))
}

/// Mounts an overlay at `target`: `memory`/upper takes the changes to the read-only tree `lower`.
pub fn overlay(lower: &Path, memory: &Path, target: &Path) -> Result<()> {
    let (upper, work) = (memory.join("upper"), memory.join("work"));
    create_directory(&upper)?;
    create_directory(&work)?;
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    mount("overlay", target, "overlay", MountFlags::empty(), &options)
}

pub fn create_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| format!("creating {}: {e}", path.display()))
}

fn failed(source: &Path, target: &Path, error: Errno) -> String {
    format!("mounting {} at {}: {error}", source.display(), target.display())
}
