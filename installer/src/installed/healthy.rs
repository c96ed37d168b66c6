//! The boot assessment: waits until the system is up and marks its slot as good (blesses it).

use crate::boot::{start, state_file};
use crate::console::{self, announce};
use crate::free_space::{PERSISTENT_ROOM, free_bytes};
use crate::installed::boot_progress;
use crate::installed::due_report;
use crate::installed::health_checks::{CheckFailure, HealthChecks};
use crate::installed::host_identity;
use crate::installed::issue;
use crate::installed::kubelet;
use crate::installed::recovery;
use crate::installed::trial;
use crate::path_error::PathError;
use crate::upgrade::{attempt, loader};
use boot_contract::boot_stage::BootStage;
use boot_contract::boot_state::SlotState;
use boot_contract::paths::PERSISTENT;
use boot_contract::{BootState, Milestone, Slot};
use command::{Command, CommandError};
use protocol::error_chain;
use std::cell::LazyCell;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A slow machine that pulls images at its first start takes minutes.
pub(super) const PATIENCE: Duration = Duration::from_secs(15 * 60);
const INTERVAL: Duration = Duration::from_secs(1);
/// Interval after [`PATIENCE`].
const LONG_INTERVAL: Duration = Duration::from_secs(30);
/// Units that fail because of the configuration, the operator or the disk. Another slot would fail in the same way.
const TOLERATED: &[&str] =
    &["ros-apply.service", "ros-grow.service", "ros-runcmd.service", "ros-report.service", "ros-upgrade.service"];
/// systemd-networkd's summary (sd-network(3)).
const NETWORK_STATE: &str = "/run/systemd/netif/state";

/// Why a slot was not assessed.
#[derive(Debug, thiserror::Error)]
pub enum HealthyError {
    #[error("the kernel command line has no ros.slot=: this is not an installed system")]
    NotInstalled,
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// Waits until the system is up and marks its slot as good, which gives the slot all its starts back. A slot with a
/// changed byte is put on trial. If a slot on trial does not come up in time and the other slot holds a system, the
/// machine restarts; GRUB has counted the start. If nothing else holds a system, a missing network, failed units and
/// failing checks are no reason to use up starts, because recovery would not help.
pub fn run() -> Result<(), HealthyError> {
    let slot = trial::running_slot()?;
    attempt::note_failure();
    let fallback = Fallback::of(&state_file::current()?, slot);
    let begun = Instant::now();
    let mut was_announced = false;
    let mut recorded = String::new();
    // The cloud-config has written all its files when the start-up job is over.
    let checks = LazyCell::new(|| HealthChecks::find(Path::new("/")));
    loop {
        let (reason, is_final) =
            match judge(&observe()?, fallback, begun.elapsed() >= PATIENCE, || first_failure(&checks)) {
                Verdict::Good => break,
                Verdict::NotYet(reason) => (reason, false),
                Verdict::Failed(reason) => (reason, true),
            };
        let is_late = begun.elapsed() >= PATIENCE;
        if recorded != reason {
            boot_progress::reached(BootStage::Checks, &reason);
            recorded.clone_from(&reason);
        }
        if is_final && trial::fail(slot, &reason)? {
            return Ok(());
        }
        if is_late && !was_announced {
            announce(Milestone::Failed, format!("slot {slot} is not marked as good: {reason}"));
            trial::restart_if_on_trial(slot)?;
            was_announced = true;
        }
        sleep(if is_late { LONG_INTERVAL } else { INTERVAL });
    }
    if let Err(damage) = recovery::check(slot) {
        // The damaged part may not have been read yet, and dm-verity restarts the machine when it is. If the slot
        // stayed good, it would get its starts back each time.
        state_file::change(|state| state.doubt(slot))?;
        announce(Milestone::Failed, format!("slot {slot} is damaged and not marked as good: {}", error_chain(&damage)));
        trial::restart_if_on_trial(slot)?;
        return Ok(due_report::ask(Path::new("/"))?);
    }
    state_file::change(|state| state.mark_good(slot))?;
    if let Err(error) = attempt::succeed(Path::new("/"), slot) {
        tracing::warn!("{}", error_chain(&error));
    }
    if let Err(error) = host_identity::keep(Path::new("/"), Path::new(PERSISTENT)) {
        // The slot is good without the copy. The next start tries again.
        tracing::warn!("{}", error_chain(&error));
    }
    start::has_started(Path::new("/"));
    loader::adopt_or_say(Path::new("/"), slot);
    announce(Milestone::Healthy, format!("slot {slot} is good"));
    issue::refresh(Path::new("/"));
    if fallback == Fallback::None
        && let Some(failure) = first_failure(&checks)
    {
        console::note(format!(
            "{}; beside another system this would keep slot {slot} from being marked as good",
            failure.reason
        ));
    }
    Ok(due_report::ask(Path::new("/"))?)
}

/// The drop-in checks, and the node that this machine was before.
fn first_failure(checks: &HealthChecks) -> Option<CheckFailure> {
    let missing = || kubelet::what_is_missing(Path::new("/"));
    checks.first_failure().or_else(|| missing().map(|reason| CheckFailure { reason, is_final: false }))
}

/// What becomes of the machine if this slot is not marked as good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fallback {
    /// No other slot holds a system.
    None,
    /// Another slot holds a system, and this one has been good before.
    FromGood,
    /// Another slot holds a system, and this one is on trial.
    FromTrial,
}

