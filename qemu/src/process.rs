//! Processes that tests start, and how they end.

use crate::wait::{Poll, until, until_blocking};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

/// A running program. It ends when this value is dropped, also when a test panics: by SIGTERM, and by SIGKILL 15 s
/// later.
///
/// The child is not reaped before it is stopped here, so its pid cannot belong to another process.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// Everything that a program printed on both outputs.
pub fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs a command that must succeed, and gives everything that it printed.
pub fn succeeded(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", printed(&output));
    Ok(printed(&output))
}

/// How long a program may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(15);
/// How often it is asked whether it has ended.
const STEP: Duration = Duration::from_millis(10);

impl Process {
    /// Starts `command` with both outputs appended to the file `log`, and no input.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening the log {} of {name}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().with_context(|| format!("duplicating the log of {name}"))?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {}", Path::new(command.get_program()).display()))?;
        Ok(Self { name, child, log: log.to_owned() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error with the end of the log when the program is no longer there.
    pub fn check_running(&mut self) -> Result<()> {
        match self.child.try_wait().with_context(|| format!("reading the state of {}", self.name))? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}; its log ends with:\n{}", self.name, self.log_tail()),
        }
    }

    /// Waits until the program ends by itself.
    pub async fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        until(&format!("the end of {}", self.name), limit, async || {
            let status = self.child.try_wait().with_context(|| format!("reading the state of {}", self.name))?;
            Ok(status.map_or_else(|| Poll::Pending(self.log_tail()), Poll::Ready))
        })
        .await
    }

    /// Everything that it has printed so far on both outputs.
    pub fn output(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The last 20 lines of the log.
    pub fn log_tail(&self) -> String {
        let text = self.output();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// SIGTERM, without waiting for the end.
    pub fn terminate(&self) -> Result<()> {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM)
            .with_context(|| format!("sending SIGTERM to {} (pid {})", self.name, self.child.id()))
    }

    /// SIGTERM, and SIGKILL if the program does not end.
    pub fn stop(mut self) {
        self.end();
    }

    /// SIGKILL: as a power cut or the OOM killer ends a program.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How to find the program when it shall outlive this value, which must be forgotten then (`std::mem::forget`).
    pub fn identity(&self) -> Result<KeptProcess> {
        let started = start_time(self.child.id())
            .with_context(|| format!("reading the start time of {} (pid {})", self.name, self.child.id()))?;
        Ok(KeptProcess { name: self.name.clone(), pid: self.child.id(), started })
    }

    fn end(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        if until_blocking(GRACE, STEP, || self.child.try_wait().transpose()).is_some() {
            return;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// A program that outlives its starter. Known by pid and start time, because a pid may be used again.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct KeptProcess {
    pub name: String,
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`: clock ticks since boot.
    pub started: u64,
}

impl KeptProcess {
    pub fn is_running(&self) -> bool {
        start_time(self.pid).is_ok_and(|started| started == self.started)
    }

    /// Ends the program if it is still the same one. Gives whether it was running.
    pub fn stop(&self) -> Result<bool> {
        if !self.is_running() {
            return Ok(false);
        }
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            kill(Pid::from_raw(self.pid as i32), signal)
                .or_else(|errno| if errno == nix::errno::Errno::ESRCH { Ok(()) } else { Err(errno) })
                .with_context(|| format!("sending {signal} to {} (pid {})", self.name, self.pid))?;
            if until_blocking(GRACE, STEP, || (!self.is_running()).then_some(())).is_some() {
                return Ok(true);
            }
        }
        bail!("{} (pid {}) still runs after SIGKILL", self.name, self.pid)
    }
}

/// A zombie counts as gone: nothing of it runs any more.
fn start_time(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    // The second field is the name in parentheses and may itself hold spaces and parentheses.
    let after_name = stat.rsplit_once(')').with_context(|| format!("finding the name in {path}"))?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    if fields.first() == Some(&"Z") {
        bail!("process {pid} has ended");
    }
    fields.get(19).with_context(|| format!("finding field 22 in {path}"))?.parse().context("reading a start time")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(folder: &Path) -> Process {
        Process::start(Command::new("sleep").arg("600"), &folder.join("sleep.log")).unwrap()
    }

    #[test]
    fn a_process_ends_with_its_value() {
        let folder = tempfile::tempdir().unwrap();
        let process = sleeper(folder.path());
        let pid = process.pid();
        drop(process);
        assert!(start_time(pid).is_err());
    }

    #[test]
    fn a_kept_process_is_stopped_by_pid_and_start_time_only() {
        let folder = tempfile::tempdir().unwrap();
        let process = sleeper(folder.path());
        let kept = process.identity().unwrap();
        std::mem::forget(process);
        let recycled = KeptProcess { started: kept.started + 1, ..kept.clone() };
        assert!(!recycled.stop().unwrap(), "the pid of another program");
        assert!(kept.is_running());
        assert!(kept.stop().unwrap());
        assert!(!kept.stop().unwrap());
    }

    #[test]
    fn an_early_end_is_told_with_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut process =
            Process::start(Command::new("sh").args(["-c", "echo no such thing; exit 3"]), &folder.path().join("log"))
                .unwrap();
        let _ = process.child.wait();
        let error = process.check_running().unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("no such thing"), "{error}");
    }
}
