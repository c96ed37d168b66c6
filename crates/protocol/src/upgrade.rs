//! What a machine tells about a release that did not come up on it.

use crate::bounded::{line, list, word};
use boot_contract::boot_stage::BootStage;
use serde::{Deserialize, Deserializer, Serialize};

/// The most lines of the journal that are reported.
pub const MOST_JOURNAL_LINES: usize = 20;
/// The longest line of the journal, in bytes.
pub const LONGEST_JOURNAL_LINE: usize = 200;

/// A release that was tried and did not come up, after which the machine fell back to the system before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeFailure {
    /// `sha256:` and the hex digest of `release.json`.
    #[serde(deserialize_with = "word::<128, _>")]
    pub release: String,
    /// Name of the release, such as `0.2.0`.
    #[serde(deserialize_with = "word::<128, _>")]
    pub version: String,
    /// When the machine found that it had fallen back, in seconds since 1 January 1970 by its clock.
    pub at: u64,
    /// The last stage that the last start reached.
    pub stage: FailedStage,
    /// What the last start waited for. Empty if it is not known.
    #[serde(default, deserialize_with = "line::<1024, _>", skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What the kernel said in its panic, or else the end of the journal of the last start. Empty if neither was kept.
    #[serde(default, deserialize_with = "journal", skip_serializing_if = "Vec::is_empty")]
    pub journal: Vec<String>,
}

/// The last stage of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum FailedStage {
    /// GRUB started the slot. The kernel or `ros-init` did not get as far as the persistent partition.
    Grub,
    /// `ros-init` mounted the root and handed over to systemd.
    Root,
    /// systemd started its first units.
    Systemd,
    /// `ros-installer healthy` waited for the system to be up.
    Checks,
}

impl From<BootStage> for FailedStage {
    fn from(stage: BootStage) -> Self {
        match stage {
            BootStage::Root => Self::Root,
            BootStage::Systemd => Self::Systemd,
            BootStage::Checks => Self::Checks,
        }
    }
}

fn journal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    struct Line(#[serde(deserialize_with = "line::<LONGEST_JOURNAL_LINE, _>")] String);
    let lines = list::<MOST_JOURNAL_LINES, Line, D>(deserializer)?;
    Ok(lines.into_iter().map(|line| line.0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_failure_is_cut_to_its_bounds() {
        let told = json!({
            "release": "sha256:00", "version": "0.2.0", "at": 7, "stage": "Checks",
            "message": "x\u{1b}".repeat(2000), "journal": vec!["y".repeat(300); 50],
        });
        let failure: UpgradeFailure = serde_json::from_value(told).unwrap();
        assert_eq!((failure.message.len(), failure.journal.len(), failure.journal[0].len()), (1024, 20, 200));
        assert!(!failure.message.contains('\u{1b}'));
        assert!(serde_json::from_value::<UpgradeFailure>(json!({"release": "a b"})).is_err());
    }
}
