//! What is remembered of a node's upgrade, in an annotation of its Node. A Node that is deleted takes it along: another
//! Node of that name is another node.

use super::NodeRollout;
use serde::{Deserialize, Serialize};
use std::num::NonZero;

/// The annotation.
pub const UPGRADE_ANNOTATION: &str = "rancheros.cattle.io/upgrade";
/// Longest reason and message of a failure that are kept, in bytes.
const LONGEST_MESSAGE: usize = 1024;

/// Times are seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// The ManagedOSImage.
    pub image: String,
    pub version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<String>,
    /// When the node's turn began.
    pub since: i64,
    /// The boot in which the node was when its turn began.
    #[serde(rename = "bootID")]
    pub boot_id: String,
    /// The last heartbeat of the kubelet at that time, on the node's clock.
    #[serde(default)]
    pub heartbeat: i64,
    /// `status.nodeInfo.osImage` at that time.
    pub from: String,
    /// Whether the operator cordoned the node and has not uncordoned it.
    pub cordoned: bool,
    /// When its first pods were evicted. The drain's timeout counts from here: the operator may have been away since the cordon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<NonZero<i64>>,
    /// When the node was drained: from then on its Job runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
}

/// How an upgrade ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum End {
    Done,
    Failed { reason: String, message: String },
}

impl Memory {
    /// `None`: the annotation is not one that the operator writes.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The annotation's value.
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Whether it is of what is to run now.
    pub fn is_current(&self, rollout: &NodeRollout) -> bool {
        self.is_of(rollout) && self.retry == rollout.retry
    }

    /// Whether it is of the same containers; perhaps of an earlier attempt.
    pub fn is_of(&self, rollout: &NodeRollout) -> bool {
        self.image == rollout.name && self.version == rollout.version
    }

    /// Whether the upgrade has not ended.
    pub fn is_in_flight(&self) -> bool {
        self.end.is_none()
    }

    pub fn ended(&self, end: End) -> Self {
        Self { end: Some(end), ..self.clone() }
    }

    pub fn failed(&self, reason: &str, message: &str) -> Self {
        let mut message = message.to_owned();
        message.truncate(message.floor_char_boundary(LONGEST_MESSAGE));
        self.ended(End::Failed { reason: reason.to_owned(), message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_survives_the_annotation() {
        let memory = Memory {
            image: "x".into(),
            version: "v1-0".into(),
            retry: Some("again".into()),
            since: 7,
            boot_id: "b".into(),
            cordoned: true,
            drained: Some(9),
            ..Memory::default()
        };
        for memory in [memory.clone(), memory.ended(End::Done), memory.failed("FellBack", &"ä".repeat(2000))] {
            assert_eq!(Memory::parse(&memory.text()), Some(memory.clone()));
            assert!(memory.text().len() < 1500);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in ".{0,200}") {
            let _ = Memory::parse(&text);
        }
    }
}
