//! The console that the installer was started on.

use super::Console;
use nix::libc;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use std::fs;
use std::io::{self, BufRead, Write};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// The kernel's log levels; the first number is that of its console (proc_sys_kernel(5), `printk`).
const LOG_LEVELS: &str = "/proc/sys/kernel/printk";
/// Errors and worse are shown; what is less would stand in the middle of questions and answers.
const ERRORS_ONLY: &str = "4";

/// Standard input and output. As long as this lives, the kernel shows only errors on its console.
pub struct Terminal {
    levels_before: Option<String>,
}

impl Terminal {
    pub fn open() -> Self {
        let levels_before = fs::read_to_string(LOG_LEVELS).ok();
        // Whoever may not change the level reads the questions between the kernel's lines.
        let _ = fs::write(LOG_LEVELS, ERRORS_ONLY);
        Self { levels_before }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(levels) = &self.levels_before {
            let _ = fs::write(LOG_LEVELS, levels);
        }
    }
}

impl Console for Terminal {
    fn say(&mut self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()
    }

    fn ask(&mut self, prompt: &str) -> io::Result<Option<String>> {
        let mut out = io::stdout().lock();
        write!(out, "{prompt}")?;
        out.flush()?;
        let mut line = String::new();
        let length = io::stdin().lock().read_line(&mut line)?;
        Ok((length > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned()))
    }

    fn ask_within(&mut self, prompt: &str, patience: Duration) -> io::Result<Option<String>> {
        let mut out = io::stdout().lock();
        write!(out, "{prompt}")?;
        out.flush()?;
        let mut input = libc::pollfd { fd: io::stdin().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let milliseconds = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one entry, which outlives the call.
        match unsafe { libc::poll(&raw mut input, 1, milliseconds) } {
            0 => Ok(None),
            1.. => self.ask(""),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn ask_secret(&mut self, prompt: &str) -> io::Result<Option<String>> {
        let silence = Silence::begin();
        let answer = self.ask(prompt);
        if silence.is_some() {
            // The Enter that ended the answer was not shown either.
            self.say("")?;
        }
        answer
    }
}

/// Echo is off as long as this lives. Input that is no terminal shows nothing anyway.
struct Silence {
    before: Termios,
}

impl Silence {
    fn begin() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(io::stdin(), SetArg::TCSANOW, &silent).ok()?;
        Some(Self { before })
    }
}
impl Drop for Silence {
    fn drop(&mut self) {
        // A terminal that is gone needs no echo.
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.before);
    }
}
