//! The terminal on which the installer was started.

use super::Console;
use crate::console::consoles::Consoles;
use crate::console::{ERRORS_ONLY, LOG_LEVELS};
use nix::libc;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use std::fs;
use std::io::{self, BufRead, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Standard input and output. While this value lives, the kernel shows only errors on its console.
pub struct Terminal {
    levels_before: Option<String>,
}

fn levels() -> PathBuf {
    Path::new("/").join(LOG_LEVELS)
}

impl Terminal {
    pub fn open() -> Self {
        let levels_before = fs::read_to_string(levels()).ok();
        // If the level cannot be changed, messages of the kernel appear between the questions.
        let _ = fs::write(levels(), ERRORS_ONLY);
        Self { levels_before }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(before) = &self.levels_before {
            let _ = fs::write(levels(), before);
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
        // SAFETY: there is one entry, and it outlives the call.
        match unsafe { libc::poll(&raw mut input, 1, milliseconds) } {
            0 => Ok(None),
            1.. => self.ask(""),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn ask_secret(&mut self, prompt: &str) -> io::Result<Option<String>> {
        let echo_off = EchoOff::begin();
        let answer = self.ask(prompt);
        if echo_off.is_some() {
            // The Enter that ended the answer was not echoed either.
            self.say("")?;
        }
        answer
    }
}

impl Console for &Consoles {
    fn say(&mut self, text: &str) -> io::Result<()> {
        Consoles::say(self, text);
        Ok(())
    }

    fn ask(&mut self, prompt: &str) -> io::Result<Option<String>> {
        Ok(Consoles::ask(self, prompt, false, None))
    }

    fn ask_within(&mut self, prompt: &str, patience: Duration) -> io::Result<Option<String>> {
        Ok(Consoles::ask(self, prompt, false, Some(patience)))
    }

    fn ask_secret(&mut self, prompt: &str) -> io::Result<Option<String>> {
        Ok(Consoles::ask(self, prompt, true, None))
    }
}

/// Switches echo off while this value lives. Input that is no terminal has no echo.
struct EchoOff {
    before: Termios,
}

impl EchoOff {
    fn begin() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(io::stdin(), SetArg::TCSANOW, &silent).ok()?;
        Some(Self { before })
    }
}
impl Drop for EchoOff {
    fn drop(&mut self) {
        // A terminal that is gone needs no echo.
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.before);
    }
}
