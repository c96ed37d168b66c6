//! The only place that starts other programs.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Output, Stdio};

use anyhow::{Context, Result, bail};

/// A program with its arguments; nothing passes through a shell.
#[derive(Debug)]
pub struct Command {
    inner: std::process::Command,
    shown: Vec<OsString>,
}

/// How much of a failed program's error output goes into our error, in bytes.
const TAIL_BYTES: usize = 2000;

impl Command {
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut inner = std::process::Command::new(&program);
        // Messages are matched and shown; times and sorting must not depend on where we run.
        inner.env("LC_ALL", "C.UTF-8").env("TZ", "UTC").stdin(Stdio::null());
        Self { inner, shown: vec![program.as_ref().to_owned()] }
    }

    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.inner.arg(&argument);
        self.shown.push(argument.as_ref().to_owned());
        self
    }

    pub fn args(self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        arguments.into_iter().fold(self, Self::arg)
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.inner.env(name, value);
        self
    }

    pub fn current_dir(mut self, folder: &Path) -> Self {
        self.inner.current_dir(folder);
        self
    }

    /// Runs to the end. The error has the command and the end of its error output.
    pub fn run(self) -> Result<()> {
        self.output().map(drop)
    }

    /// Runs to the end and returns standard output.
    pub fn text(self) -> Result<String> {
        let shown = self.display();
        String::from_utf8(self.output()?.stdout).with_context(|| format!("reading the output of `{shown}`"))
    }

    fn output(mut self) -> Result<Output> {
        let output = self.inner.output().with_context(|| {
            format!("starting `{}`; is the package that has {} installed?", self.display(), self.program())
        })?;
        if !output.status.success() {
            bail!("`{}` ended with {}: {}", self.display(), output.status, tail(&output.stderr));
        }
        Ok(output)
    }

    fn program(&self) -> String {
        self.shown[0].to_string_lossy().into_owned()
    }

    fn display(&self) -> String {
        let words: Vec<_> = self.shown.iter().map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    }
}

fn tail(bytes: &[u8]) -> String {
    let start = bytes.len().saturating_sub(TAIL_BYTES);
    String::from_utf8_lossy(&bytes[start..]).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_tells_command_and_error_output() {
        let error = Command::new("ls").arg("/no/such/folder").run().unwrap_err().to_string();
        assert!(error.contains("`ls /no/such/folder`") && error.contains("No such file"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = format!("{:#}", Command::new("no-such-program").run().unwrap_err());
        assert!(error.contains("no-such-program"), "{error}");
    }
}
