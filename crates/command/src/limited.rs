//! Programs with a time limit. Each runs in a process group of its own, so that a whole script can be killed.

use super::{Command, CommandError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command as Process, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Interval at which the end of a program is noticed.
const PAUSE: Duration = Duration::from_millis(20);
/// Bytes of output that are kept. These are the last ones.
const KEPT: usize = 4096;
/// Capacity of a pipe.
const PIPE: usize = 64 * 1024;

/// How a program with a time limit ended.
#[derive(Debug)]
pub struct Outcome {
    /// `None` if the program was killed because its time was over.
    pub status: Option<ExitStatus>,
    /// The last bytes, at most 4096, of what it wrote to standard output and standard error.
    pub output_end: Vec<u8>,
}

impl Command {
    /// Runs the program for at most `limit` with empty standard input. It may write any amount. When this returns, nothing
    /// of its process group runs. Processes that left the group are not waited for.
    pub fn run_within(&self, limit: Duration) -> Result<Outcome, CommandError> {
        self.run_watched_within(limit, |_| {})
    }

    /// The same. `watch` gets all output, each part as soon as it comes.
    pub fn run_watched_within(&self, limit: Duration, mut watch: impl FnMut(&[u8])) -> Result<Outcome, CommandError> {
        let start = |source| CommandError::Start { command: self.to_string(), source };
        let deadline = Instant::now() + limit;
        let (mut output, writer) = io::pipe().map_err(start)?;
        let mut process = self.process();
        process.stdin(Stdio::null()).stdout(writer.try_clone().map_err(start)?).stderr(writer).process_group(0);
        let mut child = process.spawn().map_err(start)?;
        // It holds the writing end, without which the reading end can end.
        drop(process);
        let (mut output_end, mut is_open) = (Vec::new(), true);
        let mut keep = |part: &[u8]| {
            watch(part);
            output_end.extend_from_slice(part);
            output_end.drain(..output_end.len().saturating_sub(KEPT));
        };
        let has_ended = loop {
            if is_open {
                is_open = read_within(&mut output, PAUSE, &mut keep);
            } else {
                sleep(PAUSE);
            }
            if has_ended(&child).map_err(start)? {
                break true;
            }
            if Instant::now() >= deadline {
                break false;
            }
        };
        // The program has not been waited for yet, so no other process can have its number.
        kill_group(&child);
        let status = child.wait().map_err(start)?;
        // What was written last is still in the pipe. A process that left the group may go on writing.
        let mut rest = PIPE / KEPT;
        while is_open && rest > 0 {
            is_open = read_within(&mut output, Duration::ZERO, &mut keep);
            rest -= 1;
        }
        Ok(Outcome { status: has_ended.then_some(status), output_end })
    }

    /// Runs the program for at most `limit` with the environment, standard output and standard error of this process. For
    /// programs that write to the console. Processes that it left behind go on, unless its time was over.
    pub fn run_visibly_within(&self, limit: Duration) -> Result<(), CommandError> {
        let start = |source| CommandError::Start { command: self.to_string(), source };
        let deadline = Instant::now() + limit;
        let mut process = Process::new(&self.program);
        let mut child = process.args(&self.arguments).stdin(Stdio::null()).process_group(0).spawn().map_err(start)?;
        while !has_ended(&child).map_err(start)? {
            if Instant::now() >= deadline {
                kill_group(&child);
                child.wait().map_err(start)?;
                return Err(CommandError::TimedOut { command: self.to_string(), limit });
            }
            sleep(PAUSE);
        }
        let status = child.wait().map_err(start)?;
        if status.success() {
            return Ok(());
        }
        Err(CommandError::Failed { command: self.to_string(), status, stderr: String::new() })
    }
}

/// Reads what is there, or comes within `limit`. Returns false at the end of the output.
fn read_within(output: &mut PipeReader, limit: Duration, keep: &mut impl FnMut(&[u8])) -> bool {
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::ZERO);
    if !matches!(poll(&mut [PollFd::new(output.as_fd(), PollFlags::POLLIN)], limit), Ok(1..)) {
        return true;
    }
    let mut part = [0; KEPT];
    match output.read(&mut part) {
        Ok(0) | Err(_) => false,
        Ok(length) => {
            keep(&part[..length]);
            true
        }
    }
}

