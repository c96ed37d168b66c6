//! Decides from values alone what an upgrade does.

use boot_contract::Slot;
use boot_contract::boot_state::{BootState, SlotState};

/// A release by name and digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseName {
    pub version: String,
    /// `sha256:` and the hex digest of `release.json`.
    pub digest: String,
}

/// What the installed system holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots {
    pub running: Slot,
    pub state: BootState,
    /// The release in each slot. `None` if the slot's folder has no readable `release.json`.
    pub a: Option<ReleaseName>,
    pub b: Option<ReleaseName>,
}

/// What has to be done so that a release runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The release runs, and is started next.
    Runs,
    /// The release runs, but another slot is started next.
    StartRunning,
    /// The other slot holds the release and is started next.
    WaitsForRestart(Slot),
    /// The other slot holds the release, but is not started next.
    Start(Slot),
    /// The slot has to be written.
    Write(Slot),
}

/// Why a release is not written. The machine is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error(
        "release {version} was tried on this machine and did not come up (`ros-installer status` says why); use \
         another release, or --retry"
    )]
    FailedBefore { version: String },
    #[error(
        "slot {running} is not marked as good, and slot {other} is what the machine falls back to: wait until \
         `ros-installer status` says that slot {running} is good"
    )]
    OnTrial { running: Slot, other: Slot },
    #[error("slot {0} holds no system to go back to")]
    NothingToGoBackTo(Slot),
    #[error("the release in slot {0} did not come up on this machine; `ros-installer boot {0}` starts it all the same")]
    GoesBackToFailed(Slot),
    #[error("the recovery system runs, and would overwrite itself: start a slot first (`ros-installer boot A`)")]
    RunsRecovery,
    #[error(
        "slot {0} is not marked as good: wait until `ros-installer status` says so; a recovery system that may not come up is \
         none"
    )]
    RunningNotGood(Slot),
    #[error("slot {next} is started next, and slot {running} runs: restart first, or choose with `ros-installer boot`")]
    AnotherIsNext { running: Slot, next: Slot },
}

impl PlanError {
    /// The reason of a condition. CamelCase and stable.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::FailedBefore { .. } | Self::GoesBackToFailed(_) => "ReleaseFailedBefore",
            Self::OnTrial { .. } | Self::RunningNotGood(_) => "SlotOnTrial",
            Self::RunsRecovery => "RecoveryRuns",
            Self::AnotherIsNext { .. } => "AnotherSlotIsNext",
            Self::NothingToGoBackTo(_) => "NoOtherSystem",
        }
    }
}

impl Slots {
    /// What has to be done so that `wanted` runs. `retry` tries a release again that has failed on this machine.
    pub fn decide(&self, wanted: &ReleaseName, retry: bool) -> Result<Decision, PlanError> {
        let (running, state) = (self.running, &self.state);
        if self.holds(running, wanted) {
            let is_next = state.active == running;
            return Ok(if is_next { Decision::Runs } else { Decision::StartRunning });
        }
        let other = self.other();
        if self.holds(other, wanted) {
            match self.slot_state(other) {
                SlotState::Failed if !retry => {
                    return Err(PlanError::FailedBefore { version: wanted.version.clone() });
                }
                SlotState::Failed | SlotState::Empty => {}
                SlotState::Trial | SlotState::Good if state.active == other => {
                    return Ok(Decision::WaitsForRestart(other));
                }
                SlotState::Trial | SlotState::Good => return Ok(Decision::Start(other)),
            }
        }
        if self.slot_state(running) != SlotState::Good && self.slot_state(other) == SlotState::Good {
            return Err(PlanError::OnTrial { running, other });
        }
        Ok(Decision::Write(other))
    }

    /// Whether the running slot is marked as good.
    pub fn runs_from_a_good_slot(&self) -> bool {
        self.slot_state(self.running) == SlotState::Good
    }

