//! Tells the boot loader that the running slot is good, once it is.

use crate::boot_partition;
use crate::command::Command;
use crate::console::{Milestone, announce};
use crate::grubenv::{GrubEnv, TRIES};
use crate::machine::Boot;
use anyhow::{Context, Result, bail};
use protocol::message::Slot;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A slow machine that pulls images at its first start takes minutes.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
const INTERVAL: Duration = Duration::from_secs(1);
/// Their failure is the configuration's or the operator's: another slot would meet the same one.
const TOLERATED: &[&str] = &["ros-apply.service", "ros-runcmd.service", "ros-report.service"];
/// Below the boot partition.
const GRUB_ENV: &str = "grub/grubenv";
/// systemd-networkd's summary (sd-network(3)).
const NETWORK_STATE: &str = "/run/systemd/netif/state";

/// Waits until the system is up and marks its slot as good. A system that does not come up in time is not marked, and
/// the error says what was missing; if the slot never was good, the machine restarts, which the boot menu counts.
pub fn run() -> Result<()> {
    let slot = Boot::probe(Path::new("/")).slot.filter(|slot| *slot != Slot::Live);
    let slot = slot.context("finding ros.slot= on the kernel command line: this is not an installed system")?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match judge(&observe()?) {
            Verdict::Good => break,
            Verdict::NotYet(reason) if Instant::now() >= deadline => {
                restart_if_on_trial(slot)?;
                bail!("slot {slot} is not marked as good: after {} minutes {reason}", PATIENCE.as_secs() / 60)
            }
            Verdict::NotYet(_) => sleep(INTERVAL),
        }
    }
    mark(slot)?;
    announce(Milestone::Healthy, format!("slot {slot} is good"));
    Ok(())
}

/// What is looked at.
struct Observation {
    /// The word of `systemctl is-system-running`.
    system: String,
    failed_units: Vec<String>,
    /// The content of [`NETWORK_STATE`].
    network: String,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    /// With what is missing.
    NotYet(String),
}

fn judge(seen: &Observation) -> Verdict {
    let failed: Vec<&str> =
        seen.failed_units.iter().map(String::as_str).filter(|unit| !TOLERATED.contains(unit)).collect();
    if !matches!(seen.system.as_str(), "running" | "degraded") {
        return Verdict::NotYet(format!("the system is {}", seen.system));
    }
    if !failed.is_empty() {
        return Verdict::NotYet(format!("these units have failed: {}", failed.join(", ")));
    }
    let is_up = seen.network.lines().any(|line| matches!(line, "OPER_STATE=routable" | "ONLINE_STATE=online"));
    if is_up { Verdict::Good } else { Verdict::NotYet("the network is not up".into()) }
}

fn observe() -> Result<Observation> {
    // The exit status repeats the word; only the word is needed.
    let system = Command::new("systemctl").argument("is-system-running").output()?;
    let failed = Command::new("systemctl")
        .arguments(["list-units", "--state=failed", "--plain", "--no-legend", "--no-pager"])
        .output()?;
    let first_words =
        |text: &str| text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    Ok(Observation {
        system: String::from_utf8_lossy(&system).trim().to_owned(),
        failed_units: first_words(&String::from_utf8_lossy(&failed)),
        network: fs::read_to_string(NETWORK_STATE).unwrap_or_default(),
    })
}

/// A system that has worked before is left to whoever repairs it: another slot need not be better, and somebody may be
/// logged in.
fn restart_if_on_trial(slot: Slot) -> Result<()> {
    let env = boot_partition::with_mounted(true, |boot| grub_env(&boot.join(GRUB_ENV)))?;
    if is_on_trial(&env, slot) {
        announce(Milestone::Failed, format!("slot {slot} does not come up; restarting, {} tries left", env.tries));
        Command::new("systemctl").argument("reboot").run().context("restarting")?;
    }
    Ok(())
}

fn is_on_trial(env: &GrubEnv, slot: Slot) -> bool {
    env.active == slot && !env.good
}

fn grub_env(path: &Path) -> Result<GrubEnv> {
    GrubEnv::read(path).with_context(|| format!("reading {}", path.display()))
}

fn mark(slot: Slot) -> Result<()> {
    boot_partition::with_mounted(false, |boot| mark_in(boot, slot))
}

fn mark_in(boot: &Path, slot: Slot) -> Result<()> {
    let path = boot.join(GRUB_ENV);
    let env = grub_env(&path)?;
    if env.active != slot {
        bail!("the boot loader's active slot is {}, and this is {slot}: an upgrade has been written since", env.active);
    }
    let good = GrubEnv { good: true, tries: TRIES, ..env };
    if env != good {
        good.overwrite(&path).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(system: &str, failed: &[&str], network: &str) -> Verdict {
        let failed_units = failed.iter().map(|unit| unit.to_string()).collect();
        judge(&Observation { system: system.into(), failed_units, network: network.into() })
    }

    #[test]
    fn a_system_is_good_when_it_runs_and_has_a_network() {
        let online = "# comment\nOPER_STATE=routable\n";
        assert_eq!(seen("running", &[], online), Verdict::Good);
        assert_eq!(seen("degraded", &["ros-report.service"], online), Verdict::Good);
        assert_eq!(seen("starting", &[], online), Verdict::NotYet("the system is starting".into()));
        assert_eq!(seen("running", &[], "OPER_STATE=carrier"), Verdict::NotYet("the network is not up".into()));
        let failed = Verdict::NotYet("these units have failed: containerd.service".into());
        assert_eq!(seen("degraded", &["ros-apply.service", "containerd.service"], online), failed);
    }

    #[test]
    fn only_a_slot_that_never_was_good_restarts_the_machine() {
        let trial = GrubEnv { tries: 2, ..GrubEnv::INSTALLED };
        assert!(is_on_trial(&trial, Slot::A));
        assert!(!is_on_trial(&GrubEnv { good: true, ..trial }, Slot::A));
        assert!(!is_on_trial(&trial, Slot::B), "an upgrade has been written since");
    }

    #[test]
    fn only_the_running_slot_is_marked() {
        let boot = tempfile::tempdir().unwrap();
        fs::create_dir(boot.path().join("grub")).unwrap();
        let path = boot.path().join("grub/grubenv");
        fs::write(&path, GrubEnv { tries: 1, ..GrubEnv::INSTALLED }.to_bytes()).unwrap();
        assert!(mark_in(boot.path(), Slot::B).is_err());
        mark_in(boot.path(), Slot::A).unwrap();
        assert_eq!(GrubEnv::read(&path).unwrap(), GrubEnv { good: true, ..GrubEnv::INSTALLED });
    }
}