impl Fallback {
    fn of(state: &BootState, slot: Slot) -> Self {
        let is_on_trial = state.slot(slot).is_some_and(|boot| boot.state == SlotState::Trial);
        match (trial::other_slot_may_start(state, slot), is_on_trial) {
            (false, _) => Self::None,
            (true, false) => Self::FromGood,
            (true, true) => Self::FromTrial,
        }
    }
}

/// The observed state of the system.
struct Observation {
    /// The output of `systemctl is-system-running`.
    system: String,
    failed_units: Vec<String>,
    /// The content of [`NETWORK_STATE`].
    network: String,
    /// Free bytes of COS_PERSISTENT.
    free: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    /// The text names what is missing.
    NotYet(String),
    /// The text says why. Waiting does not help.
    Failed(String),
}

/// `is_late`: [`PATIENCE`] is over. `failing_check` runs the drop-in checks, which happens last, because they may count on a
/// network.
fn judge(
    seen: &Observation,
    fallback: Fallback,
    is_late: bool,
    failing_check: impl FnOnce() -> Option<CheckFailure>,
) -> Verdict {
    let is_alone = fallback == Fallback::None;
    let failed: Vec<&str> =
        seen.failed_units.iter().map(String::as_str).filter(|unit| !TOLERATED.contains(unit)).collect();
    // A job of the user that never ends keeps the system `starting` for ever.
    let is_up = matches!(seen.system.as_str(), "running" | "degraded")
        || (is_alone && is_late && matches!(seen.system.as_str(), "starting" | "initializing"));
    if !is_up {
        return Verdict::NotYet(format!("the system is {}", seen.system));
    }
    if is_alone {
        return Verdict::Good;
    }
    if !failed.is_empty() {
        return Verdict::NotYet(format!("these units have failed: {}", failed.join(", ")));
    }
    let is_up = seen.network.lines().any(|line| matches!(line, "OPER_STATE=routable" | "ONLINE_STATE=online"));
    if !is_up {
        return Verdict::NotYet("the network is not up".into());
    }
    // A release that fills the partition has failed. Data that fill it at any other time are not the slot's fault.
    if fallback == Fallback::FromTrial && seen.free < PERSISTENT_ROOM {
        return Verdict::NotYet(format!("COS_PERSISTENT is full ({} KiB are free)", seen.free >> 10));
    }
    match failing_check() {
        None => Verdict::Good,
        Some(CheckFailure { reason, is_final: false }) => Verdict::NotYet(reason),
        Some(CheckFailure { reason, is_final: true }) => Verdict::Failed(reason),
    }
}

