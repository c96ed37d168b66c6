//! The end of the initrd: systemd on the real root, or a restart.

use std::convert::Infallible;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::system::RebootCommand;

use crate::Result;
use crate::mount::{create_directory, move_mount};

/// Mount point of the new root.
pub const NEW_ROOT: &str = "/newroot";
const SYSTEMD: &str = "/usr/lib/systemd/systemd";

/// Moves the kernel's file systems and /run into the new root, makes it `/`, and becomes systemd, which starts `target` or what
/// the kernel arguments say.
pub fn exec_systemd(target: Option<&str>) -> Result<Infallible> {
    // The modules are loaded. Without this the kernel would never free the memory of their files.
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
    let target = target.map(|target| format!("--unit={target}"));
    let error = Command::new(SYSTEMD).args(target).exec();
    Err(format!("starting {SYSTEMD}: {error}; the root image may be incomplete"))
}

/// Restarts the machine.
pub fn restart() -> ! {
    rustix::fs::sync();
    // It returns only if it fails, and nothing else can be done then.
    let _ = rustix::system::reboot(RebootCommand::Restart);
    wait_for_power_off()
}

/// Waits for ever: the kernel panics when PID 1 ends.
pub fn wait_for_power_off() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}
