//! The text on the machine's console: one line per milestone, a progress line while the disk is written, and questions.

pub mod consoles;
pub mod log;
mod progress;
pub mod questions;

use boot_contract::Milestone;
use consoles::{Consoles, Heading};
pub use progress::ProgressDisplay;
use protocol::message::Progress;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The kernel's log levels. The first number is that of its consoles (proc_sys_kernel(5), `printk`).
pub const LOG_LEVELS: &str = "proc/sys/kernel/printk";
/// The level at which only errors are shown. Other messages would interrupt what a person reads or types.
pub const ERRORS_ONLY: &str = "4";

/// All consoles, after [`take_all`] was called. Before that, output goes to standard output and standard error.
static ALL: OnceLock<Consoles> = OnceLock::new();

/// Sends all output to all consoles of the machine from now on. The kernel then shows only errors there. Does nothing
/// on a machine without consoles.
pub fn take_all(root: &Path) {
    let Some(consoles) = Consoles::open(root) else { return };
    // If the level cannot be changed, messages of the kernel appear between ours.
    let _ = fs::write(root.join(LOG_LEVELS), ERRORS_ONLY);
    // The output of firmware and boot is cleared once. A second attempt keeps the reason for it visible.
    if fs::File::create_new(root.join("run/ros/consoles-cleared")).is_ok() {
        consoles.show("\x1b[2J\x1b[H\n");
    }
    let _ = ALL.set(consoles);
}

/// All consoles, if [`take_all`] was called.
pub fn all() -> Option<&'static Consoles> {
    ALL.get()
}

/// Sets a part of the heading on all consoles. Other output has no heading.
pub fn head(part: Heading, text: impl std::fmt::Display) {
    if let Some(consoles) = all() {
        consoles.head(part, &printable(&text.to_string()));
    }
}

/// Waits until all output is written, but at most two seconds.
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

/// Shows the progress of an action on `output`, which is redrawn if the second value is true.
pub fn with_progress<T>(
    (output, redraws): (Box<dyn Write>, bool),
    action: impl FnOnce(&mut dyn FnMut(&Progress)) -> T,
) -> T {
    let mut display = ProgressDisplay::new(output, redraws, Instant::now());
    let done = action(&mut |progress| display.show(progress, Instant::now()));
    display.end_line();
    done
}

/// The output for whole lines of the log.
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

/// Prints `ros-installer: <milestone>: <text>`. Further lines of `text` are indented below it. Write errors are
/// ignored, because a broken console must not end an installation.
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

/// Prints the data that a command was asked for on stdout. A reader that has ended, such as `head`, is no error.
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
    // Errors are ignored here as well.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// The text without control characters, because serial numbers and refusals come from outside and go to a terminal.
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