fn observe() -> Result<Observation, HealthyError> {
    // The exit status has the same meaning as the word, so only the word is needed.
    let system = Command::new("systemctl").arg("is-system-running").output()?;
    let failed = Command::new("systemctl")
        .args(["list-units", "--state=failed", "--plain", "--no-legend", "--no-pager"])
        .output()?;
    let first_words =
        |text: &str| text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    Ok(Observation {
        free: free_bytes(Path::new(PERSISTENT)).map_err(PathError::of("reading the free space of", PERSISTENT))?,
        system: String::from_utf8_lossy(&system).trim().to_owned(),
        failed_units: first_words(&String::from_utf8_lossy(&failed)),
        network: fs::read_to_string(NETWORK_STATE).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use boot_contract::boot_state::SlotBoot;

    fn observation(system: &str, failed: &[&str], network: &str) -> Observation {
        let failed_units = failed.iter().map(|unit| unit.to_string()).collect();
        Observation { system: system.into(), failed_units, network: network.into(), free: 1 << 30 }
    }

    fn seen(system: &str, failed: &[&str], network: &str, fallback: Fallback, is_late: bool) -> Verdict {
        judge(&observation(system, failed, network), fallback, is_late, || None)
    }

    #[test]
    fn a_system_is_good_when_it_runs_and_has_a_network() {
        let beside_another = |system, failed, network| seen(system, failed, network, Fallback::FromGood, true);
        let online = "# comment\nOPER_STATE=routable\n";
        assert_eq!(beside_another("running", &[], online), Verdict::Good);
        assert_eq!(beside_another("degraded", &["ros-report.service", "ros-upgrade.service"], online), Verdict::Good);
        assert_eq!(beside_another("starting", &[], online), Verdict::NotYet("the system is starting".into()));
        let offline = Verdict::NotYet("the network is not up".into());
        assert_eq!(beside_another("running", &[], "OPER_STATE=carrier"), offline);
        let failed = Verdict::NotYet("these units have failed: containerd.service".into());
        assert_eq!(beside_another("degraded", &["ros-apply.service", "containerd.service"], online), failed);
    }

    #[test]
    fn no_network_and_failed_units_use_up_no_starts_if_nothing_else_holds_a_system() {
        assert_eq!(seen("degraded", &["users-own.service"], "", Fallback::None, false), Verdict::Good);
        assert_eq!(seen("starting", &[], "", Fallback::None, false), Verdict::NotYet("the system is starting".into()));
        assert_eq!(seen("starting", &[], "", Fallback::None, true), Verdict::Good);
        assert_eq!(
            seen("maintenance", &[], "", Fallback::None, true),
            Verdict::NotYet("the system is maintenance".into())
        );
    }

    #[test]
    fn checks_run_last_and_only_beside_another_system() {
        let up = |network: &str| observation("running", &[], network);
        let failing = |is_final| move || Some(CheckFailure { reason: "own: no".to_owned(), is_final });
        let seen = |is_final| judge(&up("OPER_STATE=routable"), Fallback::FromTrial, false, failing(is_final));
        assert_eq!(seen(false), Verdict::NotYet("own: no".into()));
        assert_eq!(seen(true), Verdict::Failed("own: no".into()));
        assert_eq!(judge(&up("OPER_STATE=routable"), Fallback::FromTrial, false, || None), Verdict::Good);
        judge(&up(""), Fallback::FromTrial, true, || panic!("there is no network"));
        assert_eq!(judge(&up(""), Fallback::None, false, || panic!("they could not change anything")), Verdict::Good);
    }

    #[test]
    fn a_full_partition_fails_only_a_trial() {
        let full = Observation { free: PERSISTENT_ROOM - 1024, ..observation("running", &[], "OPER_STATE=routable") };
        let judged = |fallback| judge(&full, fallback, true, || None);
        assert_eq!(judged(Fallback::FromTrial), Verdict::NotYet("COS_PERSISTENT is full (1023 KiB are free)".into()));
        assert_eq!([Fallback::FromGood, Fallback::None].map(judged), [Verdict::Good, Verdict::Good]);
    }

    #[test]
    fn a_slot_is_on_trial_only_beside_another_system() {
        let slots = |a, b| BootState { a: SlotBoot::new(a), b: SlotBoot::new(b), ..BootState::INSTALLED };
        let fallback = |a, b| Fallback::of(&slots(a, b), Slot::B);
        assert_eq!(fallback(SlotState::Good, SlotState::Trial), Fallback::FromTrial);
        assert_eq!(fallback(SlotState::Good, SlotState::Good), Fallback::FromGood);
        assert_eq!(fallback(SlotState::Failed, SlotState::Trial), Fallback::None);
    }
}
