//! The console that the installer was started on.

use super::Console;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use std::io::{self, BufRead, Write};

/// Standard input and output.
pub struct Terminal;

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
