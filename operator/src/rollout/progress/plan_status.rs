//! The status of a Plan and of its Jobs, as far as it shows the progress of a roll-out.

use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The Plan in this cluster and its Jobs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LocalPlan {
    pub status: PlanStatus,
    /// By the name of the Node: how its Job ended. `None`: it is running.
    pub jobs: BTreeMap<String, Option<JobEnd>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEnd {
    Complete,
    Failed(String),
}

/// The used part of a Plan's status, for the desired version.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PlanStatus {
    pub latest_hash: Option<String>,
    pub latest_version: Option<String>,
    pub applying: BTreeSet<String>,
    pub conditions: Vec<PlanCondition>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PlanCondition {
    #[serde(rename = "type")]
    pub type_: String,
    pub status: String,
    pub reason: String,
    pub message: String,
}

impl PlanStatus {
    /// The status of a Plan for this version. Just after a change the status is still that of the former version; then
    /// nothing is known of any node.
    pub fn of(plan: &Value, version: &str) -> Self {
        let status = plan.get("status").cloned().unwrap_or_default();
        // A status that cannot be parsed counts as absent: its controller writes it again.
        let status: Self = serde_json::from_value(status).unwrap_or_default();
        if status.latest_version.as_deref() == Some(version) {
            return status;
        }
        Self { conditions: status.conditions, ..Self::default() }
    }

    /// Why the controller does not carry out the Plan at all. A failed Job is not such a reason.
    pub fn trouble(&self) -> Option<String> {
        let refused = |condition: &&PlanCondition| {
            condition.reason == "Error" || (condition.type_ == "Validated" && condition.status == "False")
        };
        self.conditions.iter().find(refused).map(|condition| format!("{}: {}", condition.type_, condition.message))
    }
}
