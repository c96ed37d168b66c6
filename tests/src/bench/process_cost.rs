//! Processor time and memory of a running program, as the kernel counts them (proc(5)).

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};
use qemu::wait::{Poll, until};
use std::fs;
use std::time::Duration;

/// User and system time of the process with all its threads. The kernel's resolution is 10 ms.
pub fn processor_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let ticks = processor_ticks(&stat).with_context(|| format!("finding utime and stime in {path}"))?;
    let per_second = sysconf(SysconfVar::CLK_TCK).context("reading the length of a clock tick")?.unwrap_or(100);
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// Fields 14 and 15. The second field may hold spaces and parentheses.
fn processor_ticks(stat: &str) -> Option<u64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(field(14)? + field(15)?)
}

/// Resident memory in bytes: now, and the highest so far.
pub fn resident_memory(pid: u32) -> Result<[u64; 2]> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let kibibytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        number.with_context(|| format!("finding {name} in {path}"))
    };
    Ok([kibibytes("VmRSS")? * 1024, kibibytes("VmHWM")? * 1024])
}

/// Waits until the program has used no processor time for a second: its work is done.
pub async fn wait_until_idle(pid: u32) -> Result<()> {
    // One tick (10 ms) in a second is housekeeping.
    until_still("an idle operator", "ms of processor time", 10.0, async || Ok(processor_time(pid)?.as_millis() as f64))
        .await
}

/// Waits, for a minute at most, until a number has grown by no more than `housekeeping` for a second.
pub async fn until_still(
    what: &str,
    unit: &str,
    housekeeping: f64,
    mut number: impl AsyncFnMut() -> Result<f64>,
) -> Result<()> {
    /// Polls are 100 ms apart.
    const LOOKS: usize = 10;
    let mut seen = Vec::new();
    until(what, Duration::from_secs(60), async || {
        let now = number().await?;
        seen.push(now);
        let second_ago = seen.len().checked_sub(LOOKS).map(|index| seen[index]);
        Ok(match second_ago {
            Some(then) if now - then <= housekeeping => Poll::Ready(()),
            _ => Poll::Pending(format!("{now} {unit} so far")),
        })
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_a_strange_name() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194304 100 0 0 0 17 5 0 0 20 0 4 0 1000 1 2";
        assert_eq!(processor_ticks(stat), Some(22));
    }

    #[test]
    fn this_process_has_memory() {
        let [now, highest] = resident_memory(std::process::id()).unwrap();
        assert!(now > 0 && highest >= now / 2);
        processor_time(std::process::id()).unwrap();
    }
}
