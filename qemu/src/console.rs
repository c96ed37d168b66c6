//! The serial console of a virtual machine: what it prints and when, and what is typed into it.

use crate::stall::{self, Stall};
use crate::terminal::Terminal;
use anyhow::{Context, Error, Result, bail};
use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// One line without control sequences, and when its end arrived, counted from power-on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub at: Duration,
    pub text: String,
}

/// Reads from power-on until the machine is off, also while nobody waits. Each line goes into a log, with the seconds
/// since power-on.
pub struct Console {
    seen: Arc<Mutex<Seen>>,
    changed: watch::Receiver<()>,
    input: UnixStream,
    /// Index of the first line that no wait has returned or skipped.
    next: usize,
}

struct Seen {
    lines: Vec<Line>,
    /// When the machine last printed anything.
    last_output: Instant,
    /// The line without an end yet: a prompt, for example.
    unfinished: Vec<u8>,
    terminal: Terminal,
    ended: bool,
}

impl Console {
    /// `socket` leads to the machine, times count from `power_on`, and `on_line` is called with each line.
    pub fn open(socket: UnixStream, log: &Path, power_on: Instant, on_line: Option<fn(&Line)>) -> Result<Self> {
        let mut log = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let mut output = socket.try_clone().context("duplicating the console's socket")?;
        let seen = Seen {
            lines: Vec::new(),
            last_output: Instant::now(),
            unfinished: Vec::new(),
            terminal: Terminal::default(),
            ended: false,
        };
        let seen = Arc::new(Mutex::new(seen));
        let (announce, changed) = watch::channel(());
        let shared = Arc::clone(&seen);
        thread::Builder::new()
            .name("console".to_owned())
            .spawn(move || {
                let mut buffer = [0; 4096];
                loop {
                    let length = output.read(&mut buffer).unwrap_or(0);
                    let at = power_on.elapsed();
                    let mut seen = lock(&shared);
                    seen.last_output = Instant::now();
                    let first = seen.lines.len();
                    seen.feed(&buffer[..length], at);
                    for line in &seen.lines[first..] {
                        // A full disk must not end the test that could tell of it.
                        let _ = writeln!(log, "{:8.2} {}", line.at.as_secs_f64(), line.text);
                        if let Some(tell) = on_line {
                            tell(line);
                        }
                    }
                    seen.ended = length == 0;
                    let ended = seen.ended;
                    drop(seen);
                    announce.send_replace(());
                    if ended {
                        return;
                    }
                }
            })
            .context("starting the console's reader")?;
        Ok(Self { seen, changed, input: socket, next: 0 })
    }

    /// Waits for a whole line after those that earlier waits returned. The error at `limit` names `what` and the last
    /// lines. The error of a kernel that hangs is a [`Stall`].
    pub async fn wait_for(&mut self, what: &str, limit: Duration, matches: impl Fn(&str) -> bool) -> Result<Line> {
        self.wait(what, limit, |seen, next| {
            let found = (*next..seen.lines.len()).find(|&index| matches(&seen.lines[index].text))?;
            *next = found + 1;
            Some(seen.lines[found].clone())
        })
        .await
    }

    /// Waits for a whole line with this text in it.
    pub async fn wait_for_text(&mut self, text: &str, limit: Duration) -> Result<Line> {
        self.wait_for(&format!("{text:?}"), limit, |line| line.contains(text)).await
    }

    /// Waits for a question: a line with this text in it that has no end yet.
    pub async fn wait_for_prompt(&mut self, text: &str, limit: Duration) -> Result<()> {
        self.wait(&format!("the prompt {text:?}"), limit, |seen, next| {
            // The end of this line comes with the echo of the answer. It is skipped then.
            let found = *next <= seen.lines.len() && visible(&seen.unfinished).contains(text);
            found.then(|| *next = seen.lines.len() + 1)
        })
        .await
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<Line> {
        lock(&self.seen).lines.clone()
    }

    /// What a terminal of 80 columns and 24 rows shows now.
    pub fn screen(&self) -> String {
        lock(&self.seen).terminal.text()
    }

    /// Types this text.
    pub fn type_text(&mut self, text: &str) -> Result<()> {
        self.input.write_all(text.as_bytes()).context("typing into the console")
    }

    /// Calls `poll` after each change, with what was seen and the index of the first line that no wait has returned or
    /// skipped.
    async fn wait<T>(
        &mut self,
        what: &str,
        limit: Duration,
        poll: impl Fn(&Seen, &mut usize) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            self.changed.borrow_and_update();
            let (ended, next_poll) = {
                let seen = lock(&self.seen);
                if let Some(found) = poll(&seen, &mut self.next) {
                    return Ok(found);
                }
                (seen.ended, seen.hangs_at().map_or(deadline, |stall| stall.min(deadline)))
            };
            if ended {
                bail!("waiting for {what}: the machine has stopped; its console ends with:\n{}", self.tail());
            }
            if tokio::time::timeout_at(next_poll.into(), self.changed.changed()).await.is_ok() {
                continue;
            }
            let tail = self.tail();
            if next_poll < deadline {
                return Err(Error::new(Stall { tail }).context(format!("waiting for {what}")));
            }
            bail!("waiting for {what}: not within {} s; the console ends with:\n{tail}", limit.as_secs());
        }
    }

