//! The restart of the host, asked of its PID 1.

use nix::libc;
use std::fs;
use std::io;

/// systemd starts reboot.target on SIGRTMIN+5 (systemd(1), "Signals").
const REBOOT: i32 = 5;
const INIT: libc::pid_t = 1;

/// Why the host is not asked to restart.
#[derive(Debug, thiserror::Error)]
pub enum RestartError {
    #[error("finding PID 1 of the host (/proc/1/ns/pid): run the container privileged")]
    Unknown(#[source] io::Error),
    #[error("PID 1 of the host is not that of this container: set hostPID: true for its pod")]
    OtherNamespace,
    #[error("asking PID 1 of the host to restart it")]
    Signal(#[source] io::Error),
}

/// Whether PID 1 of this process is that of the host. /proc is the host's.
pub fn check() -> Result<(), RestartError> {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/pid")).map_err(RestartError::Unknown);
    if namespace("self")? == namespace("1")? { Ok(()) } else { Err(RestartError::OtherNamespace) }
}

/// An orderly restart, as `systemctl --no-block reboot` begins it.
pub fn request() -> Result<(), RestartError> {
    check()?;
    // SAFETY: kill(2) takes two numbers and touches no memory.
    match unsafe { libc::kill(INIT, libc::SIGRTMIN() + REBOOT) } {
        0 => Ok(()),
        _ => Err(RestartError::Signal(io::Error::last_os_error())),
    }
}