    /// The name of the release with this digest, if a slot holds it.
    pub fn held(&self, digest: &str) -> Option<ReleaseName> {
        [&self.a, &self.b].into_iter().flatten().find(|held| held.digest == digest).cloned()
    }

    /// The slot that `ros-installer rollback` starts.
    pub fn rollback(&self) -> Result<Slot, PlanError> {
        let other = self.other();
        match self.slot_state(other) {
            SlotState::Empty => Err(PlanError::NothingToGoBackTo(other)),
            SlotState::Failed => Err(PlanError::GoesBackToFailed(other)),
            SlotState::Trial | SlotState::Good => Ok(other),
        }
    }

    /// The release that the recovery system becomes: the running one, which has proved on this machine that it comes up.
    /// While the recovery system is written, the running slot must be sure to start.
    pub fn for_recovery(&self) -> Result<Slot, PlanError> {
        let running = self.running;
        if running == Slot::Recovery {
            return Err(PlanError::RunsRecovery);
        }
        if self.slot_state(running) != SlotState::Good {
            return Err(PlanError::RunningNotGood(running));
        }
        if self.state.active != running {
            return Err(PlanError::AnotherIsNext { running, next: self.state.active });
        }
        Ok(running)
    }

    /// The slot that may be written while this system runs. From recovery, a slot that was never good is preferred.
    pub fn other(&self) -> Slot {
        match self.running {
            Slot::A => Slot::B,
            Slot::B => Slot::A,
            Slot::Recovery if self.state.a.state == SlotState::Good && self.state.b.state != SlotState::Good => Slot::B,
            Slot::Recovery => Slot::A,
        }
    }

    fn holds(&self, slot: Slot, wanted: &ReleaseName) -> bool {
        let held = match slot {
            Slot::A => self.a.as_ref(),
            Slot::B => self.b.as_ref(),
            Slot::Recovery => None,
        };
        held.is_some_and(|held| held.digest == wanted.digest)
    }

