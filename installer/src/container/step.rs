//! Decides from values alone what a pod does, before the restart of its host and after it.

use crate::upgrade::attempt::Record;
use crate::upgrade::{Decision, PlanError, ReleaseName, Slots};
use boot_contract::Slot;
use protocol::UpgradeFailure;
use std::fmt;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The release runs, and its slot is good.
    Done,
    /// This changes the disk. Then the next step is decided on.
    CarryOut(Decision),
    /// The host starts the release next, perhaps with another cloud-config.
    Restart,
    Wait(WaitFor),
}

/// What a pod waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitFor {
    /// The running slot is marked as good.
    GoodSlot(Slot),
    /// The host records why the release did not come up, which it does early in its start.
    Record,
    OtherUpgrade,
    /// The host restarts, which ends this pod.
    Restart,
}

impl WaitFor {
    /// After this time the pod ends with an error, and the next one waits anew.
    pub fn limit(self) -> Duration {
        let minutes = match self {
            // A trial ends by a restart 20 minutes after systemd began.
            Self::GoodSlot(_) => 25,
            Self::Record => 2,
            Self::OtherUpgrade => 25,
            // systemd gives each service 90 seconds to stop.
            Self::Restart => 10,
        };
        Duration::from_secs(60 * minutes)
    }
}

impl fmt::Display for WaitFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GoodSlot(slot) => write!(f, "slot {slot} to be marked as good"),
            Self::Record => f.write_str("the record why the release did not come up (/oem/upgrade.json)"),
            Self::OtherUpgrade => f.write_str("another upgrade of this host to end"),
            Self::Restart => f.write_str("the restart of this host"),
        }
    }
}

/// Why the release is not written. The next pod says the same, until another release is wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("release {version} did not come up on this machine{why}: use another release")]
    DidNotComeUp { version: String, why: String },
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// What brings `wanted` nearer to being the system that runs and is good. A release that failed on this machine is not
/// tried again, even if its slot holds another one by now. `has_new_config`: the host's cloud-config has to be changed.
pub fn next(slots: &Slots, record: &Record, wanted: &ReleaseName, has_new_config: bool) -> Result<Step, Refusal> {
    let failure = record.failure.as_ref().filter(|failure| failure.release == wanted.digest);
    let did_not_come_up =
        || Refusal::DidNotComeUp { version: wanted.version.clone(), why: failure.map(described).unwrap_or_default() };
    match slots.decide(wanted, false) {
        Ok(Decision::Runs) if !slots.runs_from_a_good_slot() => Ok(Step::Wait(WaitFor::GoodSlot(slots.running))),
        Ok(Decision::Runs) => Ok(if has_new_config { Step::Restart } else { Step::Done }),
        Ok(Decision::WaitsForRestart(_)) => Ok(Step::Restart),
        Ok(Decision::Write(_)) if failure.is_some() => Err(did_not_come_up()),
        Ok(decision) => Ok(Step::CarryOut(decision)),
        // The slot that could be written is what the host falls back to from a trial of another release.
        Err(PlanError::OnTrial { running, .. }) => Ok(Step::Wait(WaitFor::GoodSlot(running))),
        Err(PlanError::FailedBefore { .. }) if record.attempts(wanted) => Ok(Step::Wait(WaitFor::Record)),
        Err(PlanError::FailedBefore { .. }) => Err(did_not_come_up()),
        Err(other) => Err(other.into()),
    }
}

