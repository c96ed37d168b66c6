//! The release that a machine is told to run, and the machine's report about it.

use crate::bounded::{optional_line, word};
use crate::message::Failure;
use serde::{Deserialize, Serialize};

/// The release that a machine is told to run. The operator repeats it in the answer to each report until the machine
/// runs the release, has failed, or has lost its turn; a machine acts on what the last answer said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeOrder {
    /// Reference of the OCI image that carries the release.
    #[serde(deserialize_with = "word::<512, _>")]
    pub image: String,
    /// The release expected in it: its name, or `sha256:` and the hex digest of its `release.json`.
    #[serde(deserialize_with = "word::<128, _>")]
    pub release: String,
    /// Asks for one more try of a release that failed on this machine. Each text counts once.
    #[serde(default, deserialize_with = "optional_line::<256, _>", skip_serializing_if = "Option::is_none")]
    pub retry: Option<String>,
}

impl UpgradeOrder {
    /// Whether this is the expected release. `version`: its name. `digest`: of its `release.json`.
    pub fn expects(&self, version: &str, digest: &str) -> bool {
        is_release(&self.release, version, digest)
    }
}

/// Whether a release is the one of this name or digest. Tags often begin with a `v`, names of releases do not.
pub fn is_release(expected: &str, version: &str, digest: &str) -> bool {
    if expected.starts_with("sha256:") {
        return expected.eq_ignore_ascii_case(digest);
    }
    expected.strip_prefix('v').unwrap_or(expected) == version.strip_prefix('v').unwrap_or(version)
}

/// Whether a failure says nothing about the release: the machine could not fetch it, wrote nothing, and may succeed later.
/// An order that failed for such a reason is begun again when it is sent again.
pub fn passes(failure: &Failure) -> bool {
    matches!(failure.reason.as_str(), "RegistryUnreachable" | "RegistryTooSlow")
}

/// What became of the last [`UpgradeOrder`]. A release that can upgrade itself always sends it; without it the operator
/// gives the machine no order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeReport {
    /// The order that the machine last acted on. Absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<UpgradeOrder>,
    /// Why the machine does not carry it out, or why the release did not come up. The machine does not try again by
    /// itself; where the failure [`passes`], it does when the order is sent again. Absent while it works on it, and after a
    /// success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_order_is_bounded_and_names_a_release_by_name_or_digest() {
        let order = |value| serde_json::from_value::<UpgradeOrder>(value);
        let digest = format!("sha256:{}", "ab".repeat(32));
        let by_name = order(json!({"image": "r/os2:v0.2.0", "release": "v0.2.0", "later": 1})).unwrap();
        assert!(by_name.expects("0.2.0", "sha256:0") && !by_name.expects("0.2.01", "sha256:0"));
        let by_digest = order(json!({"image": "a", "release": digest, "retry": "x".repeat(300)})).unwrap();
        assert!(by_digest.expects("any", &digest) && !by_digest.expects("any", "sha256:0"));
        assert_eq!(by_digest.retry.unwrap().len(), 256);
        assert!(order(json!({"image": "a".repeat(513), "release": "1"})).is_err());
        assert!(order(json!({"image": "a b", "release": "1"})).is_err());
    }
}
