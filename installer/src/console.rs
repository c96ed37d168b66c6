//! What a person sees on the machine's console: one line per milestone, a progress line while the disk is written, and
//! questions.

pub mod consoles;
pub mod log;
mod progress;
pub mod questions;

use boot_contract::Milestone;
use consoles::{Consoles, Heading};
pub use progress::ProgressDisplay;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

/// The kernel's log levels; the first number is that of its consoles (proc_sys_kernel(5), `printk`).
pub const LOG_LEVELS: &str = "proc/sys/kernel/printk";
/// The level at which only errors are shown. Other messages would interrupt what a person reads or types.
pub const ERRORS_ONLY: &str = "4";

/// All consoles, once [`take_all`] was called. Until then output goes to standard output and standard error.
static ALL: OnceLock<Consoles> = OnceLock::new();

/// Shows everything on all consoles of the machine from now on, where the kernel then shows only errors. On a machine
/// without consoles nothing changes.
pub fn take_all(root: &Path) {
    let Some(consoles) = Consoles::open(root) else { return };
    // Whoever may not change the level reads between the kernel's lines.
    let _ = fs::write(root.join(LOG_LEVELS), ERRORS_ONLY);
    // What the firmware and the start left is wiped off once; a second try keeps the reason for it in sight.
    if fs::File::create_new(root.join("run/ros/consoles-cleared")).is_ok() {
        consoles.show("\x1b[2J\x1b[H\n");
    }
    let _ = ALL.set(consoles);
}

/// All consoles, if [`take_all`] was called.
pub fn all() -> Option<&'static Consoles> {
    ALL.get()
}

/// Sets a part of the heading of all consoles. Other output has no heading.
pub fn head(part: Heading, text: impl std::fmt::Display) {
    if let Some(consoles) = all() {
        consoles.head(part, &printable(&text.to_string()));
    }
}

/// Waits until all output is written, for two seconds at most.
pub fn flush() {
    if let Some(consoles) = all() {
        consoles.flush(Duration::from_secs(2));
    }
}

/// The output for text that redraws its line, and whether it is a terminal.
pub fn progress_output() -> (Box<dyn Write>, bool) {
    match all() {
        Some(consoles) => (Box::new(consoles), true),
        None => (Box::new(io::stdout()), io::stdout().is_terminal()),
    }
}

/// For whole lines of the log.
pub fn log_output() -> Box<dyn Write> {
    struct Lines(&'static Consoles);
    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.say(&String::from_utf8_lossy(bytes));
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    match all() {
        Some(consoles) => Box::new(Lines(consoles)),
        None => Box::new(io::stderr()),
    }
}

/// Prints `ros-installer: <milestone>: <text>`; further lines of `text` are indented below it.
/// A console that cannot be written to must not end an installation, so its errors are ignored.
pub fn announce(milestone: Milestone, text: impl std::fmt::Display) {
    let text = announcement(milestone, &text.to_string());
    if let Some(consoles) = all() {
        return consoles.say(&text);
    }
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

fn announcement(milestone: Milestone, text: &str) -> String {
    let mut lines = text.lines().map(printable);
    let first = milestone.line(&lines.next().unwrap_or_default());
    lines.fold(first, |text, line| text + "\n  " + &line)
}

/// Prints data that a command was asked for, on stdout. A reader that went away, such as `head`, is no error.
pub fn print(data: impl std::fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{data}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Prints a message that is no milestone, such as the reason for a retry.
pub fn note(text: impl std::fmt::Display) {
    let text = format!("ros-installer: {}", printable(&text.to_string()));
    if let Some(consoles) = all() {
        return consoles.say(&text);
    }
    // As above: a console that cannot be written to ends nothing.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// An error and its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Control characters of foreign text (serial numbers, refusals) do not reach the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_milestone_is_one_line_and_its_details_are_indented() {
        let said = announcement(Milestone::Probed, "x\u{1b}[2J\n/dev/vda");
        assert_eq!(said, "ros-installer: probed: x?[2J\n  /dev/vda");
    }
}