/// Whether the program has ended. It stays to be waited for.
fn has_ended(child: &Child) -> io::Result<bool> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    Ok(waitid(Id::Pid(process_id(child)), flags)? != WaitStatus::StillAlive)
}

fn kill_group(child: &Child) {
    // It fails only if the group has no process that could be killed.
    let _ = killpg(process_id(child), Signal::SIGKILL);
}

fn process_id(child: &Child) -> Pid {
    // The kernel's process numbers are below 2^22.
    Pid::from_raw(child.id() as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(300);

    fn shell(script: &str) -> Command {
        Command::new("sh").args(["-c", script])
    }

    fn text(outcome: &Outcome) -> String {
        String::from_utf8(outcome.output_end.clone()).unwrap()
    }

    #[test]
    fn both_outputs_come_in_order_with_the_status() {
        let outcome = shell("echo one; echo two >&2; echo three; exit 3").run_within(LONG).unwrap();
        assert_eq!((text(&outcome).as_str(), outcome.status.unwrap().code()), ("one\ntwo\nthree\n", Some(3)));
    }

    #[test]
    fn all_output_is_watched_as_it_comes() {
        let mut watched = Vec::new();
        let command = shell("head -c 100000 /dev/zero; echo last");
        let outcome = command.run_watched_within(LONG, |part| watched.extend_from_slice(part)).unwrap();
        assert_eq!((watched.len(), outcome.output_end.len()), (100_005, KEPT));
        assert!(watched.ends_with(b"\0last\n"));
    }

    #[test]
    fn a_program_that_writes_much_or_for_ever_is_read_to_the_end() {
        let outcome = shell("head -c 1000000 /dev/zero | tr '\\0' x; echo; echo last").run_within(LONG).unwrap();
        assert!(outcome.status.unwrap().success());
        assert_eq!(outcome.output_end.len(), KEPT);
        assert!(text(&outcome).ends_with("x\nlast\n"));
        let outcome = shell("exec yes").run_within(SHORT).unwrap();
        assert!(outcome.status.is_none() && text(&outcome).ends_with("y\n"));
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_what_it_started() {
        let outcome = shell("sleep 1000 & echo $!; wait").run_within(SHORT).unwrap();
        assert!(outcome.status.is_none());
        assert_is_gone(&text(&outcome));
        // It closed its output and goes on.
        let outcome = shell("exec >&- 2>&-; sleep 1000").run_within(SHORT).unwrap();
        assert!(outcome.status.is_none());
    }

    #[test]
    fn what_a_program_leaves_behind_is_killed_or_not_waited_for() {
        let outcome = shell("sleep 1000 & echo $!").run_within(LONG).unwrap();
        assert!(outcome.status.unwrap().success());
        assert_is_gone(&text(&outcome));
        let begun = Instant::now();
        let outcome = shell("setsid sleep 5 & echo left").run_within(LONG).unwrap();
        assert_eq!(text(&outcome), "left\n");
        assert!(begun.elapsed() < Duration::from_secs(4), "it holds the output open");
    }

    #[test]
    fn a_visible_program_that_hangs_is_killed_and_its_limit_named() {
        shell("true").run_visibly_within(LONG).unwrap();
        let failed = shell("exit 3").run_visibly_within(LONG).unwrap_err();
        assert!(failed.to_string().ends_with("exit status: 3"), "{failed}");
        let hung = Command::new("sleep").arg("1000").run_visibly_within(Duration::ZERO).unwrap_err();
        assert_eq!(hung.to_string(), "sleep 1000: it did not end within 0 s and was killed");
    }

    /// Waits until the process of this number is gone or waits to be reaped.
    fn assert_is_gone(process: &str) {
        let status = format!("/proc/{}/stat", process.trim());
        let deadline = Instant::now() + LONG;
        while fs::read_to_string(Path::new(&status)).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(Instant::now() < deadline, "process {process} runs on");
            sleep(PAUSE);
        }
    }
}
