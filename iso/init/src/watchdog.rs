//! The watchdog that covers the time until systemd feeds it (the kernel's `Documentation/watchdog/watchdog-api.rst`).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use rustix::ioctl::{Opcode, Updater, opcode};

use crate::console::say;

/// The first watchdog of the kernel, which is also the one that systemd uses.
const DEVICE: &str = "/dev/watchdog0";
/// The time in which systemd must take the watchdog over. systemd does so before it reads its units.
const SECONDS: i32 = 60;
/// `WDIOC_SETTIMEOUT`.
const SET_TIMEOUT: Opcode = opcode::read_write::<i32>(b'W', 6);

/// Whether a driver has registered a watchdog. `sys` is the folder `/sys`.
pub fn has_appeared(sys: &Path) -> bool {
    fs::read_dir(sys.join("class/watchdog")).is_ok_and(|mut watchdogs| watchdogs.next().is_some())
}

/// Starts the watchdog: the machine restarts unless systemd opens it in time. A machine without one starts as well.
pub fn arm() {
    match arm_device(Path::new(DEVICE)) {
        // The kernel then complains that the watchdog did not stop, which is what we want.
        Ok(()) => say(&format!("the watchdog is armed: systemd must take it over within {SECONDS} s")),
        Err(e) => say(&format!("opening {DEVICE}: {e}; a hang from here on does not restart the machine")),
    }
}

fn arm_device(device: &Path) -> io::Result<()> {
    // Opening starts it. Closing does not stop it, because no `V` was written.
    let watchdog: File = OpenOptions::new().write(true).open(device)?;
    let mut seconds = SECONDS;
    // A driver that cannot set the time keeps its own.
    // SAFETY: the request reads and writes one int, which lives until the call returns.
    let _ = unsafe { rustix::ioctl::ioctl(&watchdog, Updater::<SET_TIMEOUT, i32>::new(&mut seconds)) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_has_appeared_if_the_kernel_has_one_of_the_class() {
        let sys = tempfile::tempdir().unwrap();
        assert!(!has_appeared(sys.path()), "the kernel has no such class");
        fs::create_dir_all(sys.path().join("class/watchdog")).unwrap();
        assert!(!has_appeared(sys.path()), "the class is loaded before any driver");
        fs::create_dir(sys.path().join("class/watchdog/watchdog0")).unwrap();
        assert!(has_appeared(sys.path()));
    }

    #[test]
    fn the_request_is_that_of_the_kernel() {
        assert_eq!(SET_TIMEOUT, 0xc004_5706);
    }
}
