//! mount(2) with errors that say which mount failed.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use boot_contract::paths;

use crate::Result;

/// The file systems that the kernel makes up, and a fresh /run; ros-init's own work goes to /run/ros.
pub fn kernel_filesystems() -> Result<()> {
    let hardened = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    mount("proc", "/proc", "proc", hardened, "")?;
    mount("sysfs", "/sys", "sysfs", hardened, "")?;
    mount("devtmpfs", "/dev", "devtmpfs", libc::MS_NOSUID, "mode=0755")?;
    mount("tmpfs", "/run", "tmpfs", libc::MS_NOSUID | libc::MS_NODEV, "mode=0755,size=20%")?;
    create_directory(Path::new(paths::RUN))
}

/// Mounts `source` at `target`, which is made if it is missing.
pub fn mount(
    source: impl AsRef<Path>,
    target: impl AsRef<Path>,
    kind: &str,
    flags: libc::c_ulong,
    options: &str,
) -> Result<()> {
    let (source, target) = (source.as_ref(), target.as_ref());
    create_directory(target)?;
    mount_existing(source, target, kind, flags, options)
}

/// Shows `source`, a folder or a file, at `target` too; `target` exists and is of the same kind.
pub fn bind(source: &Path, target: &Path) -> Result<()> {
    mount_existing(source, target, "", libc::MS_BIND, "")
}

/// Takes the topmost mount at `target` away.
pub fn unmount(target: &Path) -> Result<()> {
    let path = CString::new(target.as_os_str().as_bytes()).map_err(|_| "a path holds a zero byte")?;
    // SAFETY: a zero-terminated string that outlives the call.
    let result = unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    if result == 0 { Ok(()) } else { Err(format!("unmounting {}: {}", target.display(), io::Error::last_os_error())) }
}

/// Moves the mount at `source` with everything below it to `target`, which exists.
pub fn move_mount(source: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<()> {
    mount_existing(source.as_ref(), target.as_ref(), "", libc::MS_MOVE, "")
}

/// Lays `upper`, kept in `memory`/upper, over the read-only tree `lower`, and shows both as one at `target`.
pub fn overlay(lower: &Path, memory: &Path, target: &Path) -> Result<()> {
    let (upper, work) = (memory.join("upper"), memory.join("work"));
    create_directory(&upper)?;
    create_directory(&work)?;
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    mount("overlay", target, "overlay", 0, &options)
}

pub fn create_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| format!("making {}: {e}", path.display()))
}

fn mount_existing(source: &Path, target: &Path, kind: &str, flags: libc::c_ulong, options: &str) -> Result<()> {
    let described = || format!("mounting {} at {}", source.display(), target.display());
    let [source, target] =
        [source, target].map(|path| CString::new(path.as_os_str().as_bytes()).map_err(|_| "a path holds a zero byte"));
    let (source, target) = (source?, target?);
    let (kind, options) = (c_string(kind)?, c_string(options)?);
    // SAFETY: all four are zero-terminated strings that outlive the call.
    let result =
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast()) };
    if result == 0 { Ok(()) } else { Err(format!("{}: {}", described(), io::Error::last_os_error())) }
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| format!("{text:?} holds a zero byte"))
}