    fn tail(&self) -> String {
        let seen = lock(&self.seen);
        let last = &seen.lines[seen.lines.len().saturating_sub(25)..];
        let mut text: String =
            last.iter().map(|line| format!("{:8.2} {}\n", line.at.as_secs_f64(), line.text)).collect();
        text.push_str(&visible(&seen.unfinished));
        text
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // Ends the reader.
        let _ = self.input.shutdown(Shutdown::Both);
    }
}

impl Seen {
    /// When a kernel that stays silent counts as hanging. `None` once its init has begun.
    fn hangs_at(&self) -> Option<Instant> {
        stall::before_init(&self.lines).then(|| self.last_output + stall::SILENCE)
    }

    /// A carriage return ends a line as well: a progress bar's states are lines of their own.
    fn feed(&mut self, bytes: &[u8], at: Duration) {
        self.terminal.feed(bytes);
        for &byte in bytes {
            if byte != b'\n' && byte != b'\r' {
                self.unfinished.push(byte);
                continue;
            }
            let text = visible(&std::mem::take(&mut self.unfinished));
            if !text.is_empty() {
                self.lines.push(Line { at, text });
            }
        }
    }
}

/// Text without terminal control sequences (ECMA-48: CSI, OSC, and two-character escapes) and without other controls.
fn visible(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\u{1b}' {
            if !character.is_control() || character == '\t' {
                shown.push(character);
            }
            continue;
        }
        match characters.next() {
            Some('[') => {
                characters.by_ref().find(|c| ('@'..='~').contains(c));
            }
            Some(']') => {
                characters.by_ref().find(|c| matches!(c, '\u{7}' | '\\'));
            }
            Some('(' | ')' | '#') => {
                characters.next();
            }
            _ => {}
        }
    }
    shown.trim_end().to_owned()
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_secs(10);

    fn console() -> (UnixStream, Console, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let (machine, ours) = UnixStream::pair().unwrap();
        let console = Console::open(ours, &folder.path().join("serial.log"), Instant::now(), None).unwrap();
        (machine, console, folder)
    }

    #[tokio::test]
    async fn each_wait_goes_on_where_the_last_one_ended() {
        let (mut machine, mut console, _folder) = console();
        machine.write_all(b"\x1b[2J\x1b[01;01Hboot 1\r\nready\r\nboot 2\r\n").unwrap();
        assert_eq!(console.wait_for_text("boot", SHORT).await.unwrap().text, "boot 1");
        assert_eq!(console.wait_for_text("boot", SHORT).await.unwrap().text, "boot 2");
        let error = console.wait_for_text("ready", Duration::ZERO).await.unwrap_err().to_string();
        assert!(error.contains("waiting for \"ready\": not within 0 s") && error.contains("boot 2"), "{error}");
    }

    #[tokio::test]
    async fn a_prompt_is_answered_once() {
        let (mut machine, mut console, _folder) = console();
        machine.write_all(b"device [/dev/vda]: ").unwrap();
        console.wait_for_prompt("device", SHORT).await.unwrap();
        console.type_text("/dev/vdb\n").unwrap();
        let mut typed = [0; 9];
        machine.read_exact(&mut typed).unwrap();
        assert_eq!(&typed, b"/dev/vdb\n");
        machine.write_all(b"/dev/vdb\r\ndevice chosen\r\n").unwrap();
        assert_eq!(console.wait_for_text("device", SHORT).await.unwrap().text, "device chosen");
    }

    #[tokio::test]
    async fn the_end_of_the_machine_ends_the_wait() {
        let (machine, mut console, _folder) = console();
        drop(machine);
        let error = console.wait_for_text("never", SHORT).await.unwrap_err().to_string();
        assert!(error.contains("the machine has stopped"), "{error}");
    }

    /// What a wait ends with on a console that has long been silent since it said this.
    async fn after_silence(said: &str, limit: Duration) -> Error {
        let (mut machine, mut console, _folder) = console();
        machine.write_all(format!("{said}\r\n").as_bytes()).unwrap();
        console.wait_for_text(said.lines().last().unwrap(), SHORT).await.unwrap();
        lock(&console.seen).last_output = Instant::now().checked_sub(stall::SILENCE).unwrap();
        console.wait_for_text("never", limit).await.unwrap_err()
    }

    #[tokio::test]
    async fn a_kernel_that_falls_silent_is_not_waited_for_to_the_end() {
        let error = after_silence("[    0.000000] Linux version 6.12.0", SHORT).await;
        assert!(error.is::<Stall>() && format!("{error:#}").contains("Linux version"), "{error:#}");
    }

    #[tokio::test]
    async fn a_machine_may_be_silent_once_its_init_has_begun() {
        let said = "[    0.000000] Linux version 6.12.0\r\n[    3.000000] ros-init: starting";
        let error = after_silence(said, Duration::from_millis(1)).await;
        assert!(!error.is::<Stall>(), "{error:#}");
    }
}
