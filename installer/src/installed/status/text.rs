//! The status as text for a person.

use super::Status;
use boot_contract::Slot;
use boot_contract::boot_state::{SlotBoot, SlotState};
use protocol::UpgradeFailure;
use std::fmt;
use std::time::Duration;
use x509_cert::der::DateTime;

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Release:     {} ({})", self.version, self.release)?;
        writeln!(f, "Slot:        {}", self.slot)?;
        if let Some(running) = self.running() {
            writeln!(f, "State:       {}", InWords(running))?;
        }
        if let Some(boot) = &self.boot {
            let running = self.slot.installed();
            for (slot, state) in [(Slot::A, boot.a), (Slot::B, boot.b)] {
                if Some(slot) != running {
                    let held = self.slots.iter().find(|held| held.slot == slot.into());
                    let release = held.map(|held| format!("release {}, ", held.version)).unwrap_or_default();
                    writeln!(f, "Slot {slot}:      {release}{}", InWords(state))?;
                }
            }
            if Some(boot.active) != running {
                writeln!(f, "Next start:  slot {}", boot.active)?;
            }
        }
        if let Some(cause) = &self.recovery {
            writeln!(f, "Recovery:    {cause}")?;
        }
        if let Some(failure) = &self.last_failure {
            writeln!(f, "Last failure: {}", FailureInWords(failure))?;
        }
        if let Some(join) = &self.join {
            writeln!(f, "Cluster:     {join}")?;
        }
        writeln!(f, "Operator:    {}", self.operator.as_deref().unwrap_or("none"))?;
        match &self.last_report {
            Some(report) => write!(f, "Last report: {}", Utc(report.at)),
            None => write!(f, "Last report: none"),
        }
    }
}

struct InWords(SlotBoot);

impl fmt::Display for InWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SlotBoot { state, left } = self.0;
        match state {
            SlotState::Empty => write!(f, "empty"),
            SlotState::Trial => write!(f, "on trial, {left} more starts"),
            SlotState::Good => write!(f, "good, {left} more starts if it does not come up"),
            SlotState::Failed => write!(f, "failed, no starts left"),
        }
    }
}

struct FailureInWords<'a>(&'a UpgradeFailure);

impl fmt::Display for FailureInWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UpgradeFailure { version, at, stage, message, journal, .. } = self.0;
        write!(
            f,
            "release {version} did not come up, found at {}; its last start reached the stage {stage:?}",
            Utc(*at)
        )?;
        if !message.is_empty() {
            write!(f, ": {message}")?;
        }
        journal.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// A time in seconds since 1 January 1970. `Display` shows date and time.
pub struct Utc(pub u64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(at) = DateTime::from_unix_duration(Duration::from_secs(self.0)) else {
            return write!(f, "{} s", self.0);
        };
        let (year, month, day) = (at.year(), at.month(), at.day());
        let (hour, minute, second) = (at.hour(), at.minutes(), at.seconds());
        write!(f, "{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::upgrade::FailedStage;

    #[test]
    fn a_release_that_did_not_come_up_is_shown_with_its_stage_and_journal() {
        let failure = UpgradeFailure {
            release: "sha256:03".into(),
            version: "0.3.0".into(),
            at: 0,
            stage: FailedStage::Checks,
            message: "the network is not up".into(),
            journal: vec!["eth0: no carrier".into()],
        };
        let status = Status { last_failure: Some(failure), ..Status::of_slot(Slot::B) };
        let expected = "Last failure: release 0.3.0 did not come up, found at 1970-01-01 00:00:00 UTC; its last start \
                        reached the stage Checks: the network is not up\n  eth0: no carrier\n";
        assert!(status.to_string().contains(expected), "{status}");
    }

    #[test]
    fn seconds_are_shown_as_a_date() {
        let shown = [0, 951_782_400, 951_868_800, 1_795_392_001].map(|seconds| Utc(seconds).to_string());
        let expected = ["1970-01-01 00:00:00", "2000-02-29 00:00:00", "2000-03-01 00:00:00", "2026-11-23 00:00:01"];
        assert_eq!(shown, expected.map(|text| format!("{text} UTC")));
    }
}
