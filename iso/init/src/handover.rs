//! The end of the initrd: systemd on the real root, or a restart.

use std::convert::Infallible;
use std::ffi::CStr;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::Result;
use crate::mount::{create_directory, move_mount};

/// Where the root is put together.
pub const NEW_ROOT: &str = "/newroot";
const SYSTEMD: &CStr = c"/usr/lib/systemd/systemd";

/// Moves the kernel's file systems and /run into the new root, makes it `/`, and becomes systemd.
pub fn exec_systemd() -> Result<Infallible> {
    // The modules are loaded, and the initrd's memory is never given back otherwise.
    fs::remove_dir_all("/modules").map_err(|e| format!("removing /modules: {e}"))?;
    for folder in ["dev", "proc", "sys", "run"] {
        let target = Path::new(NEW_ROOT).join(folder);
        if !target.is_dir() {
            create_directory(&target)?;
        }
        move_mount(Path::new("/").join(folder), target)?;
    }
    std::env::set_current_dir(NEW_ROOT).map_err(|e| format!("entering {NEW_ROOT}: {e}"))?;
    move_mount(".", "/")?;
    std::os::unix::fs::chroot(".").map_err(|e| format!("changing the root: {e}"))?;
    std::env::set_current_dir("/").map_err(|e| format!("entering the new root: {e}"))?;
    let arguments = [SYSTEMD.as_ptr(), std::ptr::null()];
    // SAFETY: a zero-terminated path and a null-terminated list of zero-terminated arguments.
    unsafe { libc::execv(SYSTEMD.as_ptr(), arguments.as_ptr()) };
    Err(format!("starting {}: {}; is the root image complete?", SYSTEMD.to_string_lossy(), io::Error::last_os_error()))
}

/// Restarts the machine.
pub fn restart() -> ! {
    // SAFETY: neither call takes a pointer.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_AUTOBOOT);
    }
    wait_for_power_off()
}

/// Stays, because the kernel panics when PID 1 ends.
pub fn wait_for_power_off() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}