fn described(failure: &UpgradeFailure) -> String {
    let waited = if failure.message.is_empty() { String::new() } else { format!(" ({})", failure.message) };
    format!(" and was left again; its last start reached the stage {:?}{waited}", failure.stage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upgrade::attempt::Attempt;
    use SlotState::{Empty, Failed, Good, Trial};
    use boot_contract::BootState;
    use boot_contract::boot_state::{SlotBoot, SlotState};
    use proptest::prelude::*;
    use protocol::upgrade::FailedStage;

    fn release(digest: &str) -> ReleaseName {
        ReleaseName { version: format!("v-{digest}"), digest: digest.into() }
    }

    /// Slot A holds `old`, slot B `in_b`.
    fn host(running: Slot, a: SlotState, b: SlotState, active: Slot, in_b: &str) -> Slots {
        let state =
            BootState { a: SlotBoot::new(a), b: SlotBoot::new(b), active, preferred: active, ..BootState::INSTALLED };
        Slots { running, state, a: Some(release("old")), b: Some(release(in_b)) }
    }

    fn failed(digest: &str) -> Record {
        let failure = UpgradeFailure {
            release: digest.into(),
            version: format!("v-{digest}"),
            at: 7,
            stage: FailedStage::Checks,
            message: "the network is not up".into(),
            journal: Vec::new(),
        };
        Record { failure: Some(failure), ..Record::default() }
    }

    fn attempted(digest: &str) -> Record {
        Record { attempt: Some(Attempt::new(Slot::B, &release(digest), None)), ..Record::default() }
    }

    fn decide(slots: Slots, record: &Record) -> Result<Step, Refusal> {
        next(&slots, record, &release("new"), false)
    }

    #[test]
    fn before_the_restart_the_release_is_written_and_the_host_restarts() {
        let none = Record::default();
        let write = Ok(Step::CarryOut(Decision::Write(Slot::B)));
        assert_eq!(decide(host(Slot::A, Good, Empty, Slot::A, "none"), &none), write);
        assert_eq!(decide(host(Slot::A, Good, Good, Slot::A, "older"), &none), write);
        assert_eq!(decide(host(Slot::A, Good, Empty, Slot::A, "new"), &none), write, "a pod was killed while it wrote");
        assert_eq!(decide(host(Slot::A, Good, Failed, Slot::A, "other"), &failed("other")), write);
        assert_eq!(decide(host(Slot::A, Good, Trial, Slot::B, "new"), &attempted("new")), Ok(Step::Restart));
        let kept = host(Slot::A, Good, Good, Slot::A, "new");
        assert_eq!(decide(kept, &none), Ok(Step::CarryOut(Decision::Start(Slot::B))));
    }

    #[test]
    fn after_the_restart_the_pod_waits_until_the_slot_is_good() {
        let waits = Ok(Step::Wait(WaitFor::GoodSlot(Slot::B)));
        assert_eq!(decide(host(Slot::B, Good, Trial, Slot::B, "new"), &attempted("new")), waits);
        assert_eq!(decide(host(Slot::B, Good, Good, Slot::B, "new"), &Record::default()), Ok(Step::Done));
        let with_config = next(&host(Slot::B, Good, Good, Slot::B, "new"), &Record::default(), &release("new"), true);
        assert_eq!(with_config, Ok(Step::Restart), "only the cloud-config is another one");
        let left = host(Slot::B, Good, Good, Slot::A, "new");
        assert_eq!(decide(left, &Record::default()), Ok(Step::CarryOut(Decision::StartRunning)));
        let other_on_trial = host(Slot::B, Good, Trial, Slot::B, "other");
        assert_eq!(decide(other_on_trial, &attempted("other")), waits, "slot A is what it falls back to");
    }

    #[test]
    fn after_a_fallback_each_pod_says_the_same_and_writes_nothing() {
        let fallen_back = || host(Slot::A, Good, Failed, Slot::A, "new");
        let refusal = decide(fallen_back(), &failed("new")).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "release v-new did not come up on this machine and was left again; its last start reached the stage Checks \
             (the network is not up): use another release"
        );
        assert_eq!(decide(fallen_back(), &failed("new")), Err(refusal.clone()));
        let reused = host(Slot::A, Good, Failed, Slot::A, "other");
        assert_eq!(decide(reused, &failed("new")), Err(refusal.clone()), "the slot holds another release by now");
        let emptied = host(Slot::A, Good, Empty, Slot::A, "new");
        assert_eq!(decide(emptied, &failed("new")), Err(refusal));
        assert_eq!(decide(fallen_back(), &attempted("new")), Ok(Step::Wait(WaitFor::Record)), "it is recorded soon");
        let unknown = decide(fallen_back(), &Record::default()).unwrap_err().to_string();
        assert_eq!(unknown, "release v-new did not come up on this machine: use another release");
    }

    fn any_state() -> impl Strategy<Value = SlotState> {
        proptest::sample::select(vec![Empty, Trial, Good, Failed])
    }

    fn any_record() -> impl Strategy<Value = Record> {
        proptest::sample::select(vec![Record::default(), failed("new"), failed("x"), attempted("new"), attempted("x")])
    }

    proptest! {
        /// The states of the disk, as GRUB, the host and the pods change them, in turns.
        #[test]
        fn a_release_that_never_comes_up_is_written_once(
            a in any_state(), b in any_state(), in_b in 0..3usize, before in any_record(), pods in 1..20usize,
        ) {
            let mut slots = host(Slot::A, a, b, Slot::A, ["new", "x", "y"][in_b]);
            let mut record = before;
            let mut written = 0;
            for _ in 0..pods {
                match decide(slots.clone(), &record) {
                    Ok(Step::CarryOut(Decision::Write(slot))) => {
                        prop_assert_eq!(slot, Slot::B);
                        written += 1;
                        slots.b = Some(release("new"));
                        slots.state.give_up(slot, Slot::A);
                        slots.state.take_new(slot);
                        record.attempt = attempted("new").attempt;
                    }
                    Ok(Step::CarryOut(Decision::Start(slot))) => {
                        slots.state.choose(slot);
                    }
                    // The slot uses up its starts, and the host records that.
                    Ok(Step::Restart) => {
                        slots.state.b = SlotBoot::new(Failed);
                        slots.state.active = Slot::A;
                        record = failed("new");
                    }
                    Ok(Step::Wait(_) | Step::Done | Step::CarryOut(_)) | Err(_) => {}
                }
            }
            prop_assert!(written <= 1);
        }
    }
}
