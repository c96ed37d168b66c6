//! What a person sees on the machine's console: one line per milestone, and a progress line while the disk is written.

use crate::consoles::{Consoles, Heading};
use protocol::message::{InstallPhase, Progress};
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The kernel's log levels; the first number is that of its consoles (proc_sys_kernel(5), `printk`).
pub const LOG_LEVELS: &str = "proc/sys/kernel/printk";
/// Errors and worse are shown; what is less would stand in the middle of what a person reads or types.
pub const ERRORS_ONLY: &str = "4";

/// Where people are talked to once [`take_all`] was called; until then it is standard output and standard error.
static ALL: OnceLock<Consoles> = OnceLock::new();

/// From now on everything is shown on all consoles that the machine has, and the kernel shows only errors there. On a
/// machine without any console nothing changes.
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

/// All consoles, if they were taken.
pub fn all() -> Option<&'static Consoles> {
    ALL.get()
}

/// Sets a part of the heading of all consoles; there is none elsewhere.
pub fn head(part: Heading, text: impl std::fmt::Display) {
    if let Some(consoles) = all() {
        consoles.head(part, &printable(&text.to_string()));
    }
}

/// Waits until everything that was said can be read, but never long.
pub fn flush() {
    if let Some(consoles) = all() {
        consoles.flush(Duration::from_secs(2));
    }
}

/// For text that redraws its line; the second value tells whether it can.
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

/// The steps of a machine's way from power-on to its own system. Test harness and demo wait for these words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Milestone {
    Probed,
    Network,
    Attested,
    Registered,
    Planned,
    Written,
    Verified,
    Rebooting,
    Applied,
    Healthy,
    Booted,
    Assigned,
    Refused,
    Failed,
}