    /// Recovery counts as good.
    fn slot_state(&self, slot: Slot) -> SlotState {
        self.state.slot(slot).map_or(SlotState::Good, |boot| boot.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use boot_contract::boot_state::SlotBoot;
    use proptest::prelude::*;

    fn release(digest: &str) -> ReleaseName {
        ReleaseName { version: format!("v-{digest}"), digest: digest.into() }
    }

    /// Slot A runs release `old`.
    fn slots(a: SlotState, b: SlotState, active: Slot, in_b: Option<&str>) -> Slots {
        let state =
            BootState { a: SlotBoot::new(a), b: SlotBoot::new(b), active, preferred: active, ..BootState::INSTALLED };
        Slots { running: Slot::A, state, a: Some(release("old")), b: in_b.map(release) }
    }

    #[test]
    fn a_new_release_goes_to_the_other_slot_and_a_known_one_is_not_written_again() {
        use SlotState::{Empty, Good, Trial};
        let decide = |slots: Slots, wanted: &str| slots.decide(&release(wanted), false);
        assert_eq!(decide(slots(Good, Empty, Slot::A, None), "new"), Ok(Decision::Write(Slot::B)));
        assert_eq!(decide(slots(Good, Good, Slot::A, Some("older")), "new"), Ok(Decision::Write(Slot::B)));
        assert_eq!(decide(slots(Good, Empty, Slot::A, None), "old"), Ok(Decision::Runs));
        assert_eq!(decide(slots(Good, Trial, Slot::B, Some("new")), "old"), Ok(Decision::StartRunning));
        assert_eq!(decide(slots(Good, Trial, Slot::B, Some("new")), "new"), Ok(Decision::WaitsForRestart(Slot::B)));
        assert_eq!(decide(slots(Good, Good, Slot::A, Some("new")), "new"), Ok(Decision::Start(Slot::B)));
        let interrupted = slots(Good, Empty, Slot::A, Some("new"));
        assert_eq!(decide(interrupted, "new"), Ok(Decision::Write(Slot::B)), "it was interrupted");
    }

    #[test]
    fn a_release_that_failed_is_refused_until_somebody_asks_for_it_again() {
        let fallen_back = slots(SlotState::Good, SlotState::Failed, Slot::A, Some("bad"));
        let refused = fallen_back.decide(&release("bad"), false).unwrap_err();
        assert_eq!(refused.reason(), "ReleaseFailedBefore");
        assert!(refused.to_string().contains("v-bad") && refused.to_string().contains("--retry"), "{refused}");
        assert_eq!(fallen_back.decide(&release("bad"), true), Ok(Decision::Write(Slot::B)));
        assert_eq!(fallen_back.decide(&release("fixed"), false), Ok(Decision::Write(Slot::B)));
    }

    #[test]
    fn the_slot_that_a_trial_falls_back_to_is_not_written() {
        let on_trial = slots(SlotState::Trial, SlotState::Good, Slot::A, Some("older"));
        assert_eq!(on_trial.decide(&release("new"), false).unwrap_err().reason(), "SlotOnTrial");
        let alone = slots(SlotState::Trial, SlotState::Empty, Slot::A, None);
        assert_eq!(alone.decide(&release("new"), false), Ok(Decision::Write(Slot::B)), "nothing to fall back to");
    }

    #[test]
    fn a_rollback_leads_to_a_system_that_may_start() {
        use SlotState::{Empty, Failed, Good};
        assert_eq!(slots(Good, Good, Slot::A, Some("older")).rollback(), Ok(Slot::B));
        assert_eq!(slots(Good, Empty, Slot::A, None).rollback().unwrap_err().reason(), "NoOtherSystem");
        assert_eq!(slots(Good, Failed, Slot::A, Some("bad")).rollback().unwrap_err().reason(), "ReleaseFailedBefore");
    }

    #[test]
    fn only_a_good_system_that_is_started_next_becomes_the_recovery_system() {
        use SlotState::{Empty, Good, Trial};
        assert_eq!(slots(Good, Empty, Slot::A, None).for_recovery(), Ok(Slot::A));
        let reason = |slots: Slots| slots.for_recovery().unwrap_err().reason();
        assert_eq!(reason(slots(Trial, Good, Slot::A, None)), "SlotOnTrial");
        assert_eq!(reason(slots(Good, Trial, Slot::B, Some("new"))), "AnotherSlotIsNext");
        assert_eq!(reason(slots(Good, Good, Slot::Recovery, None)), "AnotherSlotIsNext");
        let recovery = Slots { running: Slot::Recovery, ..slots(Good, Good, Slot::A, None) };
        assert_eq!(reason(recovery), "RecoveryRuns");
    }

    fn any_state() -> impl Strategy<Value = SlotState> {
        proptest::sample::select(vec![SlotState::Empty, SlotState::Trial, SlotState::Good, SlotState::Failed])
    }

    proptest! {
        #[test]
        fn the_running_slot_and_the_last_good_one_are_never_written(
            a in any_state(), b in any_state(), running in 0..3usize, active in 0..3usize,
            in_a in 0..3usize, in_b in 0..3usize, wanted in 0..3usize, retry: bool,
        ) {
            let names = ["x", "y", "z"];
            let state = BootState {
                a: SlotBoot::new(a), b: SlotBoot::new(b), active: Slot::ALL[active], ..BootState::INSTALLED
            };
            let slots = Slots {
                running: Slot::ALL[running], state, a: Some(release(names[in_a])), b: Some(release(names[in_b])),
            };
            if let Ok(Decision::Write(target)) = slots.decide(&release(names[wanted]), retry) {
                prop_assert_ne!(target, slots.running);
                prop_assert_ne!(target, Slot::Recovery);
                let rest = [Slot::A, Slot::B].into_iter().filter(|slot| *slot != target);
                let is_good = |slot| slots.slot_state(slot) == SlotState::Good;
                let falls_back = slots.running == Slot::Recovery || rest.into_iter().any(is_good);
                prop_assert!(falls_back || !is_good(target), "the only good slot would be lost");
            }
        }
    }
}
