//! Programs that a build runs, all in the same environment.

use command::Command;
use std::ffi::OsStr;

/// Messages are parsed, and the result must not depend on where it is built: language and time zone are fixed.
pub fn program(name: impl AsRef<OsStr>) -> Command {
    Command::new(name).env("LC_ALL", "C.UTF-8").env("TZ", "UTC")
}
