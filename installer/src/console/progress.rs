//! Shows the progress of writing a disk, as a bar or as lines.

use protocol::message::{InstallPhase, Progress};
use std::io::Write;
use std::time::{Duration, Instant};

/// Shows progress: a bar on a terminal, a line for every ten percent elsewhere. Lines fit 80 columns. The only control
/// character is carriage return, so that any serial terminal works.
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
    /// `redraws` tells whether `out` is a terminal. The first phase begins at `now`.
    pub fn new(out: W, redraws: bool, now: Instant) -> Self {
        Self { out, redraws, phase: None, phase_began: now, drawn_at: None, drawn_tenth: 0, line_is_open: false }
    }

    /// Shows one report. Draws at most four times a second.
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
        // Errors are ignored as in `announce`: a broken console must not end an installation.
        let _ = if self.redraws { write!(self.out, "\r{line:<78}") } else { writeln!(self.out, "{line}") };
        let _ = self.out.flush();
        (self.drawn_at, self.drawn_tenth, self.line_is_open) = (Some(now), tenth, self.redraws);
        if complete {
            self.end_line();
        }
    }

    /// Ends the line of an open bar, so that other text starts on a new line.
    pub fn end_line(&mut self) {
        if std::mem::take(&mut self.line_is_open) {
            let _ = writeln!(self.out).and_then(|()| self.out.flush());
        }
    }
}

/// A line such as `writing   [#####---------------]  25%   64/256 MiB   32 MiB/s   6 s left`.
fn line(progress: &Progress, elapsed: Duration) -> String {
    const CELLS: u64 = 20;
    let total = progress.total_bytes.max(1);
    let bytes = progress.bytes.min(total);
    let filled = (u128::from(bytes) * u128::from(CELLS) / u128::from(total)) as usize;
    let percent = u128::from(bytes) * 100 / u128::from(total);
    // The first moments say nothing about the speed, because caches fill.
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
