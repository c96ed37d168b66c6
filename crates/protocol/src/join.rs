//! How an installed machine joins its cluster. The inventory endpoint answers it, and the operator's `done` carries it.

use crate::refusal::Refusal;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;

/// Settings for rancherd, by its names: `role`, `nodeName`, `address`, `internalAddress`, `taints`, `labels`, `token`,
/// and whatever else the inventory's `spec.config` holds. Labels and taints are text, as kubelet takes them:
/// `key=value`, `key=value:Effect`.
///
/// Source: rancher/os2 v0.1.0-alpha12 `pkg/server/server.go`, `config`; rancher/rancherd `pkg/config/runtime.go`.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JoinConfiguration(pub Map<String, Value>);

impl JoinConfiguration {
    /// Most bytes as JSON: it must fit into a message beside everything else.
    pub const MAX_BYTES: usize = 128 * 1024;

    /// Whether there is nothing to join.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Shows only the names: the token is a secret, and other values may be secrets, too.
impl fmt::Debug for JoinConfiguration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// How a machine joins its cluster, in the answer to its report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Join {
    /// The cluster that the machine is assigned to, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Replaces the configuration that was sent before. Empty where the machine is assigned to nothing. Absent where it is
    /// not known now; the machine then keeps what it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<JoinConfiguration>,
    /// Why the configuration is not known now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Refusal>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_token_crosses_the_wire_and_no_log() {
        let join: Join = serde_json::from_value(json!({
            "cluster": "c", "configuration": {"role": "agent", "token": "t0p"}, "mood": "newer operators may say more",
        }))
        .unwrap();
        assert_eq!(serde_json::to_value(&join).unwrap()["configuration"]["token"], "t0p");
        let shown = format!("{join:?}");
        assert!(shown.contains("\"token\"") && !shown.contains("t0p"), "{shown}");
    }
}
