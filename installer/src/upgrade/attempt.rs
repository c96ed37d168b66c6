//! The release that is on its way to run, and the last one that did not come up, in `/oem/upgrade.json`. COS_OEM survives
//! an upgrade, and the recovery system reads it as well.

use super::failed_start_log;
use super::plan::ReleaseName;
use crate::boot::state_file;
use crate::clock::unix_seconds;
use crate::console;
use crate::installed::boot_progress;
use crate::installed::files::write_secret;
use crate::path_error::PathError;
use boot_contract::Slot;
use boot_contract::boot_stage::BootProgress;
use boot_contract::boot_state::{BootState, SlotState};
use boot_contract::paths::{PERSISTENT, below};
use protocol::erase_request::remember;
use protocol::upgrade::{FailedStage, UpgradeFailure};
use protocol::{RequestText, error_chain};
use release::SemanticVersion;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::Path;

/// The file.
pub const FILE: &str = "/oem/upgrade.json";

/// Why the record cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    #[error("reading {FILE}")]
    Read(#[source] io::Error),
    #[error("reading {FILE}: it holds no record; remove it")]
    Malformed(#[source] serde_json::Error),
    #[error("writing {FILE}")]
    Write(#[source] io::Error),
    #[error(transparent)]
    State(#[from] PathError),
}

/// The record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Attempt>,
    /// Why the last attempt failed. A success removes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<UpgradeFailure>,
    /// The texts of `spec.retry` for which the release of `failure` was tried, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retried: Vec<RequestText>,
    /// The oldest release that is taken. It rises when a signed release that names one is blessed. It does not keep the
    /// machine from falling back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_version: Option<SemanticVersion>,
}

/// A release that was written and is started next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Letter of the slot.
    slot: String,
    version: String,
    /// `sha256:` and the hex digest of `release.json`.
    release: String,
    /// The oldest release that is taken once this one is blessed. `None` for an unsigned release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    minimum_version: Option<SemanticVersion>,
    /// The text of `spec.retry` that asked for it. It is used up when the attempt has failed, so that an attempt that a
    /// power cut prevents is made again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry: Option<RequestText>,
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The slot is on trial and is started next, or runs.
    Pending,
    Failed,
    /// The slot was marked as good. The record is not changed in the same moment, so a power cut may come between.
    Blessed,
    /// Another slot was chosen, or the slot was given another system.
    Withdrawn,
}

impl Attempt {
    pub fn new(
        slot: Slot,
        release: &ReleaseName,
        minimum_version: Option<SemanticVersion>,
        retry: Option<RequestText>,
    ) -> Self {
        let ReleaseName { version, digest } = release.clone();
        Self { slot: slot.letter().into(), version, release: digest, minimum_version, retry }
    }

    fn outcome(&self, state: &BootState) -> Outcome {
        let Some(slot) = Slot::from_letter(&self.slot) else { return Outcome::Withdrawn };
        match state.slot(slot).map(|boot| boot.state) {
            Some(SlotState::Failed) => Outcome::Failed,
            Some(SlotState::Good) => Outcome::Blessed,
            // From the recovery system the machine may come back to the slot.
            Some(SlotState::Trial) if state.active == slot || state.active == Slot::Recovery => Outcome::Pending,
            _ => Outcome::Withdrawn,
        }
    }
}

impl Record {
    /// A missing file is an empty record.
    pub fn read(root: &Path) -> Result<Self, AttemptError> {
        match fs::read(below(root, FILE)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(AttemptError::Malformed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(AttemptError::Read(error)),
        }
    }

    /// Whether `release` is on its way to run, or its failure was not recorded yet.
    pub fn attempts(&self, release: &ReleaseName) -> bool {
        self.attempt.as_ref().is_some_and(|attempt| attempt.release == release.digest)
    }

    /// Whether this text of `spec.retry` has brought a release that failed another attempt, which failed as well.
    pub fn has_retried(&self, release: &ReleaseName, text: &RequestText) -> bool {
        let is_of = |failure: &UpgradeFailure| failure.release == release.digest;
        self.failure.as_ref().is_some_and(is_of) && self.retried.contains(text)
    }

    pub fn write(&self, root: &Path) -> Result<(), AttemptError> {
        let bytes = serde_json::to_vec(self).map_err(|error| AttemptError::Write(error.into()))?;
        write_secret(&below(root, FILE), &bytes).map_err(AttemptError::Write)
    }

    /// The record after the machine has been started. `journal` is read only for a failure. `now` is in seconds since
    /// 1 January 1970. `None` if nothing changes.
    pub fn settled(
        &self,
        state: &BootState,
        last: Option<&BootProgress>,
        journal: impl FnOnce() -> Vec<String>,
        now: u64,
    ) -> Option<Self> {
        let attempt = self.attempt.as_ref()?;
        match attempt.outcome(state) {
            Outcome::Pending => None,
            Outcome::Blessed => Some(self.after_blessing(attempt)),
            Outcome::Withdrawn => Some(Self { attempt: None, ..self.clone() }),
            Outcome::Failed => {
                let failure = UpgradeFailure {
                    release: attempt.release.clone(),
                    version: attempt.version.clone(),
                    at: now,
                    stage: last.map_or(FailedStage::Grub, |last| last.stage.into()),
                    message: last.map(|last| last.message.clone()).unwrap_or_default(),
                    journal: journal(),
                };
                Some(Self {
                    attempt: None,
                    failure: Some(failure),
                    retried: self.retried_with(attempt),
                    ..self.clone()
                })
            }
        }
    }

    /// The texts for which the release of `attempt`, which has failed, was tried.
    fn retried_with(&self, attempt: &Attempt) -> Vec<RequestText> {
        let is_same = self.failure.as_ref().is_some_and(|failure| failure.release == attempt.release);
        let mut retried = if is_same { self.retried.clone() } else { Vec::new() };
        if let Some(text) = &attempt.retry {
            remember(&mut retried, text.clone());
        }
        retried
    }

    /// The record after `slot` was blessed. `None` if nothing changes.
    fn blessed(&self, slot: Slot) -> Option<Self> {
        let attempt = self.attempt.as_ref().filter(|attempt| attempt.slot == slot.letter())?;
        Some(self.after_blessing(attempt))
    }

    fn after_blessing(&self, attempt: &Attempt) -> Self {
        let both = [&self.minimum_version, &attempt.minimum_version];
        Self { minimum_version: both.into_iter().flatten().max().cloned(), ..Self::default() }
    }
}

/// Finds out whether a release did not come up, and says so on the console. A record that cannot be read or written keeps
/// no system from coming up.
pub fn note_failure() {
    match find_failure() {
        Ok(Some(failure)) => console::note(format!("release {} did not come up on this machine", failure.version)),
        Ok(None) => {}
        Err(error) => tracing::warn!("{}", error_chain(&error)),
    }
}

fn find_failure() -> Result<Option<UpgradeFailure>, AttemptError> {
    let root = Path::new("/");
    // Without an attempt, which is the usual case, the boot partition need not be mounted.
    if Record::read(root)?.attempt.is_none() {
        return Ok(None);
    }
    settle(root, Path::new(PERSISTENT), &state_file::current()?, unix_seconds())
}

/// Finds out what became of the attempt, and returns the failure if it has just been found. `persistent` is where the
/// persistent partition is mounted.
fn settle(root: &Path, persistent: &Path, state: &BootState, now: u64) -> Result<Option<UpgradeFailure>, AttemptError> {
    let record = Record::read(root)?;
    let Some(attempt) = &record.attempt else { return Ok(None) };
    let last = Slot::from_letter(&attempt.slot).and_then(|slot| boot_progress::read(persistent, slot));
    // The record was written when the attempt began.
    let begun = fs::metadata(below(root, FILE)).and_then(|about| about.modified()).map_err(AttemptError::Read)?;
    let journal = || failed_start_log::lines(root, last.as_ref(), begun);
    let Some(settled) = record.settled(state, last.as_ref(), journal, now) else { return Ok(None) };
    settled.write(root)?;
    Ok(settled.failure.filter(|failure| record.failure.as_ref() != Some(failure)))
}

/// The last release that did not come up. `None` if the record cannot be read, because a status must be shown all the
/// same.
pub fn last_failure(root: &Path) -> Option<UpgradeFailure> {
    let record = Record::read(root).unwrap_or_else(|error| {
        tracing::warn!("{}", error_chain(&error));
        Record::default()
    });
    record.failure
}

/// Records that `slot` was blessed.
pub fn succeed(root: &Path, slot: Slot) -> Result<(), AttemptError> {
    Record::read(root)?.blessed(slot).map_or(Ok(()), |record| record.write(root))
}

#[cfg(test)]
mod tests {
    use super::*;
    use boot_contract::boot_stage::BootStage;
    use boot_contract::boot_state::SlotBoot;

    fn tried() -> Record {
        let release = ReleaseName { version: "0.2.0".into(), digest: "sha256:02".into() };
        Record { attempt: Some(Attempt::new(Slot::B, &release, None, None)), ..Record::default() }
    }

    fn state(b: SlotState, active: Slot) -> BootState {
        BootState { b: SlotBoot::new(b), active, preferred: Slot::B, ..BootState::INSTALLED }
    }

    #[test]
    fn a_fallback_is_recorded_with_the_stage_that_the_last_start_reached() {
        let fallen_back = state(SlotState::Failed, Slot::A);
        let progress =
            BootProgress { stage: BootStage::Checks, boot_id: "id".into(), message: "the network is not up".into() };
        let settled = tried().settled(&fallen_back, Some(&progress), || vec!["eth0: no carrier".into()], 99).unwrap();
        let failure = settled.failure.unwrap();
        assert_eq!((failure.version.as_str(), failure.stage, failure.at), ("0.2.0", FailedStage::Checks, 99));
        assert_eq!((failure.message.as_str(), failure.journal.len()), ("the network is not up", 1));
        assert_eq!(settled.attempt, None);
        let early = tried().settled(&fallen_back, None, Vec::new, 99).unwrap().failure.unwrap();
        assert_eq!(early.stage, FailedStage::Grub);
    }

    #[test]
    fn an_attempt_is_pending_until_its_slot_is_good_or_failed_and_may_be_withdrawn() {
        for active in [Slot::B, Slot::Recovery] {
            assert_eq!(tried().settled(&state(SlotState::Trial, active), None, Vec::new, 1), None);
        }
        for withdrawn in [state(SlotState::Trial, Slot::A), state(SlotState::Empty, Slot::A)] {
            assert_eq!(tried().settled(&withdrawn, None, Vec::new, 1), Some(Record::default()));
        }
        assert_eq!(tried().blessed(Slot::B), Some(Record::default()));
        assert_eq!(tried().blessed(Slot::A), None);
        assert_eq!(Record::default().settled(&state(SlotState::Failed, Slot::A), None, Vec::new, 1), None);
    }

    #[test]
    fn a_text_is_used_up_when_its_attempt_has_failed_and_forgotten_with_another_release() {
        let fallen_back = state(SlotState::Failed, Slot::A);
        let again = |record: Record, digest: &str, text: &str| {
            let release = ReleaseName { version: "0.2.0".into(), digest: digest.into() };
            let attempt = Attempt::new(Slot::B, &release, None, text.parse().ok());
            Record { attempt: Some(attempt), ..record }
        };
        let settled = |record: Record| record.settled(&fallen_back, None, Vec::new, 1).unwrap();
        let first = settled(tried());
        assert_eq!(first.retried, []);
        let pending = again(first.clone(), "sha256:02", "a");
        assert_eq!(pending.settled(&state(SlotState::Empty, Slot::A), None, Vec::new, 1), Some(first));
        let twice = settled(again(settled(pending), "sha256:02", "b"));
        let texts = |record: &Record| record.retried.iter().map(|text| text.as_str().to_owned()).collect::<Vec<_>>();
        assert_eq!(texts(&twice), ["a", "b"]);
        let twice: Record = serde_json::from_slice(&serde_json::to_vec(&twice).unwrap()).unwrap();
        let release = |digest: &str| ReleaseName { version: "0.2.0".into(), digest: digest.into() };
        assert!(twice.has_retried(&release("sha256:02"), &"a".parse().unwrap()));
        assert!(!twice.has_retried(&release("sha256:03"), &"a".parse().unwrap()));
        assert_eq!(texts(&settled(again(twice, "sha256:03", "c"))), ["c"]);
    }

    #[test]
    fn the_oldest_release_that_is_taken_rises_when_a_release_is_blessed_and_never_falls() {
        let version = |text: &str| Some(text.parse::<SemanticVersion>().unwrap());
        let with = |floor, of_release| {
            let mut record = tried();
            record.minimum_version = floor;
            record.attempt.as_mut().unwrap().minimum_version = of_release;
            record
        };
        let blessed = |floor, of_release| with(floor, of_release).blessed(Slot::B).unwrap().minimum_version;
        assert_eq!(blessed(version("0.1.0"), version("0.2.0")), version("0.2.0"));
        assert_eq!(blessed(version("0.10.0"), version("0.9.0")), version("0.10.0"));
        assert_eq!(blessed(version("0.1.0"), None), version("0.1.0"));
        // The power was cut after the slot was marked as good and before the record said so.
        for active in [Slot::A, Slot::B] {
            let cut =
                with(version("0.1.0"), version("0.2.0")).settled(&state(SlotState::Good, active), None, Vec::new, 1);
            assert_eq!(cut.unwrap(), Record { minimum_version: version("0.2.0"), ..Record::default() });
        }
        let fallen_back =
            with(version("0.1.0"), version("9.0.0")).settled(&state(SlotState::Failed, Slot::A), None, Vec::new, 1);
        assert_eq!(fallen_back.unwrap().minimum_version, version("0.1.0"));
    }

    #[test]
    fn the_record_survives_on_the_partition_for_settings() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(root.path()).unwrap(), Record::default());
        tried().write(root.path()).unwrap();
        let found = settle(root.path(), root.path(), &state(SlotState::Failed, Slot::A), 5).unwrap();
        assert_eq!(found.unwrap().release, "sha256:02");
        let again = settle(root.path(), root.path(), &state(SlotState::Failed, Slot::A), 6).unwrap();
        assert_eq!(again, None, "it is told once");
        assert_eq!(Record::read(root.path()).unwrap().failure.unwrap().at, 5);
        fs::write(root.path().join("oem/upgrade.json"), "{").unwrap();
        assert!(matches!(Record::read(root.path()), Err(AttemptError::Malformed(_))));
    }
}