impl Milestone {
    pub fn word(self) -> &'static str {
        match self {
            Self::Probed => "probed",
            Self::Network => "network",
            Self::Attested => "attested",
            Self::Registered => "registered",
            Self::Planned => "planned",
            Self::Written => "written",
            Self::Verified => "verified",
            Self::Rebooting => "rebooting",
            Self::Applied => "applied",
            Self::Healthy => "healthy",
            Self::Booted => "booted",
            Self::Assigned => "assigned",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// Says `ros-installer: <milestone>: <text>`; further lines of `text` are indented below it.
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
    let first = format!("ros-installer: {}: {}", milestone.word(), lines.next().unwrap_or_default());
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

/// Says what is no milestone, such as why something is tried again.
pub fn note(text: impl std::fmt::Display) {
    let text = format!("ros-installer: {}", printable(&text.to_string()));
    if let Some(consoles) = all() {
        return consoles.say(&text);
    }
    // As above: a console that cannot be written to ends nothing.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// An error and everything below it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Control characters of foreign text (serial numbers, refusals) do not reach the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Shows how far the writing is: a bar that redraws itself on a terminal, a line every ten percent elsewhere.
/// Lines fit 80 columns; only carriage return is used, so that any serial terminal will do.
pub struct ProgressDisplay<W> {
    out: W,
    redraws: bool,
    phase: Option<InstallPhase>,
    phase_began: Instant,
    drawn_at: Option<Instant>,
    drawn_tenth: u64,
    line_is_open: bool,
}

impl<W: Write> ProgressDisplay<W> {
    /// `redraws`: whether `out` is a terminal. `now` is when the first phase begins.
    pub fn new(out: W, redraws: bool, now: Instant) -> Self {
        Self { out, redraws, phase: None, phase_began: now, drawn_at: None, drawn_tenth: 0, line_is_open: false }
    }

    /// Takes one report; draws at most four times a second.
    pub fn show(&mut self, progress: &Progress, now: Instant) {
        if self.phase != Some(progress.phase) {
            self.end_line();
            (self.phase, self.phase_began, self.drawn_at, self.drawn_tenth) = (Some(progress.phase), now, None, 0);
        }
        if progress.total_bytes == 0 {
            return;
        }
        let complete = progress.bytes >= progress.total_bytes;
        let tenth = progress.bytes.saturating_mul(10) / progress.total_bytes;
        let due = match self.drawn_at {
            None => true,
            Some(_) if complete => self.line_is_open || !self.redraws,
            Some(at) if self.redraws => now.duration_since(at) >= Duration::from_millis(250),
            Some(_) => tenth > self.drawn_tenth,
        };
        if !due || (complete && self.drawn_tenth >= 10) {
            return;
        }
        let line = line(progress, now.duration_since(self.phase_began));
        // As in `announce`: a console that cannot be written to must not end an installation.
        let _ = if self.redraws { write!(self.out, "\r{line:<78}") } else { writeln!(self.out, "{line}") };
        let _ = self.out.flush();
        (self.drawn_at, self.drawn_tenth, self.line_is_open) = (Some(now), tenth, self.redraws);
        if complete {
            self.end_line();
        }
    }

    /// Ends a bar that is still open, so that other text starts on its own line.
    pub fn end_line(&mut self) {
        if std::mem::take(&mut self.line_is_open) {
            let _ = writeln!(self.out).and_then(|()| self.out.flush());
        }
    }
}

/// `writing   [#####---------------]  25%   64/256 MiB   32 MiB/s   6 s left`
fn line(progress: &Progress, elapsed: Duration) -> String {
    const CELLS: u64 = 20;
    let total = progress.total_bytes.max(1);
    let bytes = progress.bytes.min(total);
    let filled = (u128::from(bytes) * u128::from(CELLS) / u128::from(total)) as usize;
    let percent = u128::from(bytes) * 100 / u128::from(total);
    // The first moments say nothing of the speed: caches fill.
    let rate = Some(bytes as f64 / elapsed.as_secs_f64()).filter(|rate| *rate >= 1.0 && elapsed.as_millis() >= 200);
    let speed = rate
        .map(|rate| format!("  {:.0} MiB/s  {:.0} s left", rate / f64::from(1 << 20), (total - bytes) as f64 / rate));
    format!(
        "{:<11} [{}{}] {percent:3}%  {}/{} MiB{}",
        phase_word(progress.phase),
        "#".repeat(filled),
        "-".repeat(CELLS as usize - filled),
        bytes >> 20,
        total >> 20,
        speed.unwrap_or_default(),
    )
}

fn phase_word(phase: InstallPhase) -> &'static str {
    match phase {
        InstallPhase::Planned => "planned",
        InstallPhase::Writing => "writing",
        InstallPhase::Verifying => "verifying",
        InstallPhase::Configuring => "configuring",
        InstallPhase::Rebooting => "rebooting",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_milestone_is_one_line_and_its_details_are_indented() {
        let said = announcement(Milestone::Probed, "x\u{1b}[2J\n/dev/vda");
        assert_eq!(said, "ros-installer: probed: x?[2J\n  /dev/vda");
    }

    fn writing(mib: u64) -> Progress {
        Progress { phase: InstallPhase::Writing, bytes: mib << 20, total_bytes: 256 << 20, message: String::new() }
    }

    #[test]
    fn a_log_gets_a_line_every_ten_percent() {
        let begin = Instant::now();
        let mut display = ProgressDisplay::new(Vec::new(), false, begin);
        for mib in 0..=256 {
            display.show(&writing(mib), begin + Duration::from_millis(mib * 10));
        }
        let out = String::from_utf8(display.out).unwrap();
        assert_eq!(out.lines().count(), 11, "{out}");
        assert!(out.lines().all(|line| line.chars().count() <= 79), "{out}");
        assert!(out.contains(" 50%  128/256 MiB  100 MiB/s  1 s left"), "{out}");
    }

    #[test]
    fn a_terminal_gets_a_bar_that_ends_with_one_new_line() {
        let begin = Instant::now();
        let mut display = ProgressDisplay::new(Vec::new(), true, begin);
        for mib in [0, 1, 128, 256, 256] {
            display.show(&writing(mib), begin + Duration::from_millis(mib * 10));
        }
        let out = String::from_utf8(display.out).unwrap();
        assert_eq!((out.matches('\r').count(), out.matches('\n').count()), (3, 1), "{out:?}");
    }
}
