//! The life of a machine as a state machine: how each step changes the status of its inventory.
//!
//! ```text
//! Expected ─► (ApprovalPending) ─► Registered ─► Installing ─► Installed ─► Booted ─► Ready
//!                                       ▲             └─► Failed                        │
//!                                       └──────────────── reinstalled ──────────────────┘
//! ```

use api::{
    AttestationStatus, Conditions, MachineInventoryStatus, OsStatus, Phase, ReleaseFailure, condition_type as types,
    message, reason,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use protocol::bounded::cut;
use protocol::hardware::{Address, Hardware};
use protocol::message::{Failure, InstallPhase, OsReport, Progress, Slot};
use protocol::{EraseRequest, Refusal, UpgradeFailure, UpgradeOrder};

/// Seconds between two writes of `lastSeen`. Reports that contain nothing new cost the API server nothing in between.
pub const LAST_SEEN_SECONDS: i64 = 300;

/// A step in the life of a machine.
#[derive(Clone, Debug)]
pub enum Step {
    /// It proved its identity and asked for its configuration. `hardware`: only if it differs from the recorded one.
    /// `attestation`: absent if the machine uses a shared secret; it has a time only where the time matters.
    Registered {
        approved: bool,
        hardware: Option<Box<Hardware>>,
        attestation: Option<AttestationStatus>,
        addresses: Vec<Address>,
    },
    /// It fetched how it joins its cluster, without having registered with this operator.
    Fetched,
    Progress(Progress),
    Installed,
    Failed(Failure),
    /// The installed system sent a report.
    Reported(Box<OsReport>),
    /// It is about to be sent the request to install itself again.
    SentRequest(EraseRequest),
    /// It is about to be told to run another release.
    SentUpgrade(UpgradeOrder),
}

/// The failure of a machine that is known but cannot be given its configuration.
pub fn not_configured(refusal: &Refusal) -> Failure {
    Failure { reason: refusal.code.to_string(), message: refusal.message.clone() }
}

/// The status after a step, not yet [`settled`].
pub fn after(
    before: &MachineInventoryStatus,
    step: &Step,
    generation: Option<i64>,
    now: &Time,
) -> MachineInventoryStatus {
    let mut status = before.clone();
    status.observed_generation = generation;
    let mut put = |type_: &str, holds: bool, reason: &str, message: &str| {
        status.conditions.put(type_, holds, reason, message, generation, now);
    };
    match step {
        Step::Registered { approved, hardware, attestation, addresses } => {
            match attestation {
                Some(_) => put(types::REGISTERED, true, reason::ATTESTED, message::HOLDS_ITS_KEYS),
                None => put(types::REGISTERED, true, reason::IDENTIFIED, message::HAS_ITS_SECRET),
            }
            put(types::INSTALLED, false, reason::NOT_INSTALLED, "");
            put(types::BOOTED, false, reason::NOT_BOOTED, "");
            if *approved {
                put(types::APPROVED, true, reason::APPROVED, "");
                put(types::READY, false, reason::NOT_INSTALLED, message::INSTALLATION_FOLLOWS);
                status.phase = Some(Phase::Registered);
            } else {
                put(types::APPROVED, false, reason::APPROVAL_PENDING, message::APPROVE);
                put(types::READY, false, reason::APPROVAL_PENDING, message::APPROVE);
                status.phase = Some(Phase::ApprovalPending);
            }
            status.failure = None;
            status.hardware.clone_from(hardware);
            status.attestation = attestation.clone().map(bounded).map(|attestation| {
                if attestation.time.is_some() {
                    return attestation;
                }
                // The time of a proof changes only if the proof changes.
                let time = before.attestation.as_ref().and_then(|earlier| earlier.time.clone());
                let same = Some(AttestationStatus { time: time.clone(), ..attestation.clone() }) == before.attestation;
                AttestationStatus { time: if same { time } else { Some(now.clone()) }, ..attestation }
            });
            if !addresses.is_empty() {
                status.addresses = Some(addresses.clone());
            }
        }
        Step::Fetched => {
            if matches!(before.phase, None | Some(Phase::Expected)) {
                put(
                    types::REGISTERED,
                    true,
                    reason::IDENTIFIED,
                    "the machine proved its identity and fetched its configuration",
                );
                put(
                    types::READY,
                    false,
                    reason::NOT_INSTALLED,
                    "the machine has its configuration; it does not report anything else",
                );
                status.phase = Some(Phase::Registered);
            }
        }
        Step::Progress(progress) => {
            put(types::READY, false, reason::INSTALLING, &describe(progress));
            status.phase = Some(Phase::Installing);
            status.failure = None;
        }
        Step::Installed => {
            put(types::INSTALLED, true, reason::INSTALLED, message::READ_BACK);
            put(types::READY, false, reason::NOT_BOOTED, message::FIRST_BOOT_FOLLOWS);
            status.phase = Some(Phase::Installed);
            status.failure = None;
        }
        Step::Failed(failure) => {
            put(types::INSTALLED, false, reason::INSTALLATION_FAILED, &failure.message);
            put(types::READY, false, reason::INSTALLATION_FAILED, &format!("{}: {}", failure.reason, failure.message));
            put(types::STALLED, true, reason::INSTALLATION_FAILED, &failure.message);
            status.phase = Some(Phase::Failed);
            status.failure = Some(failure.clone());
        }
        Step::Reported(report) => {
            status.addresses = Some(report.addresses.clone());
            if report.slot != Slot::Live {
                let os = os_status(report);
                put(types::INSTALLED, true, reason::INSTALLED, message::READ_BACK);
                put(types::BOOTED, true, reason::BOOTED, &what_runs(&os));
                let (ready, reason, message) = readiness(&os, report.recovery.as_deref());
                put(types::READY, ready, reason, &message);
                status.phase = Some(if ready { Phase::Ready } else { Phase::Booted });
                status.os = Some(os);
                status.settings_revision = report.settings_revision.clone().map(String::from);
                status.failure = None;
            }
        }
        Step::SentRequest(_) | Step::SentUpgrade(_) => {}
    }
    if status.failure.is_none() {
        status.conditions.remove_type(types::STALLED);
    }
    if is_held_back(before) && !matches!(step, Step::Registered { .. }) {
        // If another inventory counts for the machine, its steps change the phase only. `Ready` is the controller's.
        for type_ in [types::READY, types::STALLED] {
            status.conditions.remove_type(type_);
            status.conditions.extend(before.conditions.find(type_).cloned());
        }
    }
    status
}

/// Whether the status says that its inventory does not count for the machine.
pub fn is_held_back(status: &MachineInventoryStatus) -> bool {
    let stalled = status.conditions.find(types::STALLED).map(|condition| &*condition.reason);
    matches!(stalled, Some(reason::MALFORMED_IDENTITY | reason::DUPLICATE_IDENTITY))
}

/// The status of an inventory that is no longer held back. `Ready` follows from the last step of the machine again.
pub fn released(before: &MachineInventoryStatus, generation: Option<i64>, now: &Time) -> MachineInventoryStatus {
    let mut status = before.clone();
    let no_system = OsStatus::default();
    let words = |message: &str| message.to_owned();
    let (ready, reason, message) = match status.phase.unwrap_or(Phase::Registered) {
        Phase::Expected => (false, reason::EXPECTED, words(message::NOT_COME_YET)),
        Phase::ApprovalPending => (false, reason::APPROVAL_PENDING, words(message::APPROVE)),
        Phase::Registered => (false, reason::NOT_INSTALLED, words(message::INSTALLATION_FOLLOWS)),
        Phase::Installing => (false, reason::INSTALLING, words("the installation runs")),
        Phase::Installed => (false, reason::NOT_BOOTED, words(message::FIRST_BOOT_FOLLOWS)),
        Phase::Booted | Phase::Ready => readiness(status.os.as_ref().unwrap_or(&no_system), None),
        Phase::Failed => {
            let failure = status.failure.as_ref().map(|failure| format!("{}: {}", failure.reason, failure.message));
            (false, reason::INSTALLATION_FAILED, failure.unwrap_or_default())
        }
    };
    status.conditions.put(types::READY, ready, reason, &message, generation, now);
    match &status.failure {
        Some(failure) => {
            let message = failure.message.clone();
            status.conditions.put(types::STALLED, true, reason::INSTALLATION_FAILED, &message, generation, now);
        }
        None => status.conditions.remove_type(types::STALLED),
    }
    status
}

/// Whether an installed system is ready, with reason and message. `recovery`: why the recovery system runs.
fn readiness(os: &OsStatus, recovery: Option<&str>) -> (bool, &'static str, String) {
    let what = what_runs(os);
    if os.slot.as_deref() == Some("Recovery") {
        let why = recovery.unwrap_or("its console says why");
        (false, reason::NOT_HEALTHY, format!("runs the recovery system: {why}"))
    } else if os.healthy {
        (true, reason::HEALTHY, what)
    } else {
        (false, reason::NOT_HEALTHY, format!("{what} is not marked as good yet"))
    }
}

fn what_runs(os: &OsStatus) -> String {
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    let mut text = format!("release {} from slot {}", part(&os.version), part(&os.slot));
    if let Some(failed) = &os.last_failure {
        text += &format!("; release {} did not come up (stage {:?}", failed.version, failed.stage);
        if !failed.message.is_empty() {
            text += &format!(": {}", failed.message);
        }
        text.push(')');
    }
    text
}

/// The status to write after steps since `written`. A condition that has returned to its old status keeps its
/// transition time. `lastSeen` changes with any other change, or when it is old. Equal to `written` if there is nothing
/// to write.
pub fn settled(
    written: &MachineInventoryStatus,
    mut status: MachineInventoryStatus,
    now: &Time,
) -> MachineInventoryStatus {
    for condition in &mut status.conditions {
        if let Some(earlier) = written.conditions.find(&condition.type_)
            && earlier.status == condition.status
        {
            condition.last_transition_time.clone_from(&earlier.last_transition_time);
        }
    }
    status.last_seen.clone_from(&written.last_seen);
    let seen = written.last_seen.as_ref().map(|time| time.0.as_second());
    let old = seen.is_none_or(|seen| (now.0.as_second() - seen).abs() >= LAST_SEEN_SECONDS);
    if old || status != *written {
        status.last_seen = Some(now.clone());
    }
    status
}

/// Cuts texts from a certificate: a machine can choose them itself if no authority has signed it.
fn bounded(mut attestation: AttestationStatus) -> AttestationStatus {
    let AttestationStatus { ek_certificate_issuer, ek_certificate_authority, .. } = &mut attestation;
    for name in [ek_certificate_issuer, ek_certificate_authority].into_iter().flatten() {
        *name = cut(name, 256);
    }
    for text in [&mut attestation.tpm_manufacturer, &mut attestation.tpm_firmware].into_iter().flatten() {
        *text = cut(text, 64);
    }
    attestation
}

fn os_status(report: &OsReport) -> OsStatus {
    OsStatus {
        version: Some(report.version.clone()),
        release: Some(report.release.clone()),
        slot: Some(report.slot.to_string()),
        healthy: report.healthy,
        boot_id: Some(report.boot_id.clone()),
        hostname: report.hostname.clone(),
        last_failure: report.last_failure.as_ref().map(release_failure),
        self_upgrading: report.upgrade.is_some(),
    }
}

fn release_failure(failure: &UpgradeFailure) -> ReleaseFailure {
    let at = i64::try_from(failure.at).ok().and_then(|at| Timestamp::from_second(at).ok());
    ReleaseFailure {
        version: failure.version.clone(),
        release: failure.release.clone(),
        time: at.map(Time),
        stage: failure.stage,
        message: failure.message.clone(),
        journal: failure.journal.clone(),
    }
}

fn describe(progress: &Progress) -> String {
    const MIB: u64 = 1 << 20;
    let what = match progress.phase {
        InstallPhase::Planned => "planned",
        InstallPhase::Writing => "writing",
        InstallPhase::Verifying => "verifying",
        InstallPhase::Configuring => "configuring",
        InstallPhase::Rebooting => "rebooting",
    };
    let mut text = what.to_owned();
    if progress.total_bytes > 0 {
        text += &format!(", {} of {} MiB", progress.bytes / MIB, progress.total_bytes / MIB);
    }
    if !progress.message.is_empty() {
        text += &format!(": {}", progress.message);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::upgrade::FailedStage;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(1_800_000_000 + second).unwrap())
    }
    fn registered() -> Step {
        let attestation = Some(AttestationStatus::default());
        Step::Registered { approved: true, hardware: None, attestation, addresses: Vec::new() }
    }
    fn report(healthy: bool, slot: Slot) -> Box<OsReport> {
        Box::new(OsReport { version: "1".into(), healthy, slot, boot_id: "b".into(), ..OsReport::default() })
    }

    #[test]
    fn a_release_that_did_not_come_up_is_in_the_status_until_another_one_has() {
        let failure = UpgradeFailure {
            release: "sha256:02".into(),
            version: "0.2.0".into(),
            at: 1_800_000_000,
            stage: FailedStage::Checks,
            message: "the network is not up".into(),
            journal: vec!["eth0: no carrier".into()],
        };
        let fallen_back = OsReport { last_failure: Some(failure), ..*report(true, Slot::A) };
        let status = after(&MachineInventoryStatus::default(), &Step::Reported(Box::new(fallen_back)), Some(1), &at(0));
        let failed = status.os.clone().unwrap().last_failure.unwrap();
        assert_eq!((failed.version.as_str(), failed.stage), ("0.2.0", FailedStage::Checks));
        assert_eq!(failed.time.unwrap().0.as_second(), 1_800_000_000);
        let ready = status.conditions.find(types::READY).unwrap();
        assert!(status.conditions.holds(types::READY));
        assert!(
            ready.message.contains("release 0.2.0 did not come up (stage Checks: the network"),
            "{}",
            ready.message
        );
        let upgraded = after(&status, &Step::Reported(report(true, Slot::B)), Some(1), &at(1));
        assert_eq!(upgraded.os.unwrap().last_failure, None);
    }

    #[test]
    fn a_machine_passes_through_all_phases() {
        let mut status = MachineInventoryStatus::default();
        let mut phases = Vec::new();
        let failure = Failure { reason: "DiskTooSmall".into(), message: "/dev/vda has 1 MiB".into() };
        let progress =
            Progress { phase: InstallPhase::Writing, bytes: 5 << 20, total_bytes: 9 << 20, message: String::new() };
        let (unhealthy, healthy) = (report(false, Slot::A), report(true, Slot::A));
        let steps = [
            registered(),
            Step::Progress(progress.clone()),
            Step::Failed(failure),
            registered(),
            Step::Progress(progress.clone()),
            Step::Installed,
            Step::Reported(unhealthy),
            Step::Reported(healthy),
        ];
        for (second, step) in steps.into_iter().enumerate() {
            status = after(&status, &step, Some(1), &at(second as i64));
            phases.push(status.phase.unwrap());
            assert_eq!(status.failure.is_some(), status.conditions.holds(types::STALLED));
        }
        use Phase::*;
        assert_eq!(phases, [Registered, Installing, Failed, Registered, Installing, Installed, Booted, Ready]);
        assert!(status.conditions.holds(types::READY) && status.conditions.holds(types::INSTALLED));
        let again = after(&status, &registered(), Some(1), &at(20));
        assert!(!again.conditions.holds(types::INSTALLED) && !again.conditions.holds(types::READY));
    }

    #[test]
    fn a_shared_secret_is_not_recorded_as_an_attestation() {
        let step = Step::Registered { approved: true, hardware: None, attestation: None, addresses: Vec::new() };
        let status = after(&MachineInventoryStatus::default(), &step, Some(1), &at(0));
        assert_eq!(status.conditions.find(types::REGISTERED).unwrap().reason, reason::IDENTIFIED);
        assert_eq!((status.attestation, status.phase), (None, Some(Phase::Registered)));
    }

    #[test]
    fn nothing_new_writes_nothing_until_last_seen_is_old() {
        let step = |before: &MachineInventoryStatus, second| {
            settled(before, after(before, &registered(), Some(1), &at(second)), &at(second))
        };
        let first = step(&MachineInventoryStatus::default(), 0);
        assert_eq!(step(&first, LAST_SEEN_SECONDS - 1), first);
        let seen = Some(at(LAST_SEEN_SECONDS));
        assert_eq!(step(&first, LAST_SEEN_SECONDS), MachineInventoryStatus { last_seen: seen, ..first });
    }

    #[test]
    fn steps_that_lead_back_to_the_written_status_write_nothing() {
        let installed = |before: &MachineInventoryStatus, second| {
            let registered = after(before, &registered(), Some(1), &at(second));
            settled(before, after(&registered, &Step::Installed, Some(1), &at(second)), &at(second))
        };
        let first = installed(&MachineInventoryStatus::default(), 0);
        assert_eq!(installed(&first, 1), first);
    }

    #[test]
    fn a_machine_that_fetched_its_configuration_is_not_expected_any_more() {
        let fetched = |before: &MachineInventoryStatus| after(before, &Step::Fetched, Some(1), &at(0));
        let status = fetched(&MachineInventoryStatus::default());
        assert_eq!(status.phase, Some(Phase::Registered));
        let running = after(&status, &Step::Reported(report(true, Slot::A)), Some(1), &at(1));
        assert_eq!(fetched(&running).phase, Some(Phase::Ready));
    }

    #[test]
    fn the_recovery_system_is_never_ready() {
        let why = "slot A did not come up".to_owned();
        let report = Box::new(OsReport { recovery: Some(why), ..*report(true, Slot::Recovery) });
        let status = after(&MachineInventoryStatus::default(), &Step::Reported(report), None, &at(0));
        assert_eq!(status.phase, Some(Phase::Booted));
        assert!(!status.conditions.holds(types::READY));
        let ready = status.conditions.find(types::READY).unwrap();
        assert_eq!(ready.message, "runs the recovery system: slot A did not come up");
    }
}
