//! Programs that a build runs, all in the same environment.

use command::Command;
use std::ffi::OsStr;

/// A command with a fixed language and time zone: its messages are parsed, and the result must not depend on the build
/// machine.
pub fn program(name: impl AsRef<OsStr>) -> Command {
    Command::new(name).env("LC_ALL", "C.UTF-8").env("TZ", "UTC")
}
