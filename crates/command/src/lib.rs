//! Starts other programs. Nothing else in the workspace does.

mod limited;

pub use limited::Outcome;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::time::Duration;

/// A program and its arguments, started without a shell.
#[derive(Clone, Debug)]
pub struct Command {
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    inherits: bool,
    folder: Option<PathBuf>,
}

/// Why a command failed, with the command line and the end of its standard error.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("starting {command}")]
    Start { command: String, source: io::Error },
    #[error("{command}: {status}{}", said(.stderr))]
    Failed { command: String, status: std::process::ExitStatus, stderr: String },
    #[error("{command}: its output is not UTF-8")]
    NotText { command: String },
    #[error("{command}: it did not end within {} s and was killed", .limit.as_secs())]
    TimedOut { command: String, limit: Duration },
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!(": {stderr}") }
}

/// Number of lines of standard error that an error message keeps. These are the last ones.
const KEPT_LINES: usize = 8;

impl Command {
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            inherits: true,
            folder: None,
        }
    }

    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable. All others are inherited from this process, except `LC_ALL=C`.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Starts the program with no other environment variables than those of [`Command::env`] and `LC_ALL=C`.
    pub fn without_environment(mut self) -> Self {
        self.inherits = false;
        self
    }

    /// Starts the program in `folder`.
    pub fn current_dir(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    fn process(&self) -> Process {
        let mut process = Process::new(&self.program);
        if !self.inherits {
            process.env_clear();
        }
        process
            .args(&self.arguments)
            .env("LC_ALL", "C")
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(folder) = &self.folder {
            process.current_dir(folder);
        }
        process
    }

    /// Runs the program to its end with empty standard input. Returns standard output.
    pub fn run(&self) -> Result<Vec<u8>, CommandError> {
        self.run_with_input(&[])
    }

    /// Runs the program to its end with empty standard input. Returns standard output as text.
    pub fn text(&self) -> Result<String, CommandError> {
        String::from_utf8(self.run()?).map_err(|_| CommandError::NotText { command: self.to_string() })
    }

    /// Runs the program to its end and returns standard output whatever the exit status is. For programs whose status
    /// is an answer.
    pub fn output(&self) -> Result<Vec<u8>, CommandError> {
        let output = self.process().stdin(Stdio::null()).output();
        Ok(output.map_err(|source| CommandError::Start { command: self.to_string(), source })?.stdout)
    }

    /// Runs the program to its end with `input` on standard input. For data that must not be in an argument list.
    pub fn run_with_input(&self, input: &[u8]) -> Result<Vec<u8>, CommandError> {
        let start = |source| CommandError::Start { command: self.to_string(), source };
        let mut child = self
            .process()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(start)?;
        if let Some(mut stdin) = child.stdin.take() {
            match stdin.write_all(input) {
                // A program that reads no input may have ended already. Its exit status tells more than this error.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(start(error)),
                _ => {}
            }
        }
        let output = child.wait_with_output().map_err(start)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = stderr.trim().lines().collect();
        let stderr = lines[lines.len().saturating_sub(KEPT_LINES)..].join("\n");
        Err(CommandError::Failed { command: self.to_string(), status: output.status, stderr })
    }
}

/// For messages: the words separated by blanks, without quoting.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.program.to_string_lossy())?;
        self.arguments.iter().try_for_each(|a| write!(f, " {}", a.to_string_lossy()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_input_pass_through() {
        assert_eq!(Command::new("cat").run_with_input(b"words").unwrap(), b"words");
        assert_eq!(Command::new("echo").args(["a", "b c"]).run().unwrap(), b"a b c\n");
    }

    #[test]
    fn a_program_has_the_environment_and_the_folder_that_were_set() {
        let command =
            Command::new("sh").args(["-c", "echo $LC_ALL $TZ; pwd"]).env("TZ", "UTC").current_dir(Path::new("/"));
        assert_eq!(command.run().unwrap(), b"C UTC\n/\n");
        let only = Command::new("/usr/bin/env").env("TZ", "UTC").without_environment();
        assert_eq!(only.run().unwrap(), b"LC_ALL=C\nTZ=UTC\n");
    }

    #[test]
    fn a_failure_names_the_command_and_what_it_said() {
        let error = Command::new("ls").arg("/no/such/place").run().unwrap_err().to_string();
        assert!(error.starts_with("ls /no/such/place: exit status"), "{error}");
        assert!(error.contains("No such file"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Command::new("no-such-program").run().unwrap_err();
        assert_eq!(error.to_string(), "starting no-such-program");
    }
}
