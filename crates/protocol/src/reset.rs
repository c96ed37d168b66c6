//! Requests to reset a machine.

use crate::erase_request::RequestText;
use serde::{Deserialize, Serialize};

/// What a reset erases. The machine keeps its release, its identity, and how it reaches its operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ResetScope {
    /// The data of the machine: COS_PERSISTENT. Its settings stay.
    Persistent,
    /// The data of the machine, and its settings on COS_OEM: the cloud-config, apart from host name, network, time servers
    /// and keys for releases.
    All,
}

/// A request to reset a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetRequest {
    pub scope: ResetScope,
    /// Names the request. The scope does not: the same text with another scope is the same request.
    pub request: RequestText,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_these_fields_on_the_wire() {
        let reset = ResetRequest { scope: ResetScope::All, request: "again".parse().unwrap() };
        let json = serde_json::json!({"scope": "All", "request": "again"});
        assert_eq!(serde_json::to_value(&reset).unwrap(), json);
        assert_eq!(serde_json::from_value::<ResetRequest>(json).unwrap(), reset);
    }
}
