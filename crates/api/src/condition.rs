//! Conditions as kstatus reads them, in a list keyed by type.

use super::Text;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest message in bytes. The rest is cut off.
const LONGEST_MESSAGE: usize = 4096;

/// One aspect of an object's state. Looser than Kubernetes' own type: the first release wrote conditions without
/// reason and time, and such objects must still be readable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// The aspect of the object that this condition describes. A list has at most one condition of each type.
    #[serde(rename = "type")]
    #[schemars(length(max = 316))]
    pub type_: Text,
    /// Whether the condition is true.
    pub status: ConditionStatus,
    /// The cause of the status, as a word in CamelCase. The words are stable, so that scripts can rely on them.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub reason: Text,
    /// An explanation for people. It names the object concerned and what to do next.
    #[serde(default)]
    #[schemars(length(max = 4096))]
    pub message: Text,
    /// The time at which `status` last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Time>,
    /// The `metadata.generation` of the object that the condition was determined for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// Reads and changes a list of conditions.
pub trait Conditions {
    fn find(&self, type_: &str) -> Option<&Condition>;
    fn holds(&self, type_: &str) -> bool {
        self.find(type_).is_some_and(|c| c.status == ConditionStatus::True)
    }
    /// Adds or replaces the condition of a type. Its transition time becomes `now` only if its status has changed, so a
    /// list without a change stays equal.
    fn put(&mut self, type_: &str, holds: bool, reason: &str, message: &str, generation: Option<i64>, now: &Time);
    /// Removes the condition of a type.
    fn remove_type(&mut self, type_: &str);
}

impl Conditions for Vec<Condition> {
    fn find(&self, type_: &str) -> Option<&Condition> {
        self.iter().find(|c| c.type_ == type_)
    }

    fn put(&mut self, type_: &str, holds: bool, reason: &str, message: &str, generation: Option<i64>, now: &Time) {
        let status = ConditionStatus::from(holds);
        let unchanged = self.find(type_).filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
        let condition = Condition {
            type_: type_.into(),
            status,
            reason: reason.into(),
            message: message[..message.floor_char_boundary(LONGEST_MESSAGE)].into(),
            last_transition_time: Some(unchanged.unwrap_or_else(|| now.clone())),
            observed_generation: generation,
        };
        match self.iter_mut().find(|c| c.type_ == type_) {
            Some(place) => *place = condition,
            None => self.push(condition),
        }
    }

    fn remove_type(&mut self, type_: &str) {
        self.retain(|c| c.type_ != type_);
    }
}

/// Why an object cannot be acted upon: reason and message of its `Ready` condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub reason: &'static str,
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn the_time_moves_with_the_status_only() {
        let mut conditions = Vec::new();
        conditions.put("Ready", false, "Waiting", "", Some(1), &at(1));
        conditions.put("Ready", false, "StillWaiting", "", Some(2), &at(2));
        assert_eq!(conditions[0].last_transition_time, Some(at(1)));
        conditions.put("Ready", true, "Available", "", Some(2), &at(3));
        assert_eq!(conditions[0].last_transition_time, Some(at(3)));
        assert_eq!(conditions.len(), 1);
        assert!(conditions.holds("Ready") && !conditions.holds("Stalled"));
    }

    #[test]
    fn the_first_releases_conditions_are_readable() {
        let old: Condition = serde_json::from_str(r#"{"type":"Ready","status":"True","lastUpdateTime":"x"}"#).unwrap();
        assert_eq!((old.status, &*old.reason), (ConditionStatus::True, ""));
    }
}
