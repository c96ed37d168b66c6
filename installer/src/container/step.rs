//! Decides from values alone what a pod does, before the restart of its host and after it.

use crate::upgrade::attempt::Record;
use crate::upgrade::{Decision, PlanError, ReleaseName, Slots};
use boot_contract::Slot;
use protocol::{RequestText, UpgradeFailure};
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
    #[error("release {version} did not come up on this machine{why}: use another release, or another spec.retry")]
    DidNotComeUp { version: String, why: String },
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// What brings `wanted` nearer to being the system that runs and is good. A release that failed on this machine is not
/// tried again, even if its slot holds another one by now, but once for each text of `retry`. `has_new_config`: the host's
/// cloud-config has to be changed.
pub fn next(
    slots: &Slots,
    record: &Record,
    wanted: &ReleaseName,
    retry: Option<&RequestText>,
    has_new_config: bool,
) -> Result<Step, Refusal> {
    let tries_again = retry.is_some_and(|text| !record.has_retried(wanted, text));
    let is_attempted = record.attempts(wanted);
    let failure = record.failure.as_ref().filter(|failure| failure.release == wanted.digest);
    let did_not_come_up =
        || Refusal::DidNotComeUp { version: wanted.version.clone(), why: failure.map(described).unwrap_or_default() };
    // Of an attempt that has ended it must be recorded first for which text it was.
    match slots.decide(wanted, tries_again && !is_attempted) {
        Ok(Decision::Runs) if !slots.runs_from_a_good_slot() => Ok(Step::Wait(WaitFor::GoodSlot(slots.running))),
        Ok(Decision::Runs) => Ok(if has_new_config { Step::Restart } else { Step::Done }),
        Ok(Decision::WaitsForRestart(_)) => Ok(Step::Restart),
        Ok(Decision::Write(_)) if failure.is_some() && !tries_again => Err(did_not_come_up()),
        Ok(decision) => Ok(Step::CarryOut(decision)),
        // The slot that could be written is what the host falls back to from a trial of another release.
        Err(PlanError::OnTrial { running, .. }) => Ok(Step::Wait(WaitFor::GoodSlot(running))),
        Err(PlanError::FailedBefore { .. }) if is_attempted => Ok(Step::Wait(WaitFor::Record)),
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
        Record { attempt: Some(Attempt::new(Slot::B, &release(digest), None, None)), ..Record::default() }
    }

    fn text(text: &str) -> RequestText {
        text.parse().unwrap()
    }

    fn decide(slots: Slots, record: &Record) -> Result<Step, Refusal> {
        next(&slots, record, &release("new"), None, false)
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
        let runs = host(Slot::B, Good, Good, Slot::B, "new");
        let with_config = next(&runs, &Record::default(), &release("new"), None, true);
        assert_eq!(with_config, Ok(Step::Restart), "only the cloud-config is another one");
        let with_retry = next(&runs, &Record::default(), &release("new"), Some(&text("again")), false);
        assert_eq!(with_retry, Ok(Step::Done), "nothing is tried again that did not fail");
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
             (the network is not up): use another release, or another spec.retry"
        );
        assert_eq!(decide(fallen_back(), &failed("new")), Err(refusal.clone()));
        let reused = host(Slot::A, Good, Failed, Slot::A, "other");
        assert_eq!(decide(reused, &failed("new")), Err(refusal.clone()), "the slot holds another release by now");
        let emptied = host(Slot::A, Good, Empty, Slot::A, "new");
        assert_eq!(decide(emptied, &failed("new")), Err(refusal));
        assert_eq!(decide(fallen_back(), &attempted("new")), Ok(Step::Wait(WaitFor::Record)), "it is recorded soon");
        let unknown = decide(fallen_back(), &Record::default()).unwrap_err().to_string();
        let expected = "release v-new did not come up on this machine: use another release, or another spec.retry";
        assert_eq!(unknown, expected);
    }

    #[test]
    fn a_text_lets_a_release_that_failed_be_tried_once_more() {
        let fallen_back = host(Slot::A, Good, Failed, Slot::A, "new");
        let with = |slots: &Slots, record: &Record, retry: &str| {
            next(slots, record, &release("new"), Some(&text(retry)), false)
        };
        let write = Ok(Step::CarryOut(Decision::Write(Slot::B)));
        assert_eq!(with(&fallen_back, &failed("new"), "a"), write);
        assert_eq!(with(&fallen_back, &Record::default(), "a"), write, "it is not known why it failed");
        assert_eq!(with(&fallen_back, &attempted("new"), "a"), Ok(Step::Wait(WaitFor::Record)));
        let interrupted = host(Slot::A, Good, Empty, Slot::A, "new");
        let attempt = Some(Attempt::new(Slot::B, &release("new"), None, Some(text("a"))));
        assert_eq!(
            with(&interrupted, &Record { attempt, ..failed("new") }, "a"),
            write,
            "a power cut before the trial"
        );
        let tried = Record { retried: vec![text("a")], ..failed("new") };
        assert!(matches!(with(&fallen_back, &tried, "a"), Err(Refusal::DidNotComeUp { .. })));
        assert_eq!(with(&fallen_back, &tried, "b"), write);
        let of_another = Record { retried: vec![text("a")], ..failed("x") };
        assert_eq!(with(&fallen_back, &of_another, "a"), write, "the text was for another release");
    }

    fn any_state() -> impl Strategy<Value = SlotState> {
        proptest::sample::select(vec![Empty, Trial, Good, Failed])
    }

    fn any_record() -> impl Strategy<Value = Record> {
        proptest::sample::select(vec![Record::default(), failed("new"), failed("x"), attempted("new"), attempted("x")])
    }

    const TEXTS: [&str; 3] = ["a", "b", "c"];

    /// What a pod was told, and whether it is killed before its release is on trial, and whether the host records what
    /// became of it before the next pod.
    fn any_pod() -> impl Strategy<Value = (Option<usize>, bool, bool)> {
        (proptest::option::of(0..TEXTS.len()), proptest::bool::weighted(0.1), any::<bool>())
    }

    proptest! {
        /// The states of the disk, as GRUB, the host and the pods change them, in turns.
        #[test]
        fn a_release_that_never_comes_up_is_written_once_and_once_for_each_text(
            a in any_state(), b in any_state(), in_b in 0..3usize, before in any_record(),
            pods in proptest::collection::vec(any_pod(), 1..40),
        ) {
            let mut slots = host(Slot::A, a, b, Slot::A, ["new", "x", "y"][in_b]);
            let mut record = before;
            let mut written = [0; TEXTS.len() + 1];
            for (told, killed, settles) in pods {
                let retry = told.map(|at| text(TEXTS[at]));
                match next(&slots, &record, &release("new"), retry.as_ref(), false) {
                    Ok(Step::CarryOut(Decision::Write(slot))) => {
                        prop_assert_eq!(slot, Slot::B);
                        slots.b = Some(release("new"));
                        slots.state.give_up(slot, Slot::A);
                        record.attempt = Some(Attempt::new(slot, &release("new"), None, retry));
                        if !killed {
                            written[told.map_or(0, |at| at + 1)] += 1;
                            slots.state.take_new(slot);
                        }
                    }
                    Ok(Step::CarryOut(Decision::Start(slot))) => {
                        slots.state.choose(slot);
                    }
                    // The slot uses up its starts.
                    Ok(Step::Restart) => {
                        slots.state.b = SlotBoot::new(Failed);
                        slots.state.active = Slot::A;
                    }
                    Ok(Step::Wait(_) | Step::Done | Step::CarryOut(_)) | Err(_) => {}
                }
                if settles {
                    record = record.settled(&slots.state, None, Vec::new, 7).unwrap_or(record);
                }
            }
            prop_assert!(written.iter().all(|times| *times <= 1), "{written:?}");
        }
    }
}
